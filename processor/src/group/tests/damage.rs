//! The undo journal is damaged in the middle: that is named, the points behind it are refused, everything newer works, and replay
//! goes on.

use std::path::PathBuf;

use super::*;
use crate::points::{self, Point, PointKind};
use crate::resolve::PointSpec;
use crate::undo::damage;
use crate::view::{PointView, ReadDisk, ViewError};

/// Four marks, each with changes before it, and a stretch after the last.
fn with_marks(site: &Site) -> (Source, Vec<Point>) {
    let mut source = Source::new("web01", 2);
    let mut rng = Rng(31);
    site.open_epoch(&source);
    source.random_resync(&mut rng);
    for mark in 1..=4 {
        for _ in 0..6 {
            source.random(&mut rng);
        }
        source.write(0, 0, 8, mark, RecordFlags::NONE);
        source.mark(&format!("m{mark}"));
        site.ship(&mut source);
    }
    source.write(1, 0, SECTORS, 9, RecordFlags::NONE);
    site.ship(&mut source);
    source.write(1, 5, 9, 10, RecordFlags::NONE);
    site.ship(&mut source);
    assert!(all_good(&site.once()));
    let points = points::read(&site.dir(&source).points()).unwrap();
    let marks = points.into_iter().filter(|p| matches!(&p.kind, PointKind::Mark(name) if name.len() == 2));
    let marks: Vec<Point> = marks.collect();
    assert_eq!(marks.len(), 4);
    (source, marks)
}

fn open(site: &Site, source: &Source, asked: &PointSpec) -> Result<Vec<Vec<u8>>, ViewError> {
    let view = PointView::open(site.folder.path(), &source.group, asked)?;
    let read = |disk: &crate::view::PointDisk| {
        let mut bytes = vec![0; disk.size_bytes() as usize];
        disk.read_at(&mut bytes, 0).map(|()| bytes)
    };
    Ok(view.disks().iter().map(read).collect::<std::io::Result<_>>()?)
}

/// Which marks can be had; of each that cannot the refusal names it and the damage.
fn served(site: &Site, source: &Source, marks: &[Point]) -> Vec<bool> {
    let served = |point: &Point| match open(site, source, &PointSpec::Id(point.id)) {
        Ok(disks) => {
            assert!(disks == source.after[&point.position], "p{}", point.id);
            true
        }
        Err(e @ ViewError::Unusable { .. }) => {
            assert!(e.to_string().contains(&format!("point p{}", point.id)), "{e}");
            assert!(e.to_string().contains("damaged at"), "{e}");
            false
        }
        Err(e) => panic!("{e:?}"),
    };
    marks.iter().map(served).collect()
}

fn replay_goes_on(site: &Site, source: &mut Source) {
    source.write(0, 3, 50, 77, RecordFlags::NONE);
    site.ship(source);
    let outcome = site.once().pop().unwrap();
    assert!(outcome.is_good(), "{outcome:?}");
    let position = ReplayPosition::read(&site.dir(source).position()).unwrap().unwrap();
    assert_eq!(position.position(), source.position());
    assert!(images(&site.dir(source), &source.object) == source.logged);
    assert!(open(site, source, &PointSpec::Latest).unwrap() == source.logged);
}

fn file_at(site: &Site, source: &Source, offset: u64) -> (PathBuf, usize) {
    let files = files::list(&site.dir(source).undo()).unwrap();
    let file = files.into_iter().rev().find(|file| file.start <= offset).unwrap();
    (file.path, (offset - file.start) as usize)
}

#[test]
fn points_behind_damage_in_the_undo_journal_are_refused_and_newer_ones_and_replay_go_on() {
    // In the header of the batch, and in its first block.
    for within in [30, 256 + 3] {
        let site = Site::new();
        let (mut source, marks) = with_marks(&site);
        // Between the second and the third mark.
        let (path, at) = file_at(&site, &source, marks[1].undo_end);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at + within] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();

        // A processor that runs finds it by itself.
        let processor = site.processor();
        let mut task = processor.task(source.group.clone());
        assert_eq!(task.turn(&Stop::new()), Turn::CaughtUp);
        drop(task);
        let known = damage::known(&site.dir(&source).undo()).unwrap();
        assert_eq!(known.iter().map(|d| d.offset).collect::<Vec<_>>(), [marks[1].undo_end]);
        assert_eq!(served(&site, &source, &marks), [false, false, true, true]);
        // A time or a seq before it is refused too, not rounded to something else.
        let asked = PointSpec::Seq { epoch: None, seq: marks[1].position.seq };
        assert!(matches!(open(&site, &source, &asked), Err(ViewError::Unusable { .. })));
        replay_goes_on(&site, &mut source);
        assert_eq!(served(&site, &source, &marks), [false, false, true, true]);

        // Put back, it is found whole the next time, and nothing is lost.
        std::fs::write(&path, &good).unwrap();
        let mut task = processor.task(source.group.clone());
        assert_eq!(task.turn(&Stop::new()), Turn::CaughtUp);
        assert_eq!(served(&site, &source, &marks), [true; 4]);
    }
}

