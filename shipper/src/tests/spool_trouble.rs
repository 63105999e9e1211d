//! A spool that is full, or whose disk fails: nothing is lost, the ring's header says so, and it goes on by itself.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use farshore_changelog::ids::Seq;
use farshore_changelog::ring::ShipperState;
use nix::errno::Errno;

use super::disk::BadDisk;
use super::simulated::{simulated, until, until_confirmed, while_shipping, write_noise};
use super::world::World;

const SOON: Duration = Duration::from_secs(10);

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

/// Every seq is in the vault, once and in order.
fn is_whole(world: &World) {
    let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
    assert_eq!(seqs, (1..world.ring.next_seq().0).collect::<Vec<_>>());
    assert!(world.spool_files().is_empty());
}

#[test]
fn a_spool_disk_that_is_full_or_fails_leaves_everything_in_the_ring_until_it_takes_it() {
    for (errno, state) in [
        (Errno::ENOSPC, ShipperState::SpoolFull),
        (Errno::EDQUOT, ShipperState::SpoolFull),
        (Errno::EIO, ShipperState::SpoolFailed),
        (Errno::EROFS, ShipperState::SpoolFailed),
        (Errno::ENOENT, ShipperState::SpoolFailed),
    ] {
        let mut world = World::paused();
        let (_time, (disk, _medium)) = (simulated(&world), BadDisk::here());
        world.write_some(5);
        let (ring, shipper) = (world.ring.clone(), world.open().unwrap());
        let tries = Rc::new(Cell::new(0));
        let tried = Rc::clone(&tries);
        while_shipping(&world.runtime, shipper, async {
            until_confirmed(&ring, SOON).await;
            disk.rule(move |path, _| {
                let hit = path.to_str().unwrap().contains("/spool/");
                tried.set(tried.get() + u32::from(hit));
                hit.then_some(errno)
            });
            let lane = &mut world.lanes[0];
            assert!((0..20).all(|n| write_noise(lane, n, 16 << 10)));
            seconds(60).await;
            assert_eq!(ring.shipper_state(), state, "{errno}");
            assert_eq!(
                (ring.read_seq(), ring.confirmed_seq()),
                (Seq(11), Seq(10)),
                "{errno}: the ring gave something up"
            );
            // Each try touches the file a few times at most.
            assert!((12..120).contains(&tries.get()), "{errno}: touched {} times in a minute", tries.get());
            disk.heal();
            until_confirmed(&ring, SOON).await;
            assert_eq!(ring.shipper_state(), ShipperState::Shipping);
        });
        is_whole(&world);
    }
}

#[test]
fn a_spool_that_became_read_only_is_still_emptied_into_the_vault() {
    let mut world = World::paused();
    let (_time, (disk, _medium)) = (simulated(&world), BadDisk::here());
    world.store.set_down(true);
    world.write_some(300);
    let (ring, shipper, store) = (world.ring.clone(), world.open().unwrap(), world.store.clone());
    while_shipping(&world.runtime, shipper, async {
        until("the spool has it", SOON, || ring.read_seq() == ring.next_seq()).await;
        disk.fail("/spool/", Errno::EROFS);
        store.set_down(false);
        until("it is confirmed", SOON, || ring.confirmed_seq().next() == ring.next_seq()).await;
        assert_eq!(ring.shipper_state(), ShipperState::SpoolFailed);
        assert!(ring.spool_bytes() > 0, "what could not be removed counts");
        disk.heal();
        assert!(write_noise(&mut world.lanes[0], 1, 4096));
        until_confirmed(&ring, SOON).await;
        assert_eq!(ring.shipper_state(), ShipperState::Shipping);
    });
    is_whole(&world);
}

#[test]
fn a_watermark_that_cannot_be_noted_is_not_passed() {
    let mut world = World::paused();
    let (_time, (disk, _medium)) = (simulated(&world), BadDisk::here());
    let (ring, shipper) = (world.ring.clone(), world.open().unwrap());
    while_shipping(&world.runtime, shipper, async {
        until_confirmed(&ring, SOON).await;
        disk.fail("shipped.json", Errno::EIO);
        for n in 0..5 {
            assert!(write_noise(&mut world.lanes[0], n, 4096));
            seconds(2).await;
        }
        assert_eq!((ring.confirmed_seq(), ring.shipper_state()), (Seq(0), ShipperState::SpoolFailed));
        disk.heal();
        until_confirmed(&ring, SOON).await;
    });
    is_whole(&world);
}

/// Bytes of the spool and of the notes.
fn used(dir: &Path) -> u64 {
    let files = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap());
    let counts = |name: &str| ["json", "tmp", "reserve", "seg"].iter().any(|end| name.ends_with(end));
    let all = files(dir.to_owned()).chain(files(dir.join("spool")));
    all.filter(|e| counts(e.file_name().to_str().unwrap())).map(|e| e.metadata().map_or(0, |m| m.len())).sum()
}

#[test]
fn a_full_disk_under_spool_and_notes_is_left_without_a_hand() {
    let mut world = World::paused();
    let (_time, (disk, _medium)) = (simulated(&world), BadDisk::here());
    let (ring, shipper, store) = (world.ring.clone(), world.open().unwrap(), world.store.clone());
    let dir = world.dir.path().to_owned();
    let disk_bytes = Rc::new(Cell::new(2 << 20));
    while_shipping(&world.runtime, shipper, async {
        until_confirmed(&ring, SOON).await;
        let (limit, there) = (Rc::clone(&disk_bytes), dir.clone());
        disk.rule(move |_, bytes| (bytes > 0 && used(&there) + bytes as u64 > limit.get()).then_some(Errno::ENOSPC));
        store.set_down(true);
        let mut written = 0;
        while ring.shipper_state() != ShipperState::SpoolFull || written < 300 {
            assert!(write_noise(&mut world.lanes[0], written, 16 << 10), "the ring is full at {written}");
            written += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Somebody else takes what is left: no note finds room, so no file can be removed for it.
        disk_bytes.set(used(&dir));
        store.set_down(false);
        until_confirmed(&ring, Duration::from_secs(120)).await;
        assert_eq!(ring.shipper_state(), ShipperState::Shipping);
    });
    is_whole(&world);
}
