use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use farshore_changelog::ids::DiskIndex;
use farshore_changelog::medium;
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::segment::{IndexRecord, Segment};
use farshore_changelog::units::{ByteRange, SECTOR_BYTES, UnixMicros};
use proptest::prelude::*;

use super::digests;
use super::suspect::suspects;
use super::*;
use crate::apply::apply;
use crate::batch;
use crate::replay::{Replay, VaultName};
use crate::target::GroupDir;
use crate::testing::disk::Unsynced;
use crate::testing::{Rng, SECTORS, Source, at, images};

const INTERVAL: Duration = Duration::from_secs(300);

fn vault() -> VaultName {
    VaultName { url: "file:///vault".into(), id: "0123".into() }
}

struct Target {
    _folder: tempfile::TempDir,
    dir: GroupDir,
    replay: Option<Replay>,
}

impl Target {
    fn new(source: &Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = GroupDir::new(folder.path(), &source.group);
        let replay = Replay::create(&dir, &source.group, &vault(), &source.object, source.epoch_hash()).unwrap();
        Self { _folder: folder, dir, replay: Some(replay) }
    }

    fn apply(&mut self, segment: &Segment) -> &Comparison {
        let replay = self.replay.as_mut().unwrap();
        let (head, records) = (segment.index().head(), segment.index().records());
        for batch in batch::cut(head, records, &replay.position().clone(), INTERVAL) {
            apply(replay, segment, &batch, "a segment").unwrap();
            replay.settle().unwrap();
        }
        assert_eq!(Comparison::read(&self.dir).unwrap(), replay.comparison, "what is said is durable");
        &self.replay.as_ref().unwrap().comparison
    }

    /// The image rots at rest.
    fn rot(&self, source: &Source, disk: usize, sector: u64) {
        let path = self.dir.image(&source.object.disks[disk].name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut bytes = [0; SECTOR_BYTES as usize];
        file.read_exact_at(&mut bytes, sector * SECTOR_BYTES).unwrap();
        bytes[7] ^= 0x10;
        file.write_all_at(&bytes, sector * SECTOR_BYTES).unwrap();
    }
}

fn sectors(start: u64, end: u64) -> ByteRange {
    ByteRange { start: start * SECTOR_BYTES, end: end * SECTOR_BYTES }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_record_behind_a_digest_touches_its_range_in_one_batch(seed: u64) {
        let mut rng = Rng(seed);
        let mut source = Source::new("web01", 2);
        for _ in 0..rng.below(40) {
            match rng.below(3) {
                0 => {
                    let start = rng.below(SECTORS);
                    source.digest(rng.below(2) as usize, start, 1 + rng.below((SECTORS - start).min(30)));
                }
                _ => source.random(&mut rng),
            }
        }
        let segment = source.segment();
        let records = segment.index().records();
        let ends = digests::ends(records);
        for end in &ends {
            prop_assert!(records[*end].record.flags.has(RecordFlags::BOUNDARY));
        }
        let of = |entry: &IndexRecord| digests::digested(entry).unwrap_or_else(|| entry.record.range());
        let word = |entry: &IndexRecord| entry.record.op.is_of_group();
        for (i, digest) in records.iter().enumerate().filter(|(_, r)| r.record.op == Op::Digest) {
            for (j, later) in records.iter().enumerate().skip(i + 1) {
                let conflicts = later.record.changes() && later.record.disk == digest.record.disk && of(later).overlaps(of(digest));
                if conflicts {
                    let apart = ends.range(i..j).next().is_some() || records[i..j].iter().any(word);
                    prop_assert!(apart, "digest {} and record {}", i, j);
                }
            }
        }
        // No batch is cut but after a digest.
        prop_assert!(ends.len() <= records.iter().filter(|r| r.record.op == Op::Digest).count());
    }
}

/// What [`digests::ends`] asks of a record.
trait Changes {
    fn changes(&self) -> bool;
}

impl Changes for farshore_changelog::op::Record {
    fn changes(&self) -> bool {
        self.op.changes_disk()
    }
}

#[test]
fn an_image_that_equals_its_source_is_said_to_at_every_seq() {
    let _unsynced = medium::simulate(Rc::new(Unsynced));
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let mut source = Source::new("web01", 2);
        let mut target = Target::new(&source);
        let mut digests = 0;
        for request in 1..4 {
            for _ in 0..20 {
                source.random(&mut rng);
                let start = rng.below(SECTORS);
                source.digest(1, start, 1 + rng.below((SECTORS - start).min(8)));
                digests += 1;
            }
            source.digests(16, request);
            digests += 2 * SECTORS / 16;
            let comparison = target.apply(&source.segment());
            let last = comparison.last.unwrap();
            assert_eq!((last.request, last.position, last.counts.regions), (request, source.position(), digests));
            assert_eq!((last.counts.differing, comparison.mismatches.len()), (0, 0));
            digests = 0;
        }
    }
}

