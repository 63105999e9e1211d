//! A disk that fails: the log follows what the disk has, or says that it cannot (G3).

use farshore_changelog::op::RecordFlags;

use super::*;
use crate::settle::settle;

/// Spoils the first operation that `which` picks, and then no more.
fn once(fault: Fault, which: impl Fn(&Io) -> bool + 'static) -> impl FnMut(&Io) -> Fault + 'static {
    let mut armed = true;
    move |io| {
        if armed && which(io) {
            armed = false;
            return fault;
        }
        Fault::None
    }
}

fn is_write(io: &Io) -> bool {
    matches!(io, Io::Write { .. })
}

#[test]
fn a_failed_write_is_read_back_whether_it_was_done_or_not() {
    with_both(|kind| {
        for (fault, code, done) in
            [(Fault::Before(libc::ENOSPC), libc::ENOSPC, false), (Fault::After(libc::EIO), libc::EIO, true)]
        {
            let mut world = Setup::new(kind).open();
            world.put(0, 0, &pattern(1, 8192));
            world.faults(once(fault, is_write));
            let id = world.write(0, 100, &pattern(2, 4096), false).unwrap();
            assert_eq!(world.errno(id), code);
            world.flush(0);
            world.assert_log_is_disk();
            assert_eq!(world.file(0)[100..4196] == pattern(2, 4096), done);
            assert!(world.records[1].flags.has(RecordFlags::REREAD));
            assert_eq!(world.states[0].read().failed_changes, 1);
            assert_eq!(world.states[0].read().lost_regions, 0);
        }
    });
}

#[test]
fn a_short_write_goes_on_with_its_rest() {
    with_both(|kind| {
        let mut world = Setup { block_bytes: Some(4096), ..Setup::new(kind) }.open();
        let mut shorten = 5;
        world.faults(move |io| {
            shorten -= i32::from(is_write(io));
            if is_write(io) && shorten >= 0 { Fault::Short } else { Fault::None }
        });
        world.put(0, 0, &pattern(1, 1 << 20));
        let mut shorten = 2;
        world.faults(move |io| {
            let read = matches!(io, Io::Read { .. });
            shorten -= i32::from(read);
            if read && shorten >= 0 { Fault::Short } else { Fault::None }
        });
        assert_eq!(world.read(0, 3, 900_000), pattern(1, 1 << 20)[3..900_003]);
        world.assert_log_is_disk();
        assert_eq!(world.ops(), [(Op::Write, 0, MIB)]);
        assert!(!world.records[0].flags.has(RecordFlags::REREAD));
    });
}

#[test]
fn an_edge_that_cannot_be_read_fails_the_write_and_leaves_no_trace() {
    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, 4096));
    world.faults(once(Fault::Before(libc::EIO), |io| matches!(io, Io::Read { .. })));
    let id = world.write(0, 10, &[7; 100], false).unwrap();
    assert_eq!(world.errno(id), libc::EIO);
    world.put(0, 10, &[8; 100]); // its range is free again
    world.assert_log_is_disk();
    assert_eq!(world.records.len(), 2);
}

/// A write that fails, and whose range cannot be read either.
fn lose(world: &mut World, offset: u64, bytes: &[u8]) -> RequestId {
    world.faults(|io| match io {
        Io::Write { .. } => Fault::After(libc::EIO),
        Io::Read { .. } => Fault::Before(libc::EIO),
        _ => Fault::None,
    });
    let id = world.write(0, offset, bytes, false).unwrap();
    assert_eq!(world.errno(id), libc::EIO);
    world.faults(|_| Fault::None);
    id
}

