//! Several uploads at once: they may end in any order, and what counts is counted in one.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::ring::ShipperState;
use farshore_vault::fault::{Fault, On};

use super::simulated::{simulated, until, until_confirmed, while_shipping, write_noise};
use super::world::{WINDOW, World};
use crate::bandwidth::Bandwidth;
use crate::{Shipper, ShipperConfig};

const SOON: Duration = Duration::from_secs(60);
/// Larger than `segment_size` of these worlds: each is a segment of its own.
const SEGMENT: usize = 64 << 10;

/// So many segments in the spool, and none of them in the vault.
fn spooled(segments: u64) -> (World, clock::Simulation) {
    let mut world = World::paused();
    let time = simulated(&world);
    fill_the_spool(&mut world, segments);
    (world, time)
}

/// Seals so many segments while the vault is away.
fn fill_the_spool(world: &mut World, segments: u64) {
    world.store.set_down(true);
    let (shipper, ring) = (world.open().unwrap(), world.ring.clone());
    while_shipping(&world.runtime, shipper, async {
        for salt in 0..segments {
            assert!(write_noise(&mut world.lanes[0], salt, SEGMENT));
            until("the spool has it", SOON, || ring.read_seq() == ring.next_seq()).await;
        }
    });
    world.store.set_down(false);
    assert_eq!(world.spool_files().len() as u64, segments);
}

fn key(number: u64) -> String {
    format!("/log/0000000001/{number:020}")
}

async fn is_there(world: &World, number: u64) -> bool {
    world.group_vault().get_segment(Epoch(1), SegmentNo(number)).await.unwrap().is_some()
}

async fn until_there(world: &World, number: u64) {
    while !is_there(world, number).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn watermark(world: &World) -> u64 {
    world.state.watermark().unwrap().map_or(0, |w| w.number.0)
}

#[test]
fn uploads_end_in_any_order_and_are_confirmed_in_theirs() {
    let (world, _time) = spooled(10);
    world.store.inject(On::Put, &key(3), 1, Fault::Delay(Duration::from_secs(5)));
    while_shipping(&world.runtime, world.open().unwrap(), async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        // Those that may be on their way beside it are there, and no more; what counts ends below it.
        for (number, there) in [(2, true), (3, false), (4, true), (2 + WINDOW as u64, true), (3 + WINDOW as u64, false)]
        {
            assert_eq!(is_there(&world, number).await, there, "{number}");
        }
        assert_eq!((watermark(&world), world.ring.confirmed_seq()), (2, Seq(2)));
        until_confirmed(&world.ring, SOON).await;
    });
    assert_eq!((watermark(&world), world.ring.confirmed_seq()), (10, Seq(10)));
    assert_eq!(world.read_back(1).len(), 10);
    assert!(world.store.most_in_flight_bytes() > 2 * SEGMENT as u64, "one at a time");
}

#[test]
fn a_source_that_died_above_a_hole_fills_it_and_puts_nothing_twice() {
    let (world, _time) = spooled(4);
    world.store.inject(On::Put, &key(1), 1, Fault::Stall);
    while_shipping(&world.runtime, world.open().unwrap(), async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(is_there(&world, 4).await && !is_there(&world, 1).await);
    });
    assert_eq!((watermark(&world), world.spool_files().len()), (0, 4));
    world.store.forget();
    while_shipping(&world.runtime, world.open().unwrap(), until_confirmed(&world.ring, SOON));
    let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
    assert_eq!((seqs, watermark(&world)), (vec![1, 2, 3, 4], 4));
}

#[test]
fn a_takeover_among_several_uploads_seals_the_hole_and_what_lies_above_is_never_confirmed() {
    let (world, _time) = spooled(4);
    world.store.inject(On::Put, &key(2), 1, Fault::Delay(Duration::from_secs(5)));
    // So that a put learns of it, and no look.
    world.store.inject(On::Get, "/epochs/0000000002", 1, Fault::Delay(Duration::from_secs(30)));
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the one below is confirmed", SOON, || watermark(&world) == 1).await;
        let group = world.group_vault();
        let by =
            farshore_vault::EpochObject { reason: farshore_vault::Reason::Failover, ..super::world::noted(2).object() };
        until_there(&world, 4).await;
        group.create_epoch(&by).await.unwrap();
        assert_eq!(group.seal(Epoch(1), SegmentNo(1), &by).await.unwrap(), SegmentNo(2));
        until("the fence", SOON, || world.ring.shipper_state() == ShipperState::Fenced).await;
    });
    assert_eq!((watermark(&world), world.ring.confirmed_seq()), (1, Seq(1)));
    assert_eq!(world.spool_files().len(), 3, "they are kept for the loss receipt");
    assert_eq!(world.read_back(1).len(), 1, "the cut");
}

#[test]
fn the_next_epoch_is_opened_once_all_of_the_one_before_is_confirmed() {
    let mut world = World::paused();
    let _time = simulated(&world);
    assert!(write_noise(&mut world.lanes[0], 0, SEGMENT));
    while_shipping(&world.runtime, world.open().unwrap(), until_confirmed(&world.ring, SOON));
    let before = watermark(&world);
    fill_the_spool(&mut world, 4);
    world.next_epoch();
    assert!(write_noise(&mut world.lanes[0], 9, SEGMENT));
    world.store.inject(On::Put, &key(before + 2), 1, Fault::Delay(Duration::from_secs(10)));
    while_shipping(&world.runtime, world.open().unwrap(), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(is_there(&world, before + 4).await && !is_there(&world, before + 2).await);
        let next = world.group_vault().get_epoch(Epoch(2)).await.unwrap();
        assert_eq!(next, None, "it was opened before all below it was confirmed");
        until_confirmed(&world.ring, SOON).await;
    });
    assert_eq!(world.read_back(1).len() as u64, before + 4);
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(1));
}

#[test]
fn a_vault_that_throttles_is_asked_for_less_and_for_all_again_once_it_is_well() {
    let (world, _time) = spooled(40);
    world.store.inject(On::Put, "/log/", 12, Fault::Throttled);
    let before = world.store.puts();
    while_shipping(&world.runtime, world.open().unwrap(), async {
        let begin = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(watermark(&world), 0, "it is left alone for longer than one that does not answer");
        until_confirmed(&world.ring, Duration::from_secs(300)).await;
        assert!(begin.elapsed() > Duration::from_secs(8), "{:?}", begin.elapsed());
    });
    // Its own epoch, its announcement, and each segment once: what was throttled did not come there.
    assert_eq!(world.store.puts() - before, 42);
    assert_eq!(world.read_back(1).len(), 40);
}

#[test]
fn a_limit_of_bandwidth_is_kept_over_any_time() {
    let (world, _time) = spooled(20);
    let bandwidth = Bandwidth::new(Some("512 kbit/s"), [], jiff::tz::TimeZone::UTC).unwrap();
    let config = ShipperConfig { bandwidth, ..world.config() };
    let shipper = Shipper::open_on(config, world.vault.clone()).unwrap();
    while_shipping(&world.runtime, shipper, async {
        // A segment takes a second of it.
        for second in 0..16_u64 {
            let number = watermark(&world);
            assert!(number <= second + 2 && number + 2 >= second, "segment {number} after {second} s");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        until_confirmed(&world.ring, SOON).await;
    });
    assert_eq!(world.read_back(1).len(), 20);
}
