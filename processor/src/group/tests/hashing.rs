//! What the images hold is told to the source at the beginning of a resync; and a resync that was shortened for other images is
//! never taken for a whole one.

use farshore_changelog::hashes::{Chunk, UNIT_BYTES_MIN};
use farshore_changelog::ids::DiskIndex;
use farshore_vault::{HashPlan, Reason};

use super::*;
use crate::position::HashesDue;

/// The target in `folder` is the one that follows the group from now on.
fn takes_over(site: &Site, folder: &std::path::Path) {
    let claimant = crate::claims::Claimant::open(folder, 9).unwrap();
    let group = site.vault.group(&GroupName::new("web01").unwrap());
    assert_eq!(site.runtime.block_on(claimant.adopt(&group, true)).unwrap(), crate::claims::Owner::Ours);
}

/// A target beside the site's own.
struct Other(tempfile::TempDir);

impl Other {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn once(&self, site: &Site) -> GroupOutcome {
        takes_over(site, self.0.path());
        let config = ProcessorConfig { target_dir: self.0.path().to_path_buf(), ..config(site) };
        Processor::open_vault(config, site.vault.clone()).unwrap().run_once().unwrap().pop().unwrap()
    }

    fn images(&self, source: &Source) -> crate::testing::Disks {
        images(&GroupDir::new(self.0.path(), &source.group), &source.object)
    }
}

fn config(site: &Site) -> ProcessorConfig {
    ProcessorConfig { hash_unit_bytes: UNIT_BYTES_MIN, hashes_from_bytes: 4096, ..site.config() }
}

fn once(site: &Site) -> GroupOutcome {
    Processor::open_vault(config(site), site.vault.clone()).unwrap().run_once().unwrap().pop().unwrap()
}

fn plan(site: &Site, source: &Source) -> Option<HashPlan> {
    site.runtime.block_on(site.group(source).get_hash_plan(source.object.epoch)).unwrap()
}

/// The hashes that were published, one a disk: these disks are smaller than a unit.
fn published(site: &Site, source: &Source) -> Vec<Hash> {
    let plan = plan(site, source).expect("they are published");
    let get = |disk| {
        let bytes = site.runtime.block_on(site.group(source).get_hash_chunk(plan.epoch, DiskIndex(disk), 0)).unwrap();
        let chunk = Chunk::parse(&bytes.unwrap()).unwrap();
        assert_eq!((chunk.seq, chunk.hashes.len()), (plan.seq, 1));
        chunk.hashes[0]
    };
    (0..plan.disks.len() as u16).map(get).collect()
}

fn position(site: &Site, source: &Source) -> ReplayPosition {
    ReplayPosition::read(&site.dir(source).position()).unwrap().unwrap()
}

#[test]
fn the_images_at_the_beginning_of_a_resync_are_what_is_published_and_replay_goes_on() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 41, 3);
    assert!(once(&site).is_good());
    assert!(plan(&site, &source).is_none(), "nothing was there before the first copy");
    let before = source.logged.clone();
    site.next_epoch(&mut source);
    // One segment, so that what follows lies in the same one.
    source.random_resync(&mut Rng(41));
    source.write(0, 0, SECTORS, 1, RecordFlags::NONE);
    site.ship(&mut source);
    assert!(once(&site).is_good());
    let plan = plan(&site, &source).unwrap();
    assert_eq!((plan.epoch, plan.seq), (Epoch(2), Seq(1)));
    assert_eq!(published(&site, &source), before.iter().map(|disk| Hash::of(disk)).collect::<Vec<_>>());
    assert_eq!(position(&site, &source).hashes, HashesDue::No);
    site.check(&source);
    // The epoch over, only the plan stays.
    site.next_epoch(&mut source);
    assert!(once(&site).is_good());
    let chunk = site.runtime.block_on(site.group(&source).get_hash_chunk(Epoch(2), DiskIndex(0), 0)).unwrap();
    assert!(chunk.is_none());
}

