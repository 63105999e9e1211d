//! Lost regions of the disk read back into the log, chunk by chunk: ring space first (the guest keeps half of the lane), then
//! the range lock, then the read, then the seq (G7). Guest requests that wait for room go first, and the group's pace holds the
//! reads back (`pace.rs`).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::Slot;
use farshore_changelog::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES};

use crate::disk::space;
use crate::engine::{Completion, Io, IoBuf, Piece};
use crate::range_lock::Ticket;
use crate::resync::RESYNC_READS_MAX;

use super::known::{Comparer, Known};
use super::lost::Repair;
use super::{Cx, Holder, Pending, Tap};

/// Pause before ring space is asked for again.
pub(super) const COPY_RETRY: Duration = Duration::from_millis(10);
/// Pause after a region that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// What a read found, as the value of its call.
const HOLE: u64 = 0;
const ZEROES: u64 = 1;
const DATA: u64 = 2;
/// Whatever it is, the target has it.
const SAME: u64 = 3;

/// A region on its way into the log.
pub(super) struct Copying {
    pub region: u64,
    /// What of it is read now.
    chunk: ByteRange,
    /// Ring space for the chunk; `None` while it is missing or an operation owns it.
    slot: Option<Slot>,
    ticket: Option<Ticket>,
    /// The newest record of the region.
    seq: Option<Seq>,
    /// It became lost again meanwhile: once more from its start.
    pub again: bool,
    /// When the read of the chunk was asked for.
    asked: Instant,
}

impl Copying {
    fn new(region: u64, range: ByteRange) -> Self {
        Self {
            region,
            chunk: first_chunk(range),
            slot: None,
            ticket: None,
            seq: None,
            again: false,
            asked: clock::mono(),
        }
    }

    pub fn wants_room(&self) -> bool {
        self.ticket.is_none()
    }
}

fn first_chunk(range: ByteRange) -> ByteRange {
    ByteRange { start: range.start, end: range.end.min(range.start + u64::from(RECORD_PAYLOAD_MAX_BYTES)) }
}

impl Repair {
    /// The next lost region that nobody has copied or is copying, from the cursor on and round.
    fn next_region(&mut self) -> Option<u64> {
        let free = |region: &u64| {
            !self.copied_set.contains(region) && !self.copies.iter().any(|(_, copying)| copying.region == *region)
        };
        let from = |start: u64| {
            std::iter::successors(self.dirty.map.next_lost(start), |last| self.dirty.map.next_lost(last + 1))
        };
        let found = from(self.cursor).find(free).or_else(|| from(0).find(free))?;
        self.cursor = found + 1;
        Some(found)
    }

    fn paused(&mut self) -> bool {
        self.paused_until = self.paused_until.filter(|until| clock::mono() < *until);
        self.paused_until.is_some()
    }
}

impl Tap {
    /// Regions being copied.
    pub(super) fn copies(&self) -> usize {
        self.repair.as_ref().map_or(0, |repair| repair.copies.len())
    }

    /// Starts as many reads as may run.
    pub(super) fn pump_copies(&mut self, cx: &mut Cx<'_>) {
        let may_log = self.logging().is_some() && self.waiting.is_empty();
        let Some(repair) = &mut self.repair else { return };
        if self.stopping || repair.dirty.map.lost_regions() == 0 {
            // What holds neither space nor a lock is let go; the rest ends by itself.
            return repair.copies.retain(|_, copying| !copying.wants_room());
        }
        if !may_log || (repair.uncopied() == 0 && !repair.copies.iter().any(|(_, c)| c.wants_room())) {
            return;
        }
        if repair.paused() || !repair.progress.begun() || repair.known.as_mut().is_some_and(Known::waits) {
            return;
        }
        while repair.copies.len() < RESYNC_READS_MAX && repair.uncopied() > 0 {
            let Some(region) = repair.next_region() else { break };
            let range = repair.dirty.map.range(region);
            repair.copies.insert(Copying::new(region, range));
        }
        let waiting: Vec<usize> = repair.copies.iter().filter(|(_, c)| c.wants_room()).map(|(key, _)| key).collect();
        for key in waiting {
            if !self.start_chunk(cx, key) {
                return;
            }
        }
    }

