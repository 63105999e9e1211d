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
}

struct Waiter {
    id: RequestId,
    /// The record of a flush, in the order since the flush arrived; `None` for FUA and without a log.
    slot: Option<Slot>,
}

impl Flushes {
    pub fn failed(&self) -> bool {
        self.failed
    }
}

impl Tap {
    /// Starts a flush; gives it back when the ring has no slot for it.
    ///
    /// Its seq is taken now, before the fdatasync begins: above the seq of every write that was acknowledged before, and each of
    /// those has completed, so the fdatasync covers it. It is committed only when that has succeeded.
    pub(super) fn try_flush(&mut self, cx: &mut Cx<'_>, id: RequestId) -> Option<Waiting> {
        let mut slot = None;
        if let Some(log) = self.logging() {
            let Some(mut taken) = log.borrow_mut().reserve(&[0]) else { return Some(Waiting::Flush { id }) };
            let record =
                taken.iter_mut().map(|slot| (slot, Op::Flush, RecordFlags::NONE, ByteRange::default())).collect();
            log.borrow_mut().order(self.index, record);
            slot = taken.pop();
        }
        self.join_sync(cx, Waiter { id, slot });
        None
    }

    /// Answers `id` once everything that has completed by now is durable.
    pub(super) fn sync_for(&mut self, cx: &mut Cx<'_>, id: RequestId) {
        self.join_sync(cx, Waiter { id, slot: None });
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
            let fd = self.disk.fd();
            self.push(cx, Pending::Sync, Io::Fdatasync { fd });
        }
    }

    /// The fdatasync in flight has ended.
    pub(super) fn synced(&mut self, cx: &mut Cx<'_>, result: io::Result<u64>) {
        match result {
            Ok(_) => {
                for waiter in std::mem::take(&mut self.flushes.running) {
                    if let Some(slot) = waiter.slot {
                        slot.commit();
                    }
                    cx.answer(waiter.id, Ok(Answer::Done));
                }
            }
            Err(error) => {
                self.flushes.failed = true;
                self.state.sync_failed.store(true, Relaxed);
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
            cx.answer(waiter.id, Err(os_error(libc::EIO)));
        }
    }
}
