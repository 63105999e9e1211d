//! A source behind a line to another site, with a round trip, losses and cuts: a backlog fills the line, the guest does not notice it, and
//! the vault has everything again soon after.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_shipper::config::UPLOADS;
use farshore_tests::durable;
use farshore_tests::fio::Job;
use farshore_tests::line::{Line, Quality};
use farshore_tests::protected::assert_good;
use farshore_tests::site::{Site, SiteSpec};
use farshore_tests::stores::{Extra, StoreServer};
use farshore_tests::vm_disk::VmDisk;

const GOOD: Quality =
    Quality { bits_per_second: 100_000_000, round_trip: Duration::from_millis(50), loss_percent: 0.0 };
/// The line while nothing is measured.
const AFTERWARDS: Quality = Quality { bits_per_second: 1_000_000_000, round_trip: Duration::ZERO, loss_percent: 0.0 };
/// Linux' own way to deal with loss, which most hosts have. (BBR takes loss for what it is; see docs/performance.md.)
const USUAL: &str = "cubic";

/// A site whose agent and shipper see the store only over the line.
fn site_behind(line: &Line, server: &StoreServer, name: &str, disk_bytes: u64, config: String) -> Site {
    let store = Some((server.url(name), server.environment()));
    let mut site = Site::new(SiteSpec { disks: vec![disk_bytes], store, config, ..SiteSpec::default() });
    let mut agent = line.near(site.agent_command());
    for (name, value) in server.environment() {
        agent.env(name, value.replace("127.0.0.1", &line.far_address()));
    }
    site.start_agent_as(agent);
    site.start_processor();
    site.wait_protected();
    site
}

/// Losses of the line in percent. The worst comes last, since TCP is slow to take up again what it gave up; none is not the first, so that
/// what the connections lose when they begin, in the router's queue, is not measured.
const LOSSES: [f64; 3] = [0.1, 0.0, 1.0];
const FILL_DISK_BYTES: u64 = 1088 << 20;
/// So much that it lasts, compressed to half.
const BACKLOG_BYTES: u64 = 1024 << 20;
/// What goes before it is measured, and while it is.
/// The first time, until there are as many uploads as may be: four of 4 MiB go well, then eight.
const WIDENS: Duration = Duration::from_secs(8);
const SETTLES: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(10);

/// The part of the line that is used while a backlog goes over it, for each of the losses.
fn filled(line: &mut Line, server: &StoreServer, uploads: usize) -> [f64; 3] {
    line.set(AFTERWARDS);
    // Segments and their delay as they are by default; the rest as in all tests.
    let config = format!("uploads = {uploads}\nmax_delay = \"1s\"");
    let mut site = site_behind(line, server, &format!("fills {uploads}"), FILL_DISK_BYTES, config);
    let vm = VmDisk::attach(&site, 0);
    line.set(Quality { loss_percent: LOSSES[0], ..GOOD });
    let job = Job::on(&vm.socket, &vm.export).with("rw=write").with("bs=1M").with("iodepth=4").with("refill_buffers");
    let fio = job.with("buffer_compress_percentage=50").with(&format!("size={BACKLOG_BYTES}")).start();
    clock::sleep(WIDENS);
    let parts = LOSSES.map(|loss_percent| {
        line.set(Quality { loss_percent, ..GOOD });
        clock::sleep(SETTLES);
        let (since, carried) = (clock::mono(), line.carried_up());
        clock::sleep(MEASURED);
        let (took, carried) = (since.elapsed(), line.carried_up() - carried);
        let left = site.agent_status()["spool_bytes"].as_u64().expect("a number");
        assert!(left > 0, "there was no backlog any more with a loss of {loss_percent} %");
        carried as f64 * 8.0 / took.as_secs_f64() / GOOD.bits_per_second as f64
    });
    line.set(AFTERWARDS);
    assert_good(fio);
    site.assert_catches_up();
    site.end_and_verify();
    parts
}