    /// Takes ring space for a chunk, then asks for its range; `false` when there is no space.
    fn start_chunk(&mut self, cx: &mut Cx<'_>, key: usize) -> bool {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return false };
        let copying = &mut repair.copies[key];
        let chunk = copying.chunk;
        let now = clock::mono();
        let pace = &repair.progress.rules().pace;
        if pace.wait(now).is_some() {
            return false;
        }
        // A chunk is at most one record.
        copying.slot = log.borrow_mut().reserve_for_resync(chunk.len() as u32);
        if copying.slot.is_none() {
            return false;
        }
        pace.begins(now, chunk.len());
        let (ticket, held) = self.take_range(chunk, Holder::Copy(key));
        if let Some(repair) = &mut self.repair {
            repair.copies[key].ticket = Some(ticket);
        }
        if held {
            self.begin_copy(cx, key);
        }
        true
    }

    /// The chunk's range is held: reads it.
    pub(super) fn begin_copy(&mut self, cx: &mut Cx<'_>, key: usize) {
        let Some(repair) = &mut self.repair else { return };
        let copying = &mut repair.copies[key];
        let (chunk, file) = (copying.chunk, Arc::clone(self.disk.file()));
        let slot = copying.slot.take().expect("ring space is taken before the range");
        copying.asked = clock::mono();
        let comparer = repair.known.as_ref().and_then(|known| known.comparer(self.index, copying.region, chunk));
        let read = move || {
            let mut piece = Piece::whole(IoBuf::Slot(slot));
            (look(&file, chunk, piece.as_mut_slice(), comparer.as_ref()), vec![piece])
        };
        self.push(cx, Pending::Copy { copy: key }, Io::Call(Box::new(read)));
    }

    /// A chunk was read: its record is put, the range released.
    pub(super) fn copy_read(&mut self, cx: &mut Cx<'_>, key: usize, mut completion: Completion) {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return };
        let copying = &mut repair.copies[key];
        repair.progress.rules().pace.ended(clock::mono() - copying.asked);
        let slot = completion.pieces.pop().and_then(|piece| match piece.buf {
            IoBuf::Slot(slot) => Some(slot),
            IoBuf::Heap(_) => None,
        });
        let skip = repair.skip_holes && !repair.relost.contains(&copying.region);
        let read = match (completion.result, slot) {
            // The slot gives itself back.
            (Ok(HOLE), _) if skip => Ok(()),
            (Ok(SAME), _) => {
                self.state.same_bytes.fetch_add(copying.chunk.len(), Relaxed);
                Ok(())
            }
            (Ok(found), Some(mut slot)) => {
                let op = if found == DATA { Op::ResyncWrite } else { Op::ResyncZeroes };
                let record = vec![(&mut slot, op, RecordFlags::NONE, copying.chunk)];
                copying.seq = Some(log.borrow_mut().order(self.index, record));
                slot.commit();
                Ok(())
            }
            (Ok(_), None) => Err(io::Error::other("a read lost its buffer")),
            (Err(e), _) => Err(e),
        };
        let ticket = copying.ticket.take();
        match read {
            Ok(()) => self.next_chunk(key),
            Err(error) => {
                let region = repair.copies.remove(key).region;
                tracing::warn!(disk = %self.disk.name(), range = %repair.dirty.map.range(region), %error, "a lost region cannot be read");
                repair.unreadable.insert(region);
                repair.paused_until = Some(clock::mono() + UNREADABLE_PAUSE);
                self.tell_lost();
            }
        }
        if let Some(ticket) = ticket {
            self.release_range(cx, ticket);
        }
    }

    /// A chunk is in the log: on to the next, or to the region's end.
    fn next_chunk(&mut self, key: usize) {
        let needs_sync = self.flushes.next_start();
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return };
        let copying = &mut repair.copies[key];
        let (region, range) = (copying.region, repair.dirty.map.range(copying.region));
        copying.chunk = first_chunk(ByteRange { start: copying.chunk.end, end: range.end });
        if copying.chunk.is_empty() && copying.again {
            *copying = Copying::new(region, range);
        } else if copying.chunk.is_empty() {
            let seq = copying.seq;
            repair.copies.remove(key);
            if seq.is_some() {
                repair.note_change(range);
            }
            repair.note_copied(region, seq, needs_sync);
            repair.progress.copied(&mut log.borrow_mut(), range.len());
            self.tell_lost();
        }
    }
}

/// What `chunk` holds; data lies in `buf` then. With a comparer, whether the target has it.
fn look(file: &File, chunk: ByteRange, buf: &mut [u8], comparer: Option<&Comparer>) -> io::Result<u64> {
    let found = if space::is_hole(file, chunk)? {
        HOLE
    } else {
        space::read_full(file, chunk.start, buf)?;
        if space::is_zero(buf) { ZEROES } else { DATA }
    };
    let Some(comparer) = comparer else { return Ok(found) };
    if found == HOLE {
        buf.fill(0);
    }
    Ok(if comparer.is_same(buf) { SAME } else { found })
}
