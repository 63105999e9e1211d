//! The source's host loses its power, and its disks what they were not asked to flush. The agent that starts afterwards reads the open
//! regions again and nothing else; then the target is the disk, and the points before are what they were.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_tests::bin;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::pattern::Rng;
use farshore_tests::power_host::{HostSpec, MountedVault, PowerHost};
use farshore_tests::power_load::{BLOCK, Story};
use farshore_tests::process::{Finished, run};
use farshore_tests::rounds;
use farshore_tests::site::{GROUP, VERB_MAX};

const DISK_BYTES: usize = 24 << 20;
/// Bytes of a region of the dirty map.
const REGION: usize = 1 << 20;
const REGIONS: u64 = (DISK_BYTES / REGION) as u64;
const BLOCKS_A_REGION: u64 = (REGION / BLOCK) as u64;
/// Regions that are written between two cuts.
const DIRTIED: u64 = 4;
/// Writes between two cuts.
const WRITES: u64 = 300;
/// In one of so many writes of a load a flush follows.
const FLUSH_IN: u64 = 40;
/// More than the ring holds.
const OVERFLOW_WRITES: u64 = 2600;
/// Cuts until one has lost a shipped write: each loses one but for bad luck.
const TRIES: u32 = 5;
/// Cuts in `make test`: one of each kind.
const CUTS: u32 = 5;
/// The longest a load runs before its cut.
const LOAD_MAX_MS: u64 = 1500;
/// A guest, and farshore in it, want a core each.
static HOSTS: Mutex<()> = Mutex::new(());

/// A protected disk, and what is known of it.
struct Protected {
    host: PowerHost,
    story: Story,
    rng: Rng,
    epoch: u64,
    /// The disk at each mark.
    marks: Vec<(String, Vec<u8>)>,
}

/// When the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Everything written is in the vault, and nothing of it was flushed.
    Shipped,
    /// Everything is in the vault, and its regions are closed.
    Closed,
    /// While a load writes and flushes.
    UnderLoad,
    /// While the agent after a cut copies.
    Resync,
    /// The log has no room, and the map alone knows what was written.
    Overflow,
}

impl Protected {
    /// Boots, writes all of the disk, and waits until the map has nothing open.
    fn new(rng: Rng) -> Self {
        let mut host = PowerHost::new(HostSpec { source_bytes: DISK_BYTES, ..HostSpec::default() });
        host.boot();
        let mut all = Self { host, story: Story::default(), rng, epoch: 1, marks: Vec::new() };
        let mut client = all.host.connect().unwrap();
        for region in 0..REGIONS {
            for _ in 0..4 {
                let block = all.block_in(region);
                all.story.write(&mut client, block).unwrap();
            }
        }
        all.story.flush(&mut client).unwrap();
        all.settle();
        all
    }

    fn block_in(&mut self, region: u64) -> u64 {
        region * BLOCKS_A_REGION + self.rng.below(BLOCKS_A_REGION)
    }

    fn blocks(&mut self, count: u64) -> Vec<u64> {
        let regions: Vec<u64> = (0..DIRTIED).map(|_| self.rng.below(REGIONS)).collect();
        (0..count).map(|n| self.block_in(regions[(n % DIRTIED) as usize])).collect()
    }

    /// Waits until everything is in the vault and no region is open; marks it.
    fn settle(&mut self) {
        self.host.wait_for("protection", |s| s["state"] == "protected");
        self.wait_closed();
        let name = format!("before-cut-{}", self.marks.len() + 1);
        self.host.mark(&name);
        self.wait_shipped();
        self.marks.push((name, self.host.source()));
    }

    fn wait_closed(&mut self) {
        self.host
            .wait_for("closed regions", |s| s["disks"][0]["open_regions"] == 0 && s["disks"][0]["lost_bytes"] == 0);
    }

    fn wait_shipped(&mut self) {
        self.host.wait_for("confirmation", |s| s["confirmed_seq"] == s["last_seq"]);
    }

    fn write(&mut self, count: u64) {
        let mut client = self.host.connect().unwrap();
        for block in self.blocks(count) {
            self.story.write(&mut client, block).unwrap();
        }
    }

    /// Writes and flushes until the power fails.
    fn load(&mut self) -> JoinHandle<Story> {
        let mut story = self.story.clone();
        let blocks = self.blocks(WRITES);
        let mut rng = Rng::new(self.rng.number());
        // Before the thread runs: the power may fail at once.
        let mut client = self.host.connect().unwrap();
        std::thread::spawn(move || {
            loop {
                let block = blocks[rng.below(WRITES) as usize];
                let flush = rng.below(FLUSH_IN) == 0;
                let done = story
                    .write(&mut client, block)
                    .and_then(|()| if flush { story.flush(&mut client) } else { Ok(()) });
                if done.is_err() {
                    return story;
                }
            }
        })
    }

    fn cut(&mut self) -> usize {
        self.host.cut(&mut self.rng);
        self.epoch += 1;
        self.story.after_cut(&self.host.source())
    }

