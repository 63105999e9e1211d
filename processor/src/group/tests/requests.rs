//! What a group asks of the vault, which is paid for by the request: `docs/costs.md` counts with these.

use farshore_changelog::clock::Time;
use farshore_vault::{CountingStore, Requests};

use super::*;
use crate::discover::{DISCOVER_EVERY, Discovery};
use crate::gap::GAP_PATIENCE;
use crate::poll;
use crate::processor::{POINT_INTERVAL, POLL};
use crate::testing::hand_clock::HandClock;

const NOTHING: Requests = Requests { puts: 0, gets: 0, misses: 0, lists: 0, deletes: 0 };

#[test]
fn a_look_is_a_get_that_finds_nothing_and_a_segment_one_more_whatever_is_in_it() {
    let store = CountingStore::in_memory();
    let site = Site::over(FaultStore::new(store.clone()));
    let mut source = shipped(&site, "web01", 1, 3);
    let config = ProcessorConfig { gap_patience: GAP_PATIENCE, ..site.config() };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    let mut task = processor.task(source.group.clone());
    while task.turn(&Stop::new()) != Turn::CaughtUp {}
    let mut turn = || {
        let before = store.requests();
        assert_eq!(task.turn(&Stop::new()), Turn::CaughtUp);
        store.requests().since(before)
    };
    assert_eq!(turn(), Requests { misses: 1, ..NOTHING });
    // A heartbeat.
    site.ship(&mut source);
    assert_eq!(turn(), Requests { gets: 1, misses: 1, ..NOTHING });
    for _ in 0..3 {
        source.write(0, 0, 8, 7, RecordFlags::NONE);
        site.ship(&mut source);
    }
    assert_eq!(turn(), Requests { gets: 3, misses: 1, ..NOTHING });
    // One at which a point is cut, after which retention looks.
    source.time += u64::try_from(POINT_INTERVAL.as_micros()).unwrap() + 1;
    source.write(0, 0, 8, 9, RecordFlags::NONE);
    site.ship(&mut source);
    assert_eq!(turn(), Requests { gets: 1, misses: 1, ..NOTHING });
    drop(task);
    site.check(&source);
}

#[test]
fn a_running_processor_finds_a_group_that_begins_later_with_the_one_listing_after_it_was_announced() {
    let store = CountingStore::in_memory();
    let site = Site::over(FaultStore::new(store.clone()));
    let config = ProcessorConfig { gap_patience: GAP_PATIENCE, ..site.config() };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    let (stop, before) = (Stop::new(), store.requests());
    let asked = || store.requests().since(before);
    let source = std::thread::scope(|scope| {
        let running = scope.spawn(|| processor.run(&stop));
        let comes = |done: &dyn Fn() -> bool| {
            let patience = clock::mono() + Duration::from_secs(30);
            while !done() && clock::mono() < patience {
                clock::sleep(Duration::from_millis(5));
            }
        };
        comes(&|| asked().misses > 10);
        let source = shipped(&site, "web01", 3, 2);
        let looks = asked().misses;
        comes(&|| asked().misses > looks + 2);
        let unannounced = asked();
        site.runtime.block_on(site.vault.announce()).unwrap();
        comes(&|| {
            let position = ReplayPosition::read(&site.dir(&source).position());
            position.is_ok_and(|p| p.is_some_and(|p| p.position() == source.position()))
        });
        stop.request();
        let outcomes = running.join().unwrap();
        assert!(outcomes.len() == 1 && all_good(&outcomes), "{outcomes:?}");
        assert!(unannounced.lists == 1 && unannounced.misses > looks + 2, "{unannounced:?}");
        source
    });
    site.check(&source);
    assert_eq!(asked().lists, 2);
}

/// A group of a processor, and when it is looked at next, as the processor does it.
struct Followed {
    task: GroupTask,
    due: Instant,
}

impl Followed {
    fn look(&mut self) {
        if clock::mono() >= self.due {
            assert_eq!(self.task.turn(&Stop::new()), Turn::CaughtUp);
            self.due = clock::mono() + poll::pause(self.task.quiet(), POLL);
        }
    }
}

#[test]
fn whoever_follows_an_idle_and_a_busy_group_through_retention_lists_nothing() {
    const STEP: Duration = Duration::from_millis(500);
    /// Short of the hour in which the groups are listed again.
    const STEPS: u32 = 55 * 60 * 2;
    let store = CountingStore::in_memory();
    let site = Site::over(FaultStore::new(store.clone()));
    let time = HandClock::new();
    let _simulation = clock::simulate(time.clone());
    let retention = Duration::from_secs(15 * 60);
    let config = ProcessorConfig { gap_patience: GAP_PATIENCE, poll: POLL, retention, ..site.config() };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    let (mut idle, mut busy) = (Source::new("idle", 1), Source::new("busy", 1));
    for source in [&idle, &busy] {
        site.open_epoch(source);
        site.runtime.block_on(site.vault.announce()).unwrap();
    }
    let ship = |source: &mut Source| {
        // What is confirmed is one behind.
        (source.time, source.watermark) = (clock::wall().0, source.number.0);
        site.ship(source);
        source.after.clear();
    };
    let mut groups = [&idle, &busy].map(|source| processor.task(source.group.clone()));
    groups.iter_mut().for_each(|task| assert!(matches!(task.claim(), Ok(Owner::Ours))));
    let mut groups = groups.map(|task| Followed { task, due: clock::mono() });
    let (mut discovery, start) = (Discovery::default(), store.requests());
    assert_eq!(site.runtime.block_on(discovery.look(&site.vault)).unwrap().map(|found| found.len()), Some(2));
    assert_eq!(store.requests().since(start).lists, 1);
    let start = store.requests();
    let (mut beats, mut next_beat) = (0, 0);
    for step in 0..STEPS {
        // A heartbeat every ten seconds, some of them late.
        if step == next_beat {
            ship(&mut idle);
            (beats, next_beat) = (beats + 1, next_beat + 20 + beats % 3);
        }
        if step.is_multiple_of(10) {
            busy.write(0, u64::from(step) % 64, 8, step as u8, RecordFlags::NONE);
            ship(&mut busy);
        }
        groups.iter_mut().for_each(Followed::look);
        if (STEP * step).as_secs().is_multiple_of(DISCOVER_EVERY.as_secs()) {
            assert_eq!(site.runtime.block_on(discovery.look(&site.vault)).unwrap(), None);
        }
        time.sleep(STEP);
    }
    let asked = store.requests().since(start);
    assert_eq!(asked.lists, 0, "{asked:?}");
    // Retention has worked: of 55 minutes 15 and what came since its last turn are there.
    assert!(asked.deletes > 300 + 200, "{asked:?}");
    for source in [&idle, &busy] {
        assert!(site.numbers(source, 1)[0] > 100);
    }
    drop(groups);
}
