//! Single requests: what they leave on the disk, in the log and with the client.

use farshore_changelog::op::RecordFlags;
use farshore_changelog::ring::ShipperState;

use super::*;

fn world() -> World {
    Setup::new(EngineKind::Auto).open()
}

fn wide() -> World {
    Setup { block_bytes: Some(4096), ..Setup::new(EngineKind::Auto) }.open()
}

#[test]
fn an_unaligned_write_is_one_record_of_whole_blocks() {
    let mut world = wide();
    world.put(0, 0, &pattern(1, 16384));
    world.put(0, 5000, &pattern(2, 7000));
    world.flush(0);
    world.assert_log_is_disk();
    assert_eq!(world.ops(), [(Op::Write, 0, 16384), (Op::Write, 4096, 8192), (Op::Flush, 0, 0)]);
    assert_eq!(world.file(0)[5000..12000], pattern(2, 7000));
    assert_eq!(world.file(0)[..5000], pattern(1, 16384)[..5000]);
    assert_eq!(world.read(0, 4999, 3), [pattern(1, 5000)[4999], pattern(2, 1)[0], pattern(2, 2)[1]]);
}

#[test]
fn a_large_write_is_records_of_one_request() {
    let mut world = wide();
    world.put(0, 100, &pattern(3, 2 * MIB as usize));
    world.assert_log_is_disk();
    let mib = MIB;
    assert_eq!(world.ops(), [(Op::Write, 0, mib), (Op::Write, mib, mib), (Op::Write, 2 * mib, 4096)]);
    let more: Vec<bool> = world.records.iter().map(|r| r.flags.has(RecordFlags::MORE)).collect();
    assert_eq!(more, [true, true, false]);
}

#[test]
fn zeroes_with_ragged_ends_keep_what_was_not_asked_for() {
    let mut world = wide();
    world.put(0, 0, &pattern(4, 32768));
    // Slots are used again: their old payload must not show in the zeroes.
    world.consume();
    let zero = |offset, len, no_hole| Request::WriteZeroes { offset, len, fua: true, no_hole, fast: true };
    for request in [zero(100, 20000, true), zero(24576, 4096, false), zero(30000, 10, false)] {
        let id = world.submit(0, request, None);
        assert_eq!(world.errno(id), 0);
    }
    let id = world.submit(0, Request::Trim { offset: 28672, len: 100, fua: true }, None);
    assert_eq!(world.errno(id), 0, "a trim of less than a block does nothing");
    let id = world.submit(0, Request::Trim { offset: 20479, len: 4100, fua: false }, None);
    assert_eq!(world.errno(id), 0);
    world.assert_log_is_disk();
    let expected = [
        (Op::Write, 0, 32768),
        (Op::Write, 0, 4096),
        (Op::WriteZeroes, 4096, 12288),
        (Op::Write, 16384, 4096),
        (Op::WriteZeroes, 24576, 4096),
        (Op::Write, 28672, 4096),
        (Op::Trim, 20480, 4096),
    ];
    assert_eq!(world.ops(), expected);
    let fua = RecordFlags::FUA;
    let flags: Vec<_> = world.records.iter().map(|r| r.flags).collect();
    let more = fua.with(RecordFlags::MORE);
    let none = RecordFlags::NONE;
    assert_eq!(flags, [none, more, more.with(RecordFlags::NO_HOLE), fua, fua, fua, none]);
    let mut want = pattern(4, 32768);
    want[100..20100].fill(0);
    want[20480..24576].fill(0);
    want[24576..28672].fill(0);
    want[30000..30010].fill(0);
    assert!(world.file(0)[..32768] == want);
}

#[test]
fn a_flush_comes_after_what_was_acknowledged_before_it() {
    let mut world = world();
    for n in 0..10 {
        world.put(0, n * 4096, &pattern(n, 4096));
        let ids: Vec<_> = (0..3).map(|_| world.submit(0, Request::Flush, None)).collect();
        let late = world.write(0, n * 4096, &pattern(n + 50, 4096), true).unwrap();
        assert!(ids.into_iter().chain([late]).all(|id| world.errno(id) == 0));
    }
    world.assert_log_is_disk();
    let ops: Vec<_> = world.records.iter().map(|r| r.op).collect();
    let (w, f) = (Op::Write, Op::Flush);
    assert_eq!(ops, [w, f, f, f, w].repeat(10));
}

