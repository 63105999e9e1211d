//! A group that stopped comes back by itself.

use std::path::PathBuf;
use std::rc::Rc;

use farshore_changelog::ids::DiskName;
use farshore_changelog::medium;
use nix::errno::Errno;

use super::*;
use crate::status::Cause;
use crate::testing::disk::{Disk, Fails};

/// A turn that stops, and the reason that is given.
fn stops(task: &mut GroupTask) -> (Duration, String) {
    match task.turn(&Stop::new()) {
        Turn::Stopped { again } => (again, task.stopped.as_ref().unwrap().error.full_text()),
        turn => panic!("{turn:?}"),
    }
}

fn goes_on(task: &mut GroupTask) {
    let mut turn = task.turn(&Stop::new());
    while turn == Turn::More {
        turn = task.turn(&Stop::new());
    }
    assert_eq!(turn, Turn::CaughtUp, "{:?}", task.stopped);
}

fn ship_more(site: &Site, source: &mut Source, rng: &mut Rng) {
    for _ in 0..6 {
        source.random(rng);
    }
    source.write(0, 0, 8, 77, RecordFlags::NONE);
    site.ship(source);
}

#[test]
fn a_target_that_refuses_stops_its_group_and_no_other_until_it_is_mended() {
    let image = |dir: &GroupDir| dir.image(&DiskName::new("vd0").unwrap());
    let places: [fn(&GroupDir) -> PathBuf; 3] =
        [|dir| dir.undo(), |dir| dir.position(), |dir| dir.root().to_path_buf()];
    let mut cases = vec![
        (Fails::Syncs, Errno::EIO, image as fn(&GroupDir) -> PathBuf),
        (Fails::Everything, Errno::EIO, image),
        (Fails::Growth, Errno::ENOSPC, image),
    ];
    for place in places {
        cases.extend([Errno::EIO, Errno::ENOSPC, Errno::EROFS].map(|errno| (Fails::Everything, errno, place)));
        cases.push((Fails::Syncs, Errno::EIO, place));
    }
    for (n, (fails, errno, place)) in cases.into_iter().enumerate() {
        let site = Site::new();
        let (mut source, mut other) = (shipped(&site, "web01", n as u64, 2), shipped(&site, "web02", n as u64, 2));
        let processor = site.processor();
        let (mut task, mut bystander) = (processor.task(source.group.clone()), processor.task(other.group.clone()));
        goes_on(&mut task);
        goes_on(&mut bystander);
        let mut rng = Rng(n as u64);
        ship_more(&site, &mut source, &mut rng);
        ship_more(&site, &mut other, &mut rng);

        let disk = Disk::under(site.folder.path());
        let simulated = medium::simulate(Rc::new(disk.clone()));
        let dir = site.dir(&source);
        disk.fail(fails, errno, &place(&dir), 0, u64::MAX);
        let (first, reason) = stops(&mut task);
        assert!(reason.contains(&std::io::Error::from(errno).to_string()), "case {n}: {reason}");
        assert!(reason.contains("web01"), "{reason}");
        goes_on(&mut bystander);
        let (again, _) = stops(&mut task);
        assert_eq!(again, first * 2, "tried again, and less often");
        // What cannot be written down is in the processor's log, and the verb sees how old the word is.
        if place(&dir) != dir.root() {
            let GroupState::Stopped { cause, tries, .. } = site.state(&source) else { panic!("case {n}") };
            assert_eq!(cause, if errno == Errno::ENOSPC { Cause::Full } else { Cause::Target });
            assert_eq!(tries, 2);
        }
        disk.mend();
        goes_on(&mut task);
        assert!(!matches!(site.state(&source), GroupState::Stopped { .. }));
        drop((task, bystander));
        // Nor was anything believed that the medium does not have.
        disk.cut_power();
        drop(simulated);
        assert!(all_good(&site.once()));
        for source in [&source, &other] {
            let position = ReplayPosition::read(&site.dir(source).position()).unwrap().unwrap();
            assert_eq!(position.position(), source.position());
            site.check(source);
        }
    }
}

#[test]
fn an_image_that_is_gone_stops_its_group_until_it_is_put_back() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 5, 2);
    let processor = site.processor();
    let mut task = processor.task(source.group.clone());
    goes_on(&mut task);
    let image = site.dir(&source).image(&source.object.disks[0].name);
    let aside = image.with_extension("aside");
    std::fs::rename(&image, &aside).unwrap();
    ship_more(&site, &mut source, &mut Rng(5));
    // The file is still open: what is written to it now would be lost in silence.
    for _ in 0..2 {
        let (_, reason) = stops(&mut task);
        assert!(reason.contains("vd0.raw is gone"), "{reason}");
        assert!(!image.exists(), "no empty image takes its place");
    }
    std::fs::rename(&aside, &image).unwrap();
    goes_on(&mut task);
    drop(task);
    site.check(&source);
}

