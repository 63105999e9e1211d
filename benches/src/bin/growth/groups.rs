//! Idle groups on one processor: what each costs, with the heartbeats of its source and without, and how late something new in one
//! of them is applied.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use farshore_benches::group::ours;
use farshore_benches::process::{Process, memory, open_files, used, wait};
use farshore_benches::work::{Log, epoch, half_compressible};
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, GroupName};
use farshore_changelog::segment::Sealed;
use farshore_processor::position::ReplayPosition;
use farshore_processor::target::GroupDir;
use farshore_vault::{GroupVault, Put, Vault};
use object_store::local::LocalFileSystem;
use tokio::runtime::Runtime;

use crate::report::Part;

const GROUPS: [usize; 4] = [1, 10, 100, 1000];
const DISK_BYTES: u64 = 64 << 20;
/// What each group has written once.
const WRITTEN_BYTES: usize = 256 << 10;
/// The heartbeat of a source, as its configuration has it unless it says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long is measured.
const WINDOW: Duration = Duration::from_secs(15);
/// Until what was begun at the start is over, such as proving the journal, and the groups have been idle for long enough.
const SETTLE: Duration = Duration::from_secs(20);
/// New segments that are waited for, one after the other.
const PROBES: usize = 3;
const LAG: &str = "until something new in one of them is applied, the longest of 3";
const LOOK: Duration = Duration::from_millis(2);

/// The sources, as far as their vault sees them.
struct Sources {
    runtime: Runtime,
    all: Vec<Source>,
}

struct Source {
    log: Log,
    vault: GroupVault,
    /// Where replay of it is.
    position: std::path::PathBuf,
}

impl Source {
    fn put(&self, runtime: &Runtime, sealed: Sealed) -> Result<()> {
        let put = self.vault.put_segment(Epoch(1), sealed.head.number, Bytes::from(sealed.bytes));
        ensure!(runtime.block_on(put)? == Put::Created, "the segment is there already");
        Ok(())
    }

    fn is_applied(&self) -> bool {
        let at = ReplayPosition::read(&self.position).ok().flatten();
        at.is_some_and(|at| at.number == self.log.number())
    }
}

impl Sources {
    /// Groups in a new vault, each with one segment. Its objects need not survive a power cut.
    fn make(count: usize, vault: &Path, target: &Path) -> Result<Self> {
        for old in [vault, target].into_iter().filter(|path| path.exists()) {
            std::fs::remove_dir_all(old)?;
        }
        std::fs::create_dir_all(vault)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(vault)?);
        let vault = runtime.block_on(Vault::init_store(store, "counted:"))?;
        let payload = half_compressible(WRITTEN_BYTES);
        let offsets: Vec<u64> = (0..4).map(|n| n * DISK_BYTES / 4).collect();
        let mut all = Vec::new();
        for n in 0..count {
            let name = GroupName::new(format!("vm{n:04}")).map_err(anyhow::Error::msg)?;
            let object = epoch(name.clone(), DISK_BYTES);
            let position = GroupDir::new(target, &name).position();
            let mut source = Source { log: Log::new(&object), vault: vault.group(&name), position };
            runtime.block_on(source.vault.create_epoch(&object))?;
            let sealed = source.log.seal(&offsets, &payload)?;
            source.put(&runtime, sealed)?;
            all.push(source);
        }
        Ok(Self { runtime, all })
    }

    /// Sends the heartbeats of all, one after the other, until `stop`.
    fn beat(&mut self, stop: &AtomicBool) -> Result<()> {
        let Self { runtime, all } = self;
        let (begun, pause) = (clock::mono(), HEARTBEAT / u32::try_from(all.len())?);
        for n in 0.. {
            let due = begun + pause * n;
            while clock::mono() < due {
                if stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                clock::sleep(due.saturating_duration_since(clock::mono()).min(Duration::from_millis(50)));
            }
            let place = n as usize % all.len();
            let sealed = all[place].log.heartbeat()?;
            all[place].put(runtime, sealed)?;
        }
        Ok(())
    }

    /// Puts something new into one group, and gives the seconds until it is applied.
    fn probe(&mut self, place: usize) -> Result<f64> {
        let Self { runtime, all } = self;
        let place = place % all.len();
        let sealed = all[place].log.seal(&[0], &half_compressible(4096))?;
        all[place].put(runtime, sealed)?;
        let begun = clock::mono();
        while !all[place].is_applied() {
            ensure!(clock::mono().duration_since(begun) < Duration::from_secs(60), "it is not applied");
            clock::sleep(LOOK);
        }
        Ok(clock::mono().duration_since(begun).as_secs_f64())
    }
}

