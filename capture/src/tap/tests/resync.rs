//! Initial replication and resync: lost regions go through the log while the guest writes (G7).

use std::os::unix::fs::MetadataExt;

use farshore_changelog::hashes::{self, Chunk};
use farshore_changelog::ids::Hash;

use super::*;

const REGION: u64 = REGION_BYTES_MIN;
const EMPTY_IMAGE: CopyMode = CopyMode { skip_holes: true, write_back: false };

/// A disk with data in some regions, written zeroes in one, and holes in the rest.
fn contents() -> Vec<(u64, Vec<u8>)> {
    vec![
        (0, pattern(1, 5 * REGION as usize)),
        (20 * REGION + 4096, pattern(2, 100)),
        (30 * REGION, vec![0; REGION as usize]),
    ]
}

fn lost_world(kind: EngineKind, mode: CopyMode, sizes: Vec<u64>, lanes: u32) -> World {
    let dir = tempfile::tempdir().unwrap();
    for (disk, size) in sizes.iter().enumerate() {
        prepare(dir.path(), disk, *size, &contents());
    }
    let setup = Setup { sizes, lanes, lane_bytes: 4 * MIB, lost: true, mode, ..Setup::new(kind) };
    World::open(dir, setup)
}

/// As [`lost_world`], with data everywhere: every region takes a step.
fn full_world(size: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), 0, size, &[(0, pattern(5, size as usize))]);
    let lane_bytes = 4 * MIB;
    World::open(dir, Setup { sizes: vec![size], lane_bytes, lost: true, ..Setup::new(EngineKind::Auto) })
}

fn finish(world: &mut World) {
    world.turn_until("the resync", |w| {
        w.consume();
        !w.progress.status().in_progress
    });
    world.assert_log_is_disk();
}

fn bytes(world: &World, op: Op) -> u64 {
    world.records.iter().filter(|r| r.op == op).map(|r| r.len).sum()
}

fn count(world: &World, op: Op) -> usize {
    world.records.iter().filter(|r| r.op == op).count()
}

#[test]
fn what_an_fsync_may_have_dropped_is_written_back_before_it_is_logged() {
    with_both(|kind| {
        for write_back in [false, true] {
            let mut world = lost_world(kind, CopyMode { write_back, ..CopyMode::default() }, vec![4 * MIB], 1);
            let path = disk_path(world.dir.path(), 0);
            let look = || {
                let meta = std::fs::metadata(&path).unwrap();
                ((meta.mtime(), meta.mtime_nsec()), std::fs::read(&path).unwrap(), meta.blocks())
            };
            let (written, content, blocks) = look();
            finish(&mut world);
            let (written_then, content_then, blocks_then) = look();
            assert_eq!(written_then != written, write_back, "{kind:?}");
            assert_eq!(content_then, content);
            // What shares a region with data is written with it.
            assert!(blocks_then <= blocks + REGION / 512, "holes were filled: {blocks} and {blocks_then}");
        }
    });
}

#[test]
fn an_empty_image_needs_no_holes_and_any_other_does() {
    with_both(|kind| {
        for skip in [true, false] {
            let mode = CopyMode { skip_holes: skip, ..CopyMode::default() };
            let mut world = lost_world(kind, mode, vec![4 * MIB], 1);
            finish(&mut world);
            let first = world.records[0];
            assert_eq!((first.op, first.len), (Op::ResyncBegin, 4 * MIB));
            assert_eq!(world.records.last().unwrap().op, Op::ResyncEnd);
            assert_eq!((count(&world, Op::ResyncBegin), count(&world, Op::ResyncEnd)), (1, 1));
            assert_eq!(count(&world, Op::ResyncWrite), 6);
            assert_eq!(bytes(&world, Op::ResyncZeroes), if skip { REGION } else { 58 * REGION });
            assert!(count(&world, Op::ResyncZeroes) < 20, "a hole takes few records, however many regions it has");
            assert_eq!(world.lost_on_disk(0), 64);
            world.confirm();
            world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
        }
    });
}

#[test]
fn the_bits_stay_until_the_vault_has_the_records() {
    let mut world = full_world(8 * MIB);
    world.turn_until("half", |w| {
        w.consume();
        w.progress.status().left_regions < 64
    });
    world.confirm();
    world.turn_until("some bits", |w| w.lost_on_disk(0) < 128);
    assert!(world.lost_on_disk(0) > 0);
    finish(&mut world);
    let begun: Vec<_> = world.ops().into_iter().filter(|(op, ..)| *op == Op::ResyncBegin).collect();
    assert_eq!(begun, [(Op::ResyncBegin, 0, 8 * MIB)]);
    world.confirm();
    world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
}