#[test]
fn a_target_whose_file_system_is_unmounted_is_not_made_anew_in_the_empty_folder() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 8, 2);
    let processor = site.processor();
    let mut task = processor.task(source.group.clone());
    goes_on(&mut task);
    let (root, aside) = (site.dir(&source).root().to_path_buf(), site.folder.path().join("aside"));
    std::fs::rename(&root, &aside).unwrap();
    ship_more(&site, &mut source, &mut Rng(8));
    for _ in 0..2 {
        let (_, reason) = stops(&mut task);
        assert!(reason.contains("is gone"), "{reason}");
        assert!(!root.exists());
    }
    std::fs::rename(&aside, &root).unwrap();
    goes_on(&mut task);
    drop(task);
    site.check(&source);
}

#[test]
fn a_group_in_other_hands_is_tried_again_when_they_let_go() {
    let site = Site::new();
    let source = shipped(&site, "web01", 6, 2);
    assert!(all_good(&site.once()));
    let processor = site.processor();
    let mut task = processor.task(source.group.clone());
    let held = site.dir(&source).take_lock().unwrap();
    let said = site.state(&source);
    for _ in 0..3 {
        stops(&mut task);
        assert!(matches!(task.stopped.as_ref().unwrap().error, GroupError::Target(TargetError::Locked { .. })));
    }
    assert_eq!(site.state(&source), said, "the status is that of the one who holds the lock");
    drop(held);
    goes_on(&mut task);
}

#[test]
fn a_running_processor_goes_on_when_a_segment_is_put_back() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 7, 2);
    let mut rng = Rng(7);
    for _ in 0..3 {
        source.watermark = source.number.0;
        ship_more(&site, &mut source, &mut rng);
    }
    let lost = site.take_away(&source, Epoch(1), 4);
    let processor = site.processor();
    let stop = Stop::new();
    let wait = |what: &str, reached: &dyn Fn() -> bool| {
        let patience = clock::mono() + Duration::from_secs(30);
        while !reached() {
            assert!(clock::mono() < patience, "{what}");
            clock::sleep(Duration::from_millis(5));
        }
    };
    let stopped = || {
        GroupStatus::read(&site.dir(&source)).is_ok_and(|s| {
            s.is_some_and(|s| matches!(s.state, GroupState::Stopped { cause: Cause::Log, tries, .. } if tries >= 2))
        })
    };
    let caught_up = || {
        let position = ReplayPosition::read(&site.dir(&source).position());
        position.is_ok_and(|p| p.is_some_and(|p| p.position() == source.position()))
    };
    let outcomes = std::thread::scope(|scope| {
        let running = scope.spawn(|| processor.run(&stop));
        wait("the gap is not said", &stopped);
        // Not yet whole.
        site.put_at(&source, Epoch(1), SegmentNo(4), lost[..lost.len() / 2].to_vec());
        wait(
            "the damage is not said",
            &|| matches!(site.state(&source), GroupState::Stopped { reason, .. } if reason.contains("too short")),
        );
        site.take_away(&source, Epoch(1), 4);
        site.put_at(&source, Epoch(1), SegmentNo(4), lost);
        wait("it does not go on", &caught_up);
        stop.request();
        running.join().unwrap()
    });
    assert!(all_good(&outcomes), "{outcomes:?}");
    site.check(&source);
}

/// A source that puts several at once was cut off: nothing is wrong with its log, for however long.
#[test]
fn a_hole_that_the_source_has_not_filled_is_no_damage_and_what_lies_above_it_comes_once_it_is() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 8, 3);
    let mut rng = Rng(8);
    source.watermark = 2;
    ship_more(&site, &mut source, &mut rng);
    let numbers = site.numbers(&source, 1);
    let (missing, last) = (numbers[numbers.len() - 2], numbers[numbers.len() - 1]);
    let late = site.take_away(&source, Epoch(1), missing);
    let processor = site.processor();
    let mut task = processor.task(source.group.clone());
    let end = clock::mono() + PATIENCE * 6;
    while clock::mono() < end {
        let turn = task.turn(&Stop::new());
        assert!(matches!(turn, Turn::CaughtUp | Turn::More), "{turn:?}");
        clock::sleep(Duration::from_millis(10));
    }
    let said = GroupStatus::read(&site.dir(&source)).unwrap().unwrap();
    assert_eq!((said.hole, said.segment), (Some(SegmentNo(missing)), SegmentNo(missing - 1)));
    assert!(!matches!(said.state, GroupState::Stopped { .. }), "{said:?}");
    site.put_at(&source, Epoch(1), SegmentNo(missing), late);
    let end = clock::mono() + PATIENCE * 20;
    loop {
        task.turn(&Stop::new());
        let said = GroupStatus::read(&site.dir(&source)).unwrap().unwrap();
        if (said.hole, said.segment) == (None, SegmentNo(last)) {
            break;
        }
        assert!(clock::mono() < end, "{said:?}");
        clock::sleep(Duration::from_millis(10));
    }
    drop(task);
    site.check(&source);
}
