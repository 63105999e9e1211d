//! A crash after each durable step, made from the states that it leaves; and what must not be continued.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::ring::ShipperState;

use super::world::{World, make_ring, wait_for};
use crate::{ShipError, Watermark, spool};

/// A world whose shipper has put segments into its spool and not uploaded them, and what was noted before.
fn spooled() -> World {
    let mut world = World::new();
    world.write_some(5);
    world.ship_all();
    world.store.set_down(true);
    world.write_some(300);
    world.start().stop().unwrap();
    world.store.set_down(false);
    assert!(world.spool_files().len() >= 2);
    world
}

/// Ships the rest and proves that every number and every seq is there once.
fn goes_on(mut world: World) {
    world.write_some(5);
    world.ship_all();
    let last = Seq(world.ring.next_seq().0 - 1);
    let segments = world.read_back(1);
    assert_eq!(segments.last().unwrap().index().head().last_seq, last);
    let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
    assert_eq!(seqs, (1..=last.0).collect::<Vec<_>>(), "each write and flush once");
    assert!(world.spool_files().is_empty());
}

#[test]
fn after_the_ring_was_released() {
    goes_on(spooled());
}

#[test]
fn after_the_spool_was_durable_and_before_the_ring_was_released() {
    let mut world = World::new();
    world.write_some(5);
    world.ship_all();
    // The same records are sealed by a shipper on a copy of the ring: the spool has them, the ring has not released them.
    world.store.set_down(true);
    world.write_some(200);
    let (ring, copy) = (world.dir.path().join("ring"), world.dir.path().join("copy"));
    std::fs::copy(&ring, &copy).unwrap();
    let mut config = world.config();
    config.ring_path = copy;
    world.start_with(config).stop().unwrap();
    world.store.set_down(false);
    assert_eq!(world.ring.read_seq(), Seq(11));
    assert!(!world.spool_files().is_empty());
    goes_on(world);
}

#[test]
fn after_the_upload_and_before_the_watermark() {
    let world = spooled();
    let first = world.spool_files()[0].clone();
    let number = world.state.watermark().unwrap().unwrap().number.next();
    world.put_raw(1, number.0, std::fs::read(first).unwrap().into());
    goes_on(world);
}

#[test]
fn after_the_watermark_and_before_the_file_was_removed() {
    let world = spooled();
    let first = world.spool_files()[0].clone();
    let bytes = std::fs::read(first).unwrap();
    let segment = farshore_changelog::segment::Segment::parse(bytes.clone().into()).unwrap();
    let head = segment.index().head();
    world.put_raw(1, head.number.0, bytes.into());
    let hash = segment.index().hash();
    let watermark = Watermark { epoch: Epoch(1), number: head.number, hash, last_seq: head.last_seq };
    world.state.set_watermark(&watermark).unwrap();
    goes_on(world);
}

#[test]
fn after_the_epoch_was_created_and_before_that_was_noted() {
    let mut world = World::new();
    let object = world.state.epoch().unwrap().unwrap().object();
    world.block_on(world.group_vault().create_epoch(&object)).unwrap();
    world.write_some(5);
    goes_on(world);
}

#[test]
fn an_unfinished_spool_file_is_removed_and_a_strange_one_left() {
    let world = spooled();
    let unfinished = world.spool_dir().join("0000000001-00000000000000000099.seg.tmp");
    let strange = world.spool_dir().join("notes.txt");
    std::fs::write(&unfinished, "half").unwrap();
    std::fs::write(&strange, "mine").unwrap();
    world.ship_all();
    assert!(!unfinished.exists() && strange.exists());
}

/// Lets a shipper meet what is wrong, puts it right while that one goes on trying, and proves that nothing else was needed.
fn is_waited_for(world: World, what: &str, repair: impl FnOnce(&World)) {
    let confirmed = world.ring.confirmed_seq();
    let shipper = world.start();
    wait_for(what, || world.ring.shipper_state() == ShipperState::SegmentLost);
    clock::sleep(Duration::from_millis(100));
    assert_eq!(world.ring.confirmed_seq(), confirmed, "{what}: something was shipped");
    repair(&world);
    world.wait_confirmed();
    assert_eq!(world.ring.shipper_state(), ShipperState::Shipping);
    shipper.stop().unwrap();
    goes_on(world);
}

