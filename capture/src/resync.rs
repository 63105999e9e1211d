//! The state of a group's log, and the resync that brings it back to order (G6, G7). Initial replication, repair after a crash,
//! after an overflow and of an unreadable range are one thing: lost regions of the group's disks read back into the log.
//!
//! ```text
//!            no room for too long                    the ring has drained
//!  logging ───────────────────────────▶ overflow ─────────────────────────▶ resync ──▶ logging
//!     └────────────────────── a region becomes lost ───────────────────────▶  │ ▲         ▲
//!                                         ▲                                   │ └ the last ┘ region is in the log
//!                                         └────── no room for too long ───────┘
//! ```
//!
//! Each change is a word of the log, so that no position is consistent between `overflow` or `resync begin` and `resync end`. What
//! the disks share is here; each disk's tap notes its own lost regions (`tap/lost.rs`) and reads them back (`tap/copy.rs`).
//!
//! At the start of an epoch whoever sets the group up counts the lost regions of all disks and calls [`ResyncProgress::lost`]
//! with the first lane's log before any lane runs: so `resync begin` is the epoch's first record. A restarted process that
//! took over the ring does the same; a second `resync begin` in a row is harmless.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_changelog::op::Op;
use farshore_changelog::ring::{Ring, ShipperState};

use crate::pace::Pace;
use crate::tap::LaneLog;

/// Resync reads of one disk in flight.
pub const RESYNC_READS_MAX: usize = 2;
/// How long a write waits for room in the ring before the group goes into overflow, unless the config says otherwise: longer than
/// a shipper that has died takes to come back.
pub const FULL_WAIT: Duration = Duration::from_secs(2);
/// How long it waits where the shipper says itself that there will be no room for long.
pub const STUCK_WAIT: Duration = Duration::from_millis(100);
/// The same where writers are to be held back (`on_full = "throttle"`).
pub const THROTTLE_WAIT: Duration = Duration::from_secs(30);

/// The longest wait once the agent stops.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// When the group goes into overflow, when it comes back, and how fast it copies.
#[derive(Debug)]
pub struct Rules {
    /// How long a write waits for room in the ring before the group goes into overflow.
    pub full_wait: Duration,
    /// The same while the shipper has stopped or its spool is full.
    pub stuck_wait: Duration,
    /// The spool takes nothing more once it holds so many bytes.
    pub spool_full_bytes: u64,
    /// The spool must hold no more than this many bytes before an overflow ends.
    pub spool_resume_bytes: u64,
    /// How fast lost regions are copied.
    pub pace: Pace,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            full_wait: FULL_WAIT,
            stuck_wait: STUCK_WAIT,
            spool_full_bytes: u64::MAX,
            spool_resume_bytes: u64::MAX,
            pace: Pace::unlimited(),
        }
    }
}

impl Rules {
    /// How long a write waits for room in `ring` now; what still waits when the agent stops is not held back for long.
    pub(crate) fn wait(&self, ring: &Ring, stopping: bool) -> Duration {
        let stuck = match ring.shipper_state() {
            ShipperState::Stopped | ShipperState::SpoolFull | ShipperState::SpoolFailed | ShipperState::SegmentLost => {
                true
            }
            ShipperState::Starting | ShipperState::Shipping | ShipperState::VaultUnreachable | ShipperState::Fenced => {
                ring.spool_bytes() >= self.spool_full_bytes
            }
        };
        let wait = if stuck { self.stuck_wait } else { self.full_wait };
        if stopping { wait.min(STOP_WAIT) } else { wait }
    }
}

/// What the group's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Every operation goes into the log, and nothing is lost.
    #[default]
    Logging,
    /// The log has no room: operations are done without it, and their regions are lost.
    Overflow,
    /// Every operation goes into the log, and lost regions are read back into it.
    Resync,
}

