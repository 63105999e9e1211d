//! Configurations, disks, vaults and targets that are not as they should be: a clear error that says what and where, an exit
//! code that is not 0, nothing applied past it, and every older point still good.

use std::fs::File;

use farshore_tests::durable;
use farshore_tests::root::SmallFileSystem;
use farshore_tests::site::{GROUP, Site, SiteSpec};
use farshore_tests::stretches::{DISK_BYTES, TwoStretches, refused, run_agent, write_random};

/// Room on the full target: the first stretch of writes (some 1 MB and its undo journal) fits, the second (some 8 MB) does not.
const ROOM_BYTES: i64 = 4 << 20;

#[test]
fn a_configuration_that_is_wrong_is_refused() {
    let site = Site::new(SiteSpec { config: "flavour = \"vanilla\"".into(), ..SiteSpec::default() });
    refused(run_agent(&site), &["flavour", "web01.toml"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_file(&site.disks[0].source).unwrap();
    refused(run_agent(&site), &["vda", "vda.source"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_file(&site.config).unwrap();
    refused(run_agent(&site), &["web01.toml"]);

    let site = Site::new(SiteSpec::default());
    File::options().write(true).open(&site.disks[0].source).unwrap().set_len(1_000_001).unwrap();
    refused(run_agent(&site), &["vda.source", "512"]);

    let site = Site::new(SiteSpec::default());
    std::fs::remove_dir_all(&site.vault).unwrap();
    refused(site.process_once(), &["vault"]);
    assert!(!site.vault.exists(), "a vault that is gone is not made anew");
}

#[test]
fn a_disk_that_has_shrunk_is_refused_and_nothing_else_happens_to_it() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let source = site.disks[0].source.clone();
    let size = DISK_BYTES / 2;
    File::options().write(true).open(&source).unwrap().set_len(size).unwrap();
    let before = durable::digest(&source);
    refused(run_agent(&site), &["vda.source", &DISK_BYTES.to_string(), &size.to_string()]);
    assert_eq!(durable::digest(&source), before);
}

#[test]
fn a_vault_of_another_version_is_refused_by_every_verb() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let _ = site.process_once().good();
    let object = site.vault.join("farshore-vault.json");
    let text = std::fs::read_to_string(&object).unwrap();
    let other = text.replace("\"format\":1", "\"format\":7").replace("\"format\": 1", "\"format\": 7");
    assert_ne!(text, other);
    std::fs::write(&object, other).unwrap();
    refused(run_agent(&site), &["7", &site.vault_url()]);
    refused(site.process_once(), &["7"]);
    refused(site.verb(["init", "--vault", &site.vault_url()]), &["vault"]);
    refused(
        site.verb(["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()]),
        &["7"],
    );
    // The target needs no vault on the day of the disaster.
    let mut attached = site.attach("latest");
    assert_eq!(attached.server.ended(), None);
}

#[test]
fn a_full_target_disk_stops_replay_in_order_and_more_room_lets_it_go_on() {
    let mut stretches = TwoStretches::new();
    let target = stretches.site.target.clone();
    let mounted = SmallFileSystem::mount(&stretches.site.path("small.img"), &target, 64 << 20);
    let ballast = target.join("ballast");
    let free = nix::sys::statvfs::statvfs(&target).unwrap();
    let filling = i64::try_from(free.blocks_available() * free.fragment_size()).unwrap() - ROOM_BYTES;
    nix::fcntl::posix_fallocate(File::create(&ballast).unwrap(), 0, filling).unwrap();
    refused(stretches.site.process_once(), &[GROUP, "No space left"]);
    let standing = stretches.site.standing().expect("the first stretch has room");
    assert!(standing.position >= stretches.mark);
    // A second run fails as the first did and loses nothing.
    refused(stretches.site.process_once(), &["No space left"]);
    assert!(stretches.site.standing().expect("it is still there").position >= standing.position);
    stretches.assert_mark_is_good();
    std::fs::remove_file(&ballast).unwrap();
    let _ = stretches.site.process_once().good();
    stretches.site.assert_equal();
    stretches.assert_mark_is_good();
    drop(mounted);
}
