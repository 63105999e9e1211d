//! What the target has put for the source: requests, and hashes for a resync.

use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::hashes::{Chunk, Hashes};
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, Hash, Seq};
use farshore_changelog::ring::ShipperState;
use farshore_vault::fault::{Fault, On};
use farshore_vault::{HashPlan, HashedDisk, Request};

use super::simulated::{simulated, until, while_shipping, write_noise};
use super::world::{DISK_BYTES, World, group};
use crate::requests;

const SOON: Duration = Duration::from_secs(130);

fn ask(world: &World, request: &Request) -> u64 {
    world.block_on(world.group_vault().put_request(request)).unwrap()
}

fn full() -> Request {
    Request::Resync { full: true, ranges: vec![] }
}

/// Puts bytes under a key of the group's `to-source/`.
fn put_raw(world: &World, key: &str, bytes: &[u8]) {
    use object_store::ObjectStoreExt;
    let path = object_store::path::Path::from(format!("groups/web01/to-source/{key}"));
    world.block_on(world.store.put(&path, bytes.to_vec().into())).unwrap();
}

#[test]
fn requests_are_fetched_in_order_and_never_one_that_was_done() {
    let world = World::paused();
    let _time = simulated(&world);
    let dir = world.dir.path();
    assert_eq!((ask(&world, &Request::Digests), ask(&world, &full())), (1, 2));
    requests::set_done(dir, 1).unwrap();
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the second", SOON, || requests::pending(dir).unwrap() == [(2, full())]).await;
        let vault = world.group_vault();
        assert_eq!(vault.put_request(&Request::Drain).await.unwrap(), 3);
        until("the third", SOON, || requests::pending(dir).unwrap().len() == 2).await;
        requests::set_done(dir, 3).unwrap();
        tokio::time::sleep(SOON).await;
        assert_eq!(requests::pending(dir).unwrap(), []);
    });
    while_shipping(&world.runtime, world.open().unwrap(), async { tokio::time::sleep(SOON).await });
    assert_eq!(requests::pending(dir).unwrap(), []);
}

#[test]
fn a_request_that_cannot_be_read_is_passed_over_and_stops_nothing() {
    let mut world = World::paused();
    let _time = simulated(&world);
    put_raw(&world, "requests/00000000000000000001.json", br#"{"format":7,"request":"dance"}"#);
    put_raw(&world, "requests/00000000000000000002.json", b"garbage");
    assert_eq!(ask(&world, &Request::Digests), 3);
    world.write_some(3);
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the third", SOON, || requests::pending(world.dir.path()).unwrap() == [(3, Request::Digests)]).await;
        until("the log", SOON, || world.ring.confirmed_seq() == Seq(6)).await;
    });
}

#[test]
fn no_more_requests_are_fetched_than_may_wait() {
    let world = World::paused();
    let _time = simulated(&world);
    for _ in 0..requests::PENDING_MAX + 3 {
        ask(&world, &Request::Digests);
    }
    let dir = world.dir.path();
    while_shipping(&world.runtime, world.open().unwrap(), async {
        tokio::time::sleep(SOON).await;
        assert_eq!(requests::pending(dir).unwrap().len(), requests::PENDING_MAX);
        requests::set_done(dir, 10).unwrap();
        until("the rest", SOON, || requests::pending(dir).unwrap().len() == requests::PENDING_MAX - 7).await;
    });
}

/// The way out of a lost segment is a request: it must arrive just then.
#[test]
fn requests_come_while_a_segment_is_lost_and_while_a_put_stalls() {
    let mut world = World::paused();
    let _time = simulated(&world);
    world.store.set_down(true);
    world.write_some(5);
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the spool has it", SOON, || world.ring.read_seq() == Seq(11)).await;
    });
    world.store.set_down(false);
    let (file, dir) = (world.spool_files()[0].clone(), world.dir.path());
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    ask(&world, &full());
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the request", SOON, || requests::pending(dir).unwrap().len() == 1).await;
        assert_eq!(world.ring.shipper_state(), ShipperState::SegmentLost);
        std::fs::write(&file, &bytes).unwrap();
        world.store.inject(On::Put, "/log/", 1, Fault::Stall);
        world.group_vault().put_request(&Request::Digests).await.unwrap();
        until("the second request", Duration::from_secs(61), || requests::pending(dir).unwrap().len() == 2).await;
        assert_eq!(world.ring.confirmed_seq(), Seq(0));
        until("the log", SOON, || world.ring.confirmed_seq() == Seq(10)).await;
    });
}

const UNIT_BYTES: u32 = 64 << 10;
const CHUNK_UNITS: u32 = 5;

fn plan() -> HashPlan {
    let units = DISK_BYTES.div_ceil(u64::from(UNIT_BYTES));
    let disk = |name: &str| HashedDisk { name: DiskName::new(name).unwrap(), units };
    HashPlan {
        epoch: Epoch(1),
        seq: Seq(1),
        unit_bytes: UNIT_BYTES,
        chunk_units: CHUNK_UNITS,
        disks: vec![disk("vda"), disk("vdb")],
    }
}

