//! A group that cannot follow its log goes on in an epoch that copies everything again, and loses no point.

use farshore_vault::Reason;

use super::*;
use crate::points::{self, Point};
use crate::resolve::{PointSpec, ResolveError, resolve};
use crate::status::Cause;
use crate::view::window::window;

/// A source with points, stopped inside epoch 1: everything from segment 4 on is spoilt by `spoil`.
fn stuck(site: &Site, seed: u64, spoil: impl FnOnce(&Site, &mut Source)) -> (Source, Vec<Point>) {
    let mut source = shipped(site, "web01", seed, 2);
    let mut rng = Rng(seed);
    source.mark("before");
    site.ship(&mut source);
    assert!(all_good(&site.once()));
    let points = points::read(&site.dir(&source).points()).unwrap();
    assert!(!points.is_empty());
    for _ in 0..3 {
        for _ in 0..6 {
            source.random(&mut rng);
        }
        source.mark("never reached");
        site.ship(&mut source);
    }
    source.watermark = source.number.0;
    spoil(site, &mut source);
    (source, points)
}

fn stays_stuck(site: &Site, source: &Source) {
    let outcome = site.once().pop().unwrap();
    assert!(!outcome.is_good());
    let GroupState::Stopped { cause, reason, .. } = site.state(source) else { panic!("{outcome:?}") };
    assert_eq!(cause, Cause::Log);
    assert!(reason.contains("farshore resync"), "{reason}");
}

/// The source was asked for everything again.
fn asked_for(site: &Site, source: &mut Source, sealed: bool) {
    let (old, above) = (source.object.epoch, SegmentNo(source.watermark));
    let next = source.next_epoch_for(Reason::AskedFor);
    site.open_epoch(source);
    if sealed {
        site.runtime.block_on(site.group(source).seal(old, above, &next)).unwrap();
    }
    source.watermark = 0;
}

/// Until the copy has ended nothing is consistent; afterwards all is as at the source, and every old point is what it was.
fn recovers(site: &Site, source: &mut Source, points: &[Point]) {
    let mut rng = Rng(99);
    source.resync_begin(SECTORS * 512);
    source.resync(0, 0, 16);
    site.ship(source);
    let outcome = site.once().pop().unwrap();
    assert!(outcome.is_good(), "{outcome:?}");
    assert_eq!(site.state(source), GroupState::Resync);
    let halfway = ReplayPosition::read(&site.dir(source).position()).unwrap().unwrap();
    assert_eq!(halfway.position(), source.position());
    assert!(halfway.resync && halfway.consistent.position.epoch < source.object.epoch);
    old_points_are_good(site, source, points);
    for disk in 0..source.disks.len() {
        source.resync(disk, 0, SECTORS);
    }
    source.resync_end();
    source.random(&mut rng);
    source.mark("after");
    site.ship(source);
    assert!(all_good(&site.once()));
    let position = ReplayPosition::read(&site.dir(source).position()).unwrap().unwrap();
    assert_eq!((position.position(), position.consistent.position), (source.position(), source.position()));
    assert!(images(&site.dir(source), &source.object) == source.logged);
    old_points_are_good(site, source, points);
    let now = points::read(&site.dir(source).points()).unwrap();
    assert_eq!(now[..points.len()], *points, "no point was lost");
    assert!(now.iter().all(|p| !matches!(&p.kind, points::PointKind::Mark(name) if name == "never reached")));
    for point in &now[points.len()..] {
        assert!(at(&site.dir(source), &source.object, point.undo_end) == source.after[&point.position]);
    }
}

fn old_points_are_good(site: &Site, source: &Source, points: &[Point]) {
    for point in points {
        assert!(at(&site.dir(source), &source.object, point.undo_end) == source.after[&point.position]);
    }
    // And nothing that was not reached is to be had.
    let (dir, asked) = (site.dir(source), PointSpec::Seq { epoch: Some(Epoch(1)), seq: Seq(u64::MAX >> 3) });
    match resolve(&asked, &window(&dir, &source.group, &asked).unwrap()) {
        Ok(found) => assert_eq!(found.position, points.last().unwrap().position),
        Err(e) => assert!(matches!(e, ResolveError::NotYet { .. }), "{e}"),
    }
}

