//! The log has no room (G6): the disk goes on without it, nothing is forgotten, and order comes back by itself.

use super::dirty::Skipping;
use super::*;

const REGION: u64 = REGION_BYTES_MIN;

fn world(kind: EngineKind, full_wait: Duration) -> World {
    let rules = Rules { full_wait, ..Rules::default() };
    Setup { sizes: vec![16 * MIB], lane_bytes: 4 * MIB, rules, ..Setup::new(kind) }.open()
}

fn count(world: &World, op: Op) -> usize {
    world.records.iter().filter(|r| r.op == op).count()
}

/// Writes until the ring is full.
fn fill(world: &mut World) -> u64 {
    let mut written = 0;
    while let Some(id) = world.write(0, written, &pattern(written, 512 << 10), false) {
        assert_eq!(world.errno(id), 0);
        written += 512 << 10;
    }
    written
}

/// A write that may have to wait for room first.
fn put_patiently(world: &mut World, offset: u64, bytes: &[u8]) {
    let mut id = None;
    world.turn_until("room", |w| {
        id = id.or_else(|| w.write(0, offset, bytes, false));
        id.is_some()
    });
    assert_eq!(world.errno(id.unwrap()), 0);
}

/// At each write from memory outside of the ring, its regions must be lost in the map as it lies on the disk.
fn watch(world: &mut World) {
    let (path, disk) = (map_path(world.dir.path(), 0), world.ring.spec().disks[0].clone());
    world.faults(move |io| {
        if let Io::Write { offset, piece, .. } = io
            && matches!(piece.buf, IoBuf::Heap(_))
        {
            let map = RegionMap::open(&path, &disk).unwrap();
            for region in map.touched(ByteRange::at(*offset, piece.len() as u64).unwrap()) {
                assert!(map.is_lost(region), "region {region} is written without the log and not lost");
            }
        }
        Fault::None
    });
}

#[test]
fn a_full_log_does_not_stop_the_disk_and_is_brought_back_to_order() {
    with_both(|kind| {
        let (time, _simulated) = Skipping::new();
        let mut world = world(kind, Duration::from_millis(50));
        watch(&mut world);
        fill(&mut world);
        assert_eq!(world.progress.status().phase, Phase::Logging);
        for n in 0..40 {
            put_patiently(&mut world, 12 * MIB + n * 50_000, &pattern(n, 50_000));
        }
        let id = world.submit(0, Request::Trim { offset: 11 * MIB, len: REGION, fua: true }, None);
        assert_eq!(world.errno(id), 0);
        world.flush(0);
        let status = world.progress.status();
        assert_eq!((status.phase, status.overflows), (Phase::Overflow, 1));
        assert!(status.in_progress && world.states[0].read().unlogged_changes == 41);
        let lost = world.lost_on_disk(0);
        assert!((31..=33).contains(&lost), "{lost} regions are lost");

        // The shipper comes back.
        world.consume();
        assert_eq!(world.records.last().unwrap().op, Op::Overflow, "nothing was logged after it");
        world.turn_until("order", |w| {
            w.consume();
            w.progress.status().phase == Phase::Logging
        });
        world.assert_log_is_disk();
        assert_eq!([Op::Overflow, Op::ResyncBegin, Op::ResyncEnd].map(|op| count(&world, op)), [1, 1, 1]);
        let at = |op| world.records.iter().position(|r| r.op == op).unwrap();
        assert!(at(Op::Overflow) < at(Op::ResyncBegin) && at(Op::ResyncBegin) < at(Op::ResyncWrite));
        put_patiently(&mut world, 0, &pattern(99, 4096));
        world.assert_log_is_disk();
        assert_eq!(world.records.last().unwrap().op, Op::Write, "what comes now is logged again");
        assert_eq!(world.lost_on_disk(0), lost, "nothing is confirmed yet");
        world.confirm();
        world.pass(&time, 15);
        let map = world.map_on_disk();
        assert_eq!((map.lost_regions(), map.open_regions()), (0, 0));
    });
}

#[test]
fn writers_are_held_back_for_as_long_as_is_allowed() {
    let (time, _simulated) = Skipping::new();
    let mut world = world(EngineKind::Auto, Duration::from_secs(30));
    fill(&mut world);
    for _ in 0..28 {
        world.pass(&time, 1);
        assert!(world.write(0, 12 * MIB, &[1; 4096], false).is_none(), "there is no room and no overflow");
    }
    world.consume();
    put_patiently(&mut world, 12 * MIB, &[1; 4096]);
    assert_eq!(world.progress.status().overflows, 0);
    world.assert_log_is_disk();

    fill(&mut world);
    for _ in 0..31 {
        world.pass(&time, 1);
        drop(world.taps[0].payload(13 * MIB, 512 << 10));
    }
    put_patiently(&mut world, 13 * MIB, &[2; 4096]);
    assert_eq!(world.progress.status().phase, Phase::Overflow, "no writer waits longer than it is allowed to");
}

