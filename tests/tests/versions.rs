//! An older or a newer farshore than the one that wrote a file: each format is refused by its version, with what to do, and
//! nothing is touched; once the right version is back, everything goes on.

use std::ffi::OsString;
use std::path::Path;

use farshore_changelog::ids::Epoch;
use farshore_tests::bin;
use farshore_tests::durable;
use farshore_tests::forge::Format;
use farshore_tests::process::{Finished, Process, run};
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};
use farshore_tests::stretches::{DISK_BYTES, TwoStretches, run_agent, write_random};

/// A version that nobody has written yet, and one from before the first.
const OTHERS: [u16; 2] = [77, 0];

/// The error names each of `words`, and which program to use instead.
#[track_caller]
fn refused(finished: Finished, words: &[&str]) {
    let Finished { err, .. } = finished.bad();
    for word in words {
        assert!(err.contains(word), "{word:?} is not in: {err}");
    }
    let advice = ["use the version that wrote it", "use the farshore", "start the group with the farshore"];
    assert!(advice.iter().any(|advice| err.contains(advice)), "it does not say what to do: {err}");
}

/// The file as another version would have written it, as long as `meanwhile` runs.
fn in_versions(path: &Path, format: Format, mut meanwhile: impl FnMut(&str)) {
    let ours = std::fs::read(path).unwrap();
    for version in OTHERS {
        let mut other = ours.clone();
        format.set_version(&mut other, version);
        std::fs::write(path, &other).unwrap();
        meanwhile(&format!("version {version}"));
        assert!(std::fs::read(path).unwrap() == other, "{} was changed", path.display());
    }
    std::fs::write(path, ours).unwrap();
}

fn verb(site: &Site, words: &[&str]) -> Finished {
    let target = site.target.display().to_string();
    let args = words.iter().map(|word| if *word == "TARGET" { target.clone() } else { (*word).to_owned() });
    site.verb(args.collect::<Vec<_>>())
}

/// A source whose agent was killed: the ring holds what the vault has not confirmed yet.
fn crashed() -> Site {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], plain: true, ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    // The epoch is open in the vault, and then there is more.
    let newest = site.newest();
    site.wait_shipped(newest);
    write_random(&site, 3, 5, 50_000);
    site.lose_source();
    site
}

fn assert_goes_on(mut site: Site, epoch: u64) {
    site.start_agent();
    site.wait_protected();
    write_random(&site, 2, 5, 50_000);
    assert_eq!(site.newest().epoch, Epoch(epoch));
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
}

#[test]
fn a_ring_of_another_version_is_left_to_that_version() {
    let site = crashed();
    in_versions(&site.ring, Format::Ring, |version| {
        refused(run_agent(&site), &[version, "farshore-web01.ring", "stop it in order", "remove the ring"]);
        refused(verb(&site, &["inspect", site.ring.to_str().unwrap()]), &[version]);
    });
    // Nothing was copied, and no epoch was begun.
    assert_goes_on(site, 1);
}

#[test]
fn a_ring_of_another_version_may_be_removed_and_what_it_held_is_copied_again() {
    let site = crashed();
    let mut ring = std::fs::read(&site.ring).unwrap();
    Format::Ring.set_version(&mut ring, OTHERS[0]);
    std::fs::write(&site.ring, ring).unwrap();
    refused(run_agent(&site), &["remove the ring"]);
    std::fs::remove_file(&site.ring).unwrap();
    assert_goes_on(site, 2);
}

#[test]
fn after_a_clean_stop_the_ring_of_another_version_is_in_nobodys_way() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], plain: true, ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.stop_agent();
    let mut ring = std::fs::read(&site.ring).unwrap();
    Format::Ring.set_version(&mut ring, OTHERS[0]);
    std::fs::write(&site.ring, ring).unwrap();
    let files = durable::segment_files(&site.vault, GROUP, 1).len();
    assert_goes_on(site, 2);
    assert!(files > 0);
}

#[test]
fn a_dirty_map_of_another_version_is_refused_and_the_group_can_be_begun_anew() {
    let site = crashed();
    let map = site.path("state/vda.map");
    in_versions(&map, Format::Map, |version| {
        refused(run_agent(&site), &[version, "vda.map", "enable --adopt"]);
    });
    let mut other = std::fs::read(&map).unwrap();
    Format::Map.set_version(&mut other, OTHERS[0]);
    std::fs::write(&map, other).unwrap();
    refused(run_agent(&site), &["vda.map"]);
    let args = [OsString::from("enable"), "--adopt".into(), site.config.clone().into()];
    let _ = run("farshore enable --adopt", bin::farshore(args), VERB_MAX).good();
    assert_goes_on(site, 2);
}

#[test]
fn a_segment_of_another_version_stops_replay_before_it() {
    let mut stretches = TwoStretches::new();
    let victim = stretches.segment_to_spoil(1);
    in_versions(&victim, Format::Segment, |version| {
        stretches.assert_stopped_before(&victim, &[version, "farshore"]);
        refused(verb(&stretches.site, &["inspect", victim.to_str().unwrap()]), &[version]);
    });
    stretches.assert_goes_on();
}

