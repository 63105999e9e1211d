//! Retention that is interrupted after each of its steps: in the vault by a store that refuses one delete, at the target by a disk
//! that fails from one call on and then loses its power. Nothing that a point needs is gone, and what is left over goes the next
//! time.

use std::rc::Rc;

use farshore_changelog::medium;
use nix::errno::Errno;

use super::*;
use crate::testing::disk::{Disk, Fails, Unsynced};

const SEGMENTS: u64 = 14;

/// Without the kernel's fsyncs, on this thread: what is durable is not asked.
fn quick() -> medium::Simulation {
    medium::simulate(Rc::new(Unsynced))
}

/// A target that kept everything, of a source that has noted nearly everything as confirmed.
fn grown(seed: u64) -> (Site, Source) {
    let site = Site::new();
    let mut source = shipped(&site, "web01", seed, 0);
    site.ship(&mut source);
    let mut rng = Rng(seed);
    for _ in 1..SEGMENTS {
        source.time += 301_000_000;
        for i in 0..6 {
            source.write(0, rng.below(SECTORS - 8), 1 + rng.below(7), i, RecordFlags::NONE);
        }
        source.watermark = source.number.0.saturating_sub(2);
        site.ship(&mut source);
        // An undo file a run.
        retains(&site, &source, 1000);
    }
    (site, source)
}

fn keeping(site: &Site, points: usize) -> Processor {
    let retention = Duration::from_secs(if points < 1000 { 1000 } else { 1_000_000 });
    let config = ProcessorConfig { max_points: points, retention, ..site.config() };
    Processor::open_vault(config, site.vault.clone()).unwrap()
}

/// A new processor replays what there is, and keeps so many points.
fn retains(site: &Site, source: &Source, points: usize) {
    let processor = keeping(site, points);
    let mut task = processor.task(source.group.clone());
    let mut turn = task.turn(&Stop::new());
    while turn == Turn::More {
        turn = task.turn(&Stop::new());
    }
    assert_eq!(turn, Turn::CaughtUp, "{:?}", task.stopped);
}

/// What is left: points, undo files, segments.
fn left(site: &Site, source: &Source) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let dir = site.dir(source);
    let points = crate::points::read(&dir.points()).unwrap().iter().map(|p| p.id).collect();
    let undo = files::list(&dir.undo()).unwrap().iter().map(|file| file.start).collect();
    (points, undo, site.numbers(source, 1))
}

/// No segment is missing that replay from the oldest point on would need, and none between two that are there.
fn log_is_whole(site: &Site, source: &Source) {
    let (points, numbers) = (crate::points::read(&site.dir(source).points()).unwrap(), site.numbers(source, 1));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let group = site.group(source);
    let first = site.runtime.block_on(group.get_segment(Epoch(1), SegmentNo(numbers[0]))).unwrap().unwrap();
    let first = Segment::parse(first).unwrap().index().head().first_seq;
    assert!(first <= points[0].position.seq.next(), "the log begins at {first}, the oldest point is {:?}", points[0]);
}

#[test]
fn a_crash_between_two_deletes_in_the_vault_leaves_what_points_need_and_the_rest_goes_later() {
    let _quick = quick();
    let (site, source) = grown(71);
    let before = left(&site, &source);
    retains(&site, &source, 3);
    let expected = left(&site, &source);
    let gone: Vec<u64> = before.2.iter().copied().filter(|number| !expected.2.contains(number)).collect();
    assert!(gone.len() > 5 && before.1.len() > expected.1.len(), "{before:?} {expected:?}");
    for fault in [Fault::Before, Fault::After] {
        for number in &gone {
            let (site, source) = grown(71);
            assert_eq!(left(&site, &source).2, before.2);
            site.store.inject(On::Delete, &format!("/{number:020}"), 1, fault);
            retains(&site, &source, 3);
            let first = if fault == Fault::Before { *number } else { number + 1 };
            assert_eq!(site.numbers(&source, 1)[0], first);
            log_is_whole(&site, &source);
            site.check(&source);
            retains(&site, &source, 3);
            assert_eq!(left(&site, &source), expected);
            site.check(&source);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_retention_at_the_target_leaves_every_point_good() {
    let quickly = quick();
    let (site, source) = grown(72);
    retains(&site, &source, 3);
    let expected = left(&site, &source);
    drop(quickly);
    let mut steps = 0;
    let mut between = 0;
    for after in 0.. {
        let quickly = quick();
        let (site, source) = grown(72);
        let before = left(&site, &source);
        drop(quickly);
        let disk = Disk::under(site.folder.path());
        let simulated = medium::simulate(Rc::new(disk.clone()));
        disk.fail(Fails::Everything, Errno::EIO, site.folder.path(), after, u64::MAX);
        let processor = keeping(&site, 3);
        let mut task = processor.task(source.group.clone());
        let stopped = matches!(task.turn(&Stop::new()), Turn::Stopped { .. });
        drop(task);
        disk.mend();
        disk.cut_power();
        drop(simulated);
        let _quickly = quick();
        let now = left(&site, &source);
        between += u32::from(now != before && now != expected);
        log_is_whole(&site, &source);
        site.check(&source);
        // Each point that the catalogue still has is served.
        for point in crate::points::read(&site.dir(&source).points()).unwrap() {
            assert!(at(&site.dir(&source), &source.object, point.undo_end) == source.after[&point.position]);
        }
        retains(&site, &source, 3);
        assert_eq!(left(&site, &source), expected);
        site.check(&source);
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 8 && between > 2, "{steps} steps, {between} of them halfway");
}