/// The state of a group's log; one for all its disks, shared by their lanes.
///
/// The mutex is taken when the state changes, when a region becomes lost or was copied; never for a guest's request that
/// succeeds while the log has room.
#[derive(Debug, Default)]
pub struct ResyncProgress {
    inner: Mutex<Inner>,
    rules: Rules,
    overflow: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Lost regions whose records are not in the log yet.
    left_regions: u64,
    left_bytes: u64,
    /// `resync begin` is in the log and `resync end` not yet.
    begun: bool,
    /// A `resync begin` and its end are due although nothing is lost.
    to_close: bool,
    /// The newest `resync end`.
    ended: Option<Seq>,
    /// The `overflow` in the log, while it lasts.
    overflow: Option<Seq>,
    /// Overflows since the start.
    overflows: u64,
    /// When the resync began, and what it has copied since.
    since: Option<Instant>,
    copied_bytes: u64,
}

/// A reading of a [`ResyncProgress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResyncStatus {
    /// What the log is.
    pub phase: Phase,
    /// Between `resync begin` or `overflow` and `resync end`, or about to be: no position is consistent.
    pub in_progress: bool,
    /// Lost regions whose records are not in the log yet.
    pub left_regions: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// Bytes copied a second, since the resync began; 0 when it has not.
    pub bytes_per_second: u64,
    /// Overflows since the start of the process.
    pub overflows: u64,
    /// A resync of this log has ended before.
    pub ended_before: bool,
}

impl ResyncProgress {
    /// Of a group whose ring goes on: `ended` is the ring's word on its newest `resync end` ([`Ring::resync_end`]).
    ///
    /// [`Ring::resync_end`]: farshore_changelog::ring::Ring::resync_end
    #[must_use]
    pub fn resumed(ended: Option<Seq>, rules: Rules) -> Self {
        Self { inner: Mutex::new(Inner { ended, ..Inner::default() }), rules, overflow: AtomicBool::new(false) }
    }

    /// How it is told to behave.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The newest `resync end` of a log that goes on: regions lost before it need no copy, only its confirmation.
    pub(crate) fn ended(&self) -> Option<Seq> {
        self.inner().ended
    }

    /// Whether operations are done without the log.
    pub(crate) fn in_overflow(&self) -> bool {
        // Set after the word is in the log: whoever sees it does nothing unlogged that the word does not come before.
        self.overflow.load(Ordering::Acquire)
    }

    /// The log has had no room for too long: from here operations are done without it. Nothing changes while the word itself
    /// finds no room.
    pub(crate) fn enter_overflow(&self, log: &mut LaneLog) {
        let mut inner = self.inner();
        if inner.overflow.is_some() {
            return;
        }
        // Before anything is done without the log: a process that starts anew must not take lost regions for copied ones.
        log.ring().set_resync_end(None);
        inner.overflow = log.announce(Op::Overflow, 0);
        if inner.overflow.is_some() {
            inner.begun = false;
            inner.overflows += 1;
            inner.since = None;
            self.overflow.store(true, Ordering::Release);
            tracing::warn!(
                "the log is full: the disks go on without it, and what is written now is copied once there is room"
            );
        }
    }

    /// Ends an overflow once everything before it lies in the spool or the vault, and the spool has drained.
    pub(crate) fn leave_overflow(&self, log: &mut LaneLog) {
        let mut inner = self.inner();
        let Some(began) = inner.overflow else { return };
        let drained = log.ring().read_seq() > began && log.ring().spool_bytes() <= self.rules.spool_resume_bytes;
        if !drained {
            return;
        }
        // Also with nothing to copy: the target waits for a resync to begin and to end.
        if log.announce(Op::ResyncBegin, inner.left_bytes).is_none() {
            return;
        }
        (inner.overflow, inner.begun) = (None, true);
        (inner.since, inner.copied_bytes) = (Some(clock::mono()), 0);
        inner.advance(log);
        self.overflow.store(false, Ordering::Release);
        tracing::info!(left_bytes = inner.left_bytes, "the log has room again: what it does not have is copied");
    }

