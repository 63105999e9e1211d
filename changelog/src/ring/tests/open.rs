//! Making and opening a ring, and what lies in it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use super::*;

fn u64_in(file: &fs::File, at: u64) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, at).unwrap();
    u64::from_le_bytes(word)
}

#[test]
fn the_handles_go_where_threads_need_them() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Ring>();
    sync::<Ring>();
    send::<Producer>();
    send::<Slot>();
    send::<Consumer>();
    send::<Taken>();
}

#[test]
fn a_made_ring_opens_with_the_same_description() {
    let bench = bench(2);
    let again = Ring::open(&bench.path).unwrap();
    assert_eq!(again.spec(), &spec(2));
    assert_eq!((again.next_seq(), again.read_seq(), again.confirmed_seq()), (Seq(1), Seq(1), Seq(0)));
    let metadata = fs::metadata(&bench.path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    use std::os::unix::fs::MetadataExt;
    assert!(metadata.blocks() * 512 >= metadata.len(), "not allocated in full");
    assert!(!bench.path.with_extension("ring.new").exists());
}

#[test]
fn what_the_shipper_says_is_seen_through_another_mapping() {
    let bench = bench(1);
    let other = Ring::open(&bench.path).unwrap();
    assert_eq!(other.shipper_state(), ShipperState::Starting);
    for state in ShipperState::ALL {
        bench.ring.set_shipper_state(state);
        assert_eq!(other.shipper_state(), state);
    }
    bench.ring.set_shipper_seen(UnixMicros(77));
    bench.ring.set_spool_bytes(88);
    bench.ring.set_confirmed_seq(Seq(0));
    assert_eq!((other.shipper_seen(), other.spool_bytes()), (UnixMicros(77), 88));
}

#[test]
fn absent_foreign_and_old_rings_are_told_apart() {
    let bench = bench(1);
    let absent = bench.path.with_file_name("absent.ring");
    assert!(matches!(Ring::open(&absent), Err(RingError::Missing { .. })));

    let other_boot = bench.path.with_file_name("other-boot.ring");
    Ring::create(&other_boot, &RingSpec { boot_id: [9; 16], ..spec(1) }).unwrap();
    assert!(matches!(Ring::open(&other_boot), Err(RingError::OtherBoot { .. })));

    let foreign = bench.path.with_file_name("foreign.ring");
    fs::write(&foreign, vec![b'x'; 1 << 16]).unwrap();
    assert!(matches!(Ring::open(&foreign), Err(RingError::Refused { .. })));

    for len in [0, 100, 4096, fs::metadata(&bench.path).unwrap().len() - 1] {
        let cut = bench.path.with_file_name("cut.ring");
        fs::copy(&bench.path, &cut).unwrap();
        OpenOptions::new().write(true).open(&cut).unwrap().set_len(len).unwrap();
        let error = Ring::open(&cut).unwrap_err();
        assert!(matches!(error, RingError::Damaged { .. }), "{len}: {error}");
        assert!(error.to_string().contains("cut.ring"));
    }

    // The words of the header: seq order, doorbell, shipper state.
    for (at, byte) in [(256, 0), (320, 2), (384, 2), (384, 0), (448, 1), (512, 2), (576, 8)] {
        let bad = bench.path.with_file_name("bad.ring");
        fs::copy(&bench.path, &bad).unwrap();
        OpenOptions::new().write(true).open(&bad).unwrap().write_all_at(&[byte], at).unwrap();
        assert!(matches!(Ring::open(&bad), Err(RingError::Damaged { .. })), "word at {at} = {byte} was taken");
    }
}

#[test]
fn a_ring_that_does_not_fit_leaves_the_old_one_alone() {
    let bench = bench(1);
    let huge = RingSpec { payload_bytes_per_lane: PAYLOAD_BYTES_PER_LANE_MAX, ..spec(1) };
    let error = Ring::create(&bench.path, &huge).unwrap_err();
    assert!(matches!(error, RingError::NoSpace { .. }), "{error}");
    assert_eq!(Ring::open(&bench.path).unwrap().spec(), &spec(1));
    assert_eq!(fs::read_dir(bench.path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
#[should_panic(expected = "taken before")]
fn a_lane_has_one_producer() {
    let bench = bench(1);
    let _first = bench.ring.producer(0);
    let _second = bench.ring.producer(0);
}

#[test]
#[should_panic(expected = "taken before")]
fn a_ring_has_one_consumer() {
    let bench = bench(1);
    let _first = bench.ring.consumer();
    let _second = bench.ring.clone().consumer();
}

#[test]
fn a_slot_lies_where_the_format_says() {
    let bench = bench(2);
    let file = fs::File::open(&bench.path).unwrap();
    let mut producer = bench.ring.producer(1);
    write(&mut producer, 512, 512).commit();
    let mut slot = producer.reserve(4097).unwrap();
    slot.payload_mut()[..3].copy_from_slice(b"abc");
    assert_eq!(slot.payload().as_ptr() as usize % 4096, 0);
    let flagged = Draft { disk: DiskIndex(1), flags: RecordFlags::FUA, ..draft(Op::Write, 1024, 1024) };
    assert_eq!(producer.sequence(&mut [(&mut slot, flagged)]), Seq(2));

    let lane = 4096 + (4096 + 64 * u64::from(SLOTS) + PAYLOAD_BYTES);
    assert_eq!([0, 64, 128, 192].map(|at| u64_in(&file, lane + at)), [2, 0, 4096 + 8192, 0]);
    let at = lane + 4096 + 64;
    assert_eq!([0, 8, 16, 24, 32, 56].map(|field| u64_in(&file, at + field)), [2, 1024, 5, 1024, 4096, 1]);
    assert_eq!(u64_in(&file, at + 40), 8192 | 1 << 32 | 1 << 48 | 1 << 56);
    let mut covered = vec![0; 48];
    file.read_exact_at(&mut covered, at).unwrap();
    covered.extend(1u64.to_le_bytes());
    assert_eq!(u64_in(&file, at + 48), u64::from(crc32fast::hash(&covered)) | 1 << 32);
    let mut payload = [0; 3];
    file.read_exact_at(&mut payload, lane + 4096 + 64 * u64::from(SLOTS) + 4096).unwrap();
    assert_eq!(&payload, b"abc");

    let state = |field| u64_in(&file, at + field) >> 32;
    slot.commit();
    assert_eq!(state(48), 2);
    let mut consumer = bench.ring.consumer();
    let taken = vec![consumer.take().unwrap().unwrap(), consumer.take().unwrap().unwrap()];
    consumer.release(Seq(2), taken);
    assert_eq!(state(48), 5);
    assert_eq!(producer.free_payload_bytes(), PAYLOAD_BYTES);
    assert_eq!(state(48), 0);
    assert_eq!([0, 64, 128, 192].map(|at| u64_in(&file, lane + at)), [2, 2, 4096 + 8192, 4096 + 8192]);
}

#[test]
fn the_parts_of_a_request_are_linked_and_seqs_are_dense() {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    let mut slots: Vec<Slot> = (0..3).map(|_| producer.reserve(512).unwrap()).collect();
    let mut parts: Vec<(&mut Slot, Draft)> =
        slots.iter_mut().enumerate().map(|(i, slot)| (slot, draft(Op::Write, 512 * i as u64, 512))).collect();
    assert_eq!(producer.sequence(&mut parts), Seq(1));
    let flags: Vec<RecordFlags> = slots.iter().map(|slot| slot.record().unwrap().flags).collect();
    assert_eq!(flags, [RecordFlags::MORE, RecordFlags::MORE, RecordFlags::NONE]);
    assert_eq!(bench.ring.next_seq(), Seq(4));
    let mut consumer = bench.ring.consumer();
    assert!(consumer.take().unwrap().is_none());
    // Committed backwards: nothing is taken before the first.
    while let Some(slot) = slots.pop() {
        assert_eq!(consumer.position(), Seq(0));
        assert!(consumer.take().unwrap().is_none());
        slot.commit();
    }
    for seq in 1..=3 {
        assert_eq!(consumer.take().unwrap().unwrap().record().seq, Seq(seq));
    }
}

#[test]
fn a_slot_that_is_dropped_blocks_nobody() {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    drop(producer.reserve(512).unwrap());
    drop(write(&mut producer, 0, 512));
    write(&mut producer, 4096, 512).commit_reread();
    let mut consumer = bench.ring.consumer();
    let taken = consumer.take().unwrap().unwrap();
    assert_eq!((taken.record().seq, taken.record().flags), (Seq(2), RecordFlags::REREAD));
    assert_eq!(taken.payload(), pattern(4096, 512));
    consumer.release(Seq(2), vec![taken]);
    assert_eq!(producer.free_payload_bytes(), PAYLOAD_BYTES);
}

#[test]
fn waiting_ends_with_a_commit_and_not_with_what_was_seen() {
    let bench = bench(1);
    let other = Ring::open(&bench.path).unwrap();
    let mut producer = bench.ring.producer(0);
    let mut consumer = other.consumer();
    let start = crate::clock::mono();
    let slot = write(&mut producer, 0, 512);
    assert!(consumer.take().unwrap().is_none());
    consumer.wait(std::time::Duration::from_millis(40));
    assert!(start.elapsed() >= std::time::Duration::from_millis(35), "a slot in flight is nothing to wake for");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::clock::sleep(std::time::Duration::from_millis(20));
            slot.commit();
        });
        let taken = loop {
            match consumer.take().unwrap() {
                Some(taken) => break taken,
                None => consumer.wait(std::time::Duration::from_secs(60)),
            }
        };
        assert_eq!(taken.payload(), pattern(0, 512));
    });
    assert!(start.elapsed() < std::time::Duration::from_secs(30));
}