#[test]
fn a_region_that_rotted_is_found_named_and_repaired_by_a_resync_of_it_and_replay_goes_on() {
    let mut source = Source::new("web01", 2);
    let mut target = Target::new(&source);
    source.write(1, 0, SECTORS, 3, RecordFlags::NONE);
    source.mark("before");
    target.apply(&source.segment());
    target.rot(&source, 1, 37);
    source.write(0, 0, 4, 5, RecordFlags::NONE);
    source.digests(16, 1);
    let found = target.apply(&source.segment()).clone();
    assert_eq!((found.last.unwrap().request, found.last.unwrap().counts.differing), (1, 1));
    let [mismatch] = &found.mismatches[..] else { panic!("{found:?}") };
    assert_eq!((mismatch.disk, mismatch.range, mismatch.repaired_at), (DiskIndex(1), sectors(32, 48), None));
    assert!(mismatch.position < source.position());

    // The next run finds it again, and says so once.
    source.digests(16, 2);
    let again = target.apply(&source.segment());
    assert_eq!((again.last.unwrap().counts.differing, again.mismatches.len()), (1, 1));

    // A part is written by the guest, the rest is copied.
    source.write(1, 32, 4, 9, RecordFlags::NONE);
    let part = target.apply(&source.segment());
    assert_eq!(part.mismatches[0].left, [sectors(36, 48)]);
    source.resync_begin(16 * SECTOR_BYTES);
    source.resync(1, 32, 16);
    source.resync_end();
    let repaired = target.apply(&source.segment());
    assert!(repaired.open().next().is_none());
    assert!(repaired.mismatches[0].repaired_at.is_some());
    source.digests(16, 3);
    assert_eq!(target.apply(&source.segment()).last.unwrap().counts.differing, 0);
    assert!(images(&target.dir, &source.object) == source.disks);
}

#[test]
fn digests_within_a_resync_or_an_overflow_are_not_held_against_the_image() {
    let mut source = Source::new("web01", 1);
    let mut target = Target::new(&source);
    source.write(0, 0, 8, 1, RecordFlags::NONE);
    source.overflow();
    // The guest writes what the log has no room for.
    source.disks[0][..512].fill(7);
    source.digest(0, 0, 8);
    source.resync_begin(8 * SECTOR_BYTES);
    source.digest(0, 0, 8);
    source.resync(0, 0, 8);
    source.resync_end();
    source.digest(0, 0, 8);
    let counts = target.apply(&source.segment()).running;
    assert_eq!((counts.skipped, counts.regions, counts.differing), (2, 1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_point_that_holds_a_rotten_range_is_named_and_one_that_has_it_from_the_journal_is_not(seed: u64) {
        let _unsynced = medium::simulate(Rc::new(Unsynced));
        let mut rng = Rng(seed);
        let mut source = Source::new("web01", 1);
        let mut target = Target::new(&source);
        let some = |source: &mut Source, rng: &mut Rng| {
            for _ in 0..6 {
                source.random(rng);
            }
            source.mark("m");
        };
        for _ in 0..4 {
            some(&mut source, &mut rng);
            target.apply(&source.segment());
        }
        let sector = rng.below(SECTORS);
        target.rot(&source, 0, sector);
        // Each sector by itself, so that exactly the bad one is named.
        source.digests(1, 1);
        target.apply(&source.segment());
        let after_rot = source.position();
        for _ in 0..3 {
            some(&mut source, &mut rng);
            target.apply(&source.segment());
        }
        source.resync_begin(SECTOR_BYTES);
        source.resync(0, sector, 1);
        source.resync_end();
        some(&mut source, &mut rng);
        let comparison = target.apply(&source.segment()).clone();
        let [mismatch] = &comparison.mismatches[..] else { panic!("{comparison:?}") };
        prop_assert_eq!(mismatch.range, sectors(sector, sector + 1));
        prop_assert!(mismatch.repaired_at.is_some());
        let suspect = suspects(&target.dir.undo(), &source.group, &comparison.mismatches).unwrap().remove(0);
        let points = target.replay.as_ref().unwrap().points().to_vec();
        prop_assert!(points.iter().any(|p| p.position > after_rot));
        for point in points {
            let good = at(&target.dir, &source.object, point.undo_end) == source.after[&point.position];
            prop_assert_eq!(suspect.holds(point.undo_end), !good, "p{} at {}", point.id, point.position);
        }
    }
}

#[test]
fn what_was_repaired_is_forgotten_with_the_last_point_that_held_it() {
    let mut known = Comparison::default();
    let digest = digests::Digest {
        seq: farshore_changelog::ids::Seq(4),
        disk: DiskIndex(0),
        range: sectors(0, 8),
        hash: farshore_changelog::ids::Hash::ZERO,
    };
    known.compared(&digest, false, Default::default(), 100);
    known.forget_before(u64::MAX);
    assert_eq!(known.mismatches.len(), 1, "it differs still");
    assert!(known.written(DiskIndex(0), sectors(0, 8), 300));
    known.forget_before(299);
    assert_eq!(known.mismatches.len(), 1);
    known.ended(7, Default::default(), UnixMicros(1));
    known.forget_before(301);
    assert!(known.mismatches.is_empty());
    assert_eq!(known.last.unwrap().request, 7);
}

#[test]
fn more_than_the_limit_is_counted() {
    let mut known = Comparison::default();
    for i in 0..report::MISMATCHES_MAX as u64 + 3 {
        let range = sectors(i, i + 1);
        let (seq, disk, hash) = Default::default();
        known.compared(&digests::Digest { seq, disk, range, hash }, false, Default::default(), 1);
    }
    assert_eq!((known.mismatches.len(), known.more), (report::MISMATCHES_MAX, 3));
    let dir = tempfile::tempdir().unwrap();
    let dir = GroupDir::new(dir.path(), &"g".parse().unwrap());
    std::fs::create_dir_all(dir.root()).unwrap();
    known.write(&dir).unwrap();
    assert_eq!(Comparison::read(&dir).unwrap(), known);
}