#[test]
fn requests_that_do_not_fit_the_disk_are_refused() {
    let mut world = world();
    let size = 4 * MIB;
    let all = [
        Request::Read { offset: size - 1, len: 2 },
        Request::Trim { offset: u64::MAX - 4, len: 100, fua: false },
        Request::WriteZeroes { offset: size, len: 1, fua: false, no_hole: false, fast: false },
        Request::BlockStatus { offset: 0, len: size + 1, one: false },
        Request::Write { offset: 0, len: 512, fua: false }, // and no payload
    ];
    for request in all {
        let id = world.submit(0, request, None);
        assert_eq!(world.errno(id), libc::EINVAL, "{request:?}");
    }
    let payload = world.taps[0].payload(0, 1024);
    let id = world.submit(0, Request::Write { offset: 512, len: 512, fua: false }, payload);
    assert_eq!(world.errno(id), libc::EINVAL, "another request's memory");
    world.assert_log_is_disk();
    assert!(world.records.is_empty());
}

#[test]
fn empty_requests_do_nothing() {
    let mut world = world();
    assert!(world.read(0, 4 * MIB, 0).is_empty());
    world.put(0, 17, &[]);
    let id = world.submit(0, Request::WriteZeroes { offset: 5, len: 0, fua: true, no_hole: false, fast: false }, None);
    assert_eq!(world.errno(id), 0);
    let id = world.submit(0, Request::Cache { offset: 0, len: MIB }, None);
    assert_eq!(world.errno(id), 0);
    world.assert_log_is_disk();
    assert!(world.records.is_empty());
}

#[test]
fn block_status_tells_holes() {
    let mut world = world();
    world.put(0, MIB, &pattern(5, 65536));
    let ask = |world: &mut World, one| {
        let id = world.submit(0, Request::BlockStatus { offset: 512 * KIB, len: 2 * MIB, one }, None);
        match world.end(id).unwrap() {
            Answer::Extents(extents) => extents.iter().map(|e| (e.len, e.hole)).collect::<Vec<_>>(),
            Answer::Done | Answer::Data(_) => panic!("block status brings extents"),
        }
    };
    assert_eq!(ask(&mut world, false), [(512 * KIB, true), (64 * KIB, false), (1472 * KIB, true)]);
    assert_eq!(ask(&mut world, true), [(512 * KIB, true)]);
}

#[test]
fn a_full_ring_makes_requests_wait_and_reading_it_lets_them_go_on() {
    let mut world = Setup { lane_bytes: 4 * MIB, ..Setup::new(EngineKind::Auto) }.open();
    assert_eq!(world.taps[0].info().max_request_bytes, MIB as u32);
    for n in 0..4 {
        world.put(0, n * MIB, &pattern(n, MIB as usize));
    }
    assert!(world.write(0, 0, &[1; 4096], false).is_none());
    assert!(world.taps[0].payload(0, 512 << 10).is_none());
    world.turn();
    assert!(world.states[0].read().short_of_room);
    let zero = Request::WriteZeroes { offset: 10, len: 5000, fua: false, no_hole: false, fast: false };
    let zero = world.submit(0, zero, None);
    let flush = world.submit(0, Request::Flush, None);
    for _ in 0..20 {
        world.turn();
    }
    assert!(world.answers.is_empty() && world.taps[0].busy() == 2, "both need a slot and there is no room");
    // Reads go on all the same.
    assert_eq!(world.read(0, 0, 100), pattern(0, 100));
    world.consume();
    assert_eq!((world.errno(zero), world.errno(flush)), (0, 0));
    world.turn();
    assert!(!world.states[0].read().short_of_room);
    world.put(0, 0, &[1; 4096]);
    world.assert_log_is_disk();
}

#[test]
fn a_large_request_is_not_overtaken_for_ever() {
    let mut world = Setup { lane_bytes: 4 * MIB, ..Setup::new(EngineKind::Auto) }.open();
    for n in 0..4 {
        world.put(0, n * MIB, &pattern(n, MIB as usize));
    }
    let free_one = |world: &mut World| {
        let next = world.consumer.take().unwrap().unwrap();
        world.consumer.release(next.record().seq, vec![next]);
    };
    free_one(&mut world);
    assert!(world.taps[0].payload(100, 1 << 20).is_none(), "a MiB is free, and it needs a block more");
    assert!(world.taps[0].payload(0, 4096).is_none(), "which would fit, but the other came first");
    free_one(&mut world);
    assert!(world.taps[0].payload(100, 1 << 20).is_none(), "it might have to skip the end of the ring");
    free_one(&mut world);
    assert!(world.taps[0].payload(100, 1 << 20).is_some());
    assert!(world.taps[0].payload(0, 4096).is_some());
}