#[test]
fn a_gap_a_damaged_and_a_foreign_segment_are_left_for_an_epoch_that_was_asked_for() {
    let spoils: [fn(&Site, &Source, Vec<u8>); 4] = [
        |_, _, _| {},
        |site, source, mut bytes| {
            bytes[300] ^= 1;
            site.put_at(source, Epoch(1), SegmentNo(4), bytes);
        },
        |site, source, _| site.put_at(source, Epoch(1), SegmentNo(4), Source::new("db01", 2).seal().bytes),
        // Pruned from under a target that was away for long.
        |site, source, _| drop(site.take_away(source, Epoch(1), 5)),
    ];
    for (seed, spoil) in spoils.into_iter().enumerate() {
        let site = Site::new();
        let mut good = Vec::new();
        let (mut source, points) = stuck(&site, seed as u64, |site, source| {
            good = site.take_away(source, Epoch(1), 4);
            spoil(site, source, good.clone());
        });
        stays_stuck(&site, &source);
        asked_for(&site, &mut source, true);
        // Left already: nothing is consistent before all is copied, whatever comes first.
        assert!(all_good(&site.once()));
        let position = ReplayPosition::read(&site.dir(&source).position()).unwrap().unwrap();
        assert_eq!((position.epoch, position.seq, position.resync), (Epoch(2), Seq(0), true));
        assert_eq!(site.state(&source), GroupState::Resync);
        recovers(&site, &mut source, &points);
        // What is put back too late is never applied.
        if site.numbers(&source, 1).contains(&4) {
            site.take_away(&source, Epoch(1), 4);
        }
        site.put_at(&source, Epoch(1), SegmentNo(4), good);
        assert!(all_good(&site.once()));
        let position = ReplayPosition::read(&site.dir(&source).position()).unwrap().unwrap();
        assert_eq!(position.position(), source.position());
    }
}

#[test]
fn an_epoch_of_another_reason_is_no_way_out_and_one_behind_it_is() {
    let site = Site::new();
    let (mut source, points) = stuck(&site, 11, |site, source| drop(site.take_away(source, Epoch(1), 4)));
    site.next_epoch(&mut source);
    source.watermark = 0;
    source.random_resync(&mut Rng(1));
    site.ship(&mut source);
    stays_stuck(&site, &source);
    asked_for(&site, &mut source, true);
    recovers(&site, &mut source, &points);
}

#[test]
fn an_epoch_that_was_never_sealed_is_left_once_its_successor_writes() {
    let site = Site::new();
    let (mut source, points) = stuck(&site, 12, |site, source| {
        (4..=6).for_each(|number| drop(site.take_away(source, Epoch(1), number)));
    });
    asked_for(&site, &mut source, false);
    // Nothing is written to it yet: whoever opened it may still seal its parent, and more of that may come.
    let waits = site.once().pop().unwrap();
    assert!(waits.is_good(), "{waits:?}");
    let position = ReplayPosition::read(&site.dir(&source).position()).unwrap().unwrap();
    assert_eq!(position.epoch, Epoch(1));
    recovers(&site, &mut source, &points);
}

#[test]
fn an_epoch_that_was_never_sealed_stops_the_group_where_nothing_was_asked_for() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 13, 2);
    assert!(all_good(&site.once()));
    let next = source.next_epoch();
    site.open_epoch(&source);
    source.random_resync(&mut Rng(13));
    site.ship(&mut source);
    stays_stuck(&site, &source);
    let GroupState::Stopped { reason, .. } = site.state(&source) else { panic!() };
    assert!(reason.contains("has no seal"), "{reason}");
    // Whoever finishes the seal lets it go on.
    site.runtime.block_on(site.group(&source).seal(Epoch(1), SegmentNo(0), &next)).unwrap();
    assert!(all_good(&site.once()));
    site.check(&source);
}

#[test]
fn a_batch_that_was_rolled_back_and_never_applied_names_no_position() {
    let site = Site::new();
    let (mut source, points) = stuck(&site, 14, |_, _| {});
    // The processor dies when the undo of segment 4 is durable and its points are in the catalogue.
    let dir = site.dir(&source);
    let bytes = site.runtime.block_on(site.group(&source).get_segment(Epoch(1), SegmentNo(4))).unwrap().unwrap();
    let segment = Segment::parse(bytes).unwrap();
    let mut replay = Replay::open(&dir, &source.group, &vault_name(&site.vault)).unwrap().unwrap();
    let head = segment.index().head().clone();
    let batches = batch::cut(&head, segment.index().records(), replay.position(), Duration::from_secs(300));
    let mut run = crate::apply::BatchRun::new(&mut replay, &segment, &batches[0]).unwrap();
    while run.next_step() != Some(crate::apply::Step::WritePosition) {
        run.step().unwrap();
    }
    drop(replay);
    assert!(points::read(&dir.points()).unwrap().len() > points.len());
    // And when it comes back the segment is gone.
    (4..=6).for_each(|number| drop(site.take_away(&source, Epoch(1), number)));
    site.put_at(&source, Epoch(1), SegmentNo(4), vec![7; 4096]);
    asked_for(&site, &mut source, true);
    recovers(&site, &mut source, &points);
}
