//! Recovery and damage, case by case.

use std::fs::{self, OpenOptions};

use super::*;

const SLOT_TABLE: u64 = 4096 + 4096;

fn at_slot(n: u64, field: u64) -> u64 {
    SLOT_TABLE + 64 * n + field
}

fn poke(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn xor(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// A ring whose capture process died with: 0 committed (seq 1), 1 in flight (seq 2), 2 aborted (seq 3), 3 given back,
/// 4 a flush in flight (seq 4), 5 a mark in flight (seq 5), 6 without a seq, 7 a trim in flight (seq 6, then 7 unplaced).
fn left_behind() -> Bench {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    write(&mut producer, 0, 512).commit();
    write(&mut producer, 4096, 8192).leave();
    write(&mut producer, 65536, 512).abort();
    producer.reserve(512).unwrap().give_back();
    for (op, len) in [(Op::Flush, 0u32), (Op::Mark, 4)] {
        let mut slot = producer.reserve(len).unwrap();
        producer.sequence(&mut [(&mut slot, draft(op, 0, len.into()))]);
        slot.leave();
    }
    producer.reserve(1024).unwrap().leave();
    let mut slot = producer.reserve(0).unwrap();
    let trim = Draft { flags: RecordFlags::MORE, ..draft(Op::Trim, 0, 1 << 30) };
    producer.sequence(&mut [(&mut slot, trim)]);
    slot.leave();
    bench.ring.header().next_seq.fetch_add(1, AcqRel);
    bench
}

#[test]
fn each_slot_is_settled_by_its_row() {
    let left = left_behind();
    let ring = Ring::open(&left.path).unwrap();
    let mut asked = Vec::new();
    let report = ring
        .recover(&mut |record, payload| {
            asked.push((record.seq, record.op, payload.len()));
            payload.fill(7);
            Settled::Reread
        })
        .unwrap();
    assert_eq!(asked, [(Seq(2), Op::Write, 8192), (Seq(6), Op::Trim, 0)]);
    let expected =
        RecoveryReport { kept: 3, reread: 2, unreadable: vec![], flushes_aborted: 1, words_voided: 1, given_back: 1 };
    assert_eq!(report, expected);

    let mut consumer = ring.consumer();
    let taken: Vec<Taken> = std::iter::from_fn(|| consumer.take().unwrap()).collect();
    let seqs: Vec<(u64, RecordFlags)> = taken.iter().map(|t| (t.record().seq.0, t.record().flags)).collect();
    assert_eq!(seqs, [(1, RecordFlags::NONE), (2, RecordFlags::REREAD), (6, RecordFlags::REREAD)]);
    assert_eq!(taken[1].payload(), [7; 8192]);
    assert_eq!(consumer.position(), Seq(7));
    consumer.release(Seq(7), taken);
    let mut producer = ring.producer(0);
    assert_eq!(producer.free_payload_bytes(), PAYLOAD_BYTES);
    assert_eq!(write(&mut producer, 0, 512).seq(), Some(Seq(8)));
}

#[test]
fn a_consumer_that_was_waiting_all_along_sees_the_settlement() {
    let left = left_behind();
    let shipper = Ring::open(&left.path).unwrap();
    let mut consumer = shipper.consumer();
    let first = consumer.take().unwrap().unwrap();
    assert!(consumer.take().unwrap().is_none());
    let ring = Ring::open(&left.path).unwrap();
    let mut asked = 0;
    let report = ring.recover(&mut |_, _| {
        asked += 1;
        Settled::Unreadable
    });
    assert_eq!((asked, report.unwrap().unreadable.len()), (2, 2));
    // The next producer reuses the place of void slots before the consumer has looked again.
    let mut producer = ring.producer(0);
    consumer.release(Seq(1), vec![first]);
    let slots: Vec<Slot> = std::iter::from_fn(|| producer.reserve(0)).collect();
    assert_eq!(slots.len() as u32, SLOTS - 7, "all but the seven behind the one that was read");
    assert!(consumer.take().unwrap().is_none());
    assert_eq!(consumer.position(), Seq(7));
    drop(slots);
    consumer.release(Seq(7), vec![]);
    write(&mut producer, 512, 512).commit();
    assert_eq!(consumer.take().unwrap().unwrap().record().seq, Seq(8));
}

#[test]
fn a_ring_that_contradicts_itself_is_lost_and_left_as_it_was() {
    type Harm = fn(&Path);
    let harms: &[(&str, Harm)] = &[
        ("descriptor of a committed slot", |p| xor(p, at_slot(0, 8))),
        ("descriptor of a slot in flight", |p| xor(p, at_slot(1, 24))),
        ("checksum", |p| xor(p, at_slot(2, 48))),
        ("unknown state", |p| poke(p, at_slot(0, 52), &[9])),
        ("free slot in use", |p| poke(p, at_slot(3, 52), &[0])),
        ("committed without a seq", |p| poke(p, at_slot(0, 0), &[0])),
        ("slot number", |p| poke(p, at_slot(6, 56), &[7])),
        ("one seq twice", |p| poke(p, at_slot(3, 0), &[2])),
        ("a seq of the future", |p| poke(p, at_slot(3, 0), &[8])),
        ("in flight and read", |p| poke(p, 384, &[4])),
        ("head before tail", |p| poke(p, 4096 + 64, &[9])),
        ("more slots than there are", |p| poke(p, 4096 + 1, &[9])),
        ("payload head", |p| poke(p, 4096 + 128 + 2, &[0xff])),
        ("payload tail", |p| poke(p, 4096 + 192 + 2, &[0xff])),
        ("reserved bytes of a slot without a seq", |p| poke(p, at_slot(6, 42), &[0x10])),
        ("position of a slot without a seq", |p| poke(p, at_slot(6, 33), &[0])),
        ("next_seq behind what was taken", |p| poke(p, 256, &[5])),
    ];
    for (what, harm) in harms {
        let left = left_behind();
        harm(&left.path);
        let before = fs::read(&left.path).unwrap();
        let error = Ring::open(&left.path)
            .and_then(|ring| ring.recover(&mut |_, _| panic!("{what}: settled something")))
            .map(|report| panic!("{what} was not noticed: {report:?}"))
            .unwrap_err();
        assert!(matches!(error, RingError::Damaged { .. }), "{what}: {error}");
        assert!(fs::read(&left.path).unwrap() == before, "{what}: the ring was changed");
    }
}

#[test]
fn the_consumer_believes_no_damaged_slot() {
    type Harm = fn(&Path);
    let harms: &[(&str, Harm)] = &[
        ("offset", |p| xor(p, at_slot(0, 8))),
        ("length", |p| xor(p, at_slot(0, 24))),
        ("position", |p| xor(p, at_slot(0, 33))),
        ("seq of the future", |p| poke(p, at_slot(0, 0), &[77])),
        ("one seq twice", |p| poke(p, at_slot(1, 0), &[1])),
        ("unknown state", |p| poke(p, at_slot(0, 52), &[9])),
        ("free", |p| poke(p, at_slot(0, 52), &[0])),
        ("consumed before it was read", |p| poke(p, at_slot(0, 52), &[5])),
        ("head", |p| poke(p, 4096 + 1, &[9])),
    ];
    for (what, harm) in harms {
        let bench = bench(1);
        let mut producer = bench.ring.producer(0);
        write(&mut producer, 0, 512).commit();
        write(&mut producer, 512, 512).commit();
        harm(&bench.path);
        let error = bench.ring.consumer().take().map(|t| panic!("{what}: {t:?} was taken")).unwrap_err();
        assert!(matches!(error, RingError::Damaged { .. }), "{what}: {error}");
    }
}

#[test]
#[should_panic(expected = "before the first producer")]
fn recovery_beside_a_producer_is_a_mistake() {
    let bench = bench(1);
    let _producer = bench.ring.producer(0);
    let _ = bench.ring.recover(&mut |_, _| Settled::Reread);
}

#[test]
fn a_panic_leaves_slots_as_a_killed_process_does() {
    let bench = bench(1);
    let mut producer = bench.ring.producer(0);
    let unplaced = producer.reserve(512).unwrap();
    let placed = write(&mut producer, 4096, 8192);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _in_flight = (unplaced, placed);
        std::panic::resume_unwind(Box::new("the lane's bug"));
    }));
    assert!(caught.is_err());
    let ring = Ring::open(&bench.path).unwrap();
    let mut asked = Vec::new();
    let report = ring
        .recover(&mut |record, _| {
            asked.push(record.seq);
            Settled::Reread
        })
        .unwrap();
    assert_eq!(asked, [Seq(1)], "its range may have been written: it is read again, not passed over");
    assert_eq!(report, RecoveryReport { given_back: 1, reread: 1, ..RecoveryReport::default() });
}