#[test]
fn a_spooled_segment_of_another_version_is_not_shipped_and_the_disk_is_served() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], plain: true, ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    // Without its vault, what is sealed stays in the spool.
    let away = site.path("vault-away");
    std::fs::rename(&site.vault, &away).unwrap();
    write_random(&site, 1, 20, 50_000);
    let spool = site.path("state/spool");
    let sealed = || {
        let files = std::fs::read_dir(&spool).ok()?.map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "seg")).min()
    };
    let segment = site.agent().wait_until("a sealed segment", VERB_MAX, sealed);
    site.lose_source();
    std::fs::rename(&away, &site.vault).unwrap();
    let ours = std::fs::read(&segment).unwrap();
    let mut other = ours.clone();
    Format::Segment.set_version(&mut other, OTHERS[0]);
    std::fs::write(&segment, &other).unwrap();

    site.start_agent();
    let said = site.agent().expect_line("version 77", VERB_MAX);
    assert!(said.contains("seg") && said.contains("farshore"), "{said}");
    write_random(&site, 2, 5, 50_000);
    assert!(std::fs::read(&segment).unwrap() == other, "it was changed");
    site.lose_source();
    std::fs::write(&segment, ours).unwrap();
    assert_goes_on(site, 1);
}

#[test]
fn position_and_points_of_another_version_are_refused_by_every_verb_that_needs_them() {
    let mut stretches = TwoStretches::new();
    stretches.assert_goes_on();
    let site = &stretches.site;
    let dir = site.target.join(GROUP);
    for (file, format) in [("position", Format::Position), ("points", Format::Points)] {
        in_versions(&dir.join(file), format, |version| {
            refused(site.process_once(), &[version, file]);
            refused(verb(site, &["points", GROUP, "--target", "TARGET"]), &[version, file]);
            let attach = ["attach", GROUP, "--target", "TARGET", "--point", "latest", "--listen", "unix:/nowhere/sock"];
            refused(verb(site, &attach), &[version, file]);
            let verify = ["verify", "--target", "TARGET", "--vault", &site.vault_url()];
            let said = verb(site, &verify).bad();
            assert!((said.err + &said.out).contains(version));
        });
    }
    stretches.assert_goes_on();
}

#[test]
fn an_overlay_or_a_failover_note_of_another_version_is_refused_and_kept() {
    let mut stretches = TwoStretches::new();
    stretches.assert_goes_on();
    let site = &stretches.site;
    let socket = site.path("failover.sock");
    let command = || {
        let mut args: Vec<OsString> = ["failover", GROUP, "--vault"].map(OsString::from).to_vec();
        args.extend([site.vault_url().into(), "--target".into(), site.target.clone().into()]);
        args.extend(["--point".into(), "latest".into()]);
        args.extend(["--listen".into(), format!("unix:{}", socket.display()).into(), "--json".into()]);
        bin::farshore(args)
    };
    let mut served = Process::start("farshore failover", command());
    let _ = served.expect_line("{", VERB_MAX);
    assert!(served.terminate(VERB_MAX).success());
    let overlays = site.target.join(GROUP).join("overlay");
    let overlay = std::fs::read_dir(&overlays).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    in_versions(&overlay.join("vda.cow"), Format::Overlay, |version| {
        refused(run("farshore failover", command(), VERB_MAX), &[version, "vda.cow"]);
    });
    let note = overlay.join("failover.json");
    let ours = std::fs::read_to_string(&note).unwrap();
    let other = ours.replace("\"format\": 1", "\"format\": 77");
    assert_ne!(ours, other);
    std::fs::write(&note, &other).unwrap();
    refused(run("farshore failover", command(), VERB_MAX), &["77", "failover.json"]);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), other);
    std::fs::write(&note, ours).unwrap();
    let mut served = Process::start("farshore failover", command());
    let _ = served.expect_line("{", VERB_MAX);
    assert!(served.terminate(VERB_MAX).success());
}

#[test]
fn notes_and_objects_of_another_format_are_refused() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], plain: true, ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    write_random(&site, 1, 10, 50_000);
    site.stop_agent();
    let other = |text: &str| {
        let changed = text.replace("\"format\": 1", "\"format\": 77").replace("\"format\":1", "\"format\":77");
        assert_ne!(text, changed);
        changed
    };
    let note = site.path("state/epoch.json");
    let ours = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, other(&ours)).unwrap();
    refused(run_agent(&site), &["epoch.json", "77"]);
    std::fs::write(&note, ours).unwrap();
    let object = site.vault.join(format!("groups/{GROUP}/to-source/epochs/0000000001.json"));
    let ours = std::fs::read_to_string(&object).unwrap();
    std::fs::write(&object, other(&ours)).unwrap();
    refused(site.process_once(), &["0000000001.json", "77"]);
    std::fs::write(&object, ours).unwrap();
    let _ = site.process_once().good();
    site.assert_equal();
}
