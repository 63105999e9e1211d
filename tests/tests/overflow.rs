//! No room for the log, on the real binaries: a vault that is away, a shipper that stands still, a spool whose disk is full or dead. The
//! guest meets no error, its writes take as long as they are allowed to, and order comes back by itself.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_tests::client::Client;
use farshore_tests::pattern::Rng;
use farshore_tests::root::SmallFileSystem;
use farshore_tests::site::{Site, SiteSpec};
use nix::sys::signal::Signal;

const DISK_BYTES: u64 = 64 << 20;
const WRITE_BYTES: u64 = 16 << 10;
/// Ring and spool together hold less than half of what [`BEYOND`] writes.
const SMALL: &str = "ring_size = \"8MiB\"\nsegment_size = \"1MiB\"\nspool_size = \"4MiB\"";
/// The limit of the spool is one of payload; heads and indexes of its segments come on top.
const SPOOL_BYTES: u64 = 4 << 20;
/// Writes that are more than ring and spool hold.
const BEYOND: usize = 2000;
/// Writes that the ring alone holds.
const CALM: usize = 300;
/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_secs(5);
/// How many times as long as before the usual write may take while nothing can be logged: the machine's own noise.
const NOISE: u32 = 4;

/// A guest that writes one block after the other, and notes how long each took.
struct Guest {
    client: Client<UnixStream>,
    rng: Rng,
}

impl Guest {
    fn of(site: &Site) -> Self {
        let disk = &site.disks[0];
        Self { client: Client::open(&disk.socket, &disk.name).expect("the disk is served"), rng: Rng::new(11) }
    }

    /// The times, shortest first. Every write must succeed.
    fn writes(&mut self, count: usize) -> Vec<Duration> {
        let mut block = vec![0; WRITE_BYTES as usize];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&self.rng.number().to_le_bytes()));
            let offset = self.rng.below(DISK_BYTES / WRITE_BYTES) * WRITE_BYTES;
            let sent = clock::mono();
            self.client.write(offset, &block).expect("a write is done, whatever becomes of its log");
            times.push(sent.elapsed());
        }
        times.sort();
        times
    }
}

fn at(times: &[Duration], of_100: usize) -> Duration {
    times[(times.len() - 1) * of_100 / 100]
}

fn show(what: &str, times: &[Duration]) {
    let [median, p99, longest] = [50, 99, 100].map(|of_100| at(times, of_100));
    println!("{what}: {} writes, median {median:?}, 99% {p99:?}, longest {longest:?}", times.len());
}

fn protected(config: &str) -> Site {
    let config = format!("{SMALL}\n{config}");
    Site::protected(SiteSpec { disks: vec![DISK_BYTES], config, ..SiteSpec::default() })
}

fn unlogged(site: &Site) -> u64 {
    site.agent_status()["disks"][0]["unlogged_changes"].as_u64().expect("a number")
}

/// Nobody does anything, and the target comes to equal the disk, in the epoch that it was in.
fn order_comes_back(mut site: Site) {
    site.wait_protected();
    site.assert_catches_up();
    assert_eq!(site.newest().epoch, Epoch(1), "an epoch was begun");
    site.end_and_verify();
}

#[test]
fn a_vault_that_is_away_fills_spool_and_ring_and_the_guest_does_not_notice() {
    let site = protected("");
    let mut guest = Guest::of(&site);
    // Each region is opened once before what is compared.
    guest.writes(CALM);
    let calm = guest.writes(CALM);
    show("vault there", &calm);
    let aside = site.path("vault.aside");
    std::fs::rename(&site.vault, &aside).unwrap();
    let away = guest.writes(BEYOND);
    show("vault away", &away);
    let status = site.agent_status();
    assert_eq!(status["state"], "overflow", "{status}");
    assert!(status["overflows"].as_u64() >= Some(1) && unlogged(&site) > 0, "{status}");
    assert!(status["spool_bytes"].as_u64() <= Some(SPOOL_BYTES + SPOOL_BYTES / 20), "{status}");
    assert!(at(&away, 50) <= at(&calm, 50) * NOISE, "the usual write was slowed down");
    assert!(at(&away, 100) <= SLACK, "a write hung");
    let _ = std::fs::remove_dir_all(&site.vault);
    std::fs::rename(&aside, &site.vault).unwrap();
    order_comes_back(site);
}