#[test]
fn guests_write_while_their_disk_is_copied() {
    with_both(|kind| {
        for seed in 1..4 {
            let mut world = lost_world(kind, EMPTY_IMAGE, vec![4 * MIB, 8 * MIB], 1 + (seed as u32 % 2));
            let mut rng = Rng(seed);
            let mut flying = Vec::new();
            while world.progress.status().in_progress || !flying.is_empty() {
                if flying.len() < 16 && world.progress.status().in_progress {
                    let disk = rng.below(2) as usize;
                    let (offset, len) = (rng.below(4 * MIB - 200_000), rng.below(200_000) + 1);
                    match rng.below(4) {
                        0 => flying.push(world.submit(disk, Request::Trim { offset, len, fua: false }, None)),
                        1 => {
                            let zero = Request::WriteZeroes { offset, len, fua: false, no_hole: false, fast: false };
                            flying.push(world.submit(disk, zero, None));
                        }
                        _ => flying.extend(world.write(disk, offset, &pattern(rng.below(1000), len as usize), false)),
                    }
                }
                world.turn();
                world.consume();
                flying.retain(|id| world.answers.remove(id).map(|r| assert!(r.is_ok())).is_none());
            }
            world.assert_log_is_disk();
            assert_eq!((world.records[0].op, world.records[0].len), (Op::ResyncBegin, 12 * MIB));
            assert_eq!((count(&world, Op::ResyncBegin), count(&world, Op::ResyncEnd)), (1, 1));
            let end = world.records.iter().position(|r| r.op == Op::ResyncEnd).unwrap();
            let late = &world.records[end..];
            assert!(!late.iter().any(|r| matches!(r.op, Op::ResyncWrite | Op::ResyncZeroes)));
            seqs_are_dense_but_for_time(&world.records);
        }
    });
}

/// As on several lanes: seqs are dense; times rise only within a lane.
fn seqs_are_dense_but_for_time(records: &[Record]) {
    assert!(records.iter().enumerate().all(|(n, r)| r.seq.0 == n as u64 + 1));
}

#[test]
fn it_leaves_half_the_ring_to_the_guest() {
    let mut world = full_world(8 * MIB);
    for _ in 0..50 {
        world.turn();
    }
    let left = world.progress.status().left_regions;
    assert!((90..100).contains(&left), "{left} regions left: it takes at most half of 4 MiB");
    world.put(0, 0, &pattern(9, MIB as usize));
    world.put(0, MIB, &pattern(10, MIB as usize));
    finish(&mut world);
}

#[test]
fn a_region_that_cannot_be_read_waits_and_is_told() {
    let mut world = lost_world(EngineKind::Auto, EMPTY_IMAGE, vec![4 * MIB], 1);
    let mut failing = 1;
    world.faults(move |io| {
        failing -= i32::from(matches!(io, Io::Call(_)));
        if failing >= 0 && matches!(io, Io::Call(_)) { Fault::Before(libc::EIO) } else { Fault::None }
    });
    world.turn_until("the failure", |w| w.states[0].read().unreadable_regions == 1);
    assert!(world.progress.status().in_progress);
    finish(&mut world);
    assert_eq!(world.states[0].read().unreadable_regions, 0);
}

#[test]
fn stopping_ends_it_between_two_regions_and_a_new_process_goes_on() {
    let mut world = lost_world(EngineKind::Auto, CopyMode::default(), vec![4 * MIB], 1);
    world.turn_until("some", |w| w.progress.status().left_regions < 60);
    world.taps[0].stop();
    world.turn_until("the stop", |w| w.taps[0].busy() == 0);
    let left = world.progress.status().left_regions;
    assert!(left > 0);
    world.consume();
    let World { dir, taps, engine, logs, consumer, images, .. } = world;
    drop((taps, engine, logs));

    // The next process takes the ring over; nothing was confirmed, so all that was lost still is.
    let ring = Ring::open(&dir.path().join("ring")).unwrap();
    let disk = open_disk(dir.path(), 0);
    ring.recover(&mut |_, _| panic!("nothing was in flight")).unwrap();
    let map = RegionMap::open(&map_path(dir.path(), 0), &disk.entry()).unwrap();
    assert_eq!(map.lost_regions(), 64);
    let progress = Arc::new(ResyncProgress::default());
    let log = Rc::new(RefCell::new(LaneLog::new(&ring, 0)));
    progress.lost(&mut log.borrow_mut(), map.lost_regions(), map.lost_bytes());
    let state = Arc::new(DiskState::default());
    let tap = Tap::new(TapSetup {
        disk,
        index: DiskIndex(0),
        tokens: DeviceTokens { owner: 0 },
        log: Some(Rc::clone(&log)),
        repair: Some(Repair::new(map, Arc::clone(&progress), Seq(ring.next_seq().0 - 1), CopyMode::default())),
        state: Arc::clone(&state),
    });
    let engine = Faulty::new(open(EngineKind::Auto).unwrap().0);
    let (records, answers) = (Vec::new(), HashMap::new());
    let mut world = World {
        dir,
        engine,
        taps: vec![tap],
        logs: vec![log],
        states: vec![state],
        progress,
        ring,
        consumer,
        images,
        records,
        answers,
        next_id: 0,
    };
    finish(&mut world);
    assert_eq!(world.records[0].op, Op::ResyncBegin);
    assert_eq!(world.records.last().unwrap().op, Op::ResyncEnd);
}

