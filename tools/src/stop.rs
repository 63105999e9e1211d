//! SIGINT and SIGTERM as a flag: the first asks a verb to end in order, a second ends the process at once (which is safe, as
//! any crash is, and leaves the settling to the next start).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use farshore_changelog::clock;
use nix::sys::signal::{SigSet, Signal};

/// How often a waiting verb looks at the flag.
pub const POLL: Duration = Duration::from_millis(50);
/// As [`POLL`], for what runs for months: each look wakes a core of the host.
pub const LONG_POLL: Duration = Duration::from_millis(250);

/// What a shell reports for a program that SIGINT ended.
const EXIT_ON_SECOND_SIGNAL: i32 = 130;

/// Blocks the stop signals in every thread started from here on and sets the returned flag when one arrives. Call it before
/// any other thread is started.
///
/// # Errors
/// When the signal mask cannot be set.
pub fn on_signals() -> Result<Arc<AtomicBool>> {
    on(&[Signal::SIGINT, Signal::SIGTERM])
}

/// As [`on_signals`], for a child whose parent stops it: Ctrl-C, which a terminal sends to both, is the parent's.
///
/// # Errors
/// When the signal mask cannot be set.
pub fn on_terminate() -> Result<Arc<AtomicBool>> {
    on(&[Signal::SIGTERM])
}

fn on(wanted: &[Signal]) -> Result<Arc<AtomicBool>> {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_block()?;
    let signals = SigSet::from_iter(wanted.iter().copied());
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let next = || while signals.wait().is_err() {};
        next();
        flag.store(true, Ordering::Release);
        next();
        std::process::exit(EXIT_ON_SECOND_SIGNAL);
    })?;
    Ok(stop)
}

/// Waits until the flag is set, or `going` says no.
pub fn wait_while(stop: &AtomicBool, mut going: impl FnMut() -> bool) {
    while !stop.load(Ordering::Acquire) && going() {
        clock::sleep(LONG_POLL);
    }
}
