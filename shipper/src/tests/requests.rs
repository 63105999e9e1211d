//! What a source asks of the vault, which is paid for by the request: `docs/costs.md` counts with these.

use std::time::Duration;

use farshore_changelog::ids::Seq;
use farshore_vault::{CountingStore, FaultStore, Requests};

use super::simulated::{simulated, until_confirmed, while_shipping, write_noise};
use super::world::World;
use crate::ShipperConfig;

const TIME: Duration = Duration::from_secs(5 * 60);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What was asked in this time, after the epoch was opened, by a source whose guest writes every `every`.
fn asked_for(every: Option<Duration>) -> Requests {
    let store = CountingStore::in_memory();
    let mut world = World::paused_over(FaultStore::new(store.clone()));
    let _simulation = simulated(&world);
    // Initial replication is over: until then hashes are asked for too.
    world.write_some(1);
    world.ring.set_resync_end(Some(Seq(1)));
    let start = store.requests();
    let config = ShipperConfig { max_delay: Duration::from_secs(1), heartbeat: HEARTBEAT, ..world.config() };
    let shipper = crate::Shipper::open_on(config, world.vault.clone()).unwrap();
    let (ring, mut lane) = (world.ring.clone(), world.lanes.remove(0));
    let asked = while_shipping(&world.runtime, shipper, async {
        tokio::time::sleep(HEARTBEAT / 2).await;
        until_confirmed(&ring, HEARTBEAT).await;
        let (before, end) = (store.requests(), tokio::time::Instant::now() + TIME);
        let mut salt = 0;
        while tokio::time::Instant::now() < end {
            if every.is_some() {
                assert!(write_noise(&mut lane, salt, 512));
                salt += 1;
            }
            tokio::time::sleep(every.unwrap_or(TIME)).await;
        }
        store.requests().since(before)
    });
    assert_eq!(store.requests().since(start).lists, 0, "not at its start either");
    asked
}

/// As nearly as it can be: a look at each end of the time may be in it or not.
fn about(found: u64, expected: u64) {
    assert!(found.abs_diff(expected) <= 2, "{found} requests instead of {expected}");
}

#[test]
fn an_idle_source_asks_for_a_put_and_two_gets_a_heartbeat() {
    let asked = asked_for(None);
    let heartbeats = TIME.as_secs() / HEARTBEAT.as_secs();
    about(asked.puts, heartbeats);
    about(asked.misses, 2 * heartbeats);
    assert_eq!((asked.gets, asked.lists, asked.deletes), (0, 0, 0));
}

#[test]
fn a_source_that_writes_asks_for_a_put_a_segment_and_the_same_looks() {
    let asked = asked_for(Some(Duration::from_millis(100)));
    about(asked.misses, 2 * TIME.as_secs() / HEARTBEAT.as_secs());
    // A segment is sealed a second after its first record was taken, and the next record comes within a tenth of one.
    assert!((TIME.as_secs() * 10 / 11 - 10..=TIME.as_secs()).contains(&asked.puts), "{} puts", asked.puts);
    assert_eq!((asked.gets, asked.lists, asked.deletes), (0, 0, 0));
}
