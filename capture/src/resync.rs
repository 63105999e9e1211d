//! Resync of a group: lost regions of all its disks read back into the log (G7). Initial replication, repair after a crash
//! and repair of an unreadable range are this one thing.
//!
//! Each disk's tap reads its own lost regions (`tap/copy.rs`). What the disks share is here: between `resync begin` and `resync
//! end` no position is consistent, so one `resync begin` goes before the first region's record, and one `resync end` after the
//! last one's, whichever lane that is on.
//!
//! At the start of an epoch whoever sets the group up counts the lost regions of all disks and calls [`ResyncProgress::lost`]
//! with the first lane's log before any lane runs: so `resync begin` is the epoch's first record. A restarted process that
//! took over the ring does the same; a second `resync begin` in a row is harmless.

use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_changelog::ids::Seq;
use farshore_changelog::op::Op;

use crate::tap::LaneLog;

/// Resync reads of one disk in flight.
pub const RESYNC_READS_MAX: usize = 2;

/// How far the resync of a group is; one for all its disks, shared by their lanes.
///
/// The mutex is taken when a region becomes lost or was copied, never for a guest's request that succeeds.
#[derive(Debug, Default)]
pub struct ResyncProgress {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Lost regions whose records are not in the log yet.
    left_regions: u64,
    left_bytes: u64,
    /// `resync begin` is in the log and `resync end` not yet.
    begun: bool,
    /// The newest `resync end`.
    ended: Option<Seq>,
}

/// A reading of a [`ResyncProgress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResyncStatus {
    /// Between `resync begin` and `resync end`, or about to be.
    pub in_progress: bool,
    /// Lost regions whose records are not in the log yet.
    pub left_regions: u64,
    /// Their bytes.
    pub left_bytes: u64,
}

impl ResyncProgress {
    /// Of a group whose ring goes on: `ended` is the ring's word on its newest `resync end` ([`Ring::resync_end`]).
    ///
    /// [`Ring::resync_end`]: farshore_changelog::ring::Ring::resync_end
    #[must_use]
    pub fn resumed(ended: Option<Seq>) -> Self {
        Self { inner: Mutex::new(Inner { ended, ..Inner::default() }) }
    }

    /// The newest `resync end` of a log that goes on: regions lost before it need no copy, only its confirmation.
    pub(crate) fn ended(&self) -> Option<Seq> {
        self.inner().ended
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

    /// Puts the `resync end` of a log that goes on, in which nothing is lost although it may have an open `resync begin`: whoever
    /// put that died before the lost bit was durable, and the operation was settled since. Before any lane runs.
    pub fn close(&self, log: &mut LaneLog) {
        let mut inner = self.inner();
        inner.begun = true;
        inner.advance(log);
    }

    /// The last record of a region is in the log, or none is needed. Puts `resync end` after the last region.
    pub(crate) fn copied(&self, log: &mut LaneLog, bytes: u64) {
        let mut inner = self.inner();
        inner.left_regions -= 1;
        inner.left_bytes -= bytes;
        inner.advance(log);
    }

    /// Puts what is due and found no room before. `true` while it still finds none.
    pub(crate) fn advance(&self, log: &mut LaneLog) -> bool {
        let mut inner = self.inner();
        inner.advance(log);
        inner.begun != (inner.left_regions > 0)
    }

    /// Whether records of a resync may be put.
    pub(crate) fn begun(&self) -> bool {
        self.inner().begun
    }

    /// Whether the bit of a region whose record is confirmed may be cleared. Not while it could be the group's last one and
    /// `resync end` is not confirmed: a process that starts anew must find a lost region, so that it ends what was begun.
    pub(crate) fn may_clear(&self, confirmed: Seq) -> bool {
        let inner = self.inner();
        inner.left_regions > 0 || (!inner.begun && inner.ended.is_none_or(|end| end <= confirmed))
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> ResyncStatus {
        let inner = self.inner();
        let Inner { left_regions, left_bytes, begun, ended: _ } = *inner;
        ResyncStatus { in_progress: begun || left_regions > 0, left_regions, left_bytes }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change of it is complete before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Under the mutex, so that no other lane's word comes between the count and the seq that follows from it.
    fn advance(&mut self, log: &mut LaneLog) {
        let wanted = self.left_regions > 0;
        if wanted && !self.begun {
            self.begun = log.announce(Op::ResyncBegin, self.left_bytes).is_some();
        }
        if !wanted && self.begun {
            let end = log.announce(Op::ResyncEnd, 0);
            self.begun = end.is_none();
            self.ended = end.or(self.ended);
            if end.is_some() {
                log.ring().set_resync_end(end);
            }
        }
    }
}
