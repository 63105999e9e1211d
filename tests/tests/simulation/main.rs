//! The deterministic simulation: guests, capture, ring, shipper, store, processor and disks of one group in one thread, from one seed,
//! with simulated clocks, disks and store. One seed is one world; the same seed gives the same digest of everything that happened.
//!
//! The stages are the shipped crates. Replaced are the clock and randomness ([`time`]), what becomes of each change of a file
//! ([`medium`], on real files in `/dev/shm`), the kernel below the engines ([`kernel`]), the store ([`store`]), and the threads
//! ([`world`]).
//!
//! - [`plan`]: what a seed means; [`incidents`]: what befalls a world; [`ending`]: how it is healed, and what must hold then;
//!   [`finale`]: how it ends
//! - [`guest`]: the load; [`history`]: what may therefore be found where; [`cells`]: how content tells its writer
//! - [`log`]: the fold of what the vault holds; [`oracle`], [`watch`]: what must hold at every moment
//! - [`source`], [`target`]: the processes of the two hosts; [`deaths`]: how they end; [`making`]: what a world begins with
//!
//! `FARSHORE_SIM_SEED=7` runs one seed, `FARSHORE_SIM_SEEDS=10000` so many, `FARSHORE_SIM_TRACE=1` prints everything that happens.

mod cells;
mod deaths;
mod ending;
mod file_history;
mod finale;
mod folders;
mod guest;
mod history;
mod incidents;
mod kernel;
mod log;
mod making;
mod medium;
mod oracle;
mod plan;
mod rng;
mod source;
mod store;
mod target;
mod time;
mod trace;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Seeds that `make test` runs.
const SEEDS: u64 = 300;

/// What a world came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    digest: String,
    lines: u64,
    story: String,
}

/// Runs the world of a seed.
///
/// # Errors
/// What does not hold, with the line that repeats it and what happened last.
fn run(seed: u64) -> Result<Report, String> {
    let mut world = World::new(seed);
    let trace = world.trace.clone();
    let ran = catch_unwind(AssertUnwindSafe(|| ending::live(&mut world)));
    let wrong = match ran {
        Ok(Ok(story)) => {
            let (digest, lines) = trace.digest();
            return Ok(Report { digest, lines, story });
        }
        Ok(Err(wrong)) => wrong,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            said.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or("a panic".to_owned())
        }
    };
    Err(format!(
        "seed {seed}: {wrong}\n\nlast of what happened:\n{}\nplan: {:?}\n\nrepeat it with:\n  FARSHORE_SIM_SEED={seed} cargo test \
         --package farshore-tests --test simulation -- --nocapture every_world\n",
        trace.tail(60),
        world.plan
    ))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn every_world_holds_the_guarantees() {
    let seeds = match (number("FARSHORE_SIM_SEED"), number("FARSHORE_SIM_FROM"), number("FARSHORE_SIM_SEEDS")) {
        (Some(one), _, _) => one..one + 1,
        (None, from, count) => from.unwrap_or(1)..from.unwrap_or(1) + count.unwrap_or(SEEDS),
    };
    let loud = std::env::var_os("FARSHORE_SIM_TRACE").is_some();
    if loud {
        let _twice = tracing_subscriber::fmt().with_env_filter("debug").with_writer(std::io::stderr).try_init();
    }
    for seed in seeds {
        match run(seed) {
            Ok(report) => println!("seed {seed}: {} {} lines, {}", report.digest, report.lines, report.story),
            Err(wrong) => panic!("{wrong}"),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_digest() {
    for seed in [3, 14] {
        let first = run(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        let second = run(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(first, second, "seed {seed}");
    }
}
