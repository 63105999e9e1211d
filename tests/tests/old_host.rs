//! A failover while the source is uploading, and the old host that comes back later: one cut for every reader, and the old source
//! never touches the new line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::segment::Kind;
use farshore_tests::bin;
use farshore_tests::chaos::{Chaos, ChaosSpec};
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::process::{Process, run};
use farshore_tests::site::{CATCH_UP_MAX, GROUP, Site, SiteSpec, VERB_MAX};

const DISK_BYTES: u64 = 32 << 20;

fn wait_until_fenced(site: &Site) {
    let deadline = clock::mono() + VERB_MAX;
    while site.agent_status()["state"] != "fenced" {
        assert!(clock::mono() < deadline, "never fenced: {}", site.agent_status());
        clock::sleep(Duration::from_millis(100));
    }
}

/// Every object of the group's log.
fn objects(site: &Site) -> BTreeSet<PathBuf> {
    let log = site.vault.join(format!("groups/{GROUP}/log"));
    let epochs = std::fs::read_dir(log).unwrap().map(|e| e.unwrap().path());
    epochs.flat_map(|epoch| std::fs::read_dir(epoch).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>()).collect()
}

/// Another target, which reads the vault for the first time now.
fn replay_anew(site: &Site, target: &Path) {
    // The target that follows the group stays what it is; this one takes it over by word, as its site would after the loss of the other.
    let mut args: Vec<OsString> = ["adopt", GROUP, "--owner-is-lost", "--vault"].map(OsString::from).to_vec();
    args.extend([site.vault_url().into(), "--target".into(), target.into()]);
    let _ = run("farshore adopt", bin::farshore(args), VERB_MAX).good();
    let mut args: Vec<OsString> = vec!["process".into(), "--vault".into(), site.vault_url().into()];
    args.extend(["--target".into(), target.into(), "--once".into(), "--gap-patience".into(), "3s".into()]);
    let _ = run("farshore process --once", bin::farshore(args), CATCH_UP_MAX).good();
}

#[test]
fn a_failover_among_uploads_has_one_cut_and_the_old_host_comes_back_fenced() {
    let mut site = Site::new(SiteSpec {
        disks: vec![DISK_BYTES],
        // Many small segments, so that some are always on their way.
        config: "segment_size = \"64KiB\"\nmax_delay = \"20ms\"".to_owned(),
        ..SiteSpec::default()
    });
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    let load = Chaos::start(&ChaosSpec {
        socket: site.disks[0].socket.clone(),
        export: "vda".to_owned(),
        range: 0..DISK_BYTES,
        connections: 3,
        len_max: 60_000,
        align: 1,
        seed: 9,
    });
    clock::sleep(Duration::from_millis(1500));

    let socket = site.path("failover.sock");
    let mut args: Vec<OsString> = ["failover", GROUP, "--vault"].map(OsString::from).to_vec();
    args.extend([site.vault_url().into(), "--target".into(), site.target.clone().into(), "--point".into()]);
    args.extend(["latest".into(), "--listen".into(), format!("unix:{}", socket.display()).into(), "--json".into()]);
    let server = Process::start("farshore failover", bin::farshore(args));
    let said = server.expect_line("{", CATCH_UP_MAX);
    let served: serde_json::Value = serde_json::from_str(&said).unwrap();
    let cut = served["cut"]["segment"].as_u64().unwrap();
    wait_until_fenced(&site);
    let done = load.finish();
    assert!(done.writes > 100 && done.reconnects == 0, "the old source went on serving: {done:?}");

    // The seal stands right above the cut, and nothing that the source put above it counts.
    let seal = site.vault.join(format!("groups/{GROUP}/log/0000000001/{:020}", cut + 1));
    let seal = durable::index(&seal);
    assert_eq!((seal.head().kind, seal.head().successor.0), (Kind::Seal, 2));
    let last = durable::index(&site.vault.join(format!("groups/{GROUP}/log/0000000001/{cut:020}")));
    let image = durable::digest(&site.image(0));
    assert_ne!(image, durable::digest(&site.disks[0].source), "the source wrote more than was shipped");
    let before = objects(&site);

    // The host dies, and is started again later: its ring is gone, and it would open the next epoch.
    site.lose_source();
    std::fs::remove_file(&site.ring).unwrap();
    for _ in 0..2 {
        site.start_agent();
        wait_until_fenced(&site);
        let mut old = Client::open(&site.disks[0].socket, "vda").unwrap();
        old.write(0, &[0xee; 65_536]).unwrap();
        old.flush().unwrap();
        assert_eq!(old.read(0, 4).unwrap(), [0xee; 4], "the disk is served on");
        site.lose_source();
    }
    assert_eq!(objects(&site), before, "the old source put something into the vault");

    // Whoever reads the log anew ends where the failover ended, and at the same bytes.
    let other = site.path("other-target");
    replay_anew(&site, &other);
    let standing = durable::standing(&other.join(GROUP).join("position")).unwrap();
    assert!(
        (standing.position.epoch.0, standing.segment) == (1, cut) || standing.position.epoch.0 == 2,
        "{standing:?}"
    );
    if standing.position.epoch.0 == 1 {
        assert_eq!(standing.position.seq, last.head().last_seq);
    }
    assert_eq!(durable::digest(&other.join(GROUP).join("vda.raw")), image);
    assert_eq!(durable::digest(&site.image(0)), image, "a late write reached the image");
    let mut vm = Client::open(&socket, "vda").unwrap();
    let mut seen = Vec::new();
    for at in (0..DISK_BYTES).step_by(1 << 20) {
        seen.extend(vm.read(at, 1 << 20).unwrap());
    }
    let wanted = served["point"]["seq"].as_u64().unwrap();
    assert!(wanted <= last.head().last_seq.0);
    if wanted == last.head().last_seq.0 {
        assert_eq!(blake3::hash(&seen), image);
    }
    let verify = ["verify", "--vault", &site.vault_url(), "--target", &other.display().to_string()];
    let _ = site.verb(verify).good();
    drop((vm, server));
    assert!(site.stop_processor().success());
}
