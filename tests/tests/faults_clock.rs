//! A source host whose clock is set back by a day and then forward by a year while farshore runs: the log is ordered by seq, the points
//! come in their order with times that do not fall, and each is what the disk was.

use farshore_tests::bin;
use farshore_tests::pattern::Rng;
use farshore_tests::power_host::{HostSpec, PowerHost};
use farshore_tests::process::run;
use farshore_tests::site::{GROUP, VERB_MAX};

const DISK_BYTES: usize = 8 << 20;
const BLOCK: usize = 64 << 10;
/// Writes between two marks.
const WRITES: u64 = 20;

#[test]
fn a_clock_that_jumps_both_ways_changes_no_order_and_no_point() {
    let mut host = PowerHost::new(HostSpec { source_bytes: DISK_BYTES, ..HostSpec::default() });
    host.boot();
    host.wait_for("protection", |s| s["state"] == "protected");
    let mut rng = Rng::new(3);
    let mut marks: Vec<(String, Vec<u8>)> = Vec::new();
    let jumps = [("before", None), ("a-day-back", Some("- 86400")), ("a-year-forward", Some("+ 31536000"))];
    for (name, jump) in jumps {
        if let Some(jump) = jump {
            host.shell(&format!("date -s @$(( $(date +%s) {jump} )) >&2"));
        }
        let mut client = host.connect().unwrap();
        for _ in 0..WRITES {
            let block = rng.below((DISK_BYTES / BLOCK) as u64);
            client.write(block * BLOCK as u64, &vec![rng.below(255) as u8 + 1; BLOCK]).unwrap();
        }
        client.flush().unwrap();
        host.mark(name);
        host.wait_for("confirmation", |s| s["confirmed_seq"] == s["last_seq"]);
        marks.push((name.to_owned(), host.source()));
    }
    let status = host.status();
    assert_eq!((&status["state"], &status["epoch"]), (&"protected".into(), &1.into()), "{status}");
    host.stop();

    let (vault, target) = (host.vault(), tempfile::tempdir().unwrap());
    assert!(vault.replay(target.path()) == host.source(), "the target image is not the disk");
    let target = target.path().to_str().unwrap();
    let points = run("points", bin::farshore(["points", GROUP, "--target", target, "--json"]), VERB_MAX).good().json();
    let points = points.as_array().unwrap();
    let times: Vec<&str> = points.iter().map(|point| point["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "times fall: {times:?}");
    let places: Vec<usize> = marks
        .iter()
        .map(|(name, _)| points.iter().position(|point| point["name"] == name.as_str()).expect("a mark is a point"))
        .collect();
    assert!(places.is_sorted(), "the marks' points come in another order: {places:?}");
    for (place, (name, content)) in places.iter().zip(&marks) {
        let out = format!("{target}/{name}.raw");
        let id = points[*place]["id"].as_str().unwrap();
        let export = ["export", GROUP, "--target", target, "--point", id, "--output", &out];
        let _ = run("export", bin::farshore(export), VERB_MAX).good();
        assert!(std::fs::read(&out).unwrap() == *content, "the point {name} is not what the disk was");
    }
}