/// What a process used within a second.
struct Used {
    cores: f64,
    wakeups: f64,
    requests: f64,
    lists: f64,
}

fn watched(follow: &mut Process) -> Result<Used> {
    let mut look = || -> Result<[f64; 4]> {
        let said = follow.ask()?;
        let (all, lists) = said.split_once(' ').with_context(|| format!("it says {said}"))?;
        let (seconds, woken) = used(&[follow.pid()])?;
        Ok([seconds, woken, all.parse()?, lists.parse()?])
    };
    let before = look()?;
    clock::sleep(WINDOW);
    let after = look()?;
    let [cores, wakeups, requests, lists] = [0, 1, 2, 3].map(|n| (after[n] - before[n]) / WINDOW.as_secs_f64());
    Ok(Used { cores, wakeups, requests, lists })
}

pub fn measure(dir: &Path) -> Result<Part> {
    let mut part = Part::new(
        "idle groups on one processor",
        "each with one disk and 256 KiB once written, default options, folder vault; heartbeats every 10 s, then a source that is away",
    );
    let (vault, target) = (dir.join("groups.vault"), dir.join("groups.target"));
    for count in GROUPS {
        let size = count as u64;
        let mut sources = Sources::make(count, &vault, &target)?;
        let mut command = Command::new(ours("follow")?);
        command.args([&vault, &target]);
        let begun = clock::mono();
        let mut follow = Process::start(command, dir, "follow")?;
        wait("all groups are followed", || sources.all.iter().all(Source::is_applied))?;
        let opened = clock::mono().duration_since(begun).as_secs_f64();
        let stop = AtomicBool::new(false);
        let beating = std::thread::scope(|scope| {
            let beating = scope.spawn(|| sources.beat(&stop));
            clock::sleep(SETTLE);
            let used = watched(&mut follow);
            stop.store(true, Ordering::Release);
            beating.join().map_err(|_| anyhow!("the heartbeats panicked"))??;
            used
        })?;
        wait("all heartbeats are applied", || sources.all.iter().all(Source::is_applied))?;
        let silent = watched(&mut follow)?;
        for (used, name) in [(&beating, "with heartbeats"), (&silent, "silent")] {
            part.add(&format!("processor, {name}"), "% of a core", size, used.cores * 100.0);
            part.add(&format!("wake-ups, {name}"), "/s", size, used.wakeups);
            part.add(&format!("requests to the vault, {name}"), "/s", size, used.requests);
            part.add(&format!("of them listings, {name}"), "/s", size, used.lists);
        }
        let pid = follow.pid();
        part.add("memory", "MiB", size, memory(&[pid])?);
        part.add("open files", "", size, open_files(pid)? as f64);
        part.add("until all groups were opened and their first segment applied", "s", size, opened);
        // Each in a group of its own: one that has just written is not idle.
        let probes = PROBES.min(count);
        let lags = (0..probes).map(|n| sources.probe(n * count / probes)).collect::<Result<Vec<_>>>()?;
        part.add(LAG, "s", size, lags.into_iter().fold(0.0, f64::max));
    }
    part.draw(&["processor, with heartbeats", "processor, silent", "requests to the vault, silent", "memory", LAG]);
    std::fs::remove_dir_all(vault)?;
    std::fs::remove_dir_all(target)?;
    Ok(part)
}
