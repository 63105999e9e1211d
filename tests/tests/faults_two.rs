//! Two of what there may be one of: the second is refused by name, the first does not notice, and nothing is interleaved.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use farshore_tests::bin;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::process::{Finished, run};
use farshore_tests::protected::{assert_good, verified_load};
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};
use farshore_tests::vm_disk::VmDisk;

const DISK_BYTES: u64 = 48 << 20;
/// What fio writes, twice, beside the attempt.
const LOAD_BYTES: u64 = 8 << 20;

/// Lets a second one try while the first works, and shows that the first did not notice.
fn refused_under_load(words: &[&str], second: impl FnOnce(&Site) -> Finished) {
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let mut vm = VmDisk::attach(&site, 0);
    let mut log = LogWatch::of(1);
    // The first has begun: a processor takes a target's lock with the group's first segment.
    site.assert_catches_up();
    let fio = verified_load(&vm, 0, LOAD_BYTES, 2, 1);
    let said = second(&site).bad();
    for word in words {
        assert!(said.err.contains(word), "{word:?} is not in: {}", said.err);
    }
    assert_good(fio);
    site.assert_catches_up();
    site.assert_nothing_is_copied_again(&mut log);
    vm.assert_alive();
    site.end_and_verify();
}

/// The configuration of another group, with folders of its own, on the same source disk.
fn of_another_group(config: &Path) -> PathBuf {
    let text = std::fs::read_to_string(config).unwrap();
    let text = text.replace(&format!("group = \"{GROUP}\""), "group = \"other\"");
    let text = text.replace("/state\"", "/other-state\"").replace("vda.sock", "other.sock");
    let path = config.with_file_name("other.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_second_agent_of_a_group_is_refused_under_load() {
    refused_under_load(&["another agent of group web01 runs", "next:"], |site| {
        run("a second agent", site.agent_command(), VERB_MAX)
    });
}

#[test]
fn an_agent_of_another_group_is_refused_a_disk_that_is_served() {
    refused_under_load(&["vda.source", "next:"], |site| {
        let config = of_another_group(&site.config);
        let said = run("an agent of another group", bin::farshore([OsString::from("run"), config.into()]), VERB_MAX);
        assert!(!site.vault.join("groups/other").exists(), "the group was begun before its disk was its own");
        said
    });
}

#[test]
fn a_second_shipper_of_a_group_is_refused() {
    refused_under_load(&["ship.lock", "next:"], |site| site.verb([OsString::from("ship"), site.config.clone().into()]));
}

#[test]
fn a_second_processor_of_a_target_is_refused() {
    refused_under_load(&[GROUP, "next:"], Site::process_once);
}
