//! Outages of any length and vaults of any slowness, in simulated time, with a guest that goes on writing.

use std::time::Duration;

use farshore_changelog::ids::Seq;
use farshore_changelog::ring::{Producer, Ring, ShipperState};
use farshore_vault::fault::{Fault, On};

use super::simulated::{simulated, until_confirmed, while_shipping, write_noise};
use super::world::{UPLOADS, World};
use crate::ShipperConfig;

const SPOOL_BYTES: u64 = 1 << 20;
const WRITE_BYTES: usize = 16 << 10;
/// A segment may pass the spool's limit by the records that complete it, and by its head and index.
const SPOOL_SLACK_BYTES: u64 = 128 << 10;
const SOON: Duration = Duration::from_secs(30);

fn config(world: &World) -> ShipperConfig {
    ShipperConfig {
        spool_limit_bytes: SPOOL_BYTES,
        max_delay: Duration::from_secs(1),
        heartbeat: Duration::from_secs(10),
        ..world.config()
    }
}

fn open(world: &World) -> crate::Shipper {
    crate::Shipper::open_on(config(world), world.vault.clone()).unwrap()
}

/// Writes in order, every so often, for a time; what the ring has no room for is capture's affair, and left out.
struct Guest {
    written: u64,
    left_out: u64,
}

impl Guest {
    fn new() -> Self {
        Self { written: 0, left_out: 0 }
    }

    /// `seen` is asked after each write.
    async fn write(&mut self, lane: &mut Producer, every: Duration, time: Duration, mut seen: impl FnMut()) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            if write_noise(lane, self.written, WRITE_BYTES) {
                self.written += 1;
            } else {
                self.left_out += 1;
            }
            seen();
            tokio::time::sleep(every).await;
        }
    }
}

fn is_bounded(ring: &Ring) {
    assert!(ring.spool_bytes() <= SPOOL_BYTES + SPOOL_SLACK_BYTES, "the spool has {} bytes", ring.spool_bytes());
}

/// Everything that the ring took is there once; no more segments were on their way at any time than may be.
fn is_whole(world: &World) {
    let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
    assert_eq!(seqs, (1..world.ring.next_seq().0).collect::<Vec<_>>());
    let largest = world.read_back(1).iter().map(|s| s.index().total_len()).max().unwrap();
    assert!(world.store.most_in_flight_bytes() <= UPLOADS as u64 * largest.max(4096));
}

#[test]
fn a_vault_that_is_away_for_a_second_an_hour_or_a_day_is_shipped_to_again_by_itself() {
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    for (outage, every, state) in [
        (SECOND, Duration::from_millis(500), ShipperState::VaultUnreachable),
        (HOUR, SECOND, ShipperState::SpoolFull),
        (DAY, 30 * SECOND, ShipperState::SpoolFull),
    ] {
        let mut world = World::paused();
        let _time = simulated(&world);
        let (ring, shipper, store) = (world.ring.clone(), open(&world), world.store.clone());
        let mut guest = Guest::new();
        while_shipping(&world.runtime, shipper, async {
            let lane = &mut world.lanes[0];
            guest.write(lane, every, 20 * SECOND, || ()).await;
            until_confirmed(&ring, SOON).await;
            assert_eq!(ring.shipper_state(), ShipperState::Shipping);
            let confirmed = ring.confirmed_seq();
            store.set_down(true);
            guest.write(lane, every, outage, || is_bounded(&ring)).await;
            guest.write(lane, every, 2 * SECOND, || is_bounded(&ring)).await;
            assert_eq!((ring.shipper_state(), ring.confirmed_seq()), (state, confirmed), "after {outage:?}");
            store.set_down(false);
            let begin = tokio::time::Instant::now();
            until_confirmed(&ring, SOON).await;
            // The longest wait of its backoff, and the seal of what the ring held.
            assert!(begin.elapsed() < Duration::from_secs(10), "order came back after {:?}", begin.elapsed());
            assert_eq!(ring.shipper_state(), ShipperState::Shipping);
        });
        assert_eq!(guest.left_out > 0, outage > SECOND, "the ring was filled by the long outages");
        assert_eq!(world.ring.next_seq(), Seq(guest.written + 1));
        is_whole(&world);
    }
}

