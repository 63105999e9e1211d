//! Disks of every size: one sector, odd numbers of sectors, 16 TiB; what is no disk is refused by name.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::client::{Client, command, error};
use farshore_tests::pattern::Rng;
use farshore_tests::process;
use farshore_tests::rounds;
use farshore_tests::site::{Site, SiteSpec, VERB_MAX};

const TIB: u64 = 1 << 40;
/// The longest that a disk of 16 TiB with next to nothing on it may take from its first start to its first point.
const HUGE_MAX: Duration = Duration::from_secs(60);
/// Most memory of any process for it, beside the ring (32 MiB) and buffers of segments.
const HUGE_MEMORY_MAX: u64 = 400 << 20;

#[test]
fn what_is_no_disk_is_refused_by_name() {
    for (size, words) in
        [(0, ["vda.source", "0 bytes"]), (511, ["vda.source", "511 bytes"]), (513, ["vda.source", "513 bytes"])]
    {
        let site = Site::new(SiteSpec { disks: vec![size], ..SiteSpec::default() });
        let said = process::run("farshore run", site.agent_command(), VERB_MAX).bad();
        for word in words.iter().chain(&["sector", "next:"]) {
            assert!(said.err.contains(word), "{word:?} is not in: {}", said.err);
        }
    }
}

/// Writes to the first and the last byte and across every edge that is there, then compares source, image and a point.
fn protects(size: u64) {
    let mut site = Site::new(SiteSpec { disks: vec![size], ..SiteSpec::default() });
    let before = Rng::new(size).bytes(size as usize);
    File::options().write(true).open(&site.disks[0].source).unwrap().write_all_at(&before, 0).unwrap();
    site.start_agent();
    site.wait_protected();
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    assert_eq!(client.size, size);
    client.write(size - 1, &[0xaa]).unwrap();
    client.write(0, &[0xbb]).unwrap();
    let tail = size.min(700);
    client.write(size - tail, &Rng::new(1).bytes(tail as usize)).unwrap();
    client.zeroes(size - tail / 2, (tail / 2) as u32).unwrap();
    client.trim(0, size.min(300) as u32).unwrap();
    assert_eq!(client.ask(0, command::WRITE, size - 1, 2, &[1, 2]).unwrap(), error::ENOSPC, "one byte too far");
    assert_eq!(client.ask(0, command::READ, size, 1, &[]).unwrap(), error::EINVAL);
    client.flush().unwrap();
    let whole = client.read(0, size as u32).unwrap();
    assert_eq!(std::fs::read(&site.disks[0].source).unwrap(), whole);
    let _ = site.mark("all");
    site.stop_agent();
    let _ = site.process_once().good();
    site.assert_equal();
    let point = site.points().into_iter().find(|p| p.name.as_deref() == Some("all")).expect("the mark is a point");
    let attached = site.attach(&point.id);
    let mut seen = Client::open(&attached.socket, "vda").unwrap();
    assert_eq!(seen.size, size);
    assert_eq!(seen.read(0, size as u32).unwrap(), whole);
    seen.write(size - 1, &[0xcc]).unwrap();
    assert_eq!(seen.read(size - 1, 1).unwrap(), [0xcc]);
    drop((seen, attached));
    let verify = ["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()];
    let _ = site.verb(verify).good();
}

#[test]
fn a_disk_of_one_sector_is_protected() {
    protects(512);
}

#[test]
fn disks_that_are_no_multiple_of_a_page_are_protected() {
    // Below a page, just above one, and with a last region and a last record that are cut short.
    for sectors in [7, 9, 2049 + 7, 8191] {
        protects(sectors * 512);
    }
}

/// The largest memory that a process has used so far, in bytes (proc(5), VmHWM); 0 once it has ended.
fn memory_peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.map_or(0, |l| l.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10)
}