#[test]
fn an_overflow_in_which_nothing_was_written_ends_without_a_copy() {
    let (time, _simulated) = Skipping::new();
    let mut world = world(EngineKind::Auto, Duration::from_millis(50));
    fill(&mut world);
    for _ in 0..3 {
        time.skip(Duration::from_millis(40));
        assert!(world.taps[0].payload(0, 512 << 10).is_none());
    }
    world.pass(&time, 1);
    assert_eq!(world.progress.status().phase, Phase::Overflow);
    world.consume();
    world.pass(&time, 2);
    world.consume();
    assert_eq!(world.progress.status().phase, Phase::Logging);
    assert_eq!([Op::Overflow, Op::ResyncBegin, Op::ResyncEnd].map(|op| count(&world, op)), [1, 1, 1]);
}

#[test]
fn a_full_spool_is_not_waited_for_and_must_have_drained_before_it_ends() {
    let (time, _simulated) = Skipping::new();
    let (full_wait, stuck_wait) = (Duration::from_secs(3600), Duration::from_millis(50));
    let rules = Rules { full_wait, stuck_wait, spool_full_bytes: 1001, spool_resume_bytes: 1000, ..Rules::default() };
    let setup = Setup { sizes: vec![16 * MIB], lane_bytes: 4 * MIB, rules, ..Setup::new(EngineKind::Auto) };
    let mut world = setup.open();
    world.ring.set_spool_bytes(1001);
    fill(&mut world);
    put_patiently(&mut world, 12 * MIB, &[1; 4096]);
    world.consume();
    world.pass(&time, 3);
    assert_eq!(world.progress.status().phase, Phase::Overflow);
    world.ring.set_spool_bytes(1000);
    world.pass(&time, 3);
    world.consume();
    assert_eq!(world.progress.status().phase, Phase::Logging);
    world.assert_log_is_disk();
}

#[test]
fn slots_that_run_out_are_an_overflow_too() {
    let (time, _simulated) = Skipping::new();
    let mut world = world(EngineKind::Auto, Duration::from_millis(50));
    let ids: Vec<_> = (0..100).map(|_| world.submit(0, Request::Flush, None)).collect();
    world.pass(&time, 2);
    world.turn_until("all of them", |w| w.answers.len() == 100);
    assert_eq!(ids.len(), 100);
    assert_eq!(world.progress.status().phase, Phase::Overflow);
}

#[test]
fn guests_write_through_overflows_that_come_and_go() {
    let (time, _simulated) = Skipping::new();
    for seed in 1..4 {
        let rules = Rules { full_wait: Duration::from_millis(30), ..Rules::default() };
        let sizes = vec![4 * MIB, 4 * MIB];
        let mut world = Setup { sizes, lanes: 2, lane_bytes: 4 * MIB, rules, ..Setup::new(EngineKind::Auto) }.open();
        let mut rng = Rng(seed);
        let mut flying = Vec::new();
        for round in 0..1500 {
            let disk = rng.below(2) as usize;
            let (offset, len) = (rng.below(4 * MIB - 200_000), rng.below(200_000) + 1);
            match rng.below(8) {
                0 => flying.push(world.submit(disk, Request::Trim { offset, len, fua: false }, None)),
                1 => flying.push(world.submit(disk, Request::Flush, None)),
                2 => time.skip(Duration::from_millis(rng.below(200))),
                _ if flying.len() < 16 => {
                    flying.extend(world.write(disk, offset, &pattern(rng.below(1000), len as usize), false));
                }
                _ => {}
            }
            world.turn();
            // The shipper is away for long stretches.
            if round / 150 % 2 == 1 {
                world.consume();
                world.confirm();
            }
            flying.retain(|id| world.answers.remove(id).map(|r| assert!(r.is_ok())).is_none());
        }
        world.turn_until("order", |w| {
            w.consume();
            w.confirm();
            !w.progress.status().in_progress && w.taps.iter().all(|t| t.busy() == 0)
        });
        world.assert_log_is_disk();
        assert!(world.progress.status().overflows >= 2, "seed {seed}");
        // A reader that goes by the words alone never takes a stretch with a hole in it for whole.
        let mut inconsistent = false;
        for record in &world.records {
            match record.op {
                Op::Overflow | Op::ResyncBegin => inconsistent = true,
                Op::ResyncEnd => inconsistent = false,
                _ => {}
            }
        }
        assert!(!inconsistent);
        world.pass(&time, 15);
        assert_eq!(world.lost_on_disk(0) + world.lost_on_disk(1), 0);
    }
}