#[test]
fn writers_wait_for_a_shipper_that_comes_back_in_time_and_nothing_overflows() {
    let mut site = protected("on_full = \"throttle\"\nfull_wait = \"60s\"");
    let mut guest = Guest::of(&site);
    guest.writes(CALM);
    site.signal_shipper(Signal::SIGSTOP);
    let pause = Duration::from_secs(2);
    let times = std::thread::scope(|scope| {
        let writer = scope.spawn(|| guest.writes(BEYOND));
        clock::sleep(pause);
        site.signal_shipper(Signal::SIGCONT);
        writer.join().expect("the guest's writes failed")
    });
    show("shipper stopped for 2 s", &times);
    assert!(at(&times, 100) >= pause / 4, "nobody waited: the ring had room");
    assert_eq!((unlogged(&site), site.agent_status()["overflows"].as_u64()), (0, Some(0)));
    order_comes_back(site);
}

#[test]
fn writers_wait_for_no_longer_than_is_allowed() {
    let mut site = protected("on_full = \"throttle\"\nfull_wait = \"700ms\"");
    let mut guest = Guest::of(&site);
    guest.writes(CALM);
    site.signal_shipper(Signal::SIGSTOP);
    let times = guest.writes(BEYOND);
    show("shipper stopped for good", &times);
    let longest = at(&times, 100);
    assert!(longest >= Duration::from_millis(500), "nobody waited: {longest:?}");
    assert!(longest <= Duration::from_millis(700) + SLACK, "a write was held for {longest:?}");
    assert!(unlogged(&site) > 0, "everything was logged");
    site.signal_shipper(Signal::SIGCONT);
    order_comes_back(site);
}

/// A site whose spool lies in a file system of its own.
fn on_a_small_spool() -> (Site, SmallFileSystem) {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    let spool = site.path("spool");
    let small = SmallFileSystem::mount(&site.path("spool.img"), &spool, 32 << 20);
    site.reconfigure(&format!("{SMALL}\nspool_dir = \"{}\"", spool.display()));
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    (site, small)
}

#[test]
fn a_spool_whose_disk_is_full_is_an_overflow_and_goes_on_by_itself_when_there_is_room() {
    let (site, _small) = on_a_small_spool();
    let mut guest = Guest::of(&site);
    let spool = site.path("spool");
    let ballast = spool.join("ballast");
    let free = nix::sys::statvfs::statvfs(&spool).unwrap();
    let filling = i64::try_from(free.blocks_available() * free.fragment_size()).unwrap() - (64 << 10);
    nix::fcntl::posix_fallocate(File::create(&ballast).unwrap(), 0, filling).unwrap();
    show("spool full", &guest.writes(BEYOND));
    assert!(unlogged(&site) > 0, "everything was logged: {}", site.agent_status());
    std::fs::remove_file(&ballast).unwrap();
    order_comes_back(site);
}

#[test]
fn a_spool_whose_disk_is_dead_is_an_overflow_and_nothing_is_lost() {
    let (mut site, small) = on_a_small_spool();
    let mut guest = Guest::of(&site);
    small.fail();
    show("spool dead", &guest.writes(BEYOND));
    assert!(unlogged(&site) > 0, "everything was logged: {}", site.agent_status());
    // The disk is mended while the agent is down; the ring has what the spool had not taken.
    site.kill_agent();
    site.kill_shipper_if_any();
    let _mended = small.repaired(&site.path("spool.img"));
    site.start_agent();
    order_comes_back(site);
}
