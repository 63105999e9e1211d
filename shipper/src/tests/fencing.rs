//! Another writer takes the group over.

use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::op::Op;
use farshore_changelog::ring::ShipperState;
use farshore_vault::Opened;
use farshore_vault::fault::{Fault, On};

use super::world::{World, noted, wait_for};
use crate::{Fenced, ShipError};

#[test]
fn a_source_that_writes_into_a_sealed_epoch_is_fenced_and_keeps_what_it_could_not_ship() {
    let mut world = World::new();
    world.write_some(5);
    world.ship_all();
    let shipped = world.read_back(1).len();
    let (by, sealed_at) = world.take_over(1);
    let shipper = world.start();
    world.write_some(5);
    wait_for("the fence", || world.ring.shipper_state() == ShipperState::Fenced);
    assert_eq!(world.state.fenced().unwrap(), Some(Fenced { epoch: Epoch(1), by }));
    wait_for("the ring is emptied", || world.ring.read_seq() == world.ring.next_seq());
    assert_eq!(world.read_back(1).len(), shipped, "a late write reached the log");
    assert_eq!(sealed_at, SegmentNo(shipped as u64 + 1));
    let kept = world.spool_files();
    assert!(!kept.is_empty());
    assert_eq!(world.ring.confirmed_seq(), Seq(10));

    // From here on nothing is kept, and nothing waits.
    world.write_some(200);
    wait_for("the ring is emptied", || world.ring.read_seq() == world.ring.next_seq());
    assert_eq!(world.spool_files(), kept);
    shipper.stop().unwrap();
    assert_eq!(world.ring.shipper_state(), ShipperState::Fenced);

    // And a new shipper stays fenced, asks nobody, and keeps no more either.
    let puts = world.store.puts();
    let again = world.start();
    world.write_some(5);
    wait_for("the ring is emptied again", || world.ring.read_seq() == world.ring.next_seq());
    again.stop().unwrap();
    assert_eq!((world.store.puts(), world.spool_files()), (puts, kept));
}

#[test]
fn what_the_ring_holds_when_a_fenced_shipper_starts_is_kept_if_nothing_was_discarded_before() {
    let mut world = World::new();
    world.write_some(5);
    world.ship_all();
    let (by, _) = world.take_over(1);
    world.state.set_fenced(&Fenced { epoch: Epoch(1), by }).unwrap();
    world.write_some(5);
    let shipper = world.start();
    wait_for("the ring is emptied", || world.ring.read_seq() == Seq(21));
    shipper.stop().unwrap();
    assert!(!world.spool_files().is_empty());
}

#[test]
fn an_idle_source_learns_of_a_failover_too() {
    let world = World::new();
    let mut config = world.config();
    config.heartbeat = Duration::from_millis(50);
    let shipper = world.start_with(config);
    wait_for("the epoch is open", || world.ring.shipper_state() == ShipperState::Shipping);
    // Not sealed yet: only the epoch object can tell.
    let by = noted(2).object();
    assert!(matches!(world.block_on(world.group_vault().create_epoch(&by)).unwrap(), Opened::Mine(_)));
    wait_for("the fence", || world.ring.shipper_state() == ShipperState::Fenced);
    shipper.stop().unwrap();
}

#[test]
fn an_epoch_that_another_opened_first_is_not_ours() {
    let mut world = World::new();
    let first = noted(1).object();
    assert!(matches!(world.block_on(world.group_vault().create_epoch(&first)).unwrap(), Opened::Mine(_)));
    world.write_some(3);
    let shipper = world.start();
    wait_for("the fence", || world.ring.shipper_state() == ShipperState::Fenced);
    shipper.stop().unwrap();
    assert_eq!(world.state.fenced().unwrap(), Some(Fenced { epoch: Epoch(1), by: first }));
    assert!(world.read_back(1).is_empty());
    assert!(!world.state.epoch().unwrap().unwrap().opened);
}

#[test]
fn a_foreign_segment_in_an_epoch_that_is_not_over_stops_the_group() {
    let mut world = World::new();
    world.write_some(3);
    world.ship_all();
    let next = world.state.watermark().unwrap().unwrap().number.next();
    world.put_raw(1, next.0, Bytes::from_static(b"another source's"));
    let shipper = world.start();
    world.log(Op::Write, 0, 0, &[1; 512]);
    let conflict = shipper.end().unwrap_err();
    assert!(matches!(&conflict, ShipError::Conflict { number, .. } if *number == next), "{conflict}");
    assert_eq!(world.ring.shipper_state(), ShipperState::Stopped);
    assert_eq!(world.state.fenced().unwrap(), None);
}

#[test]
fn a_failover_during_an_outage_is_met_when_the_vault_is_back() {
    let mut world = World::new();
    world.write_some(5);
    world.ship_all();
    let (_, at) = world.take_over(1);
    world.store.inject(On::Put, "/log/", 2, Fault::Before);
    world.store.inject(On::Get, "epochs/", 3, Fault::Before);
    let shipper = world.start();
    world.write_some(5);
    wait_for("the fence", || world.ring.shipper_state() == ShipperState::Fenced);
    shipper.stop().unwrap();
    assert_eq!(world.block_on(world.group_vault().get_segment(Epoch(1), at.next())).unwrap(), None);
}