#[test]
fn a_place_that_was_reused_behind_the_consumers_back_is_read_once() {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    let mut consumer = bench.ring.consumer();
    let slow = producer.reserve(512).unwrap();
    let first = write(&mut producer, 0, 512);
    assert!(consumer.take().unwrap().is_none(), "now it knows the slow slot as one to look at again");
    slow.give_back();
    first.commit();
    let taken = consumer.take().unwrap().unwrap();
    consumer.release(Seq(1), vec![taken]);
    for _ in 2..SLOTS {
        producer.reserve(0).unwrap().give_back();
    }
    write(&mut producer, 4096, 512).commit();
    let taken = consumer.take().unwrap().unwrap();
    assert_eq!((taken.record().seq, taken.payload()), (Seq(2), &pattern(4096, 512)[..]));
    assert!(consumer.take().unwrap().is_none());
}

#[test]
fn a_seq_whose_descriptor_is_not_there_yet_is_waited_for() {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    let mut consumer = bench.ring.consumer();
    // Another lane has taken seq 1 and stores its descriptor in a moment; or its process has died, which nobody knows yet.
    bench.ring.header().next_seq.fetch_add(1, AcqRel);
    write(&mut producer, 0, 512).commit();
    assert!(consumer.take().unwrap().is_none());
    assert_eq!(consumer.position(), Seq(0));
    Ring::open(&bench.path).unwrap().recover(&mut |_, _| Settled::Reread).unwrap();
    assert_eq!(consumer.take().unwrap().unwrap().record().seq, Seq(2));
}
