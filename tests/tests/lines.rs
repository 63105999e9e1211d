//! A source behind a line with a round trip: while there is a backlog the line is full.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::fio::Job;
use farshore_tests::line::Line;
use farshore_tests::protected::assert_good;
use farshore_tests::site::{Site, SiteSpec};
use farshore_tests::stores::{Kind, StoreServer};
use farshore_tests::vm_disk::VmDisk;

const DISK_BYTES: u64 = 160 << 20;
const LOAD_BYTES: u64 = 96 << 20;
const BITS_PER_SECOND: f64 = 100e6;
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// What goes before it is measured, and while it is.
const BEFORE_BYTES: u64 = 8 << 20;
const MEASURED_BYTES: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// The part of the line that is used while a backlog goes over it.
fn filled(server: &StoreServer, uploads: usize) -> f64 {
    let line = Line::to(server.port(), BITS_PER_SECOND, ROUND_TRIP);
    let (here, there) = (format!(":{}", server.port()), format!(":{}", line.port()));
    let environment = server.environment().into_iter().map(|(name, value)| (name, value.replace(&here, &there)));
    let store = Some((server.url(&format!("line {uploads}")), environment.collect()));
    // Small segments, so that the round trips between them count.
    let config = format!("uploads = {uploads}\nsegment_size = \"1MiB\"\nmax_delay = \"1s\"");
    let mut site = Site::protected(SiteSpec { disks: vec![DISK_BYTES], store, config, ..SiteSpec::default() });
    let vm = VmDisk::attach(&site, 0);
    let begun = line.carried_up();
    let job = Job::on(&vm.socket, &vm.export).with("rw=write").with("bs=1M").with("iodepth=4").with("refill_buffers");
    let fio = job.with(&format!("size={LOAD_BYTES}")).start();
    let until = |bytes: u64| {
        let end = clock::mono() + PATIENCE;
        while line.carried_up() < begun + bytes {
            assert!(clock::mono() < end, "{} bytes went in {PATIENCE:?}", line.carried_up() - begun);
            clock::sleep(Duration::from_millis(2));
        }
        clock::mono()
    };
    let since = until(BEFORE_BYTES);
    let took = until(BEFORE_BYTES + MEASURED_BYTES).duration_since(since);
    assert_good(fio);
    let newest = site.newest();
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    site.assert_equal();
    site.end_and_verify();
    MEASURED_BYTES as f64 * 8.0 / took.as_secs_f64() / BITS_PER_SECOND
}

#[test]
fn a_backlog_fills_a_line_with_a_round_trip_as_one_upload_at_a_time_does_not() {
    let server = StoreServer::start(Kind::Seaweed);
    let (one, four) = (filled(&server, 1), filled(&server, 4));
    println!(
        "of 100 Mbit/s with a round trip of 50 ms: {:.0} % by one upload at a time, {:.0} % by four",
        one * 100.0,
        four * 100.0
    );
    assert!(four >= 0.8, "{four:.2} of the line is used by four uploads at once, {one:.2} by one");
    assert!(one < four, "{four:.2} of the line is used by four uploads at once, {one:.2} by one");
}
