//! A crash after each durable step, made from the states that it leaves; and what must not be continued.

use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::ring::ShipperState;

use super::world::{World, make_ring};
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
    world.open().unwrap();
    assert!(!unfinished.exists() && strange.exists());
}

#[test]
fn a_damaged_or_missing_spool_file_stops_the_group_and_names_it() {
    let world = spooled();
    let files = world.spool_files();
    let good = std::fs::read(&files[0]).unwrap();
    let refusal = |world: &World| match world.open() {
        Ok(shipper) => shipper.run(&false.into()).unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    // In the header, in a block (proved before the upload), in the index, in the footer.
    for at in [30, 300, good.len() - 100, good.len() - 20] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&files[0], bad).unwrap();
        let error = refusal(&world);
        assert!(error.contains(files[0].file_name().unwrap().to_str().unwrap()), "byte {at}: {error}");
        assert_eq!(world.ring.shipper_state(), ShipperState::Stopped);
    }
    std::fs::write(&files[0], &good[..good.len() - 1]).unwrap();
    assert!(matches!(world.open(), Err(ShipError::Spool { .. })));
    std::fs::remove_file(&files[0]).unwrap();
    assert!(refusal(&world).contains("missing"));
    std::fs::write(&files[0], &good).unwrap();
    goes_on(world);
}

#[test]
fn a_lost_spool_is_noticed() {
    let world = spooled();
    std::fs::remove_dir_all(world.spool_dir()).unwrap();
    assert!(matches!(world.open(), Err(ShipError::SpoolLost { .. })));
    assert_eq!(world.ring.shipper_state(), ShipperState::Stopped);
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
    assert!(matches!(world.open(), Err(ShipError::OtherRing { .. })));
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
