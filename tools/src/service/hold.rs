//! The agent's end of the line to the shipper's service: held while the disks are served, and ended as the agent ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use farshore_changelog::clock;

use super::seen::ShipperSeen;
use super::words::{Ask, Heard, Line};
use crate::config::Config;
use crate::stop::{LONG_POLL, POLL};

/// Pause between two attempts to reach the service.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How long a stopping agent waits for the service's shipper to drain: longer than the service does.
const DRAINED_MAX: Duration = Duration::from_secs(25);
/// Longest line that the service could send while it ships; it sends none.
const LINE_MAX_BYTES: usize = 256;

/// Has the service ship until `stop` is set, then lets it drain; unless `discard` is set too: what the ring holds is not wanted any
/// more, so its shipper ends at once.
pub fn supervise(config: &Config, stop: &AtomicBool, discard: &AtomicBool, seen: &ShipperSeen) {
    let mut line = None;
    let mut said_missing = false;
    while !stop.load(Ordering::Acquire) {
        match hold(config) {
            Ok(mut held) => {
                tracing::info!(group = %config.group, pid = held.peer(), "the shipper's service ships");
                said_missing = false;
                seen.by(held.peer());
                while !stop.load(Ordering::Acquire) && matches!(held.hear(LONG_POLL), Ok(Heard::Nothing)) {}
                if stop.load(Ordering::Acquire) {
                    line = Some(held);
                    break;
                }
                tracing::warn!("group {}: the shipper's service has ended", config.group);
            }
            Err(error) => {
                seen.missing();
                if !said_missing {
                    tracing::error!("group {}: {error:#}; the disks are served and logged all the same", config.group);
                    said_missing = true;
                }
            }
        }
        seen.by(0);
        let until = clock::mono() + RETRY_EVERY;
        while clock::mono() < until && !stop.load(Ordering::Acquire) {
            clock::sleep(POLL);
        }
    }
    if let Err(error) = end(config, line, discard.load(Ordering::Acquire)) {
        tracing::warn!("group {}: what the ring holds is not drained: {error:#}", config.group);
    }
    seen.by(0);
}

fn hold(config: &Config) -> Result<Line> {
    let mut line = Line::connect(config, LINE_MAX_BYTES)?;
    line.say(&Ask::Ship)?;
    Ok(line)
}

/// Waits until the service's shipper has ended. When no line is held, one more is tried: what capture logged last is still in the
/// ring. For what is discarded nobody is needed.
fn end(config: &Config, line: Option<Line>, discard: bool) -> Result<()> {
    let mut line = match line {
        Some(line) => line,
        None if discard => return Ok(()),
        None => hold(config)?,
    };
    if discard {
        line.say(&Ask::Discard)?;
    }
    line.finish()?;
    if line.hear(DRAINED_MAX)? == Heard::Nothing {
        tracing::warn!("the shipper has not drained in {DRAINED_MAX:?}; what is left stays in the spool and the ring");
    }
    Ok(())
}