#[test]
fn a_vault_of_one_megabyte_a_second_gets_everything_in_order_and_no_memory_grows() {
    for uploads in [1, UPLOADS] {
        let mut world = World::paused();
        let _time = simulated(&world);
        world.store.inject(On::Put, "/log/", u64::MAX, Fault::Slow(1_000_000 / uploads as u64));
        let config = ShipperConfig { uploads, ..config(&world) };
        let (ring, shipper) = (world.ring.clone(), crate::Shipper::open_on(config, world.vault.clone()).unwrap());
        let mut guest = Guest::new();
        while_shipping(&world.runtime, shipper, async {
            let mut full = 0;
            let seen = || {
                is_bounded(&ring);
                full += u64::from(ring.shipper_state() == ShipperState::SpoolFull);
            };
            // Two megabytes a second for a minute.
            guest.write(&mut world.lanes[0], Duration::from_millis(8), Duration::from_secs(60), seen).await;
            assert!(full > 0, "the spool was never full");
            // What ring and spool hold goes at the vault's pace.
            until_confirmed(&ring, Duration::from_secs(20)).await;
            assert_eq!(ring.shipper_state(), ShipperState::Shipping);
        });
        assert!(guest.left_out > 0);
        is_whole(&world);
    }
}

#[test]
fn a_vault_that_stalls_in_the_middle_of_bodies_is_given_up_and_tried_again_in_order() {
    // Of four at once the first four stall together.
    for (uploads, stalled) in [(1, 240), (UPLOADS, 110)] {
        let mut world = World::paused();
        let _time = simulated(&world);
        let config = ShipperConfig { uploads, ..config(&world) };
        let (ring, store) = (world.ring.clone(), world.store.clone());
        let shipper = crate::Shipper::open_on(config, world.vault.clone()).unwrap();
        let mut guest = Guest::new();
        while_shipping(&world.runtime, shipper, async {
            until_confirmed(&ring, SOON).await;
            store.inject(On::Put, "/log/", 5, Fault::Stall);
            let every = Duration::from_secs(1);
            guest.write(&mut world.lanes[0], every, Duration::from_secs(stalled), || is_bounded(&ring)).await;
            assert!(ring.confirmed_seq() < Seq(5), "stalls of a minute each are not over");
            assert_eq!(ring.shipper_state(), ShipperState::SpoolFull);
            until_confirmed(&ring, Duration::from_secs(300)).await;
        });
        is_whole(&world);
    }
}

/// 5xx and 429 in any mixture, lost answers, resets: what fails is tried again, with pauses, and nothing overtakes it.
#[test]
fn a_storm_of_errors_is_waited_out_with_pauses_and_keeps_the_order() {
    let mut world = World::paused();
    let _time = simulated(&world);
    let (ring, shipper, store) = (world.ring.clone(), open(&world), world.store.clone());
    let mut guest = Guest::new();
    let puts = store.puts();
    while_shipping(&world.runtime, shipper, async {
        for _ in 0..40 {
            store.inject(On::Put, "/log/", 3, Fault::Before);
            store.inject(On::Put, "/log/", 1, Fault::After);
            store.inject(On::Get, "/epochs/", 2, Fault::Before);
            store.inject(On::Put, "/log/", 1, Fault::Delay(Duration::from_secs(80)));
        }
        guest.write(&mut world.lanes[0], Duration::from_secs(5), Duration::from_secs(1800), || is_bounded(&ring)).await;
        store.forget();
        // One more may be in its delay.
        until_confirmed(&ring, Duration::from_secs(120)).await;
    });
    // Not in a tight loop: half an hour holds 360 of the longest pauses.
    assert!(world.store.puts() - puts < 2000, "{} puts", world.store.puts() - puts);
    is_whole(&world);
}
