//! A protected disk at work and at rest: what it costs its guest and its host, and how far behind the vault is.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use farshore_benches::group::{Group, fill, ours};
use farshore_benches::load::{self, Load, Target};
use farshore_benches::process::{LOOK, Process, memory, shipper_of, used, wait};
use farshore_benches::report::{Report, median};
use farshore_changelog::clock;
use plotters::prelude::*;
use serde_json::Value;

/// The churn that is to be held, and for how long.
const CHURN: Load = Load { rw: "randwrite", block: "8k", depth: 32, more: &["--rate_iops=20000"] };
const CHURN_SECONDS: u32 = 60;
/// What is tried until one is shipped in order.
const FLOODS: [Load; 4] =
    [flood(&["--rate=400m"]), flood(&["--rate=250m"]), flood(&["--rate=180m"]), flood(&["--rate=120m"])];

const fn flood(rate: &'static [&'static str]) -> Load {
    Load { rw: "write", block: "64k", depth: 16, more: rate }
}

const IDLE: Duration = Duration::from_secs(30);
const DISK_MIB: u64 = 2048;
/// Measures all of it.
pub fn measure(report: &mut Report, dir: &Path, results: &Path, rounds: u32) -> Result<()> {
    at_work(report, dir, results)?;
    first_touch(report, dir, rounds)
}

fn at_work(report: &mut Report, dir: &Path, results: &Path) -> Result<()> {
    fill(&dir.join("live.img"), DISK_MIB)?;
    let group = Group::set_up(dir, "live")?;
    let mut run = Command::new(ours("farshore")?);
    run.arg("run").arg(group.config());
    let agent = Process::start(run, dir, "live.run")?;
    let at_rest = |source: Value| {
        let all_there = source["confirmed_seq"] == source["last_seq"] && source["spool_bytes"] == 0;
        source["state"] == "protected" && all_there && source["disks"][0]["open_regions"] == 0
    };
    let rest = || wait("the group is at rest", || group.source().is_some_and(at_rest));
    rest()?;
    let pids = [agent.pid(), shipper_of(agent.pid())?];

    let before = used(&pids)?;
    clock::sleep(IDLE);
    let after = used(&pids)?;
    let per_second = |(after, before): (f64, f64)| (after - before) / IDLE.as_secs_f64();
    report.add("an idle group: agent and shipper", per_second((after.0, before.0)) * 100.0, "% of a core", "0.2 %");
    report.add("their wake-ups", per_second((after.1, before.1)), "/s", "");

    let (churned, watched) = watch(&group, &pids, || load::run(&at(&group), &CHURN, CHURN_SECONDS))?;
    ensure!(watched.in_order, "the log was not in order");
    let ages = ages(&watched.seen);
    report.add(format!("8 KiB random writes held for {CHURN_SECONDS} s in order"), churned.per_second, "/s", "20,000");
    report.add("their 99th percentile at the guest", churned.at(99.0) / 1e3, "ms", "");
    report.add("age of the newest write in the vault meanwhile, median", percentile(&ages, 50), "s", "");
    report.add("the same, 99th percentile", percentile(&ages, 99), "s", "2 s");
    report.add("memory of agent and shipper besides the ring", watched.memory, "MiB", "128, aim 64");
    draw(&ages, &results.join("rpo.svg")).map_err(|e| anyhow!("rpo.svg: {e}"))?;

    for flood in &FLOODS {
        rest()?;
        let (flooded, watched) = watch(&group, &pids, || load::run(&at(&group), flood, CHURN_SECONDS))?;
        let (rate, ages) = (flooded.bytes_per_second / 1e6, self::ages(&watched.seen));
        println!("{rate:.0} MB/s in {}: in order: {}", flood.block, watched.in_order);
        if watched.in_order {
            let what = format!("64 KiB writes shipped in order for {CHURN_SECONDS} s");
            report.add(what, rate, "MB/s", "aim 400");
            report.add(
                "age of the newest write in the vault meanwhile, 99th percentile",
                percentile(&ages, 99),
                "s",
                "",
            );
            break;
        }
    }
    drop(agent);
    std::fs::remove_dir_all(group.path("vault"))?;
    Ok(std::fs::remove_file(dir.join("live.img"))?)
}

/// What was seen while a load ran.
struct Watched {
    seen: Vec<Seen>,
    /// No overflow came.
    in_order: bool,
    /// The most that was used, in MiB.
    memory: f64,
}

/// One look.
struct Seen {
    /// Seconds since the load began.
    at: f64,
    /// The newest write, and the newest that the vault has.
    logged: u64,
    confirmed: u64,
}

/// At each look, how long ago the newest write was made that the vault has. As exact as the looks are close.
fn ages(seen: &[Seen]) -> Vec<(f64, f64)> {
    let made_by =
        |seq| seen.iter().take_while(|earlier| earlier.logged <= seq).last().map_or(0.0, |earlier| earlier.at);
    seen.iter().map(|now| (now.at, now.at - made_by(now.confirmed).min(now.at))).collect()
}

/// Runs a load, and looks at the group meanwhile.
fn watch<T>(group: &Group, pids: &[u32], load: impl FnOnce() -> Result<T>) -> Result<(T, Watched)> {
    let overflows = || Some(group.source()?["overflows"].clone());
    let (stop, before) = (AtomicBool::new(false), overflows());
    let (done, watched) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| -> Result<Watched> {
            let (begun, mut watched) = (clock::mono(), Watched { seen: Vec::new(), in_order: false, memory: 0.0 });
            while !stop.load(Ordering::Acquire) {
                if let Some(source) = group.source() {
                    let seq = |name: &str| source[name].as_u64().with_context(|| format!("no {name}: {source}"));
                    let at = clock::mono().duration_since(begun).as_secs_f64();
                    watched.seen.push(Seen { at, logged: seq("last_seq")?, confirmed: seq("confirmed_seq")? });
                }
                watched.memory = watched.memory.max(memory(pids)?);
                clock::sleep(LOOK);
            }
            Ok(watched)
        });
        let done = load();
        stop.store(true, Ordering::Release);
        (done, watching.join())
    });
    let watched = watched.map_err(|_| anyhow!("the watch panicked"))??;
    ensure!(before.is_some(), "the group says nothing");
    Ok((done?, Watched { in_order: overflows() == before, ..watched }))
}

fn at(group: &Group) -> Target {
    Target::Nbd(group.uri())
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
        .caption("Age of the newest write in the vault, under 20,000 writes of 8 KiB a second", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..f64::from(CHURN_SECONDS) + 2.0, 0.0..highest)?;
    chart.configure_mesh().x_desc("seconds of churn").y_desc("seconds").draw()?;
    chart.draw_series(LineSeries::new(ages.iter().copied(), RGBColor(40, 110, 180).stroke_width(2)))?;
    root.present()?;
    Ok(())
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
