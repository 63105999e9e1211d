//! `farshore status` says the truth about what can be recovered: points that damage has spoilt, a processor that is silent, a vault
//! that is gone, a target that cannot be read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::site::{CATCH_UP_MAX, GROUP, Site, SiteSpec};
use serde_json::Value;

const DISK_BYTES: u64 = 16 << 20;

/// A site with the marks m1, m2, m3, all replayed, and nobody at work. Beside it each mark's content of the disk.
fn with_marks() -> (Site, Vec<PathBuf>) {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    let mut contents = Vec::new();
    for n in 1..=3 {
        let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
        let mut rng = Rng::new(n);
        for _ in 0..20 {
            let data = rng.bytes(30_000);
            client.write(rng.below(DISK_BYTES - 30_000), &data).unwrap();
        }
        client.flush().unwrap();
        let mark = site.mark(&format!("m{n}"));
        site.wait_replayed(mark);
        let content = site.path(&format!("at-m{n}"));
        std::fs::copy(&site.disks[0].source, &content).unwrap();
        contents.push(content);
    }
    site.stop_agent();
    assert!(site.stop_processor().success());
    (site, contents)
}

fn status(site: &Site) -> Value {
    let (vault, target) = (site.vault_url(), site.target.display().to_string());
    site.verb(["status", "--vault", &vault, "--target", &target, "--json"]).good().json()[0].clone()
}

fn said(site: &Site) -> String {
    let (vault, target) = (site.vault_url(), site.target.display().to_string());
    site.verb(["status", "--vault", &vault, "--target", &target]).good().out
}

fn points(site: &Site) -> Vec<Value> {
    let target = site.target.display().to_string();
    site.verb(["points", GROUP, "--target", &target, "--json"]).good().json().as_array().unwrap().clone()
}

fn named(points: &[Value], name: &str) -> Value {
    points.iter().find(|point| point["name"] == name).unwrap_or_else(|| panic!("no {name} in {points:?}")).clone()
}

/// The undo files, oldest first.
fn undo_files(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.target.join(GROUP).join("undo")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "undo"));
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_in_the_undo_journal_is_said_with_the_points_that_it_spoils_and_the_others_are_served() {
    let (mut site, contents) = with_marks();
    let target = site.target.display().to_string();
    let before = status(&site);
    assert_eq!(
        (&before["target"]["unusable_points"], &before["target"]["recoverable"]["point"]),
        (&0.into(), &"latest".into())
    );
    // The last file leads back from m3 to m2.
    let files = undo_files(&site);
    flip(files.last().unwrap(), 300);
    site.start_processor();
    let deadline = clock::mono() + CATCH_UP_MAX;
    while status(&site)["target"]["unusable_points"] == 0 {
        assert!(clock::mono() < deadline, "nobody has found it");
        clock::sleep(Duration::from_millis(100));
    }
    let row = status(&site)["target"].clone();
    assert_eq!(row["recoverable"]["point"], "latest", "{row}");
    assert_ne!(row["state"], "stopped", "{row}");
    assert!(row["advice"].to_string().contains("unusable"), "{row}");
    assert!(said(&site).contains("unusable"));

    let points = points(&site);
    let (older, newer) = (named(&points, "m2"), named(&points, "m3"));
    assert_eq!((&older["usable"], &newer["usable"]), (&false.into(), &true.into()), "{points:?}");
    assert!(older["unusable_because"].as_str().unwrap().contains("undo journal is damaged at"), "{older}");
    let id = older["id"].as_str().unwrap();
    let socket = site.path("refused.sock");
    let listen = format!("unix:{}", socket.display());
    let out = site.path("refused.raw").display().to_string();
    for refused in [
        site.verb(["attach", GROUP, "--target", &target, "--point", id, "--listen", &listen]).bad(),
        site.verb(["export", GROUP, "--target", &target, "--point", id, "--output", &out]).bad(),
        site.verb([
            "failover",
            GROUP,
            "--vault",
            &site.vault_url(),
            "--target",
            &target,
            "--point",
            id,
            "--listen",
            &listen,
        ])
        .bad(),
    ] {
        assert!(refused.err.contains(&format!("point {id}")) && refused.err.contains("unusable"), "{}", refused.err);
    }
    let attached = site.attach(newer["id"].as_str().unwrap());
    let seen = site.path("seen");
    let mut copy = std::process::Command::new("nbdcopy");
    copy.arg(attached.uri("vda")).arg(&seen);
    let _ = farshore_tests::process::run("nbdcopy", copy, CATCH_UP_MAX).good();
    assert_eq!(durable::first_difference(&contents[2], &seen), None);
}

#[test]
fn a_vault_that_is_gone_and_a_target_that_cannot_be_read_are_said_and_hide_nothing_else() {
    let (site, _) = with_marks();
    let away = site.path("away");
    std::fs::rename(&site.vault, &away).unwrap();
    let row = status(&site);
    assert!(row["vault_problem"].is_string(), "{row}");
    assert_eq!(row["target"]["recoverable"]["point"], "latest", "{row}");
    assert!(said(&site).contains("the vault cannot be asked"));
    std::fs::rename(&away, &site.vault).unwrap();

    let position = site.target.join(GROUP).join("position");
    let good = std::fs::read(&position).unwrap();
    std::fs::write(&position, vec![7; good.len()]).unwrap();
    let row = status(&site);
    assert!(row["target_problem"].as_str().unwrap().contains("position"), "{row}");
    assert!(row["vault"]["segments"].as_u64().unwrap() > 0, "{row}");
    std::fs::write(&position, good).unwrap();
    assert_eq!(status(&site)["target_problem"], Value::Null);
}