#[test]
fn a_range_that_cannot_be_read_is_lost_and_then_repaired() {
    with_both(|kind| {
        let mut world = Setup::new(kind).open();
        world.put(0, 0, &pattern(1, MIB as usize));
        lose(&mut world, 65536, &pattern(2, 2 * 65536));
        assert_eq!(world.lost_on_disk(0), 2, "durable before the answer");
        assert_eq!(world.states[0].read().lost_bytes, 2 * 65536);
        world.put(0, 0, &pattern(3, 4096));
        world.turn_until("the repair", |w| w.progress.status().left_regions == 0);
        world.flush(0);
        world.assert_log_is_disk();
        let ops: Vec<_> = world.records.iter().map(|r| r.op).collect();
        assert!(is_before(&world.records, Op::ResyncBegin, Op::ResyncWrite), "{ops:?}");
        assert!(is_before(&world.records, Op::ResyncWrite, Op::ResyncEnd), "{ops:?}");
        assert_eq!(ops.iter().filter(|op| **op == Op::ResyncWrite).count(), 2);
        seqs_are_dense_but_for(&world.records, 1);

        assert_eq!(world.lost_on_disk(0), 2, "not in the vault yet");
        world.confirm();
        world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
        assert_eq!(world.states[0].read().lost_regions, 0);

        // And once more: a resync can begin again.
        lose(&mut world, 3 * MIB, &pattern(4, 4096));
        world.turn_until("the repair", |w| !w.progress.status().in_progress);
        world.assert_log_is_disk();
        assert_eq!(world.records.iter().filter(|r| r.op == Op::ResyncEnd).count(), 2);
        world.confirm();
        world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
    });
}

#[test]
fn zeroes_that_fail_are_looked_at() {
    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, MIB as usize));
    let trim = Request::Trim { offset: 0, len: 65536, fua: false };
    // Done and reported as failed: the range reads as zeroes, and the record is true.
    world.faults(once(Fault::After(libc::EIO), |io| matches!(io, Io::Call(_))));
    let id = world.submit(0, trim, None);
    assert_eq!(world.errno(id), libc::EIO);
    world.assert_log_is_disk();
    assert_eq!(world.states[0].read().lost_regions, 0);
    // Not done: what the disk has is not what the record says.
    let again = Request::Trim { offset: 65536, len: 65536, fua: false };
    world.faults(once(Fault::Before(libc::EIO), |io| matches!(io, Io::Call(_))));
    let id = world.submit(0, again, None);
    assert_eq!(world.errno(id), libc::EIO);
    world.turn_until("the repair", |w| !w.progress.status().in_progress);
    world.assert_log_is_disk();
    assert_eq!(world.file(0)[65536..131_072], pattern(1, MIB as usize)[65536..131_072]);
}

#[test]
fn the_first_failed_fsync_latches() {
    with_both(|kind| {
        let mut world = Setup::new(kind).open();
        world.put(0, 0, &pattern(1, 4096));
        world.faults(once(Fault::After(libc::EIO), |io| matches!(io, Io::Fdatasync { .. })));
        let both = [world.submit(0, Request::Flush, None), world.submit(0, Request::Flush, None)];
        assert_eq!(both.map(|id| world.errno(id)), [libc::EIO; 2]);
        assert!(world.states[0].read().sync_failed);
        assert!(world.ring.is_distrusted(), "no successor goes on with this ring");
        let payload = world.taps[0].payload(0, 4096);
        let later = [
            world.submit(0, Request::Flush, None),
            world.submit(0, Request::Write { offset: 0, len: 4096, fua: false }, payload),
            world.submit(0, Request::Trim { offset: 0, len: 4096, fua: false }, None),
        ];
        assert_eq!(later.map(|id| world.errno(id)), [libc::EIO; 3]);
        assert_eq!(world.read(0, 0, 4096), pattern(1, 4096), "reads go on");
        world.assert_log_is_disk();
        assert_eq!(world.ops(), [(Op::Write, 0, 4096)], "no flush that failed is in the log");
    });
}

#[test]
fn a_failed_fua_is_not_acknowledged() {
    let mut world = Setup::new(EngineKind::Auto).open();
    world.faults(once(Fault::Before(libc::EIO), |io| matches!(io, Io::Fdatasync { .. })));
    let id = world.write(0, 0, &pattern(1, 4096), true).unwrap();
    assert_eq!(world.errno(id), libc::EIO);
    world.assert_log_is_disk();
    assert_eq!(world.records.len(), 1, "the disk has it, so the log has it");
}

