//! The hash of every part of the disk as records of the log, for a target that compares: each read under the range lock and put
//! in the order before the lock is released, so that it says what the disk holds at that very seq.
//!
//! It waits while the log is not in order: what is lost the target cannot have yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Hash;
use farshore_changelog::op::{DIGEST_BYTES, Op, RecordFlags};
use farshore_changelog::ring::Slot;
use farshore_changelog::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES};

use crate::disk::space;
use crate::engine::{Completion, HeapBuf, Io, IoBuf, Piece};
use crate::range_lock::Ticket;
use crate::resync::Phase;

use super::copy::COPY_RETRY;
use super::{Cx, Holder, Pending, Tap};

/// A run over the disk.
pub(super) struct Digests {
    /// Where the next part begins.
    at: u64,
    /// The part on its way.
    part: Option<Part>,
}

struct Part {
    range: ByteRange,
    /// `None` while an operation owns it.
    slot: Option<Slot>,
    ticket: Option<Ticket>,
}

impl Tap {
    /// Begins to log the hashes of the whole disk; a run that is under way begins again. [`DiskStatus::digests_left`] says how
    /// many bytes are left.
    ///
    /// [`DiskStatus::digests_left`]: super::DiskStatus::digests_left
    pub fn begin_digests(&mut self) {
        match &mut self.digests {
            Some(running) => running.at = 0,
            None => self.digests = Some(Digests { at: 0, part: None }),
        }
        self.tell_digests();
    }

    /// Operations of a run in flight.
    pub(super) fn digests_busy(&self) -> usize {
        usize::from(self.digests.as_ref().is_some_and(|digests| digests.part.is_some()))
    }

    /// Starts the next part, when the log is in order and has room. Gives when there is more to do.
    pub(super) fn pump_digests(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let (Some(digests), Some(repair), Some(log)) = (&mut self.digests, &self.repair, &self.log) else {
            return None;
        };
        if digests.part.is_some() {
            return None;
        }
        if self.stopping || digests.at >= self.disk.size_bytes() {
            self.digests = None;
            self.tell_digests();
            return None;
        }
        let now = clock::mono();
        let pace = &repair.progress.rules().pace;
        if repair.progress.status().phase != Phase::Logging || !self.waiting.is_empty() || pace.wait(now).is_some() {
            return Some(COPY_RETRY);
        }
        if repair.dirty.map.lost_regions() > 0 && !repair.dirty.failed() {
            return Some(COPY_RETRY); // what is copied and not confirmed yet
        }
        let end = self.disk.size_bytes().min(digests.at + u64::from(RECORD_PAYLOAD_MAX_BYTES));
        let range = ByteRange { start: digests.at, end };
        let Some(slot) = log.borrow_mut().reserve_for_resync(DIGEST_BYTES as u32) else { return Some(COPY_RETRY) };
        pace.begins(now, range.len());
        digests.part = Some(Part { range, slot: Some(slot), ticket: None });
        let (ticket, held) = self.take_range(range, Holder::Digest);
        if let Some(part) = self.digests.as_mut().and_then(|digests| digests.part.as_mut()) {
            part.ticket = Some(ticket);
        }
        if held {
            self.begin_digest(cx);
        }
        None
    }

    /// The part's range is held: reads and hashes it.
    pub(super) fn begin_digest(&mut self, cx: &mut Cx<'_>) {
        let Some(part) = self.digests.as_mut().and_then(|digests| digests.part.as_mut()) else { return };
        let (range, file) = (part.range, Arc::clone(self.disk.file()));
        let slot = part.slot.take().expect("ring space is taken before the range");
        let hash = move || {
            let mut piece = Piece::whole(IoBuf::Slot(slot));
            let hashed = hash_of(&file, range).map(|hash| {
                piece.as_mut_slice().copy_from_slice(&hash.0);
                0
            });
            (hashed, [piece].into())
        };
        self.push(cx, Pending::Digest, Io::Call(Box::new(hash)));
    }

    /// A part was hashed: its record is put, the range released.
    pub(super) fn digest_read(&mut self, cx: &mut Cx<'_>, mut completion: Completion) {
        let (Some(digests), Some(repair), Some(log)) = (&mut self.digests, &self.repair, &self.log) else { return };
        let Some(part) = digests.part.take() else { return };
        let slot = completion.pieces.pop().and_then(|piece| match piece.buf {
            IoBuf::Slot(slot) => Some(slot),
            IoBuf::Heap(_) => None,
        });
        // A region that became lost meanwhile is not what the target has: the slot gives itself back.
        let lost = repair.dirty.map.touched(part.range).any(|region| repair.dirty.map.is_lost(region));
        match (completion.result, slot) {
            (Ok(_), Some(mut slot)) if !lost => {
                let record = [(&mut slot, Op::Digest, RecordFlags::NONE, part.range)];
                log.borrow_mut().order(self.index, record);
                slot.commit();
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::warn!(disk = %self.disk.name(), range = %part.range, %error, "a range cannot be read, so its hash is not logged");
            }
        }
        // A run that began again meanwhile starts at 0 all the same; a part that became lost is hashed once it is back.
        if digests.at == part.range.start && !lost {
            digests.at = part.range.end;
        }
        self.tell_digests();
        if let Some(ticket) = part.ticket {
            self.release_range(cx, ticket);
        }
    }

    fn tell_digests(&self) {
        let left = self.digests.as_ref().map_or(0, |digests| self.disk.size_bytes() - digests.at);
        self.state.digests_left.store(left, Relaxed);
    }
}

fn hash_of(file: &std::fs::File, range: ByteRange) -> io::Result<Hash> {
    let mut buf = HeapBuf::new(range.len() as usize); // at most 1 MiB
    let bytes = &mut buf.as_mut_slice()[..range.len() as usize];
    if !space::is_hole(file, range)? {
        space::read_full(file, range.start, bytes)?;
    } else {
        bytes.fill(0);
    }
    Ok(Hash::of(bytes))
}
