//! Rings of several sizes under a burst at full speed: how long it lasts before the guest waits for room, and what comes after.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use farshore::agent::control::{self, AgentStatus, Ask, Reply};
use farshore_benches::group::{Group, fill, ours};
use farshore_benches::load::{self, Load, Target};
use farshore_benches::process::{Process, wait};
use farshore_benches::report::median;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;

use crate::report::Part;

const RINGS_MIB: [u64; 3] = [16, 64, 256];
const DISK_MIB: u64 = 1024;
const BURST: Load = Load { rw: "write", block: "64k", depth: 16, more: &[] };
const BURST_SECONDS: u32 = 8;
/// A burst takes its time: with these the whole program takes some minutes.
const ROUNDS_MAX: u32 = 2;
/// Pause between two looks at a burst.
const LOOK: Duration = Duration::from_millis(20);

/// What one burst did.
struct Burst {
    /// Over all of it.
    megabytes_per_second: f64,
    /// Seconds until a request waited for room first; all of it when none did.
    free: f64,
    /// Share of the looks at which somebody waited.
    waiting: f64,
    /// Until the vault had everything, from the end on.
    drain: f64,
    overflows: u64,
}

pub fn measure(dir: &Path, rounds: u32) -> Result<Part> {
    let mut part = Part::new(
        "ring, MiB",
        "64 KiB sequential writes at full speed for 8 s, 16 in flight, half-compressible, spool of 1 GiB, folder vault on the same disk",
    );
    let image = Group::at(dir, "ring").image(0);
    fill(&image, DISK_MIB)?;
    let (mut rows, rounds) = (Vec::new(), rounds.min(ROUNDS_MAX));
    for round in 1..=rounds {
        for ring in RINGS_MIB {
            let burst = burst(dir, ring)?;
            println!(
                "round {round}/{rounds}: ring of {ring} MiB: {:.0} MB/s, free for {:.1} s, {} overflows",
                burst.megabytes_per_second, burst.free, burst.overflows
            );
            rows.push((ring, burst));
        }
    }
    for ring in RINGS_MIB {
        let of = |what: fn(&Burst) -> f64| {
            median(rows.iter().filter(|(r, _)| *r == ring).map(|(_, burst)| what(burst)).collect())
        };
        part.add("the burst", "MB/s", ring, of(|b| b.megabytes_per_second));
        part.add("until a request waits for room", "s", ring, of(|b| b.free));
        part.add("share of the time in which some wait", "%", ring, of(|b| b.waiting * 100.0));
        part.add("overflows", "", ring, of(|b| b.overflows as f64));
        part.add("until the vault has everything", "s", ring, of(|b| b.drain));
    }
    part.draw(&["the burst", "until a request waits for room"]);
    Group::at(dir, "ring").remove(1)?;
    Ok(part)
}

fn burst(dir: &Path, ring_mib: u64) -> Result<Burst> {
    let group = Group::set_up_with(dir, "ring", 1, &format!("ring_size = \"{ring_mib}MiB\""))?;
    let mut run = Command::new(ours("farshore")?);
    run.arg("run").arg(group.config());
    let _agent = Process::start(run, dir, "ring")?;
    let protected = |status: &AgentStatus| status.state == "protected" && status.confirmed_seq == status.last_seq;
    wait("the group is protected", || status(&group).is_ok_and(|status| protected(&status)))?;
    let (stop, begun) = (AtomicBool::new(false), clock::mono());
    let since = || clock::mono().duration_since(begun).as_secs_f64();
    let (done, looks) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| -> Result<Vec<(f64, bool)>> {
            let mut looks = Vec::new();
            while !stop.load(Ordering::Acquire) {
                looks.push((since(), status(&group)?.state != "protected"));
                clock::sleep(LOOK);
            }
            Ok(looks)
        });
        let done = load::run(&Target::Nbd(group.uri()), &BURST, BURST_SECONDS);
        stop.store(true, Ordering::Release);
        (done, watching.join())
    });
    let looks = looks.map_err(|_| anyhow!("the watch panicked"))??;
    let ended = since();
    wait("the vault has everything", || {
        status(&group).is_ok_and(|status| status.confirmed_seq == status.last_seq && status.spool_bytes == 0)
    })?;
    let waits = looks.iter().filter(|(_, waits)| *waits).count();
    Ok(Burst {
        megabytes_per_second: done?.bytes_per_second / 1e6,
        free: looks.iter().find(|(_, waits)| *waits).map_or(f64::from(BURST_SECONDS), |(at, _)| *at),
        waiting: waits as f64 / looks.len().max(1) as f64,
        drain: since() - ended,
        overflows: status(&group)?.overflows,
    })
}

/// What the agent says; asked without a process of its own, because it is asked often.
fn status(group: &Group) -> Result<AgentStatus> {
    let name = GroupName::new("bench-ring").ok().context("a valid name")?;
    match control::ask(&group.path("run"), &name, &Ask::Status)? {
        Reply::Status(status) => Ok(status),
        other => Err(anyhow!("the agent says something else: {other:?}")),
    }
}
