//! A shipper that stands still, and one that the kernel kills for want of memory: the VM does not notice, and order comes back by
//! itself.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::memory_limit::MemoryLimit;
use farshore_tests::protected::{assert_good, verified_load};
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};
use farshore_tests::vm_disk::VmDisk;
use nix::sys::signal::Signal;

const DISK_BYTES: u64 = 48 << 20;
/// Larger than what is written while nobody empties it.
const RING: &str = "ring_size = \"96MiB\"";
/// What fio writes and reads back in one go.
const LOAD_BYTES: u64 = 16 << 20;
/// How long the vault has to stand still for a stopped shipper to be believed.
const STILL: Duration = Duration::from_secs(1);
/// Memory that a limited shipper may have beside what it had when it was caught: enough to start, not enough to make segments.
const MEMORY_BYTES: u64 = 6 << 20;
/// Shippers that the kernel is to kill.
const KILLS: u64 = 2;

fn protected(config: &str) -> (Site, VmDisk) {
    let config = format!("{RING}\n{config}");
    let site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], config, ..SiteSpec::default() });
    let vm = VmDisk::attach(&site, 0);
    (site, vm)
}

#[test]
fn a_stopped_shipper_holds_up_nobody_and_goes_on_where_it_was() {
    let (mut site, mut vm) = protected("");
    let mut log = LogWatch::of(1);
    assert_good(verified_load(&vm, 0, LOAD_BYTES / 2, 1, 1));
    // In the middle of a load.
    let fio = verified_load(&vm, 0, LOAD_BYTES, 1, 2);
    clock::sleep(Duration::from_millis(100));
    site.signal_shipper(Signal::SIGSTOP);
    assert_good(fio);
    let stopped_at = site.newest();
    assert_good(verified_load(&vm, LOAD_BYTES, LOAD_BYTES, 1, 3));
    let confirmed = || site.agent_status()["confirmed_seq"].as_u64().expect("a number");
    let before = confirmed();
    clock::sleep(STILL);
    assert_eq!(confirmed(), before, "a stopped shipper ships");
    assert!(before < stopped_at.seq.0 && stopped_at < site.newest(), "nothing was written while it stood still");
    let status = site.agent_status();
    assert!(status["shipper_seen_seconds"].as_f64() > Some(STILL.as_secs_f64()), "{status}");

    site.signal_shipper(Signal::SIGCONT);
    site.assert_catches_up();
    site.assert_nothing_is_copied_again(&mut log);
    vm.assert_alive();
    site.end_and_verify();
}

#[test]
fn a_shipper_that_is_killed_for_want_of_memory_is_started_again_and_nothing_is_lost() {
    // Segments of 8 MiB: whoever makes one needs more than the limit.
    let (mut site, mut vm) = protected("max_delay = \"5s\"");
    let mut log = LogWatch::of(1);
    let limit = MemoryLimit::new("shipper", MEMORY_BYTES);
    let mut kills = 0;
    while kills < KILLS {
        // Signal 0 only asks for the process.
        let pid = site.signal_shipper(Signal::SIGCONT);
        assert!(limit.hold(pid), "the shipper was gone before it was limited");
        assert_good(verified_load(&vm, kills * LOAD_BYTES, LOAD_BYTES, 1, kills));
        site.agent()
            .wait_until("death of a shipper for want of memory", VERB_MAX, || (limit.kills() > kills).then_some(()));
        kills = limit.kills();
    }
    // The next shipper may have what it needs.
    site.assert_catches_up();
    site.assert_nothing_is_copied_again(&mut log);
    vm.assert_alive();
    site.end_and_verify();
}
