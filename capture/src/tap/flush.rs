//! fdatasync of the disk: one at a time, shared by all that wait for it. The first failure latches: what the kernel dropped then
//! no later fsync reports, so from then on no change of the disk is believed (G3).

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::Slot;
use farshore_changelog::units::ByteRange;

use crate::device::{Answer, RequestId};
use crate::engine::Io;

use super::{Cx, Pending, Tap, Waiting, os_error};

/// Who waits for an fdatasync.
#[derive(Default)]
pub(super) struct Flushes {
    /// Covered by the one in flight.
    running: Vec<Waiter>,
    /// Came after it began: covered by the next.
    next: Vec<Waiter>,
    failed: bool,
    /// fdatasyncs begun, and the newest of them that has succeeded.
    started: u64,
    succeeded: u64,
}

struct Waiter {
    /// `None`: nobody asked, the dirty map needs it.
    id: Option<RequestId>,
    /// The record of a flush, in the order since the flush arrived; `None` for FUA and without a log.
    slot: Option<Slot>,
}

impl Flushes {
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// The number of the next fdatasync to begin: the first that covers what has completed by now.
    pub fn next_start(&self) -> u64 {
        self.started + 1
    }

    /// The number of the newest fdatasync that has succeeded; 0 before the first.
    pub fn succeeded(&self) -> u64 {
        self.succeeded
    }
}

impl Tap {
    /// Starts a flush; gives it back when the ring has no slot for it.
    ///
    /// Its seq is taken now, before the fdatasync begins: above the seq of every write that was acknowledged before, and each of
    /// those has completed, so the fdatasync covers it. It is committed only when that has succeeded.
    pub(super) fn try_flush(&mut self, cx: &mut Cx<'_>, id: RequestId) -> Option<Waiting> {
        let mut slot = None;
        if let Some(log) = self.roomy_log() {
            let Some(mut taken) = log.borrow_mut().reserve([0].into_iter()) else { return Some(Waiting::Flush { id }) };
            let record = taken.iter_mut().map(|slot| (slot, Op::Flush, RecordFlags::NONE, ByteRange::default()));
            log.borrow_mut().order(self.index, record);
            slot = taken.pop();
        }
        self.join_sync(cx, Waiter { id: Some(id), slot });
        None
    }

    /// Answers `id` once everything that has completed by now is durable.
    pub(super) fn sync_for(&mut self, cx: &mut Cx<'_>, id: RequestId) {
        self.join_sync(cx, Waiter { id: Some(id), slot: None });
    }

    /// Nobody asked, but regions cannot be closed without one. Whatever runs or waits now does as well.
    pub(super) fn sync_unasked(&mut self, cx: &mut Cx<'_>) {
        if !self.flushes.failed && self.flushes.running.is_empty() && self.flushes.next.is_empty() {
            self.join_sync(cx, Waiter { id: None, slot: None });
        }
    }

    fn join_sync(&mut self, cx: &mut Cx<'_>, waiter: Waiter) {
        self.flushes.next.push(waiter);
        self.start_sync(cx);
    }

    fn start_sync(&mut self, cx: &mut Cx<'_>) {
        if self.flushes.failed {
            return self.refuse_waiters(cx);
        }
        if self.flushes.running.is_empty() && !self.flushes.next.is_empty() {
            self.flushes.running = std::mem::take(&mut self.flushes.next);
            self.flushes.started += 1;
            let fd = self.disk.fd();
            self.push(cx, Pending::Sync, Io::Fdatasync { fd });
        }
    }

    /// The fdatasync in flight has ended.
    pub(super) fn synced(&mut self, cx: &mut Cx<'_>, result: io::Result<u64>) {
        match result {
            Ok(_) => {
                // One runs at a time, so it is the one that was started last.
                self.flushes.succeeded = self.flushes.started;
                for waiter in std::mem::take(&mut self.flushes.running) {
                    if let Some(slot) = waiter.slot {
                        slot.commit();
                    }
                    if let Some(id) = waiter.id {
                        cx.answer(id, Ok(Answer::Done));
                    }
                }
            }
            Err(error) => {
                self.flushes.failed = true;
                self.state.sync_failed.store(true, Relaxed);
                self.distrust();
                tracing::error!(disk = %self.disk.name(), %error, "fdatasync failed: every change is refused from now on");
            }
        }
        self.start_sync(cx);
    }

    fn refuse_waiters(&mut self, cx: &mut Cx<'_>) {
        let Self { flushes: Flushes { running, next, .. }, .. } = self;
        for waiter in running.drain(..).chain(next.drain(..)) {
            if let Some(slot) = waiter.slot {
                slot.abort();
            }
            if let Some(id) = waiter.id {
                cx.answer(id, Err(os_error(libc::EIO)));
            }
        }
    }
}
