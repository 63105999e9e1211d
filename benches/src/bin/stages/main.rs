//! `make bench`, second part: each stage by itself and what protection costs beside throughput, on this machine, in one run. What is
//! compared with something else is interleaved with it, round by round, and the ratio is what counts.

mod live;
mod replay;
mod ship;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use farshore_benches::report::Report;

/// Rounds of everything that is interleaved.
const ROUNDS: u32 = 3;

fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (mut rounds, mut only) = (ROUNDS, None);
    let (mut dir, mut results) = (root.join("../target/bench-stages"), root.join("results/local"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { bail!("{word} wants a value") };
        match word.as_str() {
            "--rounds" => rounds = value.parse()?,
            "--only" => only = Some(value),
            "--dir" => dir = value.into(),
            "--results" => results = value.into(),
            _ => bail!("usage: stages [--rounds N] [--only ship|replay|view|live] [--dir DIR] [--results DIR]"),
        }
    }
    std::fs::create_dir_all(&dir)?;
    std::fs::create_dir_all(&results)?;
    let dir = dir.canonicalize()?;
    let mut report = Report::default();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("ship") {
        ship::measure(&mut report, rounds)?;
    }
    if wanted("replay") {
        replay::measure(&mut report, &dir, rounds)?;
    }
    if wanted("view") {
        view::measure(&mut report, &dir)?;
    }
    if wanted("live") {
        live::measure(&mut report, &dir, &results, rounds)?;
    }
    report.write(&results, "stages")?;
    println!("\n{}", report.table());
    println!("the same as JSON is in {}", results.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stages: {error:#}");
            ExitCode::FAILURE
        }
    }
}