fn hash(disk: DiskIndex, unit: u64) -> Hash {
    Hash::of(&[u64::from(disk.0).to_le_bytes(), unit.to_le_bytes()].concat())
}

fn chunk(plan: &HashPlan, disk: DiskIndex, number: u32, units: u32) -> Chunk {
    let first_unit = u64::from(number) * u64::from(plan.chunk_units);
    Chunk {
        group: group(),
        epoch: plan.epoch,
        seq: plan.seq,
        disk,
        unit_bytes: plan.unit_bytes,
        chunk_units: plan.chunk_units,
        first_unit,
        hashes: (first_unit..first_unit + u64::from(units)).map(|unit| hash(disk, unit)).collect(),
    }
}

fn publish(world: &World, plan: &HashPlan, change: impl Fn(&mut Vec<u8>, DiskIndex, u32)) {
    let vault = world.group_vault();
    for (disk, number, units) in plan.chunks() {
        let mut bytes = chunk(plan, disk, number, units).encode();
        change(&mut bytes, disk, number);
        world.block_on(vault.put_hash_chunk(plan.epoch, disk, number, Bytes::from(bytes))).unwrap();
    }
    world.block_on(vault.put_hash_plan(plan)).unwrap();
}

fn fetched(world: &World) -> Option<Hashes> {
    Hashes::open(&world.dir.path().join("hashes"), &group(), Epoch(1))
}

#[test]
fn hashes_are_fetched_while_a_resync_is_open_whatever_was_interrupted_before() {
    let mut world = World::paused();
    let _time = simulated(&world);
    let old = world.dir.path().join("hashes/0000000009");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("plan.json"), "{}").unwrap();
    publish(&world, &plan(), |_, _, _| ());
    world.write_some(1);
    world.ring.set_resync_end(Some(Seq(1)));
    while_shipping(&world.runtime, world.open().unwrap(), async { tokio::time::sleep(SOON).await });
    assert!(fetched(&world).is_none(), "nobody needs them");
    world.ring.set_resync_end(None);
    // The third chunk fails, and the shipper ends before it tries again.
    world.store.inject(On::Get, "00000-0000000002", 1, Fault::Before);
    let folder = world.dir.path().join("hashes/0000000001");
    let chunks = || std::fs::read_dir(&folder).into_iter().flatten().count();
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("two chunks", SOON, || chunks() == 2).await;
    });
    assert!(fetched(&world).is_none() && !old.exists());
    while_shipping(&world.runtime, world.open().unwrap(), async {
        until("the hashes", Duration::from_secs(3), || fetched(&world).is_some()).await;
    });
    let mut hashes = fetched(&world).unwrap();
    for (disk, unit) in (0..2).flat_map(|disk| (0..16).map(move |unit| (DiskIndex(disk), unit))) {
        assert_eq!(hashes.unit(disk, unit), Some(hash(disk, unit)));
    }
}

#[test]
fn hashes_that_are_published_while_a_resync_waits_come_within_a_second_or_two() {
    let world = World::paused();
    let _time = simulated(&world);
    while_shipping(&world.runtime, world.open().unwrap(), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let vault = world.group_vault();
        for (disk, number, units) in plan().chunks() {
            let bytes = chunk(&plan(), disk, number, units).encode();
            vault.put_hash_chunk(Epoch(1), disk, number, bytes.into()).await.unwrap();
        }
        vault.put_hash_plan(&plan()).await.unwrap();
        until("the hashes", Duration::from_secs(2), || fetched(&world).is_some()).await;
    });
}

#[test]
fn hashes_that_are_damaged_or_of_other_disks_are_not_used_and_stop_nothing() {
    let other_disks = HashPlan { disks: plan().disks[..1].to_vec(), ..plan() };
    let longer =
        HashPlan { disks: plan().disks.into_iter().map(|d| HashedDisk { units: 99, ..d }).collect(), ..plan() };
    type Change = fn(&mut Vec<u8>, DiskIndex, u32);
    let nothing: Change = |_, _, _| ();
    let flip: Change = |bytes, _, number| bytes[130] ^= u8::from(number == 2);
    let swap: Change = |bytes, disk, number| {
        if (disk, number) == (DiskIndex(1), 1) {
            *bytes = chunk(&plan(), DiskIndex(0), 1, CHUNK_UNITS).encode();
        }
    };
    for (what, plan, change) in [
        ("other disks", other_disks, nothing),
        ("longer disks", longer, nothing),
        ("a flipped bit", plan(), flip),
        ("another disk's chunk", plan(), swap),
    ] {
        let mut world = World::paused();
        let _time = simulated(&world);
        publish(&world, &plan, change);
        while_shipping(&world.runtime, world.open().unwrap(), async {
            tokio::time::sleep(SOON).await;
            assert!(write_noise(&mut world.lanes[0], 1, 4096));
            until("the log goes on", SOON, || world.ring.confirmed_seq() == Seq(1)).await;
        });
        assert!(fetched(&world).is_none(), "{what}");
    }
}