#[test]
fn a_small_resync_is_not_worth_it() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 42, 3);
    site.next_epoch(&mut source);
    source.resync_begin(512);
    source.resync_end();
    site.ship(&mut source);
    assert!(once(&site).is_good());
    assert!(plan(&site, &source).is_none());
    assert_eq!(position(&site, &source).hashes, HashesDue::No);
}

#[test]
fn hashes_that_a_vault_did_not_take_are_published_before_anything_more_is_applied() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 43, 3);
    assert!(once(&site).is_good());
    let before = source.logged.clone();
    site.next_epoch(&mut source);
    source.random_resync(&mut Rng(43));
    site.ship(&mut source);
    for (key, fault) in [("hashes", Fault::Before), ("hashes", Fault::After), ("plan", Fault::After)] {
        site.store.inject(On::Put, key, 1, fault);
        assert!(!once(&site).is_good());
        let at = position(&site, &source);
        assert_eq!((at.seq, at.hashes), (Seq(1), HashesDue::Useful), "what is hashed does not change");
    }
    assert!(once(&site).is_good());
    assert_eq!(published(&site, &source), before.iter().map(|disk| Hash::of(disk)).collect::<Vec<_>>());
    site.check(&source);
}

#[test]
fn a_resync_that_was_shortened_for_another_targets_images_stops_this_one_and_the_next_makes_it_whole() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 44, 3);
    source.watermark = source.number.0;
    assert!(once(&site).is_good());
    let old = source.object.epoch;
    let next = source.next_epoch_for(Reason::AskedFor);
    site.open_epoch(&source);
    site.runtime.block_on(site.group(&source).seal(old, SegmentNo(source.watermark), &next)).unwrap();
    source.watermark = 0;
    source.resync_begin(SECTORS * 512);
    site.ship(&mut source);
    assert!(once(&site).is_good());
    // The source sees that the target has all of it, and leaves it out.
    assert_eq!(published(&site, &source), source.disks.iter().map(|disk| Hash::of(disk)).collect::<Vec<_>>());
    source.resync_end();
    source.write(1, 3, 4, 5, RecordFlags::NONE);
    site.ship(&mut source);
    assert!(once(&site).is_good());
    site.check(&source);

    // A target with the whole log before that is the same.
    let whole = Other::new();
    let outcome = whole.once(&site);
    assert!(outcome.is_good(), "{outcome:?}");
    assert!(whole.images(&source) == source.disks);

    // A new one, when the first epoch's log is pruned already, is not: it leaves that epoch, with empty images.
    let numbers = site.numbers(&source, 1);
    site.take_away(&source, Epoch(1), numbers[0]);
    let new = Other::new();
    for _ in 0..2 {
        let outcome = new.once(&site);
        let GroupState::Stopped { reason, cause, .. } = &outcome.status.state else { panic!("{outcome:?}") };
        assert_eq!(*cause, crate::status::Cause::Log);
        assert!(reason.contains("leaves out what another target has") && reason.contains("--full"), "{reason}");
        let at = ReplayPosition::read(&GroupDir::new(new.0.path(), &source.group).position()).unwrap().unwrap();
        assert!(!at.consistent.exists(), "and it never says that it were whole");
    }
    // Asked once more, it is the first to say what it has.
    let old = source.object.epoch;
    let next = source.next_epoch_for(Reason::AskedFor);
    site.open_epoch(&source);
    site.runtime.block_on(site.group(&source).seal(old, SegmentNo(0), &next)).unwrap();
    source.resync_begin(SECTORS * 512);
    site.ship(&mut source);
    assert!(new.once(&site).is_good());
    let empty = vec![0; (SECTORS * 512) as usize];
    assert_eq!(published(&site, &source), [Hash::of(&empty), Hash::of(&empty)]);
    // Now it is the first target that has other images, and does not take part.
    takes_over(&site, site.folder.path());
    let outcome = once(&site);
    assert!(!outcome.is_good(), "{outcome:?}");
    for disk in 0..2 {
        source.resync(disk, 0, SECTORS);
    }
    source.resync_end();
    site.ship(&mut source);
    assert!(new.once(&site).is_good());
    assert!(new.images(&source) == source.disks);
}