#[test]
fn a_view_that_meets_damage_first_refuses_and_everybody_after_it_too() {
    let site = Site::new();
    let (source, marks) = with_marks(&site);
    let (path, at) = file_at(&site, &source, marks[2].undo_end);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(damage::known(&site.dir(&source).undo()).unwrap().is_empty(), "nobody has looked yet");
    assert_eq!(served(&site, &source, &marks), [false, false, false, true]);
    assert_eq!(damage::known(&site.dir(&source).undo()).unwrap().len(), 1);
}

#[test]
fn an_undo_file_that_is_missing_or_cut_spoils_what_is_behind_it_at_once() {
    for cut in [false, true] {
        let site = Site::new();
        let (mut source, marks) = with_marks(&site);
        let (path, _) = file_at(&site, &source, marks[1].undo_end);
        if cut {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(served(&site, &source, &marks), [false, false, true, true]);
        replay_goes_on(&site, &mut source);
        assert_eq!(served(&site, &source, &marks), [false, false, true, true]);
    }
}

#[test]
fn damage_in_the_file_that_replay_left_off_in_does_not_stop_it() {
    let site = Site::new();
    let (mut source, marks) = with_marks(&site);
    // Two batches lie after the last mark, in one file; the first is damaged in its header.
    let (path, at) = file_at(&site, &source, marks[3].undo_end);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 16] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    replay_goes_on(&site, &mut source);
    assert_eq!(served(&site, &source, &marks), [false; 4]);
}

#[test]
fn damage_of_the_batch_that_must_be_rolled_back_stops_the_group_by_name_and_there_are_two_ways_out() {
    for repaired in [true, false] {
        no_way_back(repaired);
    }
}

fn no_way_back(repaired: bool) {
    let site = Site::new();
    let (mut source, marks) = with_marks(&site);
    let good = source.position();
    let dir = site.dir(&source);
    source.write(0, 0, 9, 1, RecordFlags::NONE);
    let segment = source.segment();
    let mut replay = Replay::open(&dir, &source.group, &vault_name(&site.vault)).unwrap().unwrap();
    let undo_end = replay.position().undo_end;
    let head = segment.index().head().clone();
    let batches = batch::cut(&head, segment.index().records(), replay.position(), Duration::from_secs(300));
    let mut run = crate::apply::BatchRun::new(&mut replay, &segment, &batches[0]).unwrap();
    while run.next_step() != Some(crate::apply::Step::SyncImage) {
        run.step().unwrap();
    }
    drop(replay);
    let (path, at) = file_at(&site, &source, undo_end);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 300] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let outcome = site.once().pop().unwrap();
    let GroupState::Stopped { reason, cause, .. } = outcome.status.state else { panic!("{outcome:?}") };
    assert_eq!(cause, crate::status::Cause::NoWayBack);
    assert!(reason.contains("undo") && reason.contains("damaged") && reason.contains("farshore resync"), "{reason}");
    if repaired {
        bytes[at + 300] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(all_good(&site.once()));
        assert!(images(&dir, &source.object) == source.after[&good]);
        return;
    }

    // It does not come back: everything is copied again, and what was recovered before is said to be lost.
    let old = source.object.epoch;
    let number = SegmentNo(source.number.0 - 1);
    let next = source.next_epoch_for(farshore_vault::Reason::AskedFor);
    site.open_epoch(&source);
    site.runtime.block_on(site.group(&source).seal(old, number, &next)).unwrap();
    source.resync_begin(SECTORS * 512);
    site.ship(&mut source);
    let outcomes = site.once();
    assert!(all_good(&outcomes), "{outcomes:?}");
    assert!(open(&site, &source, &PointSpec::Latest).is_err(), "nothing is consistent yet");
    for disk in 0..source.disks.len() {
        source.resync(disk, 0, SECTORS);
    }
    source.resync_end();
    source.mark("after");
    site.ship(&mut source);
    assert!(all_good(&site.once()));
    assert!(images(&dir, &source.object) == source.logged);
    assert_eq!(served(&site, &source, &marks), [false; 4]);
    let after = points_of(&site, &source).pop().unwrap();
    assert_eq!(served(&site, &source, &[after]), [true]);
    replay_goes_on(&site, &mut source);
}

fn points_of(site: &Site, source: &Source) -> Vec<Point> {
    points::read(&site.dir(source).points()).unwrap()
}