/// The bytes of `places` in a file that is too large to be read.
fn bytes_at(path: &Path, places: &[u64]) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap();
    let read = |at: &u64| {
        let mut bytes = vec![0; 10_000];
        file.read_exact_at(&mut bytes, *at).unwrap();
        bytes
    };
    places.iter().map(read).collect()
}

#[test]
fn sixteen_tebibytes_with_little_on_them_cost_little_time_and_memory() {
    let size = 16 * TIB;
    // ext4 ends at 16 TiB less a block; tmpfs does not.
    let under = Some(PathBuf::from("/dev/shm"));
    let mut site = Site::new(SiteSpec { disks: vec![size], under, ..SiteSpec::default() });
    let places = [0, 5 * TIB + 4096, 11 * TIB + 77 * 512, size - 1_000_000];
    let source = File::options().write(true).open(&site.disks[0].source).unwrap();
    for (n, at) in places.iter().enumerate() {
        source.write_all_at(&Rng::new(n as u64).bytes(100_000), *at).unwrap();
    }
    let began = clock::mono();
    site.start_agent();
    site.wait_protected();
    println!("protected after {:?}", began.elapsed());
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    assert_eq!(client.size, size);
    for (n, at) in places.iter().enumerate() {
        client.write(at + 777, &Rng::new(100 + n as u64).bytes(5000)).unwrap();
    }
    client.zeroes(8 * TIB, 1 << 30).unwrap();
    client.trim(3 * TIB, 1 << 30).unwrap();
    client.flush().unwrap();
    let written = bytes_at(&site.disks[0].source, &places);
    let _ = site.mark("all");
    let agent = memory_peak(site.agent().pid());
    site.stop_agent();
    site.start_processor();
    let newest = site.newest();
    site.wait_replayed(newest);
    let processor = memory_peak(site.processor().pid());
    assert!(site.stop_processor().success());
    println!("replayed after {:?}; agent {agent}, processor {processor} bytes", began.elapsed());
    assert_eq!(bytes_at(&site.image(0), &places), written);

    let point = site.points().into_iter().find(|p| p.name.as_deref() == Some("all")).expect("the mark is a point");
    let attached = site.attach(&point.id);
    let mut seen = Client::open(&attached.socket, "vda").unwrap();
    for (at, expected) in places.iter().zip(&written) {
        assert_eq!(seen.read(*at, 10_000).unwrap(), *expected);
        seen.write(*at, &[7; 512]).unwrap();
    }
    let attach = memory_peak(attached.server.pid());
    drop((seen, attached));
    println!("attached after {:?}; {attach} bytes", began.elapsed());

    let (mut agent, mut processor) = (agent, processor);
    for _ in 1..rounds::count("FARSHORE_HUGE_COPIES", 1) {
        // The same disk after a start that knows nothing of what was there: everything is copied again, holes as zeroes.
        std::fs::remove_file(&site.ring).unwrap();
        site.start_agent();
        site.lose_source();
        std::fs::remove_file(&site.ring).unwrap();
        site.start_agent();
        site.start_processor();
        site.wait_protected();
        let newest = site.newest();
        site.wait_replayed(newest);
        agent = agent.max(memory_peak(site.agent().pid()));
        processor = processor.max(memory_peak(site.processor().pid()));
        assert!(site.stop_processor().success());
        site.stop_agent();
        assert_eq!(bytes_at(&site.image(0), &places), written);
        println!("copied again after {:?}", began.elapsed());
    }
    for (what, peak) in [("agent", agent), ("processor", processor), ("attach", attach)] {
        assert!(peak > 0 && peak < HUGE_MEMORY_MAX, "{what} used {peak} bytes");
    }
    assert!(began.elapsed() < HUGE_MAX, "it took {:?}", began.elapsed());
    // What is sparse stays sparse.
    let taken = std::fs::metadata(site.image(0)).unwrap().blocks() * 512;
    assert!(taken < 64 << 20, "the image takes {taken} bytes");
}
