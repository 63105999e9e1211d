//! The source's host dies, and what lies on it changes meanwhile: the ring is gone as after a reboot, or damaged, or the source is
//! not what it was. The least that is right is copied, the target is equal afterwards, points before stay good.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_changelog::op::Op;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::pattern::Rng;
use farshore_tests::process::{self, Stream};
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};
use nix::sys::signal::Signal;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 64 * MIB;
/// What the vault does not have when the host dies: so many requests of so many bytes, in one stretch of the disk.
const LAST_WRITES: u64 = 24;
const LAST_BYTES: usize = 64 << 10;
/// More than the regions of that stretch, and of what was written shortly before; far less than the disk.
const COPIED_MAX: u64 = DISK_BYTES / 4;

/// Writes all of the disk, so that there is something that must not be copied again; everything is replayed and marked.
fn full_site() -> (Site, PathBuf) {
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let mut vm = Client::open(&site.disks[0].socket, "vda").unwrap();
    let mut rng = Rng::new(1);
    for n in 0..DISK_BYTES / MIB {
        vm.write(n * MIB, &rng.bytes(MIB as usize)).unwrap();
    }
    vm.flush().unwrap();
    let _ = site.mark("before");
    site.assert_catches_up();
    let before = site.path("before");
    std::fs::copy(&site.disks[0].source, &before).unwrap();
    // What the vault has is closed again, a little later.
    let config = site.config.clone();
    let open = |site: &Site| {
        let groups = site.verb(["status".as_ref(), config.as_os_str(), "--json".as_ref()]).good().json();
        groups[0]["source"]["disks"][0]["open_regions"].as_u64().expect("a number")
    };
    let deadline = clock::mono() + VERB_MAX;
    while open(&site) > 2 {
        assert!(clock::mono() < deadline, "{} regions stay open", open(&site));
        clock::sleep(Duration::from_millis(100));
    }
    (site, before)
}

/// The vault sees nothing of what is written last; then the host dies.
fn die_with_last_writes(site: &mut Site, seed: u64) {
    site.signal_shipper(Signal::SIGSTOP);
    let confirmed = durable::ring_confirmed(&site.ring);
    let mut vm = Client::open(&site.disks[0].socket, "vda").unwrap();
    let mut rng = Rng::new(seed);
    for n in 0..LAST_WRITES {
        vm.write(20 * MIB + n * LAST_BYTES as u64, &rng.bytes(LAST_BYTES)).unwrap();
    }
    vm.flush().unwrap();
    assert!(site.newest().seq.0 >= confirmed.seq.0 + LAST_WRITES, "nothing was written that the vault has not");
    site.lose_source();
}

/// The agent begins `epoch`, copies the last writes and not much more, and the target is equal.
fn assert_open_regions_are_copied(site: &mut Site, epoch: u64, what: &str) {
    site.start_agent();
    site.wait_protected();
    assert_eq!(site.newest().epoch, Epoch(epoch), "{what}");
    site.assert_catches_up();
    let mut log = LogWatch::of(epoch);
    let log = log.look(site);
    let copied = log.resync_bytes();
    println!("{what}: {copied} bytes were copied");
    assert!(copied >= LAST_WRITES * LAST_BYTES as u64, "{what}: only {copied} bytes were copied");
    assert!(copied <= COPIED_MAX, "{what}: {copied} bytes were copied, not the open regions only");
    assert_eq!((log.ops(Op::ResyncBegin), log.ops(Op::ResyncEnd)), (1, 1), "{what}");
}

/// The point before all that is still what it was.
fn assert_before_is_good(site: &mut Site, before: &Path) {
    let points = site.points();
    let id = &points.iter().find(|p| p.name.as_deref() == Some("before")).expect("the mark became a point").id;
    let attached = site.attach(id);
    let restored = site.path("restored");
    let mut copy = Command::new("nbdcopy");
    copy.arg(attached.uri("vda")).arg(&restored);
    let _ = process::run("nbdcopy", copy, VERB_MAX).good();
    assert_eq!(durable::first_difference(&restored, before), None, "the point before has changed");
}

/// Ends in order, does something to the source or its ring, and starts again.
fn stopped_and(change: impl FnOnce(&mut Site)) -> (Site, PathBuf) {
    let (mut site, before) = full_site();
    site.stop_agent();
    change(&mut site);
    site.start_agent();
    site.wait_protected();
    (site, before)
}

