use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use farshore_changelog::ids::{DiskName, Epoch, Hash, Position};
use farshore_changelog::medium;
use farshore_changelog::units::SECTOR_BYTES;
use farshore_vault::{EpochDisk, EpochObject};
use proptest::prelude::*;

use super::*;
use crate::batch;
use crate::compare::Run;
use crate::compare::report::Counts;
use crate::replay::VaultName;
use crate::target::GroupDir;
use crate::testing::disk::Unsynced;
use crate::testing::{Rng, SECTORS, Source, at, images};
use crate::undo::files;

#[path = "apply_fault_tests.rs"]
mod faults;

const INTERVAL: Duration = Duration::from_secs(300);

fn vault() -> VaultName {
    VaultName { url: "file:///vault".into(), id: "0123".into() }
}

/// A source's history as segments.
fn history(seed: u64, disks: usize) -> (Source, Vec<Segment>) {
    history_with(seed, disks, &mut |_, _| {})
}

/// As [`history`], with digests at random places.
fn history_with_digests(seed: u64, disks: usize) -> (Source, Vec<Segment>) {
    let mut requests = 0;
    history_with(seed, disks, &mut |source, rng| {
        let disk = rng.below(disks as u64) as usize;
        let start = rng.below(SECTORS);
        match rng.below(8) {
            0..=2 => source.digest(disk, start, 1 + rng.below((SECTORS - start).min(40))),
            3 => {
                requests += 1;
                source.digests(32, requests);
            }
            _ => {}
        }
    })
}

fn history_with(seed: u64, disks: usize, between: &mut dyn FnMut(&mut Source, &mut Rng)) -> (Source, Vec<Segment>) {
    let mut rng = Rng(seed);
    let mut extra = Rng(seed ^ 0x5555);
    let mut source = Source::new("web01", disks);
    let mut segments = Vec::new();
    if rng.one_in(2) {
        source.random_resync(&mut rng);
    }
    for _ in 0..2 + rng.below(5) {
        for _ in 0..rng.below(14) {
            source.random(&mut rng);
            between(&mut source, &mut extra);
        }
        if rng.one_in(5) {
            source.random_resync(&mut rng);
        }
        segments.push(source.segment());
        source.time += rng.below(400_000_000);
    }
    (source, segments)
}

struct Target {
    folder: tempfile::TempDir,
    dir: GroupDir,
}

impl Target {
    fn new(source: &Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = GroupDir::new(folder.path(), &source.group);
        Self { folder, dir }
    }

    fn open(&self, source: &Source) -> Replay {
        match Replay::open(&self.dir, &source.group, &vault()).unwrap() {
            Some(replay) => replay,
            None => Replay::create(&self.dir, &source.group, &vault(), &source.object, source.epoch_hash()).unwrap(),
        }
    }
}

/// Everything a user sees of a target.
#[derive(Debug, PartialEq)]
struct Seen {
    images: Hash,
    position: Position,
    consistent: Position,
    resync: bool,
    points: Vec<(u64, Position, UnixMicros, PointKind)>,
    compared: (Counts, Option<Run>),
}

fn seen(source: &Source, target: &Target, replay: &Replay) -> Seen {
    let point = |p: &Point| (p.id, p.position, p.time, p.kind.clone());
    Seen {
        images: Hash::of(&images(&target.dir, &source.object).concat()),
        position: replay.position().position(),
        consistent: replay.position().consistent.position,
        resync: replay.position().resync,
        points: replay.points().iter().map(point).collect(),
        compared: (replay.comparison.running, replay.comparison.last),
    }
}

/// What must hold whenever a target was opened, or a batch counts.
fn check(source: &Source, target: &Target, replay: &Replay) {
    let here = replay.position();
    assert!(images(&target.dir, &source.object) == source.after[&here.position()], "images at {}", here.position());
    assert_eq!(here.seq.0 > 0 && !here.resync, here.consistent.position == here.position());
    let mut old: Vec<(Position, u64)> = replay.points().iter().map(|p| (p.position, p.undo_end)).collect();
    if here.consistent.exists() {
        old.push((here.consistent.position, here.consistent.undo_end));
    }
    for (position, undo_end) in old {
        assert!(source.consistent[&position], "{position} is no state of the source");
        assert!(at(&target.dir, &source.object, undo_end) == source.after[&position], "the state at {position}");
    }
}

