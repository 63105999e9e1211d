//! A put that is not simply done: what it means, and that only what is in the vault moves what is confirmed. (Open bits of the
//! dirty map are cleared by `confirmed_seq`, so it must move for nothing else.)

use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::ring::ShipperState;
use farshore_changelog::segment::{Kind, Segment};
use farshore_vault::fault::{Fault, On};

use super::simulated::{simulated, until, until_confirmed, while_shipping, write_noise};
use super::world::World;
use crate::ShipError;

const SOON: Duration = Duration::from_secs(20);

/// A world in which four operations are confirmed and a fifth is in the ring, and the number of the next segment.
fn shipped() -> (World, clock::Simulation, SegmentNo) {
    let mut world = World::paused();
    let time = simulated(&world);
    world.write_some(2);
    ship(&world);
    let next = world.state.watermark().unwrap().unwrap().number.next();
    assert!(write_noise(&mut world.lanes[0], 1, 4096));
    (world, time, next)
}

fn ship(world: &World) {
    while_shipping(&world.runtime, world.open().unwrap(), until_confirmed(&world.ring, SOON));
}

/// Seals what the ring holds and does not get it into the vault.
fn fill_the_spool(world: &World) {
    world.store.set_down(true);
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the spool has it", SOON, || world.ring.read_seq() == world.ring.next_seq()).await;
    });
    world.store.set_down(false);
}

/// Every seq is there once, and nobody is fenced.
fn is_whole(world: &World) {
    world.store.forget();
    let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
    assert_eq!(seqs, (1..world.ring.next_seq().0).collect::<Vec<_>>());
    assert_eq!(world.ring.confirmed_seq().next(), world.ring.next_seq());
    assert_eq!(world.state.fenced().unwrap(), None);
}

#[test]
fn a_put_that_succeeded_and_whose_answer_was_lost_is_confirmed_as_the_one_segment_that_it_is() {
    for may_read in [true, false] {
        let (world, _time, next) = shipped();
        world.store.inject(On::Put, "/log/", 1, Fault::After);
        if !may_read {
            world.store.inject(On::Get, "/log/", 99, Fault::Denied);
        }
        ship(&world);
        is_whole(&world);
        let segments = world.read_back(1);
        assert_eq!(segments.iter().filter(|s| s.index().head().last_seq == Seq(5)).count(), 1);
        assert_eq!(segments.last().unwrap().index().head().number, next);
    }
}

#[test]
fn an_undecided_refusal_is_asked_until_it_is_decided_and_confirms_nothing() {
    // Each once and again, so that some begin in the middle of the second ask.
    for undecided in 1..12 {
        let (world, _time, next) = shipped();
        world.store.inject(On::Put, "/log/", undecided, Fault::Undecided);
        while_shipping(&world.runtime, world.open().unwrap(), async {
            let there = async || world.group_vault().get_segment(Epoch(1), next).await.unwrap().is_some();
            while !there().await {
                assert_eq!(
                    world.ring.confirmed_seq(),
                    Seq(4),
                    "confirmed after {undecided} refusals, and it is not there"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            until_confirmed(&world.ring, SOON).await;
        });
        is_whole(&world);
    }
}

/// S3 answers 409 while an earlier put of the same key is at work: that of a shipper that was killed, say.
#[test]
fn an_undecided_refusal_is_no_lost_answer_for_a_source_that_may_not_read_its_log() {
    for undecided in 1..=4 {
        let (world, _time, _) = shipped();
        fill_the_spool(&world);
        world.store.inject(On::Get, "/log/", 99, Fault::Denied);
        world.store.inject(On::Put, "/log/", undecided, Fault::Undecided);
        ship(&world);
        is_whole(&world);
    }
}

#[test]
fn a_refusal_that_is_a_seal_fences_and_confirms_nothing() {
    for may_read in [true, false] {
        let (world, _time, next) = shipped();
        fill_the_spool(&world);
        let (by, sealed_at) = world.take_over(1);
        assert_eq!(sealed_at, next);
        if !may_read {
            world.store.inject(On::Get, "/log/", 99, Fault::Denied);
        }
        // So that the put meets the seal before a look finds the epoch.
        world.store.inject(On::Get, "/epochs/", 1, Fault::Delay(Duration::from_secs(5)));
        while_shipping(&world.runtime, world.open().unwrap(), async {
            until("the fence", SOON, || world.ring.shipper_state() == ShipperState::Fenced).await;
        });
        assert_eq!(world.state.fenced().unwrap().unwrap().by, by);
        assert_eq!(world.ring.confirmed_seq(), Seq(4));
        assert_eq!(world.state.watermark().unwrap().unwrap().number.next(), next);
        assert_eq!(world.spool_files().len(), 1, "it is kept for the loss receipt");
    }
}

#[test]
fn a_refusal_that_is_another_sources_segment_stops_the_group_and_confirms_nothing() {
    let (world, _time, next) = shipped();
    world.put_raw(1, next.0, Bytes::from_static(b"another source's"));
    let shipper = world.open().unwrap();
    let ended = world.runtime.block_on(super::simulated::drive(shipper, &false.into())).unwrap_err();
    assert!(matches!(&ended, ShipError::Conflict { number, .. } if *number == next), "{ended}");
    assert_eq!((world.ring.confirmed_seq(), world.state.fenced().unwrap()), (Seq(4), None));
}

#[test]
fn a_source_that_may_not_read_its_log_seals_its_epoch_and_goes_on_in_the_next_after_lost_answers() {
    let (mut world, _time, _) = shipped();
    world.store.inject(On::Get, "/log/", 99, Fault::Denied);
    world.store.inject(On::Put, "/log/", 2, Fault::After);
    ship(&world);
    world.store.inject(On::Put, "/log/", 1, Fault::After);
    world.next_epoch();
    assert!(write_noise(&mut world.lanes[0], 1, 4096));
    ship(&world);
    assert_eq!(world.state.watermark().unwrap().unwrap().epoch, Epoch(2));
    world.store.forget();
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(1));
}

/// Several are put at once, so a source that dies leaves holes. The watermark is
/// below it, so `confirmed_seq` is too, and the regions of everything above are still open in the dirty map.
#[test]
fn a_segment_above_a_hole_is_dead_once_the_next_epoch_seals() {
    let (mut world, _time, next) = shipped();
    fill_the_spool(&world);
    assert!(write_noise(&mut world.lanes[0], 2, 4096));
    fill_the_spool(&world);
    let files = world.spool_files();
    assert_eq!(files.len(), 2);
    // The second is in the vault, the first is not, and the host dies with ring and spool.
    world.put_raw(1, next.next().0, std::fs::read(&files[1]).unwrap().into());
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(world.ring.confirmed_seq(), Seq(4));
    world.next_epoch();
    assert!(write_noise(&mut world.lanes[0], 3, 4096));
    ship(&world);
    let sealed = world.block_on(world.group_vault().get_segment(Epoch(1), next)).unwrap().unwrap();
    let sealed = Segment::parse(sealed).unwrap();
    assert_eq!((sealed.index().head().kind, sealed.index().head().successor), (Kind::Seal, Epoch(2)));
    assert_eq!(world.read_back(1).last().unwrap().index().head().last_seq, Seq(4), "the cut is below the hole");
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(1));
}
