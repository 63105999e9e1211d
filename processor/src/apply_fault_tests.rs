//! Disks that refuse: no room, errors, fsyncs that fail, and power cuts after all of these. What was tried again counts only
//! once it was written again.

use nix::errno::Errno;

use super::*;
use crate::testing::disk::{Disk, Fails};

/// Applies segments until one is refused; `false` then.
fn apply_all(replay: &mut Replay, segments: &[Segment]) -> Result<(), GroupError> {
    for segment in segments {
        let head = segment.index().head();
        let at = replay.applied().clone();
        if head.number < at.number || (head.number == at.number && at.seq == at.chain_seq) {
            continue;
        }
        for batch in batch::cut(head, segment.index().records(), &at, INTERVAL) {
            apply(replay, segment, &batch, "a segment")?;
        }
    }
    Ok(replay.settle()?)
}

/// Opens the target and applies what is left.
fn attempt(source: &Source, target: &Target, segments: &[Segment]) -> Result<(), GroupError> {
    let opened = match Replay::open(&target.dir, &source.group, &vault())? {
        Some(replay) => replay,
        None => Replay::create(&target.dir, &source.group, &vault(), &source.object, source.epoch_hash())?,
    };
    let mut replay = opened;
    apply_all(&mut replay, segments)
}

/// The same history over a disk that fails somewhere, is mended, loses its power, and fails again.
fn fail_everywhere(seed: u64, disks: usize) {
    let (source, segments) = history_with_digests(seed, disks);
    let (never_failed, target) = (Target::new(&source), Target::new(&source));
    let disk = Disk::under(target.folder.path());
    let _simulated = medium::simulate(Rc::new(disk.clone()));
    let mut replay = never_failed.open(&source);
    apply_all(&mut replay, &segments).unwrap();
    let expected = seen(&source, &never_failed, &replay);
    drop(target.open(&source));
    let mut rng = Rng(!seed);
    let faults = [
        (Fails::Syncs, Errno::EIO),
        (Fails::Syncs, Errno::EIO),
        (Fails::Growth, Errno::ENOSPC),
        (Fails::Everything, Errno::EIO),
        (Fails::Everything, Errno::EROFS),
    ];
    for _ in 0..40 {
        let (fails, errno) = faults[rng.below(5) as usize];
        disk.fail(fails, errno, target.folder.path(), rng.below(60), 1 + rng.below(3));
        let _refused = attempt(&source, &target, &segments);
        disk.mend();
        if rng.one_in(3) {
            disk.cut_power();
        }
        if rng.one_in(2) {
            let replay = Replay::open(&target.dir, &source.group, &vault()).unwrap().unwrap();
            check(&source, &target, &replay);
        }
        if rng.one_in(3) {
            disk.cut_power();
        }
    }
    attempt(&source, &target, &segments).unwrap();
    let replay = target.open(&source);
    assert_eq!(seen(&source, &target, &replay), expected);
    check(&source, &target, &replay);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_disk_that_fails_anywhere_and_is_mended_changes_nothing(seed: u64, disks in 1_usize..3) {
        fail_everywhere(seed, disks);
    }
}

/// A history whose second segment was refused by a disk, and what lies at the target then.
struct Refused {
    source: Source,
    segments: Vec<Segment>,
    target: Target,
    disk: Disk,
    before: Position,
    _simulated: medium::Simulation,
}

fn refused(fails: Fails, errno: Errno, under: impl FnOnce(&Target) -> std::path::PathBuf) -> Refused {
    let mut source = Source::new("web01", 1);
    source.write(0, 0, 8, 1, RecordFlags::NONE);
    let mut segments = vec![source.segment()];
    let before = source.position();
    source.write(0, 4, 8, 2, RecordFlags::NONE);
    source.mark("two");
    segments.push(source.segment());
    let target = Target::new(&source);
    drop(target.open(&source));
    attempt(&source, &target, &segments[..1]).unwrap();
    let disk = Disk::under(target.folder.path());
    let simulated = medium::simulate(Rc::new(disk.clone()));
    let mut replay = target.open(&source);
    disk.fail(fails, errno, &under(&target), 0, 1);
    assert!(apply_all(&mut replay, &segments).is_err());
    Refused { source, segments, target, disk, before, _simulated: simulated }
}