/// Applies segments until `steps` steps were done; `None` when all is applied, else what was being done. `ahead`: each batch is
/// left to be settled where that may be, as when there is a backlog.
fn run(
    replay: &mut Replay,
    segments: &[Segment],
    mut steps: u64,
    ahead: bool,
    on_batch: &dyn Fn(&Replay),
) -> Option<Option<Step>> {
    for segment in segments {
        let head = segment.index().head();
        let at = replay.applied().clone();
        if head.number < at.number || (head.number == at.number && at.seq == at.chain_seq) {
            continue;
        }
        for batch in batch::cut(head, segment.index().records(), &at, INTERVAL) {
            let mut run = BatchRun::new(replay, segment, &batch).unwrap();
            let mut before = None;
            while run.next_step().is_some() && !(ahead && run.leave()) {
                if steps == 0 {
                    // What a batch before has left is still on its way into the images.
                    return Some(if replay.is_unsettled() { Some(Step::WriteImage) } else { before });
                }
                steps -= 1;
                before = run.step().unwrap();
            }
            on_batch(replay);
        }
    }
    replay.settle().unwrap();
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn images_equal_the_source_at_every_published_position(seed: u64, disks in 1_usize..4) {
        let _unsynced = medium::simulate(Rc::new(Unsynced));
        let (source, segments) = history_with_digests(seed, disks);
        let target = Target::new(&source);
        let mut replay = target.open(&source);
        run(&mut replay, &segments, u64::MAX, false, &|replay| check(&source, &target, replay));
        prop_assert_eq!(replay.position().position(), source.position());
        prop_assert!(!replay.points().is_empty());
    }

    #[test]
    fn a_crash_after_any_step_changes_nothing(seed: u64, disks in 1_usize..3) {
        crash_everywhere(history(seed, disks), seed);
        crash_everywhere(history_with_digests(seed, disks), seed);
    }
}

/// Seeds that found something once.
#[test]
fn crashes_that_once_changed_something_do_not() {
    // A heartbeat's point was cut twice; a torn position passed for one of another version.
    for seed in [1_850_205_153_854_737_196, 16_394_039_609_946_081_804] {
        crash_everywhere(history(seed, 1), seed);
    }
}

/// Replays a history, crashing every few steps, half of the times with a power cut; in the end all is as if it never had.
fn crash_everywhere((source, segments): (Source, Vec<Segment>), seed: u64) {
    let _unsynced = medium::simulate(Rc::new(Unsynced));
    let never_crashed = Target::new(&source);
    let mut replay = never_crashed.open(&source);
    run(&mut replay, &segments, u64::MAX, false, &|_| {});
    let expected = seen(&source, &never_crashed, &replay);

    let target = Target::new(&source);
    let mut rng = Rng(!seed);
    let mut crashes = 0;
    loop {
        let mut replay = target.open(&source);
        check(&source, &target, &replay);
        let (synced, ahead) = (replay.journal.end(), rng.one_in(2));
        let steps = if crashes < 40 { rng.below(12) } else { u64::MAX };
        let Some(last) = run(&mut replay, &segments, steps, ahead, &|_| {}) else {
            assert_eq!(seen(&source, &target, &replay), expected);
            break;
        };
        drop(replay);
        crashes += 1;
        if rng.one_in(2) {
            lose_power(&source, &target, &mut rng, last, synced);
        }
    }
}

/// What a power cut may do on top of a killed process: whatever was not made durable is there in part.
fn lose_power(source: &Source, target: &Target, rng: &mut Rng, last: Option<Step>, synced: u64) {
    // The mapping was never synced.
    std::fs::write(target.dir.published(), 0_u64.to_le_bytes()).unwrap();
    let position = crate::position::ReplayPosition::read(&target.dir.position()).unwrap().unwrap();
    match last {
        Some(Step::SaveUndo) => {
            let file = files::list(&target.dir.undo()).unwrap().pop().unwrap();
            let kept = synced.max(position.undo_end).max(file.start) - file.start;
            let open = OpenOptions::new().write(true).open(&file.path).unwrap();
            let at = kept + rng.below(file.len - kept);
            match rng.below(3) {
                0 => open.set_len(at).unwrap(),
                1 => open.write_all_at(&[0xee], at).unwrap(),
                _ => {}
            }
        }
        Some(Step::WriteImage) => {
            // Some sectors that the unfinished batch wrote did not reach the medium.
            let now = images(&target.dir, &source.object);
            let durable = &source.after[&position.position()];
            for (disk, name) in source.object.disks.iter().enumerate() {
                let open = OpenOptions::new().write(true).open(target.dir.image(&name.name)).unwrap();
                for sector in (0..now[disk].len()).step_by(SECTOR_BYTES as usize) {
                    let range = sector..sector + SECTOR_BYTES as usize;
                    if now[disk][range.clone()] != durable[disk][range.clone()] && rng.one_in(2) {
                        open.write_all_at(&durable[disk][range], sector as u64).unwrap();
                    }
                }
            }
        }
        Some(Step::SyncImage | Step::Compare | Step::WriteReport | Step::WriteCatalogue) => {
            // The position was just being written: its slot is torn.
            let older = 4096 * (1 - position.generation % 2);
            let open = OpenOptions::new().write(true).open(target.dir.position()).unwrap();
            open.write_all_at(&[0xee; 100], older + rng.below(256)).unwrap();
        }
        Some(Step::ReadOld | Step::Settle | Step::SyncUndo | Step::Publish | Step::WritePosition) | None => {}
    }
}

