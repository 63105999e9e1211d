//! Lost regions of the disk read back into the log, chunk by chunk: ring space first (the guest keeps half of the lane), then
//! the range lock, then the read, then the seq (G7). Guest requests that wait for room go first, and the group's pace holds the
//! reads back (`pace.rs`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use farshore_changelog::ids::Seq;
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::Slot;
use farshore_changelog::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES, SECTOR_BYTES, align_down};
use farshore_changelog::{clock, medium};

use crate::disk::space;
use crate::engine::{Completion, Io, IoBuf, Piece};
use crate::range_lock::Ticket;
use crate::resync::RESYNC_READS_MAX;

use super::known::{Comparer, Known};
use super::lost::Repair;
use super::{Cx, Holder, Pending, Tap};

/// Pause before ring space is asked for again.
pub(super) const COPY_RETRY: Duration = Duration::from_millis(10);
/// Largest hole that is copied in one step: nothing is read for it, but while it is looked at it is locked.
const HOLE_MAX_BYTES: u64 = 1 << 30;
/// Pause after a region that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// What a read found: in the low bits of its call's value.
const HOLE: u64 = 0;
const ZEROES: u64 = 1;
const DATA: u64 = 2;
/// Whatever it is, the target has it.
const SAME: u64 = 3;
const FOUND: u64 = 3;
/// Above them, of a chunk in a hole: the sector up to which the hole goes.
const HOLE_END_SHIFT: u32 = 2;

/// How lost regions are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyMode {
    /// A lost region without any data leaves no record: only in the process that began an epoch for target images created empty.
    pub skip_holes: bool,
    /// What is read is written back before it is logged: an fdatasync has failed, and what it dropped reads as if it were there.
    pub write_back: bool,
}

/// A region on its way into the log, or several that are one hole.
pub(super) struct Copying {
    pub regions: Range<u64>,
    /// What of them is read now.
    chunk: ByteRange,
    /// The chunk was a hole when it was looked at last: nothing is read, it is looked at again.
    hole: bool,
    /// Ring space for the chunk; `None` while it is missing or an operation owns it.
    slot: Option<Slot>,
    ticket: Option<Ticket>,
    /// The newest record of the regions.
    seq: Option<Seq>,
    /// One became lost again meanwhile: once more from the start.
    pub again: bool,
    /// When the read of the chunk was asked for.
    asked: Instant,
}

