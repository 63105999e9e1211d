//! `make bench`: our capture beside what a user would take instead, on this machine, in one run: every server serves a disk of the same
//! size and content in one file system, and the rounds of all of them are interleaved, so that a slow minute of the machine is
//! everybody's. Figures are medians over the rounds, and ratios to `qemu-nbd`, which captures nothing.
//!
//! Direct I/O, the same depths, the same loads; a server that fails ends the run. Rounds of the shipping group count only while its
//! log is in order: an overflow ends the run too.

mod plot;
mod report;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use farshore_benches::load::{self, LOADS};
use report::Report;
use servers::{Server, Site};

/// Rounds, and the seconds of each load in one.
const ROUNDS: u32 = 5;
const SECONDS: u32 = 3;
/// Size of each server's disk, in MiB.
const DISK_MIB: u64 = 1024;

/// What was asked for.
struct Args {
    rounds: u32,
    seconds: u32,
    /// Where the disks lie.
    dir: PathBuf,
    /// Where the results go.
    results: PathBuf,
}

fn args() -> Result<Args> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut args = Args {
        rounds: ROUNDS,
        seconds: SECONDS,
        dir: root.join("../target/bench"),
        results: root.join("results/local"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { bail!("{word} wants a value") };
        match word.as_str() {
            "--rounds" => args.rounds = value.parse()?,
            "--seconds" => args.seconds = value.parse()?,
            "--dir" => args.dir = value.into(),
            "--results" => args.results = value.into(),
            _ => bail!("usage: peers [--rounds N] [--seconds N] [--dir DIR] [--results DIR]"),
        }
    }
    Ok(args)
}

fn run() -> Result<()> {
    let args = args()?;
    std::fs::create_dir_all(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    println!("starting the servers; their disks lie in {}", dir.display());
    let mut site = Site::start(&dir, DISK_MIB)?;
    let mut report = Report::new(&dir, args.rounds, args.seconds, DISK_MIB);
    for round in 1..=args.rounds {
        for load in &LOADS {
            for server in Server::ALL {
                let measured = load::run(&site.target(server), load, args.seconds)?;
                site.check(server)?;
                println!("round {round}/{}: {load}: {server}: {measured}", args.rounds);
                report.add(load, server, measured);
            }
        }
    }
    site.stop()?;
    std::fs::create_dir_all(&args.results)?;
    report.write(&args.results)?;
    plot::write(&report, &args.results)?;
    println!("\n{}", report.table());
    println!("the same as JSON, and plots, are in {}", args.results.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
