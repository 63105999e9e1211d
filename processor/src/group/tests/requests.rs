//! What a group asks of the vault, which is paid for by the request: `docs/costs.md` counts with these.

use farshore_vault::{CountingStore, Requests};

use super::*;
use crate::gap::GAP_PATIENCE;
use crate::processor::POINT_INTERVAL;

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