#[test]
fn a_backlog_fills_a_line_with_a_round_trip_and_losses_as_one_upload_at_a_time_does_not() {
    let server = StoreServer::seaweed(Extra { everywhere: true, ..Extra::default() });
    let mut line = Line::of(AFTERWARDS, USUAL);
    let (many, one) = (filled(&mut line, &server, UPLOADS), filled(&mut line, &server, 1));
    for (loss, (many, one)) in LOSSES.iter().zip(many.iter().zip(one)) {
        let (many, one) = (many * 100.0, one * 100.0);
        println!("of 100 Mbit/s with 50 ms and a loss of {loss} %: {many:.0} % by many uploads, {one:.0} % by one");
    }
    // Wanted are 0.8, and measured 0.83 to 0.95 (docs/performance.md); chance has its part in what each connection loses.
    assert!(many[0] >= 0.75 && many[1] >= 0.8, "{many:?} of the line is used, by one upload at a time {one:?}");
    assert!(many.iter().zip(one).all(|(many, one)| *many > one), "{many:?} is not more than by one at a time, {one:?}");
    assert!(many[2] > 2.0 * one[2], "with a loss of 1 % {many:?} is not much more than by one at a time, {one:?}");
}

const GUEST_DISK_BYTES: u64 = 64 << 20;
/// What the guest does with its disk: it is far from its limits, and the ring has room for what a cut holds up.
const GUEST_IOPS: u32 = 200;
const GUEST_TIME: Duration = Duration::from_secs(8);
const ROUNDS: usize = 3;
/// A guest that waited for the line would wait for one round trip at least, and in a cut for seconds.
const SLACK_MS: f64 = 5.0;
/// From a line that is good again to a vault that has everything: the longest pause between two tries, and a margin for a busy machine.
const RECOVERS: Duration = Duration::from_secs(60);

/// The time within which 99 % of the guest's writes are answered, in milliseconds.
fn guest_p99(vm: &VmDisk) -> f64 {
    let job = Job::on(&vm.socket, &vm.export).with("rw=randwrite").with("bs=4k").with("iodepth=2").with("fsync=8");
    let job = job.with(&format!("rate_iops={GUEST_IOPS}")).with("time_based").with("output-format=json");
    let said = job.with(&format!("runtime={}", GUEST_TIME.as_secs())).run(GUEST_TIME * 10).out;
    let json = said.find("{\n").map_or(said.as_str(), |at| &said[at..]);
    let said: serde_json::Value = serde_json::from_str(json).expect("fio says JSON");
    said["jobs"][0]["write"]["clat_ns"]["percentile"]["99.000000"].as_f64().expect("a number") / 1e6
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
fn on_a_bad_line_the_guest_goes_on_as_before_and_the_vault_catches_up_by_itself() {
    let server = StoreServer::seaweed(Extra { everywhere: true, ..Extra::default() });
    let mut line = Line::of(GOOD, USUAL);
    let mut site = site_behind(&line, &server, "guest", GUEST_DISK_BYTES, "max_delay = \"1s\"".to_owned());
    let vm = VmDisk::attach(&site, 0);
    let (mut good, mut lossy, mut cut) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        line.set(GOOD);
        let newest = site.newest();
        site.wait_shipped(newest);
        good.push(guest_p99(&vm));
        line.set(Quality { loss_percent: 1.0, ..GOOD });
        lossy.push(guest_p99(&vm));
        let behind = catches_up(&mut site);
        println!("with a loss of 1 % the vault has everything after {behind:?}");
        line.cut();
        let before = durable::ring_confirmed(&site.ring);
        cut.push(guest_p99(&vm));
        assert!(durable::ring_confirmed(&site.ring) <= before, "the line was cut");
        line.set(GOOD);
        let behind = catches_up(&mut site);
        println!("after a cut of {GUEST_TIME:?} the vault has everything after {behind:?}");
    }
    let (good, lossy, cut) = (median(good), median(lossy), median(cut));
    println!(
        "99 % of the guest's writes within {good:.2} ms; with a loss of 1 % {lossy:.2} ms; with a line that is cut {cut:.2} ms"
    );
    for bad in [lossy, cut] {
        assert!(bad < 2.0 * good + SLACK_MS, "99 % of the writes within {bad:.2} ms instead of {good:.2} ms");
    }
    site.assert_catches_up();
    site.end_and_verify();
}

/// How long it takes until the vault has what the guest has written up to now.
fn catches_up(site: &mut Site) -> Duration {
    let (since, newest) = (clock::mono(), site.newest());
    site.wait_shipped(newest);
    let took = since.elapsed();
    assert!(took < RECOVERS, "the vault has what was written {took:?} later");
    took
}