#[test]
fn what_a_dead_process_left_in_flight_is_settled() {
    let mut world = Setup::new(EngineKind::Pool).open();
    world.put(0, 0, &pattern(1, MIB as usize));
    world.turn_until("the start", |w| w.taps[0].busy() == 0);
    // In flight: an unwritten write, zeroes not done, a flush; and a payload that is not whole.
    world.faults(|_| Fault::Swallow);
    world.write(0, 4096, &pattern(2, 8192), false).unwrap();
    world.submit(
        0,
        Request::WriteZeroes { offset: 100_000, len: 50_000, fua: false, no_hole: false, fast: false },
        None,
    );
    world.submit(0, Request::Trim { offset: 200_704, len: 8192, fua: false }, None);
    world.submit(0, Request::Flush, None);
    let half = world.taps[0].payload(0, 4096);
    let World { dir, engine, taps, logs, images, records, mut consumer, .. } = world;
    // As a process dies: nothing is given back.
    std::mem::forget((engine, logs, half));
    let disks: Vec<SourceDisk> = taps.into_iter().map(leave_disk).collect();

    let ring = Ring::open(&dir.path().join("ring")).unwrap();
    let mut maps = vec![RegionMap::open(&map_path(dir.path(), 0), &disks[0].entry()).unwrap()];
    let report = ring.recover(&mut |record, payload| settle(&disks, &mut maps, record, payload).unwrap()).unwrap();
    // The zeroes waited for their edges, so they had no seqs yet; all else is settled.
    assert_eq!((report.reread, report.unreadable.len(), report.flushes_aborted), (2, 0, 1));
    let mut image = images.into_iter().next().unwrap();
    assert!(records.is_empty());
    while let Some(next) = consumer.take().unwrap() {
        let range = next.record().range();
        let target = &mut image[range.start as usize..range.end as usize];
        if next.record().op.has_payload() { target.copy_from_slice(next.payload()) } else { target.fill(0) }
    }
    assert!(std::fs::read(disk_path(dir.path(), 0)).unwrap() == image);
    assert_eq!(maps[0].lost_regions(), 0);
}

/// The disk of a tap that dies with everything in flight.
fn leave_disk(tap: Tap) -> SourceDisk {
    let mut tap = std::mem::ManuallyDrop::new(tap);
    // The file of a tap that is never dropped stays locked: this is its only handle from now on.
    let elsewhere = std::env::temp_dir().join(format!("farshore-left-{}", std::process::id()));
    std::fs::File::create(&elsewhere).unwrap().set_len(512).unwrap();
    let other = SourceDisk::open(DiskName::new("gone").unwrap(), &elsewhere, HANG).unwrap();
    let disk = std::mem::replace(&mut tap.disk, other);
    std::fs::remove_file(elsewhere).unwrap();
    disk
}

#[test]
fn what_cannot_be_settled_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), 0, MIB, &[(0, pattern(1, MIB as usize))]);
    let disks = vec![open_disk(dir.path(), 0)];
    let mut maps =
        vec![RegionMap::create(&map_path(dir.path(), 0), &disks[0].entry(), REGION_BYTES_MIN, false).unwrap()];
    let record = |op, offset, len| Record {
        seq: Seq(1),
        time: clock::wall(),
        disk: DiskIndex(0),
        op,
        flags: RecordFlags::NONE,
        offset,
        len,
    };
    let mut payload = HeapBuf::new(8192);
    let mut settled = |record: &Record, payload: &mut [u8]| settle(&disks, &mut maps, record, payload).unwrap();
    use farshore_changelog::ring::Settled::{Reread, Unreadable};
    assert_eq!(settled(&record(Op::Write, 8192, 8192), payload.as_mut_slice()), Reread);
    assert_eq!(payload.as_slice(), &pattern(1, MIB as usize)[8192..16384]);
    assert_eq!(
        settled(&record(Op::ResyncZeroes, 0, 65536), &mut []),
        Unreadable,
        "a source is never zeroed by a resync"
    );
    assert_eq!(settled(&record(Op::Write, MIB, 8192), payload.as_mut_slice()), Unreadable, "beyond the end");
    assert_eq!(settled(&record(Op::Trim, 0, 65536), &mut []), Reread);
    assert_eq!(settled(&record(Op::ResyncZeroes, 0, 65536), &mut []), Reread);
    assert_eq!(RegionMap::open(&map_path(dir.path(), 0), &disks[0].entry()).unwrap().lost_regions(), 1);
}
