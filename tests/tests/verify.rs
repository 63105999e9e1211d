//! What rots at rest is found by comparing with the source while both run, and copied again; and a log that cannot be followed is
//! left for one that was asked for. On the real binaries, with a guest that writes all the while.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::segment::Kind;
use farshore_tests::client::Client;
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::process::Finished;
use farshore_tests::site::{CATCH_UP_MAX, GROUP, Site, SiteSpec};

const DISK_BYTES: u64 = 32 << 20;
/// The guest writes below this, the image rots above it: what is written again is not found.
const GUEST_BYTES: u64 = 8 << 20;

fn write(site: &Site, seed: u64, count: u64) {
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    let mut rng = Rng::new(seed);
    for _ in 0..count {
        let len = 1 + rng.below(60_000);
        let data = rng.bytes(len as usize);
        client.write(rng.below(GUEST_BYTES - 60_000), &data).unwrap();
    }
    client.flush().unwrap();
}

fn site() -> Site {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let source = File::options().write(true).open(&site.disks[0].source).unwrap();
    source.write_all_at(&Rng::new(9).bytes((DISK_BYTES - GUEST_BYTES) as usize), GUEST_BYTES).unwrap();
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    write(&site, 1, 30);
    let newest = site.newest();
    site.wait_replayed(newest);
    site
}

fn compare(site: &Site, more: &[&str]) -> Finished {
    let (vault, target) = (site.vault_url(), site.target.display().to_string());
    let mut args = vec!["verify", "--against-source", GROUP, "--vault", &vault, "--target", &target, "--json"];
    args.extend(["--patience", "120s"]);
    args.extend(more);
    site.verb(args)
}

/// Does `work` while a guest writes.
fn under_writes<T>(site: &Site, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 100;
            while !done.load(Ordering::Relaxed) {
                write(site, seed, 3);
                seed += 1;
                clock::sleep(Duration::from_millis(20));
            }
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn row<'a>(points: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    points.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {points}"))
}

fn points(site: &Site) -> serde_json::Value {
    let target = site.target.display().to_string();
    site.verb(["points", GROUP, "--target", &target, "--json"]).good().json()
}

