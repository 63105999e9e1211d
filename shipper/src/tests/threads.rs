//! A shipper with threads, on a real file system: one segment is on its way into the spool while the next is filled.

use std::path::Path;
use std::sync::Arc;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Hash, SegmentNo, Seq};
use farshore_changelog::ring::ShipperState;
use farshore_changelog::segment::{Kind, SegmentWriter, Stamp};

use super::world::{World, group, noted, wait_for};
use crate::spool::{Reserve, Spool};
use crate::storing::Storing;

/// Seqs of the log in the vault, in order.
fn seqs(world: &World) -> Vec<u64> {
    world.read_records(1).iter().map(|record| record.seq.0).collect()
}

#[test]
fn a_spool_that_is_away_for_a_while_loses_nothing_and_keeps_the_order() {
    let mut world = World::new();
    let shipper = world.start();
    world.write_some(20);
    world.wait_confirmed();
    let (spool, away) = (world.spool_dir(), world.dir.path().join("away"));
    std::fs::rename(&spool, &away).unwrap();
    let before = world.ring.confirmed_seq();
    // Several segments: one is refused, the next is filled, and what comes after stays in the ring.
    world.write_some(400);
    wait_for("it is said", || world.ring.shipper_state() == ShipperState::SpoolFailed);
    assert_eq!(
        (world.ring.read_seq(), world.ring.confirmed_seq()),
        (before.next(), before),
        "the ring gave something up"
    );
    std::fs::rename(&away, &spool).unwrap();
    world.wait_confirmed();
    assert_eq!(world.ring.shipper_state(), ShipperState::Shipping);
    shipper.stop().unwrap();
    assert_eq!(seqs(&world), (1..=840).collect::<Vec<_>>());
}

#[test]
fn a_shipper_that_ends_with_a_segment_on_its_way_is_followed_by_one_that_goes_on() {
    let mut world = World::new();
    let mut logged = 0;
    for round in 0..20 {
        let shipper = world.start();
        world.write_some(50 + round);
        logged += 2 * (50 + round);
        shipper.stop().unwrap();
    }
    world.ship_all();
    assert_eq!(seqs(&world), (1..=logged).collect::<Vec<_>>());
}

/// The lock is given up after the thread has ended: else it could put a segment beside that of the next shipper.
#[test]
fn whoever_drops_it_waits_for_the_segment_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let spool = |dir: &Path| Spool::new(&dir.join("spool"), &group(), Reserve::in_folder(dir), 0);
    let first = Arc::new(spool(dir.path()));
    first.look_through().unwrap();
    let object = noted(1).object();
    let stamp = Stamp {
        group: group(),
        epoch: Epoch(1),
        number: SegmentNo(1),
        first_seq: Seq(1),
        last_seq: Seq(0),
        created: clock::wall(),
        watermark: SegmentNo(0),
        prev: Hash::of(&object.encoded()),
    };
    let sealed = Arc::new(SegmentWriter::new(Kind::Log, Some(1)).seal(stamp).unwrap());
    let mut storing = Storing::thread(Arc::clone(&first)).unwrap();
    storing.begin(&sealed);
    drop(storing);
    let found = spool(dir.path()).look_through().unwrap();
    assert_eq!(found.iter().map(|f| (f.number, f.segment.is_ok())).collect::<Vec<_>>(), [(SegmentNo(1), true)]);
}