    /// Brings one cut about; how many acknowledged blocks the disk has lost by it.
    fn lose_power(&mut self, moment: Moment) -> usize {
        match moment {
            Moment::Shipped => {
                self.write(WRITES);
                self.wait_shipped();
            }
            Moment::Closed => {
                self.write(WRITES);
                self.wait_closed();
            }
            Moment::UnderLoad => {
                let load = self.load();
                clock::sleep(Duration::from_millis(self.rng.below(LOAD_MAX_MS)));
                self.host.cut(&mut self.rng);
                self.epoch += 1;
                self.story = load.join().expect("the load failed");
                return self.story.after_cut(&self.host.source());
            }
            Moment::Resync => {
                self.write(WRITES);
                let lost = self.cut();
                self.host.boot();
                self.write(WRITES / 10);
                clock::sleep(Duration::from_millis(self.rng.below(300)));
                return lost + self.cut();
            }
            Moment::Overflow => {
                self.host.hold_shipper();
                self.write(OVERFLOW_WRITES);
                let status = self.host.status();
                assert!(status["disks"][0]["unlogged_changes"].as_u64() > Some(0), "the log had room: {status}");
            }
        }
        self.cut()
    }

    /// The agent after the cut copies what was open and nothing else.
    fn assert_recovers(&mut self, moment: Moment) {
        self.host.boot();
        let status = self.host.wait_for("the end of the resync", |s| s["state"] == "protected");
        assert_eq!(status["epoch"], self.epoch, "{moment:?}: a lost ring begins an epoch");
        self.settle();
        let copied = {
            let vault = self.host.vault();
            let mut log = LogWatch::of(self.epoch);
            log.look_in(&vault.folder()).resync_bytes()
        };
        // Those that were open, among them those of a resync that was cut off.
        let open = if moment == Moment::Closed { 0 } else { 2 * DIRTIED * REGION as u64 };
        println!("{moment:?}: {copied} bytes were copied");
        assert!(copied <= open, "{moment:?}: {copied} bytes were copied, and only {open} were open");
    }

    /// The target is the disk, and each point is what the disk was.
    fn assert_target_is_right(mut self) {
        self.host.stop();
        let vault = self.host.vault();
        let target = tempfile::tempdir().unwrap();
        assert_same(&self.host.source(), &vault.replay(target.path()), "the target image");
        for (name, content) in &self.marks {
            assert_same(content, &point(target.path(), name), name);
        }
        verify(&vault, target.path());
    }
}

#[track_caller]
fn assert_same(wanted: &[u8], found: &[u8], what: &str) {
    assert_eq!(wanted.len(), found.len(), "{what}");
    let differs = wanted.iter().zip(found).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what} is not what the disk was, from this byte on");
}

fn farshore(args: &[&str]) -> Finished {
    run(&format!("farshore {}", args[0]), bin::farshore(args), VERB_MAX).good()
}

/// The disk at the point that a mark of this name became.
fn point(target: &Path, name: &str) -> Vec<u8> {
    let out = target.join(format!("{name}.raw"));
    let [target, path] = [target, &out].map(|p| p.to_str().expect("a plain path"));
    let points = farshore(&["points", GROUP, "--target", target, "--json"]).json();
    let point = points.as_array().expect("a list").iter().find(|p| p["name"] == name);
    let id = point.unwrap_or_else(|| panic!("{name} became no point: {points}"))["id"].as_str().expect("an id");
    let _ = farshore(&["export", GROUP, "--target", target, "--point", id, "--output", path]);
    std::fs::read(out).expect("the export made a file")
}

fn verify(vault: &MountedVault, target: &Path) {
    let url = format!("file://{}", vault.folder().display());
    let args = ["verify", "--vault", &url, "--target", target.to_str().expect("a plain path")];
    let _ = run("farshore verify", vault.farshore(&args), VERB_MAX).good();
}

#[test]
fn a_power_cut_that_loses_shipped_writes_leaves_a_target_that_equals_the_disk() {
    let _turn = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Protected::new(rounds::chance());
    let mut counts = false;
    for _ in 0..TRIES {
        let lost = all.lose_power(Moment::Shipped);
        println!("the disk lost {lost} blocks that had been shipped");
        all.assert_recovers(Moment::Shipped);
        counts = lost > 0;
        if counts {
            break;
        }
    }
    assert!(counts, "in {TRIES} cuts the disk lost nothing that had been shipped: this has shown nothing");
    all.assert_target_is_right();
}

#[test]
fn a_power_cut_at_any_moment_copies_what_was_open_and_nothing_else() {
    let _turn = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Protected::new(rounds::chance());
    let moments = [Moment::UnderLoad, Moment::Closed, Moment::Resync, Moment::Overflow, Moment::Shipped];
    let first = all.rng.below(moments.len() as u64) as usize;
    for n in 0..rounds::count("FARSHORE_POWER_CUTS", CUTS) as usize {
        let moment = moments[(first + n) % moments.len()];
        let lost = all.lose_power(moment);
        println!("{moment:?}: the disk lost {lost} acknowledged blocks");
        assert!(moment != Moment::Closed || lost == 0, "a region was closed before its writes were durable");
        all.assert_recovers(moment);
    }
    all.assert_target_is_right();
}