impl Copying {
    fn new(region: u64, range: ByteRange) -> Self {
        Self {
            regions: region..region + 1,
            chunk: first_chunk(range),
            hole: false,
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
    /// Whether nobody has copied or is copying a region.
    fn is_free(&self, region: u64) -> bool {
        !self.copied_set.contains(&region) && !self.copies.iter().any(|(_, c)| c.regions.contains(&region))
    }

    /// The bytes of what is on its way as `key`.
    fn bytes_of(&self, key: usize) -> ByteRange {
        let (map, regions) = (&self.dirty.map, &self.copies[key].regions);
        ByteRange { start: map.range(regions.start).start, end: map.range(regions.end - 1).end }
    }

    /// The next chunk of what is on its way as `key`. Where a hole goes on behind the last one, as far as `hole_end`, it takes one
    /// step, with those lost regions behind it that lie in the hole.
    fn advance(&mut self, key: usize, hole_end: u64, block: u64) {
        let from = self.copies[key].chunk.end;
        let end = hole_end.min(from.saturating_add(HOLE_MAX_BYTES));
        let mut next = self.copies[key].regions.end;
        let map = &self.dirty.map;
        let changed = |region| self.known.as_ref().is_some_and(|known| known.has_changed(region));
        let changed_first = changed(self.copies[key].regions.start);
        let joins = |next| map.is_lost(next) && self.is_free(next) && changed(next) == changed_first;
        while next < map.regions() && map.range(next).end <= end && joins(next) {
            next += 1;
        }
        let own_end = self.bytes_of(key).end;
        let hole_end = if end < own_end { align_down(end, block) } else { self.dirty.map.range(next - 1).end };
        let copying = &mut self.copies[key];
        copying.regions.end = next;
        copying.hole = hole_end > from;
        let end = if copying.hole { hole_end } else { own_end };
        let rest = ByteRange { start: from, end };
        copying.chunk = if copying.hole { rest } else { first_chunk(rest) };
    }

    /// The next lost region that nobody has copied or is copying, from the cursor on and round.
    fn next_region(&mut self) -> Option<u64> {
        let free = |region: &u64| self.is_free(*region);
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
            let key = repair.copies.insert(Copying::new(region, range));
            if repair.hole.contains(range) {
                repair.copies[key].chunk.end = range.start;
                repair.advance(key, repair.hole.end, self.block_bytes);
            }
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
        // What is read is at most one record.
        let bytes = if copying.hole { 0 } else { chunk.len() };
        copying.slot = log.borrow_mut().reserve_for_resync(bytes as u32);
        if copying.slot.is_none() {
            return false;
        }
        pace.begins(now, bytes);
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
        let hole = copying.hole;
        let write_back = repair.mode.write_back;
        let comparer = repair.known.as_ref().and_then(|known| known.comparer(self.index, copying.regions.start, chunk));
        let read = move || {
            let mut piece = Piece::whole(IoBuf::Slot(slot));
            let found = if hole {
                look_again(&file, chunk, comparer.as_ref())
            } else {
                look(&file, chunk, piece.as_mut_slice(), comparer.as_ref(), write_back)
            };
            (found, [piece].into())
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
        let skip = repair.mode.skip_holes && !copying.regions.clone().any(|region| repair.relost.contains(&region));
        let hole_end = completion.result.as_ref().map_or(0, |value| (value >> HOLE_END_SHIFT) * SECTOR_BYTES);
        if hole_end > 0 {
            repair.hole = ByteRange { start: copying.chunk.start, end: hole_end };
        }
        let read = match (completion.result.map(|value| value & FOUND), slot) {
            // The slot gives itself back.
            (Ok(HOLE), _) if skip => Ok(()),
            (Ok(SAME), _) => {
                self.state.same_bytes.fetch_add(copying.chunk.len(), Relaxed);
                Ok(())
            }
            // The guest has written there since it was looked at.
            (Ok(DATA), _) if copying.hole => {
                copying.regions.end = copying.regions.start + 1;
                copying.chunk.end = copying.chunk.start;
                repair.hole = ByteRange::default();
                Ok(())
            }
            (Ok(found), Some(mut slot)) => {
                let op = if found == DATA { Op::ResyncWrite } else { Op::ResyncZeroes };
                let record = [(&mut slot, op, RecordFlags::NONE, copying.chunk)];
                copying.seq = log.borrow_mut().order(self.index, record);
                slot.commit();
                Ok(())
            }
            (Ok(_), None) => Err(io::Error::other("a read lost its buffer")),
            (Err(e), _) => Err(e),
        };
        let ticket = copying.ticket.take();
        match read {
            Ok(()) => self.next_chunk(key, hole_end),
            Err(error) => {
                let region = repair.copies.remove(key).regions.start;
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

    /// A chunk is in the log: on to the next, or to the end.
    fn next_chunk(&mut self, key: usize, hole_end: u64) {
        let needs_sync = self.flushes.next_start();
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return };
        let whole = repair.bytes_of(key);
        let copying = &mut repair.copies[key];
        if copying.chunk.end < whole.end || (hole_end > whole.end && !copying.again) {
            repair.advance(key, hole_end, self.block_bytes);
            if !repair.copies[key].chunk.is_empty() {
                return;
            }
        }
        let first = repair.copies[key].regions.start;
        if repair.copies[key].again {
            repair.copies[key] = Copying::new(first, repair.dirty.map.range(first));
            return;
        }
        let Copying { regions, seq, .. } = repair.copies.remove(key);
        if seq.is_some() {
            repair.note_change(whole);
        }
        for region in regions {
            repair.note_copied(region, seq, needs_sync);
            let bytes = repair.dirty.map.range(region).len();
            repair.progress.copied(&mut log.borrow_mut(), bytes);
        }
        self.tell_lost();
    }
}

/// Whether `chunk` is still a hole. With a comparer, whether the target has nothing but zeroes there.
fn look_again(file: &File, chunk: ByteRange, comparer: Option<&Comparer>) -> io::Result<u64> {
    if !space::is_hole(file, chunk)? {
        return Ok(DATA);
    }
    Ok(if comparer.is_some_and(Comparer::is_zeroes) { SAME } else { HOLE })
}

/// What `chunk` holds; data lies in `buf` then. With a comparer, whether the target has it. Of a hole also where it ends.
fn look(
    file: &File,
    chunk: ByteRange,
    buf: &mut [u8],
    comparer: Option<&Comparer>,
    write_back: bool,
) -> io::Result<u64> {
    let hole_end = space::hole_end(file, chunk.start)?;
    let found = if hole_end >= chunk.end {
        HOLE
    } else {
        space::read_full(file, chunk.start, buf)?;
        let zero = space::is_zero(buf);
        if write_back {
            write_again(file, chunk, buf, zero)?;
        }
        if zero { ZEROES } else { DATA }
    };
    let beyond = if found == HOLE { (hole_end / SECTOR_BYTES) << HOLE_END_SHIFT } else { 0 };
    let Some(comparer) = comparer else { return Ok(found | beyond) };
    if found == HOLE {
        buf.fill(0);
    }
    Ok(if comparer.is_same(buf) { SAME } else { found } | beyond)
}

/// Writes what a chunk holds once more, where anything is allocated. A hole is left: it is no page that an fdatasync could have dropped,
/// but the file system's own matter, which its journal keeps.
fn write_again(file: &File, chunk: ByteRange, buf: &[u8], zero: bool) -> io::Result<()> {
    if zero {
        return space::zero(file, chunk, true);
    }
    let mut at = chunk.start;
    for extent in space::extents(file, chunk, space::EXTENTS_MAX)? {
        let from = (at - chunk.start) as usize;
        if !extent.hole {
            medium::write_all_at(file, &buf[from..from + extent.len as usize], at)?;
        }
        at += extent.len;
    }
    if at < chunk.end { Err(io::Error::other("a chunk in too many pieces")) } else { Ok(()) }
}