/// All of the disk was copied in `epoch`, where `copied_before` bytes had been already; the target is equal.
fn assert_all_is_compared(mut site: Site, before: PathBuf, epoch: u64, copied_before: u64) {
    assert_eq!(site.newest().epoch, Epoch(epoch));
    site.assert_catches_up();
    let copied = LogWatch::of(epoch).look(&site).resync_bytes() - copied_before;
    assert_eq!(copied, DISK_BYTES, "not all of the disk was copied");
    assert!(site.agent().output(Stream::Err).iter().any(|line| line.contains("changed while no agent ran")));
    assert_before_is_good(&mut site, &before);
    site.end_and_verify();
}

#[test]
fn after_a_host_crash_only_open_regions_are_read_again() {
    let (mut site, before) = full_site();
    for epoch in 2..4 {
        die_with_last_writes(&mut site, epoch);
        // What a reboot does to a tmpfs.
        std::fs::remove_file(&site.ring).unwrap();
        assert_open_regions_are_copied(&mut site, epoch, "ring removed");
    }
    assert_before_is_good(&mut site, &before);
    site.end_and_verify();
}

#[test]
fn a_ring_damaged_between_two_agents_is_not_used_and_open_regions_are_copied() {
    let (mut site, before) = full_site();
    // Magic, geometry, epoch, the checksum itself, and the word that says that a disk has failed, at the offsets of docs/format.md.
    let damages: [(&str, u64); 6] =
        [("magic", 0), ("lanes", 12), ("epoch", 80), ("slots", 88), ("checksum", 128), ("distrusted", 608)];
    let mut epoch = 2;
    for (field, at) in damages {
        die_with_last_writes(&mut site, epoch);
        let ring = OpenOptions::new().read(true).write(true).open(&site.ring).unwrap();
        let mut byte = [0];
        ring.read_exact_at(&mut byte, at).unwrap();
        ring.write_all_at(&[byte[0] ^ 1], at).unwrap();
        assert_open_regions_are_copied(&mut site, epoch, field);
        assert!(site.agent().output(Stream::Err).iter().any(|line| line.contains("written back first")), "{field}");
        epoch += 1;
    }
    die_with_last_writes(&mut site, epoch);
    OpenOptions::new().write(true).open(&site.ring).unwrap().set_len(MIB).unwrap();
    assert_open_regions_are_copied(&mut site, epoch, "cut short");
    assert_before_is_good(&mut site, &before);
    site.end_and_verify();
}

#[test]
fn after_a_clean_stop_a_lost_ring_copies_nothing() {
    let (mut site, _) = stopped_and(|site| std::fs::remove_file(&site.ring).unwrap());
    assert_eq!(site.newest().epoch, Epoch(2));
    let mut vm = Client::open(&site.disks[0].socket, "vda").unwrap();
    vm.write(MIB, &[7; 4096]).unwrap();
    vm.flush().unwrap();
    site.assert_catches_up();
    assert_eq!(LogWatch::of(2).look(&site).resync_bytes(), 0);
    drop(vm);
    site.end_and_verify();
}

#[test]
fn a_source_written_while_no_agent_ran_is_noticed_and_compared_as_a_whole() {
    let (site, before) = stopped_and(|site| {
        let source = OpenOptions::new().write(true).open(&site.disks[0].source).unwrap();
        source.write_all_at(&[9; 5000], 3 * MIB + 77).unwrap();
    });
    // The ring is still there: the log goes on.
    assert_all_is_compared(site, before, 1, 0);
}

#[test]
fn a_source_replaced_by_another_file_is_noticed_and_compared_as_a_whole() {
    let (site, before) = stopped_and(|site| {
        let other = site.path("other");
        File::create(&other).unwrap().write_all_at(&Rng::new(9).bytes(DISK_BYTES as usize), 0).unwrap();
        std::fs::rename(&other, &site.disks[0].source).unwrap();
        std::fs::remove_file(&site.ring).unwrap();
    });
    assert_all_is_compared(site, before, 2, 0);
}

#[test]
fn a_source_that_has_grown_is_followed_by_its_image() {
    const GROWN_BYTES: u64 = DISK_BYTES + 8 * MIB + 512;
    let (mut site, _) = stopped_and(|site| {
        OpenOptions::new().write(true).open(&site.disks[0].source).unwrap().set_len(GROWN_BYTES).unwrap();
    });
    assert_eq!(site.newest().epoch, Epoch(2));
    let mut vm = Client::open(&site.disks[0].socket, "vda").unwrap();
    vm.write(GROWN_BYTES - 3000, &[5; 3000]).unwrap();
    vm.flush().unwrap();
    drop(vm);
    let newest = site.newest();
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    assert_eq!(std::fs::metadata(site.image(0)).unwrap().len(), GROWN_BYTES);
    site.assert_equal();
    site.end_and_verify();
}
