//! `make bench`, third part: how cost grows. The same figures over the disks of a group, the idle groups of a processor, the size of the
//! ring and what compresses away, on this machine, in one run. Sizes that are compared are interleaved, round by round, where the load
//! of the machine would count.

mod compress;
mod disks;
mod groups;
mod plot;
mod report;
mod rings;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use report::Report;

/// Rounds of everything that is interleaved.
const ROUNDS: u32 = 3;

fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (mut rounds, mut only) = (ROUNDS, None);
    let (mut dir, mut results) = (root.join("../target/bench-growth"), root.join("results/local"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { bail!("{word} wants a value") };
        match word.as_str() {
            "--rounds" => rounds = value.parse()?,
            "--only" => only = Some(value),
            "--dir" => dir = value.into(),
            "--results" => results = value.into(),
            _ => bail!("usage: growth [--rounds N] [--only disks|groups|rings|compress] [--dir DIR] [--results DIR]"),
        }
    }
    std::fs::create_dir_all(&dir)?;
    std::fs::create_dir_all(&results)?;
    let dir = dir.canonicalize()?;
    let mut report = Report::new();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("disks") {
        report.parts.push(disks::measure(&dir, rounds)?);
    }
    if wanted("groups") {
        report.parts.push(groups::measure(&dir)?);
    }
    if wanted("rings") {
        report.parts.push(rings::measure(&dir, rounds)?);
    }
    if wanted("compress") {
        report.parts.push(compress::measure(rounds)?);
    }
    report.write(&results)?;
    plot::write(&report, &results.join("growth.svg"))?;
    println!("\n{}", report.table());
    println!("the same as JSON, and a plot, are in {}", results.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
