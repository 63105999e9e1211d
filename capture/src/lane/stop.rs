//! The end of a lane: clients get their last answers, disks come to rest.

use std::time::{Duration, Instant};

use super::{Lane, LaneError};
use crate::device::Device;

/// How long clients have, at a stop, to take the answers to their requests in flight.
pub const STOP_CLIENTS_MAX: Duration = Duration::from_secs(10);
/// How long disks have, at a stop, to end their requests in flight.
pub const STOP_DEVICES_MAX: Duration = Duration::from_secs(30);

/// A stop that was asked for.
pub(super) struct Stopping {
    since: Instant,
    cut: bool,
}

impl<D: Device> Lane<D> {
    /// Accepts nothing more and takes no further request.
    pub(super) fn begin_stop(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping { since: now, cut: false });
        for (_, listener) in &mut self.listeners {
            listener.stop();
        }
        for disk in &mut self.disks {
            disk.device.stop();
        }
        for (key, peer) in &mut self.peers {
            peer.leave();
            self.touched.push(key);
        }
        self.settle(now);
    }

    /// Whether the lane has been told to stop and everything has come to rest.
    pub(super) fn at_rest(&mut self, now: Instant) -> Result<bool, LaneError> {
        let Some(stopping) = &mut self.stopping else { return Ok(false) };
        let waited = now.saturating_duration_since(stopping.since);
        if waited > STOP_CLIENTS_MAX && !stopping.cut {
            stopping.cut = true;
            for (key, peer) in &mut self.peers {
                peer.cut();
                self.touched.push(key);
            }
            self.settle(now);
        }
        self.listeners.retain(|_, listener| !listener.over());
        let requests: usize = self.disks.iter().map(|d| d.device.busy()).sum();
        if requests == 0 && self.peers.is_empty() && self.listeners.is_empty() {
            return Ok(true);
        }
        if waited > STOP_DEVICES_MAX { Err(LaneError::Busy { requests }) } else { Ok(false) }
    }
}
