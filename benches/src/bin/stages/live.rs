//! A protected disk at work and at rest: what it costs its guest and its host, and how far behind the target is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use farshore_benches::group::{Group, fill, ours};
use farshore_benches::load::{self, Load, Target};
use farshore_changelog::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use plotters::prelude::*;

use crate::report::{Report, median};

/// The churn that is to be held, and for how long.
const CHURN: Load = Load { rw: "randwrite", block: "8k", depth: 32, more: &["--rate_iops=20000"] };
const CHURN_SECONDS: u32 = 60;
/// As much as goes.
const FLOOD: Load = Load { rw: "write", block: "64k", depth: 16, more: &[] };
const IDLE: Duration = Duration::from_secs(30);
const DISK_MIB: u64 = 2048;
/// Longest wait for something to begin.
const BEGIN_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// A child that is told to end with this.
struct Process(Child);

impl Process {
    fn start(mut command: Command, dir: &Path, name: &str) -> Result<Self> {
        let to = |ending: &str| File::create(dir.join(format!("{name}.{ending}")));
        command.stdin(Stdio::piped()).stdout(to("stdout")?).stderr(to("stderr")?);
        Ok(Self(command.spawn().with_context(|| format!("{name} cannot be started"))?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _gone = i32::try_from(self.0.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let _status = self.0.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = clock::mono() + BEGIN_MAX;
    while !done() {
        ensure!(clock::mono() < until, "waited {BEGIN_MAX:?} in vain: {what}");
        clock::sleep(LOOK);
    }
    Ok(())
}

/// Measures all of it.
pub fn measure(report: &mut Report, dir: &Path, results: &Path, rounds: u32) -> Result<()> {
    at_work(report, dir, results)?;
    first_touch(report, dir, rounds)
}

fn at_work(report: &mut Report, dir: &Path, results: &Path) -> Result<()> {
    fill(&dir.join("live.img"), DISK_MIB)?;
    let group = Group::set_up(dir, "live")?;
    let target = group.path("target");
    let mut run = Command::new(ours("farshore")?);
    run.arg("run").arg(group.config());
    let agent = Process::start(run, dir, "live.run")?;
    let mut process = Command::new(ours("farshore")?);
    process.args(["process", "--vault", &group.vault(), "--poll", "100ms", "--target"]).arg(&target);
    let _processor = Process::start(process, dir, "live.process")?;
    wait("the target has all of the disk", || age(&group, &target).is_some_and(|age| age < 5.0))?;
    let source = [agent.pid(), shipper_of(agent.pid())?];

    let before = ticks(&source)?;
    clock::sleep(IDLE);
    let idle = (ticks(&source)? - before) / IDLE.as_secs_f64() * 100.0;
    report.add("an idle group: agent and shipper", idle, "% of a core", "0.2 %");

    let (churned, watched) = watch(&group, &target, &source, || load::run(&at(&group), &CHURN, CHURN_SECONDS))?;
    report.add(format!("8 KiB random writes held for {CHURN_SECONDS} s in order"), churned.per_second, "/s", "20,000");
    report.add("their 99th percentile at the guest", churned.at(99.0) / 1e3, "ms", "");
    report.add("age of the newest recoverable state meanwhile, median", percentile(&watched.ages, 50), "s", "");
    report.add("the same, 99th percentile", percentile(&watched.ages, 99), "s", "2 s");
    report.add("memory of agent and shipper besides the ring", watched.memory, "MiB", "128, aim 64");
    draw(&watched.ages, &results.join("rpo.svg")).map_err(|e| anyhow!("rpo.svg: {e}"))?;

    let (flood, watched) = watch(&group, &target, &source, || load::run(&at(&group), &FLOOD, CHURN_SECONDS))?;
    let rate = flood.bytes_per_second / 1e6;
    report.add(format!("64 KiB writes shipped in order for {CHURN_SECONDS} s, as many as go"), rate, "MB/s", "aim 400");
    report.add(
        "age of the newest recoverable state meanwhile, 99th percentile",
        percentile(&watched.ages, 99),
        "s",
        "",
    );
    Ok(())
}

/// What was seen while a load ran.
struct Watched {
    /// Seconds since it began, and the age of the newest recoverable state at that time in seconds.
    ages: Vec<(f64, f64)>,
    /// The most that was used, in MiB.
    memory: f64,
}

/// Runs a load, and looks at the group meanwhile. A log that is not in order afterwards is an error.
fn watch<T>(group: &Group, target: &Path, source: &[u32], load: impl FnOnce() -> Result<T>) -> Result<(T, Watched)> {
    let stop = AtomicBool::new(false);
    let (done, watched) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| -> Result<Watched> {
            let (begun, mut watched) = (clock::mono(), Watched { ages: Vec::new(), memory: 0.0 });
            while !stop.load(Ordering::Acquire) {
                if let Some(age) = age(group, target) {
                    watched.ages.push((clock::mono().duration_since(begun).as_secs_f64(), age));
                }
                watched.memory = watched.memory.max(memory(source)?);
                clock::sleep(LOOK);
            }
            Ok(watched)
        });
        let done = load();
        stop.store(true, Ordering::Release);
        (done, watching.join())
    });
    let watched = watched.map_err(|_| anyhow!("the watch panicked"))??;
    let status = group.status(None).context("the group says nothing")?;
    let in_order = status["source"]["overflows"] == 0 && status["source"]["disks"][0]["lost_bytes"] == 0;
    ensure!(in_order, "the log is not in order: {status}");
    Ok((done?, watched))
}

fn at(group: &Group) -> Target {
    Target::Nbd(group.uri())
}

/// Age of the newest recoverable state, in seconds.
fn age(group: &Group, target: &Path) -> Option<f64> {
    group.status(Some(target))?["target"]["recoverable"]["age_seconds"].as_f64()
}

fn percentile(ages: &[(f64, f64)], percent: usize) -> f64 {
    let mut ages: Vec<f64> = ages.iter().map(|(_, age)| *age).collect();
    ages.sort_by(f64::total_cmp);
    ages.get(ages.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

fn draw(ages: &[(f64, f64)], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (960, 320)).into_drawing_area();
    root.fill(&WHITE)?;
    let highest = ages.iter().map(|(_, age)| *age).fold(2.0, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(&root)
        .caption("Age of the newest recoverable state under 20,000 writes of 8 KiB a second", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..f64::from(CHURN_SECONDS) + 2.0, 0.0..highest)?;
    chart.configure_mesh().x_desc("seconds of churn").y_desc("seconds").draw()?;
    chart.draw_series(LineSeries::new(ages.iter().copied(), RGBColor(40, 110, 180).stroke_width(2)))?;
    root.present()?;
    Ok(())
}

/// The shipper of an agent.
fn shipper_of(agent: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    // Threads start it too: then it is among all whose parent is the agent.
    if let Some(first) = children.split_whitespace().next() {
        return Ok(first.parse()?);
    }
    for entry in std::fs::read_dir("/proc")? {
        let path: PathBuf = entry?.path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.is_some_and(|parent| parent == agent.to_string()) {
            return Ok(path.file_name().and_then(|n| n.to_str()).unwrap_or_default().parse()?);
        }
    }
    Err(anyhow!("the agent has no shipper"))
}

/// Seconds of processor time that the processes have used.
fn ticks(pids: &[u32]) -> Result<f64> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let mut all = 0.0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("not a stat file")?;
        let of = |n| rest.split_whitespace().nth(n).and_then(|word: &str| word.parse::<f64>().ok()).unwrap_or(0.0);
        all += of(11) + of(12);
    }
    Ok(all / per_second)
}

/// Their anonymous memory, in MiB: the ring is shared memory.
fn memory(pids: &[u32]) -> Result<f64> {
    let mut all = 0.0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        all += line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0;
    }
    Ok(all)
}

