use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{Hash, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::segment::SegmentWriter;
use farshore_vault::fault::{Fault, On};
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{EpochObject, FaultStore, GroupVault, Opened, Put, Vault};

use super::*;
use crate::comeback::Backoff;
use crate::lease::Lease;
use crate::position::ReplayPosition;
use crate::processor::{Processor, all_good};
use crate::status::GroupState;
use crate::testing::{Rng, SECTORS, Source, at, images};
use crate::undo::files;

mod back_in_time;
mod backlog;
mod clocks;
mod comeback;
mod damage;
mod hashing;
mod requests;
mod retention_crash;
mod storms;
mod way_out;

const PATIENCE: Duration = Duration::from_millis(400);

/// A vault in memory and a target folder.
struct Site {
    store: Arc<FaultStore>,
    vault: Vault,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self::over(FaultStore::in_memory())
    }

    fn over(store: Arc<FaultStore>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let vault = runtime.block_on(Vault::init_store(store.clone(), "memory://vault")).unwrap();
        let vault = vault.with_retry(RetryPolicy::ONCE);
        Self { store, vault, runtime, folder: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> ProcessorConfig {
        ProcessorConfig {
            poll: Duration::from_millis(10),
            gap_patience: PATIENCE,
            retry: Backoff { first: Duration::from_millis(10), most: Duration::from_millis(80) },
            ..ProcessorConfig::new("memory://vault", self.folder.path())
        }
    }

    fn processor(&self) -> Processor {
        Processor::open_vault(self.config(), self.vault.clone()).unwrap()
    }

    fn once(&self) -> Vec<GroupOutcome> {
        self.processor().run_once().unwrap()
    }

    fn group(&self, source: &Source) -> GroupVault {
        self.vault.group(&source.group)
    }

    fn dir(&self, source: &Source) -> GroupDir {
        GroupDir::new(self.folder.path(), &source.group)
    }

    fn open_epoch(&self, source: &Source) {
        let opened = self.runtime.block_on(self.group(source).create_epoch(&source.object)).unwrap();
        assert!(matches!(opened, Opened::Mine(_)));
    }

    fn put_at(&self, source: &Source, epoch: Epoch, number: SegmentNo, bytes: Vec<u8>) {
        let group = self.group(source);
        let put = group.put_segment(epoch, number, Bytes::from(bytes));
        assert_eq!(self.runtime.block_on(put).unwrap(), Put::Created);
    }

    /// Seals what the source logged and uploads it.
    fn ship(&self, source: &mut Source) {
        let sealed = source.seal();
        self.put_at(source, source.object.epoch, source.number, sealed.bytes);
    }

    /// The next epoch is opened, and the one before sealed.
    fn next_epoch(&self, source: &mut Source) -> EpochObject {
        let (old, last) = (source.object.epoch, source.number);
        let next = source.next_epoch();
        self.open_epoch(source);
        let above = SegmentNo(source.watermark);
        let seal = self.runtime.block_on(self.group(source).seal(old, above, &next)).unwrap();
        assert_eq!(seal, last.next());
        next
    }

    fn numbers(&self, source: &Source, epoch: u64) -> Vec<u64> {
        let group = self.group(source);
        let list = group.list_segments(Epoch(epoch), SegmentNo(1));
        self.runtime.block_on(list).unwrap().into_iter().map(|(number, _)| number.0).collect()
    }

    /// What the vault's object of a segment is, and takes it away.
    fn take_away(&self, source: &Source, epoch: Epoch, number: u64) -> Vec<u8> {
        let group = self.group(source);
        self.runtime.block_on(async {
            let bytes = group.get_segment(epoch, SegmentNo(number)).await.unwrap().expect("it is there");
            group.delete_segment(epoch, SegmentNo(number)).await.unwrap();
            bytes.to_vec()
        })
    }

    /// The state that `status.json` says.
    fn state(&self, source: &Source) -> GroupState {
        GroupStatus::read(&self.dir(source)).unwrap().unwrap().state
    }

    /// Images and all points equal the source's history.
    fn check(&self, source: &Source) {
        let dir = self.dir(source);
        let replay = Replay::open(&dir, &source.group, &vault_name(&self.vault)).unwrap().unwrap();
        let here = replay.position().position();
        assert!(images(&dir, &source.object) == source.after[&here], "images at {here}");
        for point in replay.points() {
            assert!(source.consistent[&point.position]);
            assert!(at(&dir, &source.object, point.undo_end) == source.after[&point.position], "{}", point.position);
        }
    }
}

fn vault_name(vault: &Vault) -> VaultName {
    VaultName { url: vault.url().to_owned(), id: vault.id().to_owned() }
}

/// A source with some random history, all of it shipped.
fn shipped(site: &Site, name: &str, seed: u64, segments: u64) -> Source {
    let mut source = Source::new(name, 2);
    let mut rng = Rng(seed);
    site.open_epoch(&source);
    source.random_resync(&mut rng);
    for _ in 0..segments {
        for _ in 0..rng.below(10) {
            source.random(&mut rng);
        }
        site.ship(&mut source);
    }
    source
}

#[test]
fn once_catches_up_with_all_groups_through_epochs() {
    let site = Site::new();
    let mut sources: Vec<Source> = (0..20).map(|i| shipped(&site, &format!("vm{i}"), i, 5)).collect();
    let outcomes = site.once();
    assert_eq!(outcomes.len(), 20);
    assert!(all_good(&outcomes), "{outcomes:?}");
    for source in &mut sources {
        site.check(source);
        let old = source.object.epoch;
        site.next_epoch(source);
        // A late segment of the old writer, above the cut.
        site.put_at(source, old, SegmentNo(7), vec![1, 2, 3]);
        source.random_resync(&mut Rng(7));
        site.ship(source);
    }
    let outcomes = site.once();
    assert!(all_good(&outcomes), "{outcomes:?}");
    let outcomes = site.once();
    for source in &sources {
        let outcome = outcomes.iter().find(|outcome| outcome.group == source.group).unwrap();
        site.check(source);
        let dir = site.dir(source);
        let status = GroupStatus::read(&dir).unwrap().unwrap();
        assert_eq!(status.position.unwrap().position, source.position());
        assert_eq!(outcome.status.position, status.position);
        assert_eq!(status.state, GroupState::Idle);
        assert!(status.points > 0);
    }
}

#[test]
fn a_heartbeat_before_the_first_resync_is_no_consistent_position() {
    let site = Site::new();
    let mut source = Source::new("web01", 1);
    site.open_epoch(&source);
    site.ship(&mut source);
    assert!(all_good(&site.once()));
    let position = ReplayPosition::read(&site.dir(&source).position()).unwrap().unwrap();
    assert_eq!((position.number, position.consistent.exists()), (SegmentNo(1), false));
    source.random_resync(&mut Rng(1));
    site.ship(&mut source);
    let outcome = site.once().pop().unwrap();
    assert_eq!(outcome.status.points, 1, "the end of the initial replication is a point");
    site.check(&source);
    // An idle disk gets its points from heartbeats.
    for _ in 0..3 {
        source.time += 301_000_000;
        site.ship(&mut source);
    }
    assert_eq!(site.once().pop().unwrap().status.points, 4);
}

/// Breaks the vault of a source with 6 segments at number 4, and says what must come of it.
fn broken(seed: u64, spoil: impl FnOnce(&Site, &mut Source, Vec<Vec<u8>>)) -> String {
    let site = Site::new();
    let mut source = shipped(&site, "web01", seed, 3);
    let bystander = shipped(&site, "web02", seed + 1, 3);
    let mut sealed = Vec::new();
    let good = source.position();
    for _ in 0..3 {
        for _ in 0..6 {
            source.random(&mut Rng(seed));
        }
        sealed.push(source.seal().bytes);
    }
    spoil(&site, &mut source, sealed);
    let outcomes = site.once();
    assert!(outcomes[1].is_good(), "{:?}", outcomes[1]);
    site.check(&bystander);
    site.check(&source);
    let stopped = &outcomes[0];
    assert!(!stopped.is_good());
    assert_eq!(stopped.status.position.unwrap().position, good, "nothing past the break is applied");
    let status = GroupStatus::read(&site.dir(&source)).unwrap().unwrap();
    assert_eq!(status.state, stopped.status.state);
    let GroupState::Stopped { reason, at, .. } = status.state else { panic!("{status:?}") };
    assert_eq!(at, "groups/web01/log/0000000001/00000000000000000004");
    assert!(reason.contains(&at), "{reason}");
    reason
}

fn put_all(site: &Site, source: &Source, sealed: Vec<Vec<u8>>) {
    for (i, bytes) in sealed.into_iter().enumerate() {
        site.put_at(source, Epoch(1), SegmentNo(4 + i as u64), bytes);
    }
}

#[test]
fn a_flipped_byte_stops_the_group() {
    for part in 0..8 {
        let reason = broken(part, |site, source, mut sealed| {
            let at = sealed[0].len() * part as usize / 8;
            sealed[0][at] ^= 0x10;
            put_all(site, source, sealed);
        });
        assert!(reason.contains("is damaged or out of place"), "{reason}");
    }
}

#[test]
fn a_segment_cut_short_stops_the_group() {
    let reason = broken(1, |site, source, mut sealed| {
        sealed[0].truncate(200);
        put_all(site, source, sealed);
    });
    assert!(reason.contains("too short"), "{reason}");
}

#[test]
fn a_missing_segment_stops_the_group_after_a_while() {
    let reason = broken(2, |site, source, mut sealed| {
        sealed.remove(0);
        for (i, bytes) in sealed.into_iter().enumerate() {
            site.put_at(source, Epoch(1), SegmentNo(5 + i as u64), bytes);
        }
    });
    assert!(reason.contains("is missing") && reason.contains("segment 5 is there"), "{reason}");
}

#[test]
fn objects_at_the_wrong_place_stop_the_group() {
    let swapped = broken(3, |site, source, mut sealed| {
        sealed.swap(0, 1);
        put_all(site, source, sealed);
    });
    assert!(swapped.contains("it is number 5, not 4"), "{swapped}");

    let other_group = broken(4, |site, source, mut sealed| {
        let mut other = Source::new("db01", 2);
        (other.number, other.prev, other.seq) = (SegmentNo(3), source.prev, 0);
        sealed[0] = other.seal().bytes;
        put_all(site, source, sealed);
    });
    assert!(other_group.contains("it is of group db01, not of web01"), "{other_group}");

    let other_epoch = broken(5, |site, source, mut sealed| {
        let mut other = Source::new("web01", 2);
        other.next_epoch();
        other.number = SegmentNo(3);
        sealed[0] = other.seal().bytes;
        put_all(site, source, sealed);
    });
    assert!(other_epoch.contains("it is of epoch 2, not of 1"), "{other_epoch}");

    let other_chain = broken(6, |site, source, mut sealed| {
        let mut other = Source::new("web01", 2);
        (other.number, other.prev) = (SegmentNo(3), Hash::of(b"another history"));
        sealed[0] = other.seal().bytes;
        put_all(site, source, sealed);
    });
    assert!(other_chain.contains("the chain is broken"), "{other_chain}");
}

#[test]
fn records_that_do_not_fit_the_disks_stop_the_group() {
    for (disk, start) in [(0, SECTORS), (2, 0)] {
        let reason = broken(7, |site, source, _| {
            // Seal number 4 anew, as a source gone wrong would.
            let first_three = site.runtime.block_on(site.group(source).get_segment(Epoch(1), SegmentNo(3))).unwrap();
            let third = Segment::parse(first_three.unwrap()).unwrap();
            let mut wrong = Source::new("web01", 3);
            for disk in &mut wrong.disks {
                disk.resize(disk.len() * 2, 0);
            }
            wrong.logged = wrong.disks.clone();
            wrong.seq = third.index().head().last_seq.0;
            (wrong.number, wrong.prev) = (SegmentNo(3), third.index().hash());
            wrong.begin_at(wrong.seq + 1);
            wrong.write(disk, start, 1, 1, RecordFlags::NONE);
            let bytes = wrong.seal().bytes;
            site.put_at(source, Epoch(1), SegmentNo(4), bytes);
        });
        assert!(reason.contains("passes the end of disk vd0") || reason.contains("is for disk 2"), "{reason}");
    }
}

#[test]
fn a_seal_of_another_opener_and_an_epoch_never_opened_stop_the_group() {
    for opened in [false, true] {
        let site = Site::new();
        let mut source = shipped(&site, "web01", 9, 2);
        let (number, created) = (source.number.next(), UnixMicros(1));
        let next = source.next_epoch();
        if opened {
            site.open_epoch(&source);
        }
        let seal = SegmentWriter::seal_object(source.group.clone(), Epoch(1), number, next.epoch, [0xee; 16], created);
        site.put_at(&source, Epoch(1), number, seal.bytes);
        let outcome = site.once().pop().unwrap();
        let GroupState::Stopped { reason, .. } = outcome.status.state else { panic!("{outcome:?}") };
        let expected = if opened { "its nonce is not the one in the seal" } else { "which was never opened" };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_running_processor_follows_and_outlives_a_vault_that_is_away() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 11, 2);
    let processor = site.processor();
    let stop = Stop::new();
    let outcomes = std::thread::scope(|scope| {
        let running = scope.spawn(|| processor.run(&stop));
        let mut rng = Rng(11);
        for round in 0..6 {
            for _ in 0..5 {
                source.random(&mut rng);
            }
            if round == 3 {
                site.store.inject(On::Get, "groups/web01/log", 3, Fault::Before);
            }
            site.ship(&mut source);
            let reached = || {
                let position = ReplayPosition::read(&site.dir(&source).position());
                position.is_ok_and(|p| p.is_some_and(|p| p.position() == source.position()))
            };
            let patience = clock::mono() + Duration::from_secs(30);
            while !reached() {
                assert!(clock::mono() < patience, "round {round} was not followed");
                clock::sleep(Duration::from_millis(5));
            }
        }
        stop.request();
        running.join().unwrap()
    });
    assert!(all_good(&outcomes), "{outcomes:?}");
    site.check(&source);
    site.store.set_down(true);
    assert!(processor.run_once().is_err());
}

#[test]
fn retention_keeps_what_points_and_leases_need_and_no_more() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 13, 0);
    site.ship(&mut source);
    let config = ProcessorConfig { max_points: 3, retention: Duration::from_secs(1000), ..site.config() };
    let once = || {
        let processor = Processor::open_vault(config.clone(), site.vault.clone()).unwrap();
        processor.run_once().unwrap().pop().unwrap()
    };
    once();
    let oldest = crate::points::read(&site.dir(&source).points()).unwrap()[0].clone();
    let lease = Lease::take(site.dir(&source).root(), oldest.undo_end).unwrap();
    let mut rng = Rng(13);
    for _ in 0..12 {
        source.time += 301_000_000;
        for i in 0..6 {
            source.write(0, rng.below(SECTORS - 8), 1 + rng.below(7), i, RecordFlags::NONE);
        }
        source.watermark = source.number.0.saturating_sub(2);
        site.ship(&mut source);
        once();
    }
    let points = crate::points::read(&site.dir(&source).points()).unwrap();
    assert_eq!(points.len(), 3);
    assert!(!points.contains(&oldest));
    assert!(at(&site.dir(&source), &source.object, oldest.undo_end) == source.after[&oldest.position], "it is leased");
    drop(lease);
    source.time += 301_000_000;
    source.zero(Op::Trim, 0, 0, 8);
    site.ship(&mut source);
    once();
    let first = files::list(&site.dir(&source).undo()).unwrap()[0].clone();
    assert!(first.start > oldest.undo_end && first.start <= points[1].undo_end, "{first:?}");
    site.check(&source);
    // What is left in the vault begins where the oldest point or the watermark says.
    let left = site.numbers(&source, 1);
    assert_eq!(left.last(), Some(&14));
    assert!(left[0] > 1 && left[0] <= 11, "{left:?}");
    let kept = crate::points::read(&site.dir(&source).points()).unwrap();
    let needed = site.runtime.block_on(site.group(&source).get_segment(Epoch(1), SegmentNo(left[0]))).unwrap().unwrap();
    let head = Segment::parse(needed).unwrap().index().head().clone();
    assert!(head.last_seq > kept[0].position.seq || head.number.0 > source.watermark, "{head:?}");

    // Epochs and seals stay, and so does what the watermark does not cover.
    site.next_epoch(&mut source);
    source.watermark = 0;
    for _ in 0..6 {
        source.time += 301_000_000;
        source.write(0, 0, 1, 7, RecordFlags::NONE);
        site.ship(&mut source);
        once();
    }
    assert_eq!(site.numbers(&source, 1), [11, 12, 13, 14, 15], "10 is the watermark, 15 the seal");
    site.check(&source);
}

#[test]
fn a_target_in_use_is_refused_and_its_status_left_alone() {
    let site = Site::new();
    let source = shipped(&site, "web01", 17, 2);
    assert!(all_good(&site.once()));
    let _held = site.dir(&source).take_lock().unwrap();
    let outcome = site.once().pop().unwrap();
    assert!(outcome.error.as_ref().is_some_and(GroupError::is_locked), "{outcome:?}");
    assert_ne!(GroupStatus::read(&site.dir(&source)).unwrap().unwrap().state, outcome.status.state);
    assert_eq!(source.position().seq, Seq(source.seq));
}
