//! Requests are not cut, and what is aborted or void is passed over.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{Draft, Slot};

use super::world::{World, wait_for};

fn draft(offset: u64, len: u64, flags: RecordFlags) -> Draft {
    Draft { time: clock::wall(), disk: DiskIndex(0), op: Op::Write, flags, offset, len }
}

/// A request of three records in the order, none of them committed.
fn request_of_three(world: &mut World, flags: RecordFlags) -> [Slot; 3] {
    let mut slots = [0, 1, 2].map(|i| world.reserve(0, &[i; 512]));
    let [a, b, c] = &mut slots;
    world.lanes[0].sequence(&mut [
        (a, draft(0, 512, flags)),
        (b, draft(512, 512, flags)),
        (c, draft(1024, 512, flags)),
    ]);
    slots
}

/// Seq, MORE and BOUNDARY of everything that arrived, and the last seq that is covered.
fn arrived(world: &World) -> (Vec<(u64, bool, bool)>, Seq) {
    let records = world.read_records(1);
    let flags = |r: &farshore_changelog::op::Record, flag| r.flags.has(flag);
    let list =
        records.iter().map(|r| (r.seq.0, flags(r, RecordFlags::MORE), flags(r, RecordFlags::BOUNDARY))).collect();
    (list, world.read_back(1).last().unwrap().index().head().last_seq)
}

#[test]
fn a_segment_ends_before_a_request_that_is_not_whole() {
    let mut world = World::new();
    let shipper = world.start();
    world.log(Op::Write, 0, 8192, &[9; 512]);
    let [a, b, c] = request_of_three(&mut world, RecordFlags::FUA);
    a.commit();
    b.commit();
    wait_for("what is before the request", || world.ring.confirmed_seq() == Seq(1));
    clock::sleep(Duration::from_millis(100));
    assert_eq!(arrived(&world), (vec![(1, false, true)], Seq(1)));
    c.commit();
    wait_for("the request", || world.ring.confirmed_seq() == Seq(4));
    let whole = vec![(1, false, true), (2, true, false), (3, true, false), (4, false, true)];
    assert_eq!(arrived(&world), (whole, Seq(4)));
    shipper.stop().unwrap();
}

#[test]
fn a_request_that_stays_unfinished_is_left_in_the_ring() {
    let mut world = World::new();
    world.log(Op::Write, 0, 8192, &[9; 512]);
    let [a, b, c] = request_of_three(&mut world, RecordFlags::NONE);
    a.commit();
    world.start().stop().unwrap();
    assert_eq!((world.ring.read_seq(), world.ring.confirmed_seq()), (Seq(2), Seq(1)));
    b.commit();
    c.commit();
    world.ship_all();
    assert_eq!(arrived(&world).1, Seq(4));
}

#[test]
fn the_rest_of_a_request_that_was_aborted_does_not_hold_up_the_log() {
    let mut world = World::new();
    let [a, b, c] = request_of_three(&mut world, RecordFlags::NONE);
    a.commit();
    b.abort();
    c.abort();
    world.ship_all();
    assert_eq!(arrived(&world), (vec![(1, false, true)], Seq(3)));
    world.log_flagged(Op::Flush, RecordFlags::NONE, 0, 0, 0, &[]);
    world.ship_all();
    assert_eq!(arrived(&world).1, Seq(4));
}

#[test]
fn seqs_without_a_record_are_covered_when_the_shipper_stops() {
    let mut world = World::new();
    world.log(Op::Write, 0, 0, &[1; 512]);
    let mut slot = world.reserve(0, &[2; 512]);
    world.lanes[0].sequence(&mut [(&mut slot, draft(0, 512, RecordFlags::NONE))]);
    slot.abort();
    world.start().stop().unwrap();
    assert_eq!((world.ring.read_seq(), world.ring.confirmed_seq()), (Seq(3), Seq(2)));
}

#[test]
fn what_was_overwritten_before_a_flush_is_not_shipped() {
    let mut world = World::new();
    for i in 0..20 {
        world.log(Op::Write, 0, 0, &[i; 512]);
    }
    world.log_flagged(Op::Flush, RecordFlags::NONE, 0, 0, 0, &[]);
    world.ship_all();
    assert_eq!(arrived(&world).0, [(20, false, false), (21, false, true)]);
}
