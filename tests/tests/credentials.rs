//! Keys of the vault that are missing, wrong or lost: what goes on goes on without a restart, what cannot says what to do, and nothing of what
//! was written is lost.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use farshore_tests::bin;
use farshore_tests::process::{self, Finished};
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};
use farshore_tests::stretches::{refused, run_agent, write_random};

const DISK_BYTES: u64 = 8 << 20;

/// A site whose source finds its key nowhere but where `line` of its configuration says, and the keys that its vault was made with.
fn site_with(line: impl Fn(&Site) -> String) -> (Site, String) {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let said = site.verb(["key", "print", "--vault", &site.vault_url(), "--json"]).good().json();
    let key = said["lines"][0].as_str().unwrap_or_else(|| panic!("no key in {said}")).to_owned();
    let line = line(&site);
    site.reconfigure(&line);
    (site, key)
}

fn write_key(path: &Path, key: &str) {
    std::fs::write(path, format!("{key}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn key_file(site: &Site) -> String {
    format!("key_file = \"{}\"\n", site.path("the.key").display())
}

#[test]
fn a_key_file_that_comes_later_is_taken() {
    let (mut site, key) = site_with(key_file);
    let path = site.path("the.key");
    refused(run_agent(&site), &["the.key"]);
    write_key(&path, &key);
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.assert_catches_up();

    // At a later start the disks are served without: a VM does not wait for a mount that holds a key.
    site.stop_agent();
    std::fs::rename(&path, site.path("away.key")).unwrap();
    site.start_agent();
    let _ = site.agent().expect_line("the.key", VERB_MAX);
    write_random(&site, 3, 20, 50_000);
    std::fs::rename(site.path("away.key"), &path).unwrap();
    site.assert_catches_up();

    // Of a group that is served it may go: the disks are served on, and what a new shipper cannot ship is shipped when the key is back.
    std::fs::rename(&path, site.path("away.key")).unwrap();
    site.kill_shipper();
    write_random(&site, 2, 20, 50_000);
    let _ = site.agent().expect_line("the.key", VERB_MAX);
    std::fs::rename(site.path("away.key"), &path).unwrap();
    site.assert_catches_up();
    site.end_and_verify();
}

#[test]
fn a_key_command_gives_the_key_or_says_why_not() {
    let command = |site: &Site| format!("key_command = \"cat {}\"\n", site.path("the.key").display());
    let (mut site, key) = site_with(command);
    refused(run_agent(&site), &["No such file"]);
    write_key(&site.path("the.key"), &key);
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.assert_catches_up();
    site.end_and_verify();
}

#[test]
fn a_wrong_key_is_named_and_nothing_is_lost() {
    let (mut site, key) = site_with(key_file);
    let (other, other_key) = site_with(key_file);
    drop(other);
    let path = site.path("the.key");
    write_key(&path, &other_key);
    refused(run_agent(&site), &["the.key", "is sealed for the key", "give the key that belongs to it"]);
    write_key(&path, &key);
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();

    // Brought to a running group, it stops the next shipper, which says so, and not the disks.
    site.start_agent();
    write_key(&path, &other_key);
    site.kill_shipper();
    write_random(&site, 2, 20, 50_000);
    let _ = site.agent().expect_line("is sealed for the key", VERB_MAX);
    write_key(&path, &key);
    site.start_processor();
    site.assert_catches_up();
    site.end_and_verify();
}

/// A verb of the target, where no key was left.
fn without_key(site: &Site, args: &[&str]) -> Finished {
    let empty = site.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let mut command: Command = bin::farshore(args);
    command.env("XDG_CONFIG_HOME", empty);
    process::run("farshore without a key", command, VERB_MAX)
}

#[test]
fn a_lost_key_is_said_at_every_verb_that_needs_it() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let (url, target) = (site.vault_url(), site.target.display().to_string());
    let verbs: [&[&str]; 3] = [
        &["process", "--vault", &url, "--target", &target, "--once"],
        &["verify", "--vault", &url, "--target", &target],
        &["key", "print", "--vault", &url],
    ];
    for args in verbs {
        let said = without_key(&site, args).bad();
        for word in ["there is no key for it", "FARSHORE_VAULT_KEY_FILE", "cannot be read by anybody"] {
            assert!(said.err.contains(word), "{args:?} does not say {word:?}: {}", said.err);
        }
    }
    // Found again: all of it is there.
    let _ = site.process_once().good();
    site.assert_equal();
}