    /// Regions became lost, `bytes` in all. Puts `resync begin` when none is open and the ring has room for it; else a later
    /// tick of any tap does.
    pub fn lost(&self, log: &mut LaneLog, regions: u64, bytes: u64) {
        let mut inner = self.inner();
        inner.left_regions += regions;
        inner.left_bytes += bytes;
        // Before the lost bit is durable: a process that starts anew must not take the region for a copied one.
        log.ring().set_resync_end(None);
        inner.advance(log);
    }

    /// Puts a resync that copies nothing: nothing is lost, although the log, or that of the epoch before, may have an open `overflow`
    /// or `resync begin`. Whoever put that died before the lost bit was durable, or before there was room for the end. Before any
    /// lane runs; where there is no room now, a later tick of any tap does it.
    pub fn close(&self, log: &mut LaneLog) {
        let mut inner = self.inner();
        inner.to_close = true;
        inner.advance(log);
    }

    /// The last record of a region is in the log, or none is needed. Puts `resync end` after the last region.
    pub(crate) fn copied(&self, log: &mut LaneLog, bytes: u64) {
        let mut inner = self.inner();
        inner.left_regions -= 1;
        inner.left_bytes -= bytes;
        inner.copied_bytes += bytes;
        inner.advance(log);
    }

    /// Puts what is due and found no room before. `true` while it still finds none.
    pub(crate) fn advance(&self, log: &mut LaneLog) -> bool {
        let mut inner = self.inner();
        inner.advance(log);
        inner.overflow.is_none() && (inner.to_close || inner.begun != (inner.left_regions > 0))
    }

    /// Whether the log says that positions are not consistent, so that an operation may be done without it.
    pub(crate) fn announced(&self) -> bool {
        let inner = self.inner();
        inner.begun || inner.overflow.is_some()
    }

    /// Whether records of a resync may be put.
    pub(crate) fn begun(&self) -> bool {
        self.inner().begun
    }

    /// Whether the bit of a region whose record is confirmed may be cleared. Not while it could be the group's last one and
    /// `resync end` is not confirmed: a process that starts anew must find a lost region, so that it ends what was begun.
    pub(crate) fn may_clear(&self, confirmed: Seq) -> bool {
        let inner = self.inner();
        inner.left_regions > 0
            || (!inner.begun && inner.overflow.is_none() && inner.ended.is_none_or(|end| end <= confirmed))
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> ResyncStatus {
        let inner = self.inner();
        let in_progress = inner.begun || inner.left_regions > 0 || inner.overflow.is_some();
        let phase = match (inner.overflow, in_progress) {
            (Some(_), _) => Phase::Overflow,
            (None, true) => Phase::Resync,
            (None, false) => Phase::Logging,
        };
        let seconds = inner.since.map_or(0.0, |since| (clock::mono() - since).as_secs_f64());
        let bytes_per_second = if seconds > 0.0 { (inner.copied_bytes as f64 / seconds) as u64 } else { 0 };
        let Inner { left_regions, left_bytes, overflows, .. } = *inner;
        let ended_before = inner.ended.is_some();
        ResyncStatus { phase, in_progress, left_regions, left_bytes, bytes_per_second, overflows, ended_before }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change of it is complete before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Under the mutex, so that no other lane's word comes between the count and the seq that follows from it.
    fn advance(&mut self, log: &mut LaneLog) {
        if self.overflow.is_some() {
            return;
        }
        let wanted = self.left_regions > 0;
        if (wanted || self.to_close) && !self.begun {
            self.begun = log.announce(Op::ResyncBegin, self.left_bytes).is_some();
            self.to_close &= !self.begun;
            (self.since, self.copied_bytes) = (Some(clock::mono()), 0);
        }
        if !wanted && self.begun {
            let end = log.announce(Op::ResyncEnd, 0);
            self.begun = end.is_none();
            self.ended = end.or(self.ended);
            if end.is_some() {
                self.since = None;
                log.ring().set_resync_end(end);
            }
        }
    }
}