impl Refused {
    /// With the disk mended, and the power cut before and after what comes next is opened.
    fn comes_back(&self) {
        let Self { source, segments, target, disk, before, .. } = self;
        disk.mend();
        for cut in [false, true] {
            if cut {
                disk.cut_power();
            }
            let replay = target.open(source);
            assert!(replay.position().position() >= *before);
            check(source, target, &replay);
        }
        attempt(source, target, segments).unwrap();
        disk.cut_power();
        let replay = target.open(source);
        assert_eq!(replay.position().position(), source.position());
        assert_eq!(replay.points().len(), 1 + usize::from(replay.points().len() > 1));
        check(source, target, &replay);
    }
}

#[test]
fn an_fsync_of_the_undo_journal_that_fails_takes_the_batch_back() {
    let refused = refused(Fails::Syncs, Errno::EIO, |target| target.dir.undo());
    let undo = refused.target.dir.undo();
    let position = crate::position::ReplayPosition::read(&refused.target.dir.position()).unwrap().unwrap();
    assert_eq!(position.position(), refused.before);
    let end = files::list(&undo).unwrap().last().unwrap().end();
    assert_eq!(end, position.undo_end, "no image was touched, so nothing of it stays");
    refused.comes_back();
}

#[test]
fn what_an_fsync_refused_is_cut_off_behind_what_it_took_before() {
    let mut source = Source::new("web01", 1);
    let mut segments = Vec::new();
    for byte in 1..4 {
        source.write(0, 0, 8, byte, RecordFlags::NONE);
        segments.push(source.segment());
    }
    let target = Target::new(&source);
    let mut replay = target.open(&source);
    // The first batch ends with a point, and so its undo file; the second begins one, in which the third goes on.
    apply_all(&mut replay, &segments[..2]).unwrap();
    let undo_end = replay.position().undo_end;
    let file = files::list(&target.dir.undo()).unwrap().pop().unwrap();
    assert!(file.start < undo_end && file.end() == undo_end);
    let disk = Disk::under(target.folder.path());
    let _simulated = medium::simulate(Rc::new(disk.clone()));
    for (fails, errno) in [(Fails::Syncs, Errno::EIO), (Fails::Growth, Errno::ENOSPC)] {
        disk.fail(fails, errno, &target.dir.undo(), 0, 1);
        assert!(apply_all(&mut replay, &segments).is_err());
        disk.mend();
        assert_eq!(files::list(&target.dir.undo()).unwrap().pop(), Some(file.clone()), "{errno}");
        assert!(apply_all(&mut replay, &segments).is_err(), "the first failure latches");
        drop(replay);
        disk.cut_power();
        replay = target.open(&source);
        check(&source, &target, &replay);
    }
    apply_all(&mut replay, &segments).unwrap();
    check(&source, &target, &replay);
}

#[test]
fn an_undo_batch_that_a_view_may_have_read_is_not_taken_back() {
    let mut held = None;
    let refused = refused(Fails::Syncs, Errno::EIO, |target| {
        held = Some(crate::lease::Lease::take(target.dir.root(), 0).unwrap());
        target.dir.undo()
    });
    let position = crate::position::ReplayPosition::read(&refused.target.dir.position()).unwrap().unwrap();
    let end = files::list(&refused.target.dir.undo()).unwrap().last().unwrap().end();
    assert!(end > position.undo_end);
    refused.comes_back();
}

#[test]
fn an_fsync_of_an_image_that_fails_is_rolled_back_by_writing() {
    let refused = refused(Fails::Syncs, Errno::EIO, |target| target.dir.image(&DiskName::new("vd0").unwrap()));
    refused.comes_back();
}

#[test]
fn an_fsync_of_the_position_that_fails_is_not_believed_the_second_time() {
    let refused = refused(Fails::Syncs, Errno::EIO, |target| target.dir.position());
    refused.comes_back();
}
