//! A disk that is protected through a real object store, which goes away and comes back while the disk is written: nothing is lost, nothing
//! is copied again, and every point is there.

use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::durable;
use farshore_tests::process;
use farshore_tests::protected::{assert_good, verified_load};
use farshore_tests::rounds;
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};
use farshore_tests::stores::{Kind, StoreServer};
use farshore_tests::stretches::write_random;
use farshore_tests::vm_disk::VmDisk;

const DISK_BYTES: u64 = 48 << 20;
const LOAD_BYTES: u64 = 12 << 20;
/// How long the store is away, each time.
const AWAY: Duration = Duration::from_secs(3);
/// How often it goes.
const OUTAGES: u64 = 2;

fn protects(kind: Kind, goes_away: fn(&mut StoreServer)) {
    let mut server = StoreServer::start(kind);
    let store = Some((server.url("dr/site a"), server.environment()));
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], store, ..SiteSpec::default() });
    let vm = VmDisk::attach(&site, 0);
    let before = site.mark("before");
    for round in 0..OUTAGES {
        let fio = verified_load(&vm, round * LOAD_BYTES, LOAD_BYTES, 1, round + 1);
        clock::sleep(Duration::from_millis(300));
        goes_away(&mut server);
        assert_good(fio);
        assert_good(verified_load(&vm, round * LOAD_BYTES, LOAD_BYTES / 2, 1, round + 10));
    }
    let after = site.mark("after");
    let newest = site.newest();
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    site.assert_equal();
    assert_eq!(site.newest().epoch, before.epoch, "an epoch was begun");
    assert_eq!(site.agent_status()["overflows"], 0);
    let marks: Vec<_> = site.points().into_iter().filter_map(|p| Some((p.name?, p.position))).collect();
    assert_eq!(marks, [("before".to_owned(), before), ("after".to_owned(), after)], "of {GROUP}");
    site.end_and_verify();
}

#[test]
fn seaweedfs_that_is_killed_and_comes_back_protects_a_disk() {
    protects(Kind::Seaweed, |server| {
        server.kill();
        clock::sleep(AWAY);
        server.restart();
    });
}

/// A minute of it in `make test`, half an hour at night.
#[test]
fn churn_with_a_store_that_is_killed_every_minute_loses_nothing() {
    let mut server = StoreServer::start(Kind::Seaweed);
    let store = Some((server.url("dr"), server.environment()));
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], store, ..SiteSpec::default() });
    let (mut marks, mut copies) = (Vec::new(), Vec::new());
    for minute in 0..rounds::count("FARSHORE_CHURN_MINUTES", 1) {
        let end = clock::mono() + Duration::from_secs(60);
        let mut seed = u64::from(minute) * 10_000;
        while clock::mono() + AWAY * 3 < end {
            seed += 1;
            write_random(&site, seed, 20, 100_000);
            // About a megabyte each: half an hour of them has to find room in the store.
            clock::sleep(Duration::from_millis(500));
        }
        let name = format!("minute {minute}");
        marks.push((name.clone(), site.mark(&name)));
        copies.push(durable::digest(&site.disks[0].source));
        server.kill();
        write_random(&site, seed + 1, 40, 100_000);
        clock::sleep(AWAY);
        server.restart();
    }
    site.assert_catches_up();
    assert_eq!(site.agent_status()["overflows"], 0);
    let points: Vec<_> = site.points().into_iter().filter_map(|p| Some((p.name.clone()?, p.position, p.id))).collect();
    assert_eq!(points.iter().map(|(name, at, _)| (name.clone(), *at)).collect::<Vec<_>>(), marks);
    for ((name, _, id), wanted) in points.iter().zip(&copies) {
        let seen = site.path("seen");
        let attached = site.attach(id);
        let mut copy = Command::new("nbdcopy");
        copy.arg(attached.uri("vda")).arg(&seen);
        let _ = process::run("nbdcopy", copy, VERB_MAX).good();
        assert_eq!(durable::digest(&seen), *wanted, "the point {name} is not what the source was");
    }
    site.end_and_verify();
}

#[test]
fn azurite_that_stands_still_for_a_while_protects_a_disk() {
    // It keeps what it has acknowledged in memory for some seconds, so it cannot be killed.
    protects(Kind::Azurite, |server| server.pause(AWAY));
}
