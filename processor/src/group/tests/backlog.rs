//! What is not replayed stays in the vault, however old it is, and that is said.

use super::*;
use crate::group::backlog::waiting;
use crate::status::Unapplied;

#[test]
fn retention_never_takes_what_is_not_replayed_and_says_how_much_that_is_with_an_alarm() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 51, 3);
    let config = ProcessorConfig {
        retention: Duration::from_secs(60),
        max_points: 1,
        backlog_alarm_bytes: 2000,
        ..site.config()
    };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    assert!(all_good(&processor.run_once().unwrap()));
    let applied = source.number;
    // Replay cannot follow, while the source goes on for years (its clock is in 1970) and notes what is confirmed.
    let mut rng = Rng(51);
    for _ in 0..8 {
        source.time += 3_600_000_000;
        for _ in 0..6 {
            source.random(&mut rng);
        }
        source.watermark = source.number.0;
        site.ship(&mut source);
    }
    let missing = site.take_away(&source, Epoch(1), applied.0 + 1);
    let before = site.numbers(&source, 1);
    let mut task = processor.task(source.group.clone());
    let patience = clock::mono() + PATIENCE * 3;
    while !matches!(task.turn(&Stop::new()), Turn::Stopped { .. }) {
        assert!(clock::mono() < patience + PATIENCE, "the gap is not seen");
        clock::sleep(Duration::from_millis(20));
    }
    let left: Vec<u64> = before.into_iter().filter(|number| *number > applied.0).collect();
    assert_eq!(left.len(), 7);
    let after = site.numbers(&source, 1);
    assert!(left.iter().all(|number| after.contains(number)), "{after:?}");
    let status = GroupStatus::read(&site.dir(&source)).unwrap().unwrap();
    let Some(Unapplied { segments, bytes, older_than_retention, alarm }) = status.unapplied else {
        panic!("{status:?}")
    };
    assert_eq!((segments, older_than_retention, alarm), (7, true, true));
    assert!(bytes > 2000);
    drop(task);
    // It catches up, and nothing waits any more.
    site.put_at(&source, Epoch(1), applied.next(), missing);
    assert!(all_good(&processor.run_once().unwrap()));
    assert_eq!(GroupStatus::read(&site.dir(&source)).unwrap().unwrap().unapplied, None);
    site.check(&source);
}

#[test]
fn what_waits_is_counted_through_all_later_epochs() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 52, 2);
    let start = ReplayPosition::start(source.group.clone(), Epoch(1), source.epoch_hash());
    let count = |position: &ReplayPosition| site.runtime.block_on(waiting(&site.group(&source), position)).unwrap();
    assert_eq!(count(&start).segments, 2);
    assert_eq!(count(&start).oldest, Some((Epoch(1), SegmentNo(1))));
    let here = ReplayPosition { number: SegmentNo(2), ..start.clone() };
    assert_eq!((count(&here).segments, count(&here).oldest), (0, None));
    site.next_epoch(&mut source);
    site.ship(&mut source);
    let count = |position: &ReplayPosition| site.runtime.block_on(waiting(&site.group(&source), position)).unwrap();
    assert_eq!(count(&here).segments, 2, "the seal, and the segment behind it");
    assert!(count(&here).bytes > 0);
}