/// Random writes over a sparse disk of 256 GiB, nearly each of which opens a region, against writes to few regions that are open.
/// The file system's own cost for the first write to a block is in both: every write goes to a block of its own.
fn first_touch(report: &mut Report, dir: &Path, rounds: u32) -> Result<()> {
    const DISK_BYTES: u64 = 256 << 30;
    const SECONDS: u32 = 3;
    for depth in [1, 32] {
        let (mut against_hot, mut against_none) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let run = |mode: &str, more| -> Result<f64> {
                File::create(dir.join("sparse.img"))?.set_len(DISK_BYTES)?;
                let group = Group::set_up(dir, "sparse")?;
                let mut lane = Command::new(ours("lane")?);
                lane.arg(mode).arg(group.config());
                let _lane = Process::start(lane, dir, "sparse.lane")?;
                let said = dir.join("sparse.lane.stdout");
                wait("the lane begins", || std::fs::read_to_string(&said).is_ok_and(|said| said.contains("ready")))?;
                let load = Load { rw: "randwrite", block: "4k", depth, more };
                Ok(load::run(&at(&group), &load, SECONDS)?.per_second)
            };
            let all_over: &[&str] = &["--norandommap", "--random_generator=tausworthe64"];
            let first = run("drained", all_over)?;
            let hot = run("drained", &["--size=256m"])?;
            let none = run("through", all_over)?;
            println!("round {}: first touches {first:.0}/s, hot {hot:.0}/s, without a log {none:.0}/s", round + 1);
            against_hot.push(first / hot);
            against_none.push(first / none);
        }
        let what = format!("4 KiB random writes over a sparse disk of 256 GiB, depth {depth}, against hot ones");
        report.add(what, median(against_hot), "×", "0.5, aim 0.8");
        report.add("the same, against the same without a log", median(against_none), "×", "");
    }
    std::fs::remove_file(dir.join("sparse.img"))?;
    Ok(())
}
