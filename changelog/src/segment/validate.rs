//! The rules of the format for records, for their order, and for the head above them. The writer calls these functions
//! before it takes a record, the reader after it has decoded one: what one side refuses, the other never produces.

use super::error::limit;
use super::layout::{BLOCK_CLOSES_AT_BYTES, COUNTER_MAX, RECORDS_MAX};
use super::{IndexRecord, Kind, SegmentError, SegmentHead};
use crate::ids::{DISKS_PER_GROUP_MAX, Epoch, Hash, MARK_NAME_MAX_BYTES, SegmentNo, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::units::{RECORD_PAYLOAD_MAX_BYTES, SECTOR_BYTES, UnixMicros};

/// Where a payload lies: it follows from the payloads before it, so a reader knows it before it reads the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) position: u32,
    /// The raw length of the block, when this payload is its last.
    pub(super) closes_at: Option<u32>,
}

/// The state of a run of records of one segment, fed in their order.
#[derive(Debug, Clone)]
pub(super) struct Run {
    kind: Kind,
    previous: Option<Record>,
    count: u64,
    min_time: UnixMicros,
    max_time: UnixMicros,
    /// The block that the next payload goes to, and the bytes it holds by now.
    block: u32,
    filled: u32,
}

impl Run {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            previous: None,
            count: 0,
            min_time: UnixMicros(u64::MAX),
            max_time: UnixMicros(0),
            block: 0,
            filled: 0,
        }
    }

    /// Takes the next record and says where its payload lies. A refused record leaves the run as it was.
    pub(super) fn take(&mut self, record: &Record) -> Result<Place, SegmentError> {
        limit("records", self.count + 1, RECORDS_MAX)?;
        alone(self.kind, record).and_then(|()| self.follows(record)).map_err(|what| refused(record.seq, what))?;
        self.previous = Some(*record);
        self.count += 1;
        self.min_time = self.min_time.min(record.time);
        self.max_time = self.max_time.max(record.time);
        Ok(self.place(record))
    }

    fn place(&mut self, record: &Record) -> Place {
        let Some(len) = payload_len(record) else {
            return Place { block: 0, position: 0, closes_at: None };
        };
        let (block, position) = (self.block, self.filled);
        self.filled += len;
        let closes = self.filled >= BLOCK_CLOSES_AT_BYTES;
        let closes_at = closes.then_some(self.filled);
        if closes {
            self.block += 1;
            self.filled = 0;
        }
        Place { block, position, closes_at }
    }

    /// The raw length of the last block, when it was not closed by a payload.
    pub(super) fn open_block_raw_len(&self) -> Option<u32> {
        (self.filled > 0).then_some(self.filled)
    }

    fn follows(&self, record: &Record) -> Result<(), &'static str> {
        let Some(previous) = &self.previous else { return Ok(()) };
        match self.kind {
            Kind::Log => log_follows(previous, record),
            Kind::Undo if previous.seq != record.seq => Err("the records of an undo batch bear one seq"),
            Kind::Undo | Kind::Seal => Ok(()),
        }
    }

    /// Earliest and latest time of the records; `created` twice when there is none.
    pub(super) fn times(&self, created: UnixMicros) -> (UnixMicros, UnixMicros) {
        if self.count == 0 { (created, created) } else { (self.min_time, self.max_time) }
    }

    /// Checks the end of the run: the whole of `records`, in the order they were taken, under `head`.
    pub(super) fn finish(&self, head: &SegmentHead, records: &[IndexRecord]) -> Result<(), SegmentError> {
        check_head(head)?;
        if (head.min_time, head.max_time) != self.times(head.created) {
            return Err(SegmentError::Damaged { what: "min_time or max_time is not that of its records" });
        }
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let (first, last) = (first.record, last.record);
        if first.seq < head.first_seq {
            return Err(refused(first.seq, "it is below the first_seq of its segment"));
        }
        if last.seq > head.last_seq {
            return Err(refused(last.seq, "it is above the last_seq of its segment"));
        }
        match head.kind {
            Kind::Log if last.flags.has(RecordFlags::BOUNDARY) => Ok(()),
            Kind::Log => Err(refused(last.seq, "the last record of a log segment must be a boundary")),
            Kind::Undo if last.seq != head.last_seq => {
                Err(refused(last.seq, "the records of an undo batch bear its last_seq"))
            }
            Kind::Undo => undo_disjoint(records),
            Kind::Seal => Ok(()),
        }
    }
}

