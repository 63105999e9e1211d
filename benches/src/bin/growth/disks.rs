//! One group with more and more disks, all of them at work: what the group does in all, and what that costs.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use farshore_benches::group::{Group, fill, ours};
use farshore_benches::load::{self, Load, Measured, Target};
use farshore_benches::process::{Process, memory, shipper_of, used, wait};
use farshore_benches::report::median;

use crate::report::Part;

const DISKS: [usize; 4] = [1, 2, 4, 8];
const DISK_MIB: u64 = 256;
/// Requests in flight, over all disks of a group.
const DEPTH: u32 = 32;
const SECONDS: u32 = 2;

/// What is asked for, and what its figures are called.
const SMALL: Load = Load { rw: "randwrite", block: "4k", depth: DEPTH, more: &[] };
const LARGE: Load = Load { rw: "write", block: "64k", depth: DEPTH, more: &[] };

struct Site {
    group: Group,
    agent: Process,
    pids: [u32; 2],
    disks: usize,
}

impl Site {
    fn start(dir: &Path, disks: usize) -> Result<Self> {
        let name = format!("disks{disks}");
        let at = Group::at(dir, &name);
        (0..disks).try_for_each(|n| fill(&at.image(n), DISK_MIB))?;
        let group = Group::set_up_with(dir, &name, disks, "")?;
        let mut run = Command::new(ours("farshore")?);
        run.arg("run").arg(group.config());
        let agent = Process::start(run, dir, &name)?;
        wait("the group is protected", || group.source().is_some_and(|source| source["state"] == "protected"))?;
        let pids = [agent.pid(), shipper_of(agent.pid())?];
        Ok(Self { group, agent, pids, disks })
    }

    /// Waits until the vault has everything.
    fn rest(&self) -> Result<()> {
        wait("the vault has everything", || {
            self.group.source().is_some_and(|s| s["confirmed_seq"] == s["last_seq"] && s["spool_bytes"] == 0)
        })
    }

    /// What the load did, and the seconds of processor time until all of it was in the vault.
    fn round(&self, load: &Load) -> Result<(Measured, f64)> {
        self.rest()?;
        let before = used(&self.pids)?.0;
        let each = Load { depth: (load.depth / self.disks as u32).max(1), ..*load };
        let targets: Vec<Target> = (0..self.disks).map(|n| Target::Nbd(self.group.uri_of(n))).collect();
        let measured = load::run_on(&targets, &each, SECONDS)?;
        self.rest()?;
        let overflows = self.group.source().map(|source| source["overflows"].clone());
        ensure!(overflows == Some(0.into()), "the log was not in order: {overflows:?} overflows");
        Ok((measured, used(&self.pids)?.0 - before))
    }
}

pub fn measure(dir: &Path, rounds: u32) -> Result<Part> {
    let mut part = Part::new(
        "disks of one group",
        "agent and shipper into a folder vault, fio on all disks at once with 32 requests in flight in all; processor time is \
         counted until the vault has everything",
    );
    let sites = DISKS.iter().map(|disks| Site::start(dir, *disks)).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for (load, name) in [(&SMALL, "4 KiB random"), (&LARGE, "64 KiB sequential")] {
            for site in &sites {
                let (measured, cpu) = site.round(load)?;
                println!(
                    "round {round}/{rounds}: {} disks: {name}: {measured}, {cpu:.2} s of processor time",
                    site.disks
                );
                rows.push((site.disks, load, measured, cpu));
            }
        }
    }
    for site in &sites {
        let size = site.disks as u64;
        let of = |load: &Load, what: fn(&Measured, f64) -> f64| {
            let of = rows.iter().filter(|(disks, l, ..)| (*disks, *l) == (site.disks, load));
            median(of.map(|(_, _, measured, cpu)| what(measured, *cpu)).collect())
        };
        part.add("4 KiB random writes", "/s", size, of(&SMALL, |m, _| m.per_second));
        part.add("their 99th percentile", "ms", size, of(&SMALL, |m, _| m.at(99.0) / 1e3));
        let per_thousand = |m: &Measured, cpu: f64| cpu * 1e3 / (m.per_second * f64::from(SECONDS) / 1e3);
        part.add("processor time of 1,000 of them", "ms", size, of(&SMALL, per_thousand));
        part.add("64 KiB sequential writes", "MB/s", size, of(&LARGE, |m, _| m.bytes_per_second / 1e6));
        part.add("their 99th percentile at the guest", "ms", size, of(&LARGE, |m, _| m.at(99.0) / 1e3));
        let per_gb = |m: &Measured, cpu: f64| cpu / (m.bytes_per_second * f64::from(SECONDS) / 1e9);
        part.add("processor time of 1 GB of them", "s", size, of(&LARGE, per_gb));
        part.add("memory of agent and shipper besides the ring", "MiB", size, memory(&site.pids)?);
    }
    part.draw(&[
        "4 KiB random writes",
        "processor time of 1,000 of them",
        "64 KiB sequential writes",
        "processor time of 1 GB of them",
    ]);
    for Site { group, agent, disks, pids: _ } in sites {
        drop(agent);
        group.remove(disks)?;
    }
    Ok(part)
}
