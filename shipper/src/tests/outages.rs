//! Vaults that fail, lose answers, and come back; a spool that fills up meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Hash, SegmentNo, Seq};
use farshore_changelog::op::Op;
use farshore_changelog::ring::ShipperState;
use farshore_vault::fault::{Fault, On};
use farshore_vault::{Vault, VaultError};

use super::world::{World, group, wait_for};
use crate::{ShipError, Shipper};

#[test]
fn lost_answers_make_no_second_copy_and_no_fence() {
    let mut world = World::new();
    world.store.inject(On::Put, "epochs/", 1, Fault::After);
    world.store.inject(On::Put, "/log/", 3, Fault::After);
    world.store.inject(On::Get, "epochs/", 1, Fault::Before);
    world.write_some(20);
    world.ship_all();
    assert_eq!(world.read_back(1).last().unwrap().index().head().last_seq, Seq(40));
    assert_eq!(world.state.fenced().unwrap(), None);
}

#[test]
fn a_vault_that_is_away_is_waited_for_and_the_spool_fills_to_its_limit() {
    let mut world = World::new();
    let mut config = world.config();
    config.spool_limit_bytes = 256 << 10;
    world.store.set_down(true);
    let shipper = world.start_with(config);
    // Content that does not compress, so that the spool's size follows the payload's.
    let mut salt = 0_u64;
    let mut noise = || -> Vec<u8> {
        let hashes = (0..512).flat_map(|_| {
            salt += 1;
            Hash::of(&salt.to_le_bytes()).0
        });
        hashes.collect()
    };
    let mut logged = 0;
    while world.ring.shipper_state() != ShipperState::SpoolFull {
        let (lane, payload) = (&mut world.lanes[0], noise());
        assert!(logged < 2000, "the spool does not fill");
        if lane.free_payload_bytes() > 1 << 20 {
            let offset = logged % 32 * 16384;
            world.log(Op::Write, 0, offset, &payload);
            logged += 1;
        }
        clock::sleep(Duration::from_millis(2));
    }
    // At its limit nothing more is taken: the ring keeps it.
    for _ in 0..20 {
        world.log(Op::Write, 0, 0, &noise());
    }
    clock::sleep(Duration::from_millis(300));
    let full = world.ring.spool_bytes();
    assert!(full < (256 + 80) << 10, "the spool went to {full} bytes");
    assert!(world.ring.read_seq() < world.ring.next_seq());
    assert_eq!(world.ring.confirmed_seq(), Seq(0));
    world.store.set_down(false);
    world.wait_confirmed();
    assert_eq!(world.ring.shipper_state(), ShipperState::Shipping);
    shipper.stop().unwrap();
    assert_eq!(world.read_back(1).last().unwrap().index().head().last_seq, Seq(world.ring.next_seq().0 - 1));
}

#[test]
fn sealing_goes_on_while_the_vault_is_slow() {
    let mut world = World::new();
    world.store.inject(On::Put, "/log/", 1, Fault::Delay(Duration::from_millis(1500)));
    let shipper = world.start();
    for segments in 1..=3 {
        world.write_some(5);
        wait_for("segments in the spool", || {
            world.spool_files().len() >= segments && world.ring.read_seq() == world.ring.next_seq()
        });
    }
    assert_eq!(world.ring.confirmed_seq(), Seq(0));
    world.wait_confirmed();
    shipper.stop().unwrap();
}

#[test]
fn a_shipper_that_is_stopped_without_a_vault_leaves_everything_for_the_next() {
    let mut world = World::new();
    world.store.set_down(true);
    world.write_some(30);
    world.start().stop().unwrap();
    assert_eq!((world.ring.confirmed_seq(), world.ring.read_seq()), (Seq(0), Seq(61)));
    assert!(!world.spool_files().is_empty());
    world.store.set_down(false);
    world.ship_all();
    assert_eq!(world.read_back(1).last().unwrap().index().head().last_seq, Seq(60));
}

#[test]
fn a_folder_that_is_no_vault_is_an_error_at_first_and_waited_for_later() {
    let mut world = World::new();
    let folder = world.dir.path().join("vault");
    std::fs::create_dir(&folder).unwrap();
    let mut config = world.config();
    config.vault_url = format!("file://{}", folder.display());
    let stop = AtomicBool::new(false);
    let refused = Shipper::open(config.clone()).unwrap().run(&stop).unwrap_err();
    assert!(matches!(refused, ShipError::Vault(_)), "{refused}");
    assert_eq!(world.ring.shipper_state(), ShipperState::Stopped);

    let vault = world.block_on(Vault::init(&config.vault_url)).unwrap();
    world.write_some(2);
    let ship = |what: &dyn Fn()| {
        let shipper = Shipper::open(config.clone()).unwrap();
        std::thread::scope(|scope| {
            let shipping = scope.spawn(|| shipper.run(&stop));
            what();
            stop.store(true, Ordering::Release);
            shipping.join().unwrap().unwrap();
            stop.store(false, Ordering::Release);
        });
    };
    ship(&|| world.wait_confirmed());
    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    std::fs::create_dir(&folder).unwrap();
    world.write_some(2);
    ship(&|| {
        wait_for("the missing vault is noticed", || world.ring.shipper_state() == ShipperState::VaultUnreachable);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "something was created in the empty mount point");
        std::fs::remove_dir(&folder).unwrap();
        std::fs::rename(&elsewhere, &folder).unwrap();
        world.wait_confirmed();
    });
    let newest = world.block_on(vault.group(&group()).list_segments(Epoch(1), SegmentNo(1)));
    assert_eq!(newest.unwrap().len() as u64, world.state.watermark().unwrap().unwrap().number.0);
}

#[test]
fn a_vault_of_another_version_stops_the_group() {
    let world = World::new();
    std::fs::write(world.dir.path().join("farshore-vault.json"), r#"{"format":9}"#).unwrap();
    let mut config = world.config();
    config.vault_url = format!("file://{}", world.dir.path().display());
    let refused = Shipper::open(config).unwrap().run(&false.into()).unwrap_err();
    assert!(matches!(refused, ShipError::Vault(VaultError::Version { found: 9, .. })), "{refused}");
}