fn refused(seq: Seq, what: &'static str) -> SegmentError {
    SegmentError::Record { seq, what }
}

/// Bytes of payload of a record that was checked; `None` when it has none.
fn payload_len(record: &Record) -> Option<u32> {
    u32::try_from(record.payload_len()).ok().filter(|len| *len > 0)
}

/// What a payload must be, beside what its record says.
pub(super) fn payload(record: &Record, payload: &[u8]) -> Result<(), SegmentError> {
    if payload.len() as u64 != record.payload_len() {
        return Err(refused(record.seq, "its payload does not have the length it names"));
    }
    if record.op == Op::Mark && std::str::from_utf8(payload).is_err() {
        return Err(refused(record.seq, "the name of a mark must be UTF-8"));
    }
    Ok(())
}

/// The rules for one record by itself, in a segment of `kind`.
fn alone(kind: Kind, record: &Record) -> Result<(), &'static str> {
    if record.seq.0 == 0 {
        return Err("seqs begin at 1");
    }
    match kind {
        Kind::Log => {}
        Kind::Undo => undo_record(record)?,
        Kind::Seal => return Err("a seal holds no record"),
    }
    flags(record)?;
    fields(record)
}

fn undo_record(record: &Record) -> Result<(), &'static str> {
    match record.op {
        Op::Write | Op::WriteZeroes if record.flags == RecordFlags::NONE => Ok(()),
        Op::Write | Op::WriteZeroes => Err("a record of an undo batch has no flag"),
        Op::Trim
        | Op::Flush
        | Op::Mark
        | Op::ResyncBegin
        | Op::ResyncWrite
        | Op::ResyncZeroes
        | Op::ResyncEnd
        | Op::Overflow
        | Op::Digest => Err("an undo batch holds only write and write zeroes"),
    }
}

fn flags(record: &Record) -> Result<(), &'static str> {
    let flags = record.flags;
    if RecordFlags::from_bits(flags.0).is_none() {
        return Err("it has an unknown flag");
    }
    let of_ranges = RecordFlags::FUA.with(RecordFlags::MORE).with(RecordFlags::REREAD);
    if !record.op.changes_disk() && flags.without(of_ranges) != flags {
        return Err("FUA, MORE and REREAD belong to operations that change a disk");
    }
    if flags.has(RecordFlags::NO_HOLE) && record.op != Op::WriteZeroes {
        return Err("NO_HOLE belongs to write zeroes");
    }
    if flags.has(RecordFlags::BOUNDARY) && flags.has(RecordFlags::MORE) {
        return Err("no boundary lies inside a request");
    }
    Ok(())
}

fn fields(record: &Record) -> Result<(), &'static str> {
    match record.op {
        Op::Write | Op::ResyncWrite if record.len > u64::from(RECORD_PAYLOAD_MAX_BYTES) => {
            Err("its payload is larger than a record may hold")
        }
        Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes | Op::Digest => {
            disk(record).and_then(|()| sectors(record))
        }
        Op::Flush if record.offset != 0 || record.len != 0 => Err("a flush has no range"),
        Op::Flush => disk(record),
        Op::Mark if record.len == 0 || record.len > MARK_NAME_MAX_BYTES as u64 => {
            Err("the name of a mark is empty or too long")
        }
        Op::ResyncEnd | Op::Overflow if record.len != 0 => Err("an overflow and the end of a resync have no length"),
        Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow if record.disk.0 != 0 || record.offset != 0 => {
            Err("an operation of the whole group has no disk and no offset")
        }
        Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow => Ok(()),
    }
}

