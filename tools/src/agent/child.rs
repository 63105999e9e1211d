//! The shipper as a child process, of the agent or of the shipper's service: started, watched, restarted when it dies, and asked to drain
//! when the agent stops.
//!
//! The child holds the read end of a pipe as its standard input: its end tells the child to drain and finish, also when its parent
//! was killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_changelog::clock;

use crate::stop::{LONG_POLL, POLL};

/// First pause before a dead shipper is started again: short, because the ring fills up meanwhile.
const RESTART_PAUSE: Duration = Duration::from_millis(50);
/// So many deaths in a row are met with the first pause; it doubles with each that follows.
const QUICK_RESTARTS: u32 = 12;
/// Longest pause.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A shipper that lived this long has not "died in a row".
const SETTLED: Duration = Duration::from_secs(30);
/// How long a parent that stops waits for its shipper to drain before it kills it (nothing is lost by that: what is not in the
/// vault is in the spool or in the ring).
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Keeps a shipper running until told to stop.
#[derive(Default)]
pub struct ShipperChild {
    child: Option<Child>,
    /// Deaths in a row.
    deaths: u32,
}

impl ShipperChild {
    fn start(config: &Path) -> Result<Child> {
        let program = std::env::current_exe().context("cannot find this program to start the shipper with")?;
        Command::new(program)
            .arg("ship")
            .arg("--child")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the shipper")
    }

    /// Runs children one after the other until `stop` is set, then lets the last one drain; unless `discard` is set too: what
    /// the ring holds is not wanted any more, so the child is killed. `seen` is told each child's process id, and 0 when there is
    /// none.
    pub fn supervise(mut self, config: &Path, stop: &AtomicBool, discard: &AtomicBool, seen: impl Fn(u32)) {
        while !stop.load(Ordering::Acquire) {
            let started = clock::mono();
            match Self::start(config) {
                Ok(child) => {
                    seen(child.id());
                    self.child = Some(child);
                }
                Err(error) => tracing::error!("{error:#}"),
            }
            while !stop.load(Ordering::Acquire) {
                match self.child.as_mut().map(Child::try_wait) {
                    Some(Ok(None)) => clock::sleep(LONG_POLL),
                    Some(Ok(Some(status))) => {
                        tracing::warn!("the shipper ended ({status}); it is started again");
                        break;
                    }
                    Some(Err(error)) => {
                        tracing::error!("the shipper cannot be waited for: {error}");
                        break;
                    }
                    None => break,
                }
            }
            if stop.load(Ordering::Acquire) {
                break;
            }
            seen(0);
            self.child = None;
            self.deaths = if started.elapsed() > SETTLED { 1 } else { self.deaths + 1 };
            let doublings = self.deaths.saturating_sub(QUICK_RESTARTS).min(16);
            let until = clock::mono() + (RESTART_PAUSE * (1 << doublings)).min(RESTART_PAUSE_MAX);
            while clock::mono() < until && !stop.load(Ordering::Acquire) {
                clock::sleep(POLL);
            }
        }
        if discard.load(Ordering::Acquire) {
            self.kill();
        } else {
            self.drain(config);
        }
        seen(0);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets the last child drain. It is told by the end of its standard input, which it finds even if it has just begun. When
    /// none is alive, one more is started: what capture logged last is still in the ring.
    fn drain(&mut self, config: &Path) {
        if !matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None))) {
            self.child = Self::start(config).map_err(|error| tracing::error!("{error:#}")).ok();
        }
        let Some(child) = self.child.as_mut() else { return };
        drop(child.stdin.take());
        let until = clock::mono() + DRAIN_MAX;
        while clock::mono() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            clock::sleep(POLL);
        }
        tracing::warn!("the shipper has not drained in {DRAIN_MAX:?}; what is left stays in the spool and the ring");
        let _ = child.kill();
        let _ = child.wait();
    }
}