#[test]
fn slots_run_out_too() {
    let mut world = world();
    let ids: Vec<_> = (0..100).map(|_| world.submit(0, Request::Flush, None)).collect();
    // The last slots are for words about the group.
    world.turn_until("those with a slot", |w| w.answers.len() >= 56);
    for _ in 0..10 {
        world.turn();
    }
    assert_eq!(world.answers.len(), 56);
    world.turn_until("all flushes", |w| {
        w.consume();
        w.answers.len() == 100
    });
    assert!(ids.into_iter().all(|id| world.answers.remove(&id).unwrap().is_ok()));
}

#[test]
fn memory_of_requests_that_never_came_is_free_again() {
    let mut world = Setup { lane_bytes: 4 * MIB, ..Setup::new(EngineKind::Auto) }.open();
    for n in 0..100 {
        let payload = world.taps[0].payload(n * 1000, 900 << 10).expect("what was given back is free");
        world.taps[0].give_back(payload);
    }
    world.put(0, 0, &pattern(1, 4096));
    world.assert_log_is_disk();
    seqs_are_dense_but_for(&world.records, 0);
}

#[test]
fn a_fenced_source_keeps_serving_and_logs_nothing() {
    let mut world = Setup { lane_bytes: 4 * MIB, ..Setup::new(EngineKind::Auto) }.open();
    world.put(0, 0, &pattern(1, 4096));
    for n in 0..3 {
        world.put(0, n * MIB, &pattern(n, MIB as usize));
    }
    let zero = |offset| Request::WriteZeroes { offset, len: 5000, fua: true, no_hole: false, fast: false };
    while world.write(0, 0, &[9; 512 << 10], false).is_some() {}
    world.turn_until("the writes", |w| w.taps[0].busy() == 0);
    let flush = world.submit(0, Request::Flush, None);
    world.ring.set_shipper_state(ShipperState::Fenced);
    assert_eq!(world.errno(flush), 0, "the ring is full, and nobody will read it");
    let before = world.ring.next_seq();
    world.put(0, 777, &pattern(8, 3000));
    let id = world.submit(0, zero(100_000), None);
    assert_eq!(world.errno(id), 0);
    world.flush(0);
    assert_eq!(world.read(0, 777, 3000), pattern(8, 3000));
    assert_eq!(world.read(0, 100_000, 5000), vec![0; 5000]);
    assert_eq!(world.ring.next_seq(), before);
    assert_eq!(world.logs[0].borrow_mut().mark("late"), Err(MarkError::Fenced));
}

#[test]
fn without_a_log_the_disk_is_served() {
    let mut world = Setup { logged: false, block_bytes: Some(4096), ..Setup::new(EngineKind::Auto) }.open();
    world.put(0, 777, &pattern(8, 3_000_000));
    world.flush(0);
    assert_eq!(world.read(0, 777, 3_000_000), pattern(8, 3_000_000));
    assert_eq!(world.taps[0].info().max_request_bytes, REQUEST_MAX_BYTES);
    assert_eq!(world.ring.next_seq(), Seq(1));
}

#[test]
fn marks_are_in_the_order() {
    let mut world = world();
    world.put(0, 0, &pattern(1, 4096));
    let seq = world.logs[0].borrow_mut().mark("before-upgrade").unwrap();
    world.put(0, 0, &pattern(2, 4096));
    assert_eq!(world.logs[0].borrow_mut().mark(""), Err(MarkError::Name));
    assert_eq!(world.logs[0].borrow_mut().mark(&"x".repeat(129)), Err(MarkError::Name));
    world.assert_log_is_disk();
    assert_eq!(seq, Seq(2));
    assert_eq!(world.records.iter().map(|r| r.op).collect::<Vec<_>>(), [Op::Write, Op::Mark, Op::Write]);
}

#[test]
fn what_goes_to_a_lane_thread_can_go_there() {
    fn goes<T: Send>() {}
    goes::<(LaneLog, SourceDisk, Repair, Arc<DiskState>)>();
}