/// What the target has at the begin of the epoch: the disk, but for one unit.
fn publish(world: &mut World, dir: &Path) {
    const UNIT: usize = REGION as usize;
    let mut image = world.file(0);
    image[3 * UNIT + 5] ^= 1;
    world.images[0].clone_from(&image);
    let chunk = Chunk {
        group: GroupName::new("g").unwrap(),
        epoch: Epoch(1),
        seq: Seq(1),
        disk: DiskIndex(0),
        unit_bytes: UNIT as u32,
        chunk_units: 64,
        first_unit: 0,
        hashes: image.chunks(UNIT).map(Hash::of).collect(),
    };
    let folder = hashes::folder(dir, Epoch(1));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(hashes::chunk_file_name(DiskIndex(0), 0)), chunk.encode()).unwrap();
    std::fs::write(folder.join(hashes::PLAN_FILE), "{}").unwrap();
}

impl World {
    fn know(&mut self, wait: Duration) -> PathBuf {
        let dir = self.dir.path().join("hashes");
        let known = Known::new(dir.clone(), GroupName::new("g").unwrap(), Epoch(1), wait);
        let repair = self.taps[0].repair.take().unwrap();
        self.taps[0].repair = Some(repair.knowing(known));
        dir
    }
}

#[test]
fn what_the_target_has_is_not_shipped_again() {
    with_both(|kind| {
        let mut world = lost_world(kind, CopyMode::default(), vec![4 * MIB], 1);
        let dir = world.know(HANG);
        // The guest changes a region of which the hash is right at first: the log has changed it, so it is copied.
        world.put(0, 7 * REGION + 512, &[1; 512]);
        world.consume();
        let before = world.file(0);
        for _ in 0..50 {
            world.turn();
        }
        assert_eq!(world.progress.status().left_regions, 64, "the hashes are waited for");
        publish(&mut world, &dir);
        world.put(0, 40 * REGION, &[2; 512]);
        finish(&mut world);
        assert!(before.len() == 4 * MIB as usize);
        let copied: Vec<u64> = world
            .records
            .iter()
            .filter(|r| matches!(r.op, Op::ResyncWrite | Op::ResyncZeroes))
            .map(|r| r.offset / REGION)
            .collect();
        assert_eq!(copied, [3, 7, 40]);
        assert_eq!(world.states[0].read().same_bytes, 61 * REGION);
        world.confirm();
        world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
    });
}

#[test]
fn without_hashes_everything_is_shipped_after_a_short_wait() {
    let mut world = lost_world(EngineKind::Auto, CopyMode::default(), vec![4 * MIB], 1);
    world.know(Duration::from_millis(50));
    finish(&mut world);
    assert_eq!(bytes(&world, Op::ResyncWrite) + bytes(&world, Op::ResyncZeroes), 4 * MIB);
    assert_eq!(world.states[0].read().same_bytes, 0);
}

#[test]
fn a_hole_of_many_regions_takes_a_step_and_what_is_written_meanwhile_is_kept() {
    with_both(|kind| {
        for seed in 1..6 {
            let dir = tempfile::tempdir().unwrap();
            // Data in two of a thousand regions, one of them in the middle of a chunk.
            prepare(dir.path(), 0, 64 * MIB, &[(0, pattern(1, 100)), (700 * REGION + 8192, pattern(2, 4096))]);
            let setup = Setup { sizes: vec![64 * MIB], lane_bytes: 4 * MIB, lost: true, ..Setup::new(kind) };
            let mut world = World::open(dir, setup);
            let mut rng = Rng(seed);
            let mut flying = Vec::new();
            for _ in 0..8 {
                let (offset, len) = (rng.below(63 * MIB), rng.below(100_000) + 1);
                flying.extend(world.write(0, offset, &pattern(rng.below(1000), len as usize), false));
                world.turn();
            }
            flying.into_iter().for_each(|id| assert_eq!(world.errno(id), 0));
            finish(&mut world);
            let copied = count(&world, Op::ResyncWrite) + count(&world, Op::ResyncZeroes);
            assert!(copied < 300, "{copied} records for a disk that is nearly all hole");
            world.confirm();
            world.turn_until("the map", |w| w.lost_on_disk(0) == 0);
        }
    });
}