#[test]
fn a_damaged_spool_file_is_said_and_waited_for() {
    // In the header, in a block (proved before the upload), in the index, in the footer. How long a segment is depends on when it
    // was sealed.
    let places: [fn(usize) -> usize; 4] = [|_| 30, |_| 300, |len| len - 100, |len| len - 20];
    for place in places {
        let world = spooled();
        let file = world.spool_files()[0].clone();
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[place(good.len())] ^= 1;
        std::fs::write(&file, bad).unwrap();
        is_waited_for(world, "a flipped bit", |_| std::fs::write(&file, good).unwrap());
    }
}

#[test]
fn a_missing_or_cut_spool_file_is_said_and_waited_for() {
    let world = spooled();
    let (file, good) = (world.spool_files()[0].clone(), std::fs::read(&world.spool_files()[0]).unwrap());
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    is_waited_for(world, "a cut file", |_| std::fs::write(&file, good).unwrap());
    let world = spooled();
    let (file, good) = (world.spool_files()[0].clone(), std::fs::read(&world.spool_files()[0]).unwrap());
    std::fs::remove_file(&file).unwrap();
    is_waited_for(world, "a missing file", |_| std::fs::write(&file, good).unwrap());
}

#[test]
fn a_spool_whose_disk_is_not_mounted_is_said_and_waited_for() {
    let world = spooled();
    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::rename(world.spool_dir(), &elsewhere).unwrap();
    is_waited_for(world, "the spool is gone", |world| {
        std::fs::remove_dir(world.spool_dir()).unwrap();
        std::fs::rename(&elsewhere, world.spool_dir()).unwrap();
    });
}

#[test]
fn the_errors_of_a_spool_name_the_file_and_the_way_out() {
    let path = std::path::PathBuf::from("/spool/0000000001-00000000000000000005.seg");
    let lost = ShipError::Spool { path, what: "is missing".to_owned() }.to_string();
    assert!(lost.contains("00000000000000000005.seg is missing") && lost.contains("farshore resync --full"), "{lost}");
    let all = ShipError::SpoolLost { released: Seq(9), known: Seq(4) }.to_string();
    assert!(all.contains("farshore resync --full"), "{all}");
}

/// The way out: the next epoch, which copies everything, leaves what cannot be finished of this one.
#[test]
fn the_next_epoch_goes_on_without_a_segment_that_is_lost() {
    let mut world = spooled();
    let (files, confirmed) = (world.spool_files(), world.state.watermark().unwrap().unwrap().number);
    std::fs::remove_file(&files[0]).unwrap();
    world.next_epoch();
    world.write_some(3);
    world.ship_all();
    assert_eq!(world.read_back(1).last().unwrap().index().head().number, confirmed);
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(6));
    let aside: Vec<_> = spool::list(&world.spool_dir(), &super::world::group()).unwrap();
    assert_eq!(aside.len(), files.len() - 1);
    assert!(aside.iter().all(|f| f.aside && f.segment.is_ok()));
}

#[test]
fn what_the_spool_holds_of_the_epoch_before_is_shipped_before_that_is_sealed() {
    let mut world = spooled();
    let spooled = world.spool_files().len() as u64;
    let confirmed = world.state.watermark().unwrap().unwrap().number;
    world.next_epoch();
    world.write_some(3);
    world.ship_all();
    assert_eq!(world.read_back(1).len() as u64, confirmed.0 + spooled);
    assert_eq!(world.read_back(1).last().unwrap().index().head().last_seq, Seq(610));
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(6));
    let seal = world.block_on(world.group_vault().get_segment(Epoch(1), SegmentNo(confirmed.0 + spooled + 1)));
    assert!(seal.unwrap().is_some());
}

#[test]
fn the_spool_of_an_earlier_ring_of_the_same_epoch_is_refused_until_it_is_discarded() {
    let mut world = World::new();
    world.store.set_down(true);
    world.write_some(10);
    world.start().stop().unwrap();
    world.store.set_down(false);
    (world.ring, world.lanes) = make_ring(&world.dir.path().join("ring"), 1);
    assert!(matches!(world.start().end(), Err(ShipError::OtherRing { .. })));
    assert_eq!(world.ring.shipper_state(), ShipperState::Stopped);
    spool::discard(&world.spool_dir(), Epoch(1)).unwrap();
    goes_on(world);
}

#[test]
fn notes_that_do_not_belong_to_the_ring_are_refused() {
    let world = World::new();
    world.state.set_epoch(&super::world::noted(2)).unwrap();
    assert!(matches!(world.open(), Err(ShipError::State { .. })));
    std::fs::remove_file(world.dir.path().join("epoch.json")).unwrap();
    let error = world.open().err().unwrap().to_string();
    assert!(error.contains("farshore run"), "{error}");
}
