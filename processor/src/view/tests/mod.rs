mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use farshore_changelog::ids::Position;
use farshore_changelog::op::Op;
use farshore_changelog::units::ByteRange;
use proptest::prelude::*;
use world::{Act, DISK_BYTES, DISKS, Disks, Snapshot, World};

use super::*;
use crate::lease::{self, Lease};
use crate::resolve::{PointSpec, ResolveError};
use crate::undo::journal;

fn range() -> impl Strategy<Value = (u64, u64)> {
    (0u64..DISK_BYTES / 512, 1u64..48).prop_map(|(at, n)| (at * 512, (n * 512).min(DISK_BYTES - at * 512)))
}

fn act() -> impl Strategy<Value = Act> {
    let op = prop_oneof![
        12 => Just(Op::Write),
        2 => Just(Op::WriteZeroes),
        2 => Just(Op::Trim),
        3 => Just(Op::Flush),
        1 => Just(Op::Mark),
    ];
    (op, 0..DISKS, range(), 1u8..255).prop_map(|(op, disk, (offset, len), byte)| Act { op, disk, offset, len, byte })
}

fn read_all(view: &Arc<PointView>) -> Disks {
    let read = |disk: PointDisk| {
        let mut bytes = vec![0xaa; disk.size_bytes() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    view.disks().into_iter().map(read).collect()
}

fn at_seq(position: Position) -> PointSpec {
    PointSpec::Seq { epoch: Some(position.epoch), seq: position.seq }
}

fn check_extents(view: &Arc<PointView>, disks: &Disks) {
    for (disk, expected) in view.disks().iter().zip(disks) {
        let mut at = 0;
        while at < DISK_BYTES {
            for extent in disk.extents(ByteRange { start: at, end: DISK_BYTES }).unwrap() {
                assert_eq!(extent.range.start, at);
                let bytes = &expected[at as usize..extent.range.end as usize];
                assert!(!extent.hole || bytes.iter().all(|b| *b == 0), "{} is no hole", extent.range);
                at = extent.range.end;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Random histories with crashes of the replay after any step, and views that stay open all the while.
    #[test]
    fn every_position_reads_as_the_model(
        segments in prop::collection::vec((prop::collection::vec(act(), 1..30), prop::option::weighted(0.3, 0usize..40)), 1..8),
        opened_at in 0usize..8,
    ) {
        let tmp = tempfile::tempdir().unwrap();
        let mut world = World::new(tmp.path());
        let mut early: Option<(Arc<PointView>, Snapshot)> = None;
        for (i, (acts, crash_after)) in segments.iter().enumerate() {
            world.segment(acts, *crash_after);
            if i == opened_at {
                let snapshot = world.snapshots[world.snapshots.len() / 2].clone();
                let view = PointView::open(&world.target, &world.group, &at_seq(snapshot.position)).unwrap();
                early = Some((view, snapshot));
            }
        }
        if let Some((view, snapshot)) = &early {
            prop_assert!(read_all(view) == snapshot.disks);
            check_extents(view, &snapshot.disks);
        }
        let newest = world.snapshots.last().unwrap().clone();
        for with_processor in [true, false] {
            if !with_processor {
                drop(world.replay.take());
            }
            for snapshot in &world.snapshots {
                let view = PointView::open(&world.target, &world.group, &at_seq(snapshot.position)).unwrap();
                // A batch that changes nothing and cuts no point has no row of its own: the one before is the same state.
                prop_assert!(view.point().position <= snapshot.position);
                prop_assert_eq!(view.point().undo_end, snapshot.undo_end);
                prop_assert!(read_all(&view) == snapshot.disks, "at {}", snapshot.position);
                check_extents(&view, &snapshot.disks);
            }
            let latest = PointView::open(&world.target, &world.group, &PointSpec::Latest).unwrap();
            prop_assert_eq!(latest.point().position, newest.position);
            prop_assert!(read_all(&latest) == newest.disks);
        }
        // Every recovery point, by its id.
        for point in crate::points::read(&world.dir.points()).unwrap() {
            let view = PointView::open(&world.target, &world.group, &PointSpec::Id(point.id)).unwrap();
            let snapshot = world.snapshots.iter().find(|s| s.position == point.position).unwrap();
            prop_assert!(read_all(&view) == snapshot.disks, "p{}", point.id);
        }
    }
}

/// A processor that died in the middle of a batch is all there is: the images are ahead of the position.
#[test]
fn a_target_whose_processor_died_shows_every_point() {
    let tmp = tempfile::tempdir().unwrap();
    let mut world = World::new(tmp.path());
    let write = |offset, byte| Act { op: Op::Write, disk: 0, offset, len: 65536, byte };
    world.segment(&[write(0, 1), write(131_072, 2)], None);
    let snapshot = world.snapshots.last().unwrap().clone();
    for steps in 0..7 {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(tmp.path(), copy.path());
        let mut dead = World::new(tempfile::tempdir().unwrap().path());
        dead.adopt(&world, copy.path());
        dead.die_in(&[write(4096, 9), write(196_608, 8)], steps);
        // What a power cut does to the mapped page: it is as it was at some time before.
        std::fs::write(dead.dir.published(), 0u64.to_le_bytes()).unwrap();
        let view = PointView::open(&dead.target, &dead.group, &PointSpec::Latest).unwrap();
        assert_eq!(view.point().position, snapshot.position, "after {steps} steps");
        assert!(read_all(&view) == snapshot.disks, "after {steps} steps");
        // And while a processor that comes back rolls back and goes on.
        dead.reopen();
        assert!(read_all(&view) == snapshot.disks, "after {steps} steps and the roll-back");
        dead.segment(&[write(0, 77)], None);
        assert!(read_all(&view) == snapshot.disks, "after {steps} steps and a new batch");
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(done.success());
}

/// Readers of old points while a thread replays: never a byte of a later write.
#[test]
fn a_view_does_not_change_while_replay_goes_on() {
    let tmp = tempfile::tempdir().unwrap();
    let mut world = World::new(tmp.path());
    let (target, group) = (world.target.clone(), world.group.clone());
    let snapshots: Mutex<Vec<Snapshot>> = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    let random = |state: &mut u64| {
        // xorshift64: the same history every time.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    world.segment(&[Act { op: Op::Write, disk: 0, offset: 0, len: DISK_BYTES, byte: 1 }], None);
    snapshots.lock().unwrap().extend(world.snapshots.drain(..));
    let checked = std::thread::scope(|s| {
        let mut readers = Vec::new();
        for reader in 0..2u64 {
            let (snapshots, done, target, group) = (&snapshots, &done, &target, &group);
            readers.push(s.spawn(move || {
                let (mut state, mut checked) = (reader + 77, 0);
                while !done.load(Ordering::SeqCst) {
                    let snapshot = {
                        let all = snapshots.lock().unwrap();
                        all[random(&mut state) as usize % all.len()].clone()
                    };
                    let view = PointView::open(target, group, &at_seq(snapshot.position)).unwrap();
                    assert_eq!(view.point().position, snapshot.position);
                    let disks = view.disks();
                    for _ in 0..200 {
                        let disk = random(&mut state) as usize % DISKS;
                        let at = random(&mut state) % DISK_BYTES;
                        let len = (1 + random(&mut state) % 40_000).min(DISK_BYTES - at);
                        let mut got = vec![0; len as usize];
                        disks[disk].read_at(&mut got, at).unwrap();
                        assert!(got == snapshot.disks[disk][at as usize..(at + len) as usize], "{}", snapshot.position);
                        checked += 1;
                    }
                }
                checked
            }));
        }
        let mut state = 4242;
        for _ in 0..150 {
            let acts: Vec<Act> = (0..20)
                .map(|_| {
                    let offset = random(&mut state) % (DISK_BYTES / 512) * 512;
                    let len = (512 * (1 + random(&mut state) % 32)).min(DISK_BYTES - offset);
                    let op = if random(&mut state).is_multiple_of(5) { Op::Trim } else { Op::Write };
                    let (disk, byte) = (random(&mut state) as usize % DISKS, random(&mut state) as u8);
                    Act { op, disk, offset, len, byte }
                })
                .collect();
            world.segment(&acts, None);
            snapshots.lock().unwrap().extend(world.snapshots.drain(..));
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().map(|r| r.join().unwrap()).sum::<u64>()
    });
    assert!(checked > 400, "only {checked} reads");
}

#[test]
fn a_lease_keeps_the_journal_and_without_it_a_pruned_point_is_an_error() {
    let tmp = tempfile::tempdir().unwrap();
    let mut world = World::new(tmp.path());
    for byte in 1..12 {
        let mark = Act { op: Op::Mark, disk: 0, offset: 0, len: 0, byte };
        let write = Act { op: Op::Write, disk: 1, offset: 0, len: DISK_BYTES, byte };
        world.segment(&[write, mark], None);
    }
    let (old, second) = (world.snapshots[1].clone(), world.snapshots[3].clone());
    let view = PointView::open(&world.target, &world.group, &at_seq(second.position)).unwrap();
    let prune = |world: &World| {
        let _frozen = lease::freeze(world.dir.root()).unwrap();
        let newest = world.snapshots.last().unwrap().undo_end;
        let needed = lease::oldest_needed(world.dir.root()).unwrap().map_or(newest, |o| o.min(newest));
        let files = journal::not_needed(&world.dir.undo(), needed).unwrap();
        journal::remove(&files).unwrap();
        files.len()
    };
    prune(&world);
    assert!(read_all(&view) == second.disks);
    let again = PointView::open(&world.target, &world.group, &at_seq(second.position)).unwrap();
    assert!(read_all(&again) == second.disks);
    let gone = PointView::open(&world.target, &world.group, &at_seq(old.position)).map(|_| ()).unwrap_err();
    assert!(matches!(gone, ViewError::Resolve(ResolveError::TooOld { .. })), "{gone}");
    // A position that is known by its offset all the same: the view names what is missing.
    let mut point = view.point().clone();
    (point.position, point.undo_end) = (old.position, old.undo_end);
    let gap = PointView::at(&world.target, &world.group, point).map(|_| ()).unwrap_err();
    assert!(gap.to_string().contains("pruned"), "{gap}");
    drop((view, again));
    assert!(prune(&world) > 0);
    assert_eq!(lease::oldest_needed(world.dir.root()).unwrap(), None);
    let held = Lease::take(world.dir.root(), 3).unwrap();
    assert_eq!(held.offset(), 3);
}

#[test]
fn a_damaged_undo_block_is_an_error_and_never_wrong_data() {
    use std::os::unix::fs::FileExt;
    let tmp = tempfile::tempdir().unwrap();
    let mut world = World::new(tmp.path());
    let noise = |seed: u64| -> Vec<Act> {
        (0..64)
            .map(|i| Act { op: Op::Write, disk: 0, offset: i * 4096, len: 4096, byte: (i * 7 + seed) as u8 })
            .collect()
    };
    world.segment(&noise(1), None);
    world.segment(&noise(2), None);
    let first = world.snapshots[0].clone();
    let path = crate::undo::files::list(&world.dir.undo()).unwrap().pop().unwrap().path;
    // The last batch of the last file, its first block.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    let files = crate::undo::files::list(&world.dir.undo()).unwrap();
    let at = first.undo_end - files.iter().rev().find(|f| f.start <= first.undo_end).unwrap().start + 256 + 20;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let view = PointView::open(&world.target, &world.group, &at_seq(first.position)).unwrap();
    let mut buf = vec![0; 4096];
    let e = view.disks()[0].read_at(&mut buf, 0).unwrap_err();
    assert!(e.to_string().contains("damaged"), "{e}");
}

#[test]
fn what_is_written_to_a_view_stays_in_its_overlay() {
    let tmp = tempfile::tempdir().unwrap();
    let mut world = World::new(tmp.path());
    world.segment(&[Act { op: Op::Write, disk: 0, offset: 0, len: 65536, byte: 3 }], None);
    let view = PointView::open(&world.target, &world.group, &PointSpec::Latest).unwrap();
    let disks = view.private_disks().unwrap();
    disks[0].write_at(&[9; 1000], 500).unwrap();
    disks[1].zero(0, 4096).unwrap();
    world.segment(&[Act { op: Op::Write, disk: 0, offset: 0, len: 65536, byte: 4 }], None);
    let mut got = vec![0; 2000];
    disks[0].read_at(&mut got, 0).unwrap();
    assert!(got[..500].iter().chain(&got[1500..]).all(|b| *b == 3) && got[500..1500].iter().all(|b| *b == 9));
    // Kept by name, over the same point only.
    let kept = view.persistent_disks("vm").unwrap();
    kept[1].write_at(&[8; 512], 512).unwrap();
    kept[1].flush().unwrap();
    drop((kept, disks));
    let kept = view.persistent_disks("vm").unwrap();
    kept[1].read_at(&mut got, 0).unwrap();
    assert!(got[512..1024].iter().all(|b| *b == 8));
    drop(kept);
    let other = PointView::open(&world.target, &world.group, &PointSpec::Latest).unwrap();
    assert!(matches!(other.persistent_disks("vm").map(|_| ()), Err(ViewError::Io(_))));
}

#[test]
fn an_unknown_group_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let world = World::new(tmp.path());
    let e = PointView::open(&world.target, &"nobody".parse().unwrap(), &PointSpec::Latest).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("nobody"), "{e}");
    let e = PointView::open(&world.target, &world.group, &PointSpec::Latest).map(|_| ()).unwrap_err();
    assert!(matches!(e, ViewError::Resolve(ResolveError::NothingYet)), "{e}");
}

/// Random logs with resyncs and several epochs, by the double of the source that replay is tested with.
#[test]
fn a_seq_inside_a_resync_gives_the_position_before_it() {
    use crate::testing::{Rng, Source};
    for seed in 0..12 {
        let tmp = tempfile::tempdir().unwrap();
        let (mut source, mut rng) = (Source::new("web01", 2), Rng(seed));
        let dir = crate::target::GroupDir::new(tmp.path(), &source.group);
        let vault = crate::replay::VaultName { url: "file:///vault".into(), id: "00".into() };
        let hash = source.epoch_hash();
        let mut replay = crate::replay::Replay::create(&dir, &source.group, &vault, &source.object, hash).unwrap();
        for round in 0..6 {
            if round == 3 {
                let next = source.next_epoch();
                replay.turn(&next, source.epoch_hash()).unwrap();
            }
            let resync = round == 0 || round == 3 || rng.one_in(3);
            if resync {
                source.random_resync(&mut rng);
            }
            for _ in 0..10 {
                source.random(&mut rng);
            }
            let segment = source.segment();
            let index = segment.index();
            for batch in crate::batch::cut(
                index.head(),
                index.records(),
                &replay.position().clone(),
                std::time::Duration::from_secs(60),
            ) {
                crate::apply::apply(&mut replay, &segment, &batch, "key").unwrap();
                replay.settle().unwrap();
            }
        }
        let newest = replay.position().position();
        let mut shown = 0;
        for position in source.after.keys().filter(|p| **p <= newest && p.seq.0 > 0) {
            let view = match PointView::open(tmp.path(), &source.group, &at_seq(*position)) {
                Ok(view) => view,
                Err(ViewError::Resolve(ResolveError::TooOld { .. })) => continue,
                Err(e) => panic!("seed {seed}: {position}: {e}"),
            };
            let got = view.point().position;
            assert!(got <= *position && source.consistent[&got], "seed {seed}: {position} gave {got}");
            let disks = read_all(&view);
            assert!(disks == source.after[&got], "seed {seed}: {position} gave {got}");
            shown += 1;
        }
        assert!(shown > 10, "seed {seed}: only {shown}");
    }
}