fn disk(record: &Record) -> Result<(), &'static str> {
    if usize::from(record.disk.0) < DISKS_PER_GROUP_MAX { Ok(()) } else { Err("its disk is beyond the limit") }
}

fn sectors(record: &Record) -> Result<(), &'static str> {
    if record.len == 0 {
        return Err("its range is empty");
    }
    if !record.offset.is_multiple_of(SECTOR_BYTES) || !record.len.is_multiple_of(SECTOR_BYTES) {
        return Err("its range is not whole sectors");
    }
    if record.offset.checked_add(record.len).is_none() {
        return Err("its range passes the end of the address space");
    }
    Ok(())
}

/// Whether `record` may come after `previous` in the log. Two entries bear one seq only as pieces of one operation, from
/// which later writes were folded away: same operation, ranges in rising order without overlap.
fn log_follows(previous: &Record, record: &Record) -> Result<(), &'static str> {
    if previous.flags.has(RecordFlags::BOUNDARY) && !is_fold_boundary(previous) {
        return Err(
            "the record before it is a boundary and is neither flush, FUA, mark, resync begin or end, overflow, digest, nor last",
        );
    }
    if record.seq < previous.seq {
        return Err("seqs must not fall");
    }
    if record.seq > previous.seq {
        return Ok(());
    }
    let same = (record.op, record.disk, record.time) == (previous.op, previous.disk, previous.time)
        && record.flags.without(RecordFlags::BOUNDARY) == previous.flags
        && record.op.changes_disk();
    if same && record.offset >= previous.range().end {
        Ok(())
    } else {
        Err("entries of one seq must be pieces of one operation in rising order, with no boundary before the last")
    }
}

/// Whether a boundary may lie after a record that is not the last of its segment.
fn is_fold_boundary(record: &Record) -> bool {
    record.op.is_boundary() || record.flags.has(RecordFlags::FUA)
}

/// Ranges of one disk must not overlap in an undo batch: the order of its records has no meaning.
fn undo_disjoint(records: &[IndexRecord]) -> Result<(), SegmentError> {
    let mut ranges: Vec<_> = records.iter().map(|r| (r.record.disk, r.record.offset, r.record.len)).collect();
    ranges.sort_unstable();
    let overlaps = ranges.windows(2).any(|w| w[0].0 == w[1].0 && w[1].1 - w[0].1 < w[0].2);
    if overlaps { Err(SegmentError::Damaged { what: "ranges of an undo batch overlap" }) } else { Ok(()) }
}

/// The rules for a head by itself.
fn check_head(head: &SegmentHead) -> Result<(), SegmentError> {
    let damaged = |what| Err(SegmentError::Damaged { what });
    if head.epoch.0 == 0 || head.number.0 == 0 || head.first_seq.0 == 0 {
        return damaged("epoch, number and first_seq begin at 1");
    }
    if head.epoch.0.max(head.number.0).max(head.last_seq.0) > COUNTER_MAX {
        return damaged("epoch, number or last_seq is beyond what a writer reaches");
    }
    if head.last_seq.0 < head.first_seq.0 - 1 {
        return damaged("last_seq is below first_seq - 1");
    }
    match head.kind {
        Kind::Log | Kind::Undo if head.successor != Epoch(0) || head.nonce != [0; 16] => {
            damaged("only a seal names a successor")
        }
        Kind::Log if head.watermark >= head.number => damaged("the watermark is not below the segment's own number"),
        Kind::Log | Kind::Undo => Ok(()),
        Kind::Seal if head.epoch.0.checked_add(1) != Some(head.successor.0) => {
            damaged("the successor in a seal is not the next epoch")
        }
        Kind::Seal if (head.first_seq, head.last_seq, head.watermark) != (Seq(1), Seq(0), SegmentNo(0)) => {
            damaged("a seal covers no operation and confirms none")
        }
        Kind::Seal if head.prev != Hash::ZERO => damaged("a seal has no predecessor"),
        Kind::Seal => Ok(()),
    }
}