fn target_state(site: &Site) -> serde_json::Value {
    let (vault, target) = (site.vault_url(), site.target.display().to_string());
    let rows = site.verb(["status", "--vault", &vault, "--target", &target, "--json"]).good().json();
    rows[0]["target"].clone()
}

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = clock::mono() + CATCH_UP_MAX;
    while !reached() {
        assert!(clock::mono() < deadline, "{what} did not come in {CATCH_UP_MAX:?}");
        clock::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_image_that_rots_at_rest_is_found_named_and_repaired_from_the_source_while_both_run() {
    let mut site = site();
    let equal = under_writes(&site, || compare(&site, &[]).good().json());
    assert_eq!((&equal["differing"], &equal["skipped"]), (&0.into(), &0.into()), "{equal}");
    assert_eq!(equal["bytes"], DISK_BYTES);

    let before = site.mark("before");
    site.wait_replayed(before);
    let image = File::options().read(true).write(true).open(site.image(0)).unwrap();
    let rotten = GUEST_BYTES + (11 << 20) + 4711;
    let mut byte = [0];
    image.read_exact_at(&mut byte, rotten).unwrap();
    image.write_all_at(&[byte[0] ^ 0x80], rotten).unwrap();

    let (found, said) = under_writes(&site, || {
        let finished = compare(&site, &[]).bad();
        (finished.json(), finished.err)
    });
    assert_eq!(found["differing"], 1, "{found}");
    let range = &found["ranges"][0];
    let (offset, len) = (range["offset"].as_u64().unwrap(), range["len"].as_u64().unwrap());
    assert!((offset..offset + len).contains(&rotten), "{found}");
    assert_eq!((&range["disk"], &range["repaired"]), (&"vda".into(), &false.into()));
    let listed = points(&site);
    let id = row(&listed, "before")["id"].clone();
    assert!(range["points"].as_array().unwrap().contains(&id), "{found}");
    assert!(said.contains("--repair"), "{said}");
    // Nothing stopped for it.
    assert_ne!(target_state(&site)["state"], "stopped");

    let repaired = under_writes(&site, || compare(&site, &["--repair"]).good().json());
    assert_eq!((&repaired["repaired"], &repaired["ranges"][0]["repaired"]), (&true.into(), &true.into()), "{repaired}");
    let after = site.mark("after");
    site.wait_replayed(after);
    let listed = points(&site);
    assert!(row(&listed, "before")["differs"][0].as_str().unwrap().contains("vda"), "{listed}");
    assert!(row(&listed, "after")["differs"].as_array().unwrap().is_empty(), "{listed}");
    let (target, out) = (site.target.display().to_string(), site.path("exported").display().to_string());
    let id = id.as_str().unwrap();
    let exported = site.verb(["export", GROUP, "--target", &target, "--point", id, "--output", &out, "--json"]).good();
    assert!(exported.json()["point"]["differs"][0].as_str().unwrap().contains("differed from the source"));
    assert_eq!(compare(&site, &[]).good().json()["differing"], 0);
    site.stop_agent();
    let newest = durable::standing(&site.target.join(GROUP).join("position")).unwrap().position;
    assert!(newest >= after);
    wait_for("all that was shipped", || durable::first_difference(&site.disks[0].source, &site.image(0)).is_none());
}

#[test]
fn a_target_that_cannot_follow_the_log_is_whole_again_after_a_resync_and_keeps_its_points() {
    let mut site = site();
    let before = site.mark("before");
    site.wait_replayed(before);
    let then = site.path("then");
    std::fs::copy(&site.disks[0].source, &then).unwrap();
    assert!(site.stop_processor().success());
    for seed in 2..8 {
        write(&site, seed, 10);
        let newest = site.newest();
        site.wait_shipped(newest);
    }
    // A segment is lost for good.
    let files = durable::segment_files(&site.vault, GROUP, 1);
    let later = files.into_iter().filter(|file| {
        let head = durable::index(file).head().clone();
        head.kind == Kind::Log && head.first_seq > before.seq && head.last_seq >= head.first_seq
    });
    std::fs::remove_file(later.collect::<Vec<_>>()[1].clone()).unwrap();
    site.start_processor();
    wait_for("the gap", || target_state(&site)["state"] == "stopped");
    let state = target_state(&site);
    assert!(state["reason"].as_str().unwrap().contains("farshore resync"), "{state}");

    let (vault, target) = (site.vault_url(), site.target.display().to_string());
    let asked = site.verb(["resync", GROUP, "--vault", &vault, "--target", &target, "--json"]).good().json();
    assert_eq!(asked["full"], true, "{asked}");
    assert!(asked["full_because"].as_str().unwrap().contains("is missing"), "{asked}");
    wait_for("the next epoch", || site.standing().is_some_and(|s| s.position.epoch.0 == 2 && !s.resync));
    wait_for("the listener", || Client::open(&site.disks[0].socket, "vda").is_ok());
    write(&site, 50, 10);
    let after = site.mark("after");
    site.wait_replayed(after);
    let attached = {
        let listed = points(&site);
        let id = row(&listed, "before")["id"].as_str().unwrap().to_owned();
        site.attach(&id)
    };
    assert_eq!(attached.position, before);
    let seen = site.path("seen");
    let mut copy = std::process::Command::new("nbdcopy");
    copy.arg(attached.uri("vda")).arg(&seen);
    let _ = farshore_tests::process::run("nbdcopy", copy, CATCH_UP_MAX).good();
    assert_eq!(durable::first_difference(&then, &seen), None, "a point was lost");
    site.stop_agent();
    wait_for("all that was shipped", || durable::first_difference(&site.disks[0].source, &site.image(0)).is_none());
}
