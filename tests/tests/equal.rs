//! After any load, target and source have one BLAKE3: fio with `verify=crc32c`, random sizes, mixed reads, writes and trims,
//! on several connections, and beside it connections that write, zero and trim unaligned ranges over each other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use farshore_changelog::op::Op;
use farshore_tests::chaos::{Chaos, ChaosSpec};
use farshore_tests::durable;
use farshore_tests::fio::Job;
use farshore_tests::pattern::Rng;
use farshore_tests::process::Process;
use farshore_tests::site::{GROUP, Site, SiteSpec};
use farshore_tests::stores::{Kind, StoreServer};

const MIB: u64 = 1 << 20;
/// fio has the first part of the disk to itself, because it verifies; what lies behind is fought over.
const VERIFIED: u64 = 64 * MIB;
const DISK_BYTES: u64 = 128 * MIB;
/// The longest one fio may take on a busy machine.
const FIO_MAX: Duration = Duration::from_secs(400);

/// fio on the verified part: every block is read back and compared.
fn verified_job(site: &Site, disk: usize) -> Job {
    let disk = &site.disks[disk];
    Job::on(&disk.socket, &disk.name)
        .with("rw=randwrite")
        .with("bsrange=512-96k")
        .with("blockalign=512")
        .with(&format!("size={VERIFIED}"))
        .with("loops=2")
        .with("iodepth=16")
        .with("verify=crc32c")
        .with("verify_fatal=1")
        .with("do_verify=1")
        .with("fsync=64")
        .with("randseed=11")
}

/// fio on the part that is fought over: `jobs` connections at overlapping offsets, paced so that they last as long as the rest.
fn overlapping_job(site: &Site, disk: usize, rw: &str, jobs: u32) -> Job {
    let disk = &site.disks[disk];
    Job::on(&disk.socket, &disk.name)
        .with(&format!("rw={rw}"))
        .with("bsrange=512-128k")
        .with("blockalign=512")
        .with(&format!("offset={VERIFIED}"))
        .with(&format!("size={}", DISK_BYTES - VERIFIED))
        .with("norandommap")
        .with(&format!("numjobs={jobs}"))
        .with("thread")
        .with("iodepth=8")
        .with("rate=5m")
        .with("time_based")
        .with("runtime=8")
        .with("randseed=12")
}

fn chaos(site: &Site, disk: usize, align: u64, seed: u64) -> Chaos {
    let disk = &site.disks[disk];
    Chaos::start(&ChaosSpec {
        socket: disk.socket.clone(),
        export: disk.name.clone(),
        range: VERIFIED..DISK_BYTES,
        connections: 2,
        len_max: 300_000,
        align,
        seed,
    })
}

fn load(site: &Site) {
    let any_byte = chaos(site, 0, 1, 1);
    let sectors = chaos(site, 0, 512, 2);
    let overlapping: [Process; 2] =
        [overlapping_job(site, 0, "randrw", 2).start(), overlapping_job(site, 0, "randtrim", 1).start()];
    verified_job(site, 0).run(FIO_MAX);
    for mut fio in overlapping {
        let status = fio.wait(FIO_MAX);
        assert!(status.success(), "fio failed: {status}\n{}", fio.tail());
    }
    let done = any_byte.finish() + sectors.finish();
    println!("beside fio: {done:?}");
    assert!(done.writes > 50 && done.zeroes > 5 && done.trims > 5 && done.reads > 5, "{done:?}");
    assert_eq!(done.reconnects, 0, "a connection was lost");
}

/// How often each operation lies in the vault.
fn logged(site: &Site, op: Op) -> usize {
    let files = durable::segment_files(&site.vault, GROUP, 1);
    files.iter().map(|f| durable::index(f).records().iter().filter(|r| r.record.op == op).count()).sum()
}

#[test]
fn target_and_source_are_equal_after_a_mixed_load() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.start_processor();
    load(&site);
    let newest = site.newest();
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    // The agent still runs: nothing was in flight, so the disks are equal without a stop.
    site.assert_equal();
    for op in [Op::Write, Op::WriteZeroes, Op::Trim, Op::Flush] {
        assert!(logged(&site, op) > 0, "no {op:?} reached the vault");
    }
    site.stop_agent();
    assert!(site.stop_processor().success());
    let _ = site.verb(["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()]).good();
}

/// The same in an encrypted vault in a bucket.
fn equal_in_a_bucket(kind: Kind) {
    let server = StoreServer::start(kind);
    let store = Some((server.url("dr"), server.environment()));
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], store, ..SiteSpec::default() });
    site.start_agent();
    site.start_processor();
    load(&site);
    site.wait_protected();
    site.assert_catches_up();
    site.end_and_verify();
}

#[test]
fn target_and_source_are_equal_after_a_mixed_load_in_seaweedfs() {
    equal_in_a_bucket(Kind::Seaweed);
}

#[test]
fn target_and_source_are_equal_after_a_mixed_load_in_azurite() {
    equal_in_a_bucket(Kind::Azurite);
}

#[test]
fn target_and_source_are_equal_when_the_load_runs_during_initial_replication() {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    // Data with holes between.
    let source = File::options().write(true).open(&site.disks[0].source).unwrap();
    let mut rng = Rng::new(3);
    for step in 0..DISK_BYTES / (2 * MIB) {
        source.write_all_at(&rng.bytes(MIB as usize + 4096), step * 2 * MIB).unwrap();
    }
    source.sync_all().unwrap();
    site.start_agent();
    site.start_processor();
    load(&site);
    site.wait_protected();
    let newest = site.newest();
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    site.assert_equal();

    // The load did run during the replication: writes lie between its begin and its end.
    let records = durable::segment_files(&site.vault, GROUP, 1);
    let ops: Vec<Op> = records
        .iter()
        .flat_map(|f| durable::index(f).records().iter().map(|r| r.record.op).collect::<Vec<_>>())
        .collect();
    let begin = ops.iter().position(|op| *op == Op::ResyncBegin).expect("the replication began");
    let end = ops.iter().rposition(|op| *op == Op::ResyncEnd).expect("the replication ended");
    let writes = ops[begin..end].iter().filter(|op| **op == Op::Write).count();
    assert!(writes > 0, "the load began only after the replication");
    site.stop_agent();
    assert!(site.stop_processor().success());
    // No point was cut where the log alone did not give the disk, and there is one after it.
    assert!(!site.points().is_empty());
}