#[test]
fn a_batch_that_saves_more_than_one_undo_segment_is_one_batch() {
    let mut source = Source::new("web01", 1);
    for disk in &mut source.object.disks {
        disk.size_bytes = 64 << 20;
    }
    source.prev = source.epoch_hash();
    source.logged = vec![vec![0; 64 << 20]];
    source.disks = source.logged.clone();
    let target = Target::new(&source);
    let mut replay = target.open(&source);
    let mut segments = Vec::new();
    for start in 0..10 {
        let sectors = 2048;
        for at in 0..4 {
            source.write(0, (start * 4 + at) * sectors, sectors, 7 + at as u8, RecordFlags::NONE);
        }
        source.after.clear();
        segments.push(source.segment());
    }
    run(&mut replay, &segments, u64::MAX, false, &|_| {});
    let before = source.logged.clone();
    let here = replay.position().clone();
    source.zero(Op::Trim, 0, 0, 64 << 11);
    segments.push(source.segment());
    let mut saved = 0;
    loop {
        let steps = saved + 3;
        let stopped = run(&mut replay, &segments, steps, false, &|_| {});
        drop(replay);
        replay = target.open(&source);
        if stopped.is_none() {
            break;
        }
        assert!(images(&target.dir, &source.object) == before, "after {steps} steps");
        assert_eq!(replay.position(), &here);
        saved += 1;
    }
    assert!(saved > 6, "40 MiB were saved in one piece");
    assert!(images(&target.dir, &source.object) == source.logged);
    assert!(at(&target.dir, &source.object, here.undo_end) == before);
    drop(target.folder);
}

#[test]
fn another_vault_is_refused() {
    let source = Source::new("web01", 1);
    let target = Target::new(&source);
    drop(target.open(&source));
    let other = VaultName { id: "4567".into(), ..vault() };
    let refused = Replay::open(&target.dir, &source.group, &other).unwrap_err();
    assert!(refused.full_text().contains("another target folder"), "{}", refused.full_text());
    let moved = VaultName { url: "s3://moved".into(), ..vault() };
    Replay::open(&target.dir, &source.group, &moved).unwrap().unwrap();
}

#[test]
fn a_disk_may_grow_or_be_added_and_nothing_else() {
    let mut source = Source::new("web01", 2);
    let target = Target::new(&source);
    let mut replay = target.open(&source);
    source.write(0, 0, 8, 9, RecordFlags::NONE);
    let segments = [source.segment()];
    run(&mut replay, &segments, u64::MAX, false, &|_| {});
    let mut next = source.next_epoch();
    let turn = |replay: &mut Replay, next: &EpochObject| replay.turn(next, Hash::of(&next.encoded()));

    let good = next.clone();
    next.disks[0].size_bytes -= 512;
    assert!(matches!(turn(&mut replay, &next), Err(GroupError::Refused { .. })));
    next = good.clone();
    next.disks.swap(0, 1);
    assert!(matches!(turn(&mut replay, &next), Err(GroupError::Refused { .. })));
    next = good.clone();
    next.disks.pop();
    assert!(matches!(turn(&mut replay, &next), Err(GroupError::Refused { .. })));
    assert_eq!(replay.position().epoch, Epoch(1));

    next = good;
    next.disks[0].size_bytes *= 2;
    next.disks.push(EpochDisk { name: DiskName::new("vdz").unwrap(), size_bytes: 4096 });
    turn(&mut replay, &next).unwrap();
    assert_eq!(replay.position().epoch, Epoch(2));
    assert_eq!(replay.images.iter().map(Image::size_bytes).collect::<Vec<_>>(), [2 * 49152, 49152, 4096]);
    drop(replay);
    let replay = target.open(&source);
    assert_eq!(replay.disks().len(), 3);
    assert_eq!(replay.origin.disks_at(Epoch(1)).len(), 2);
    assert_eq!(replay.position().consistent.position, Position { epoch: Epoch(1), seq: Seq(1) });
}
