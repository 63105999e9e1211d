//! Where a segment is cut into batches, and what the position is after each. Pure.
//!
//! A batch ends at a boundary: the segment's end, a mark, the begin and the end of a resync, an overflow, wherever a periodic point
//! is due, and between a digest and what changes its range again. A point is cut at the end of its batch.

use std::ops::Range;
use std::time::Duration;

use farshore_changelog::ids::{Hash, Position, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{IndexRecord, SegmentHead};
use farshore_changelog::units::UnixMicros;

use crate::compare::digests;
use crate::position::{Consistent, HashesDue, ReplayPosition};

/// The point that a batch ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutPoint {
    /// The interval is over, or a resync has ended.
    Periodic,
    /// Its last record is a mark, whose payload is the name.
    Mark,
}

/// A run of records of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which records of the segment.
    pub records: Range<usize>,
    /// The position's seq after it.
    pub end_seq: Seq,
    /// Time of its last record; of the segment, when it is the segment's last batch.
    pub end_time: UnixMicros,
    /// The point that is cut after it.
    pub point: Option<CutPoint>,
}

/// What of the position decides where batches end.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Something of this epoch was replayed: before its first record nobody knows whether it begins with a resync.
    begun: bool,
    resync: bool,
    overflow: bool,
    last_periodic: UnixMicros,
    interval: Duration,
}

impl State {
    /// A clock that was set back by more than an interval must not end periodic points for as long.
    fn periodic_due(&self, time: UnixMicros) -> bool {
        let due = self.last_periodic == UnixMicros(0)
            || time >= self.last_periodic.plus(self.interval)
            || time.plus(self.interval) < self.last_periodic;
        due && self.begun && !self.resync
    }

    /// The point that is cut where `record` is the last of a batch.
    fn point_at(&self, record: &Record) -> Option<CutPoint> {
        match record.op {
            // Of a resync that began before an overflow: what that lost is not repaired yet.
            Op::ResyncEnd => (!self.overflow).then_some(CutPoint::Periodic),
            Op::Mark => (!self.resync).then_some(CutPoint::Mark),
            Op::Write
            | Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::ResyncBegin
            | Op::ResyncWrite
            | Op::ResyncZeroes
            | Op::Overflow
            | Op::Digest => self.periodic_due(record.time).then_some(CutPoint::Periodic),
        }
    }

    fn after(&mut self, record: &Record, point: Option<CutPoint>, time: UnixMicros) {
        match record.op {
            Op::ResyncBegin | Op::Overflow => (self.resync, self.overflow) = (true, record.op == Op::Overflow),
            Op::ResyncEnd => self.resync = self.overflow,
            Op::Write
            | Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::Mark
            | Op::ResyncWrite
            | Op::ResyncZeroes
            | Op::Digest => {}
        }
        if point == Some(CutPoint::Periodic) {
            self.last_periodic = time;
        }
    }
}

/// Cuts what is left of a segment after `position` into batches; at least one, and the last ends where the segment ends.
#[must_use]
pub fn cut(head: &SegmentHead, records: &[IndexRecord], position: &ReplayPosition, interval: Duration) -> Vec<Batch> {
    let begun = begun(position, records);
    let (resync, overflow, last_periodic) = (position.resync, position.overflow, position.last_periodic);
    let mut state = State { begun, resync, overflow, last_periodic, interval };
    let mut batches = Vec::new();
    let applied = if position.number == head.number { position.seq } else { Seq(0) };
    let mut start = records.partition_point(|entry| entry.record.seq <= applied);
    let for_digests = digests::ends(&records[start..]);
    let first = start;
    for (i, entry) in records.iter().enumerate().skip(start) {
        let record = &entry.record;
        let last = i + 1 == records.len();
        if last || !record.flags.has(RecordFlags::BOUNDARY) {
            continue;
        }
        let point = if matches!(record.op, Op::ResyncBegin | Op::Overflow) { None } else { state.point_at(record) };
        let ends_here = point.is_some() || record.op.is_of_group() || for_digests.contains(&(i - first));
        if ends_here {
            state.after(record, point, record.time);
            batches.push(Batch { records: start..i + 1, end_seq: record.seq, end_time: record.time, point });
            start = i + 1;
        }
    }
    let end_time = head.max_time;
    let point = match records.last().filter(|_| start < records.len()) {
        Some(last) => match last.record.op {
            Op::ResyncBegin | Op::Overflow => None,
            Op::Write
            | Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::Mark
            | Op::ResyncWrite
            | Op::ResyncZeroes
            | Op::ResyncEnd
            | Op::Digest => state.point_at(&Record { time: end_time, ..last.record }),
        },
        // A heartbeat: an idle disk gets its points all the same.
        None => state.periodic_due(end_time).then_some(CutPoint::Periodic),
    };
    batches.push(Batch { records: start..records.len(), end_seq: head.last_seq, end_time, point });
    batches
}

/// The position after `batch`, whose records are `records`, of the segment `head` with `hash`; its undo ends at `undo_end`.
#[must_use]
pub fn position_after(
    before: &ReplayPosition,
    head: &SegmentHead,
    hash: Hash,
    batch: &Batch,
    records: &[IndexRecord],
    undo_end: u64,
) -> ReplayPosition {
    let mut after = ReplayPosition {
        seq: batch.end_seq,
        number: head.number,
        chain_seq: head.last_seq,
        hash,
        undo_end,
        time: before.time.max(batch.end_time),
        ..before.clone()
    };
    for entry in records {
        let record = &entry.record;
        match record.op {
            Op::ResyncWrite | Op::ResyncZeroes => {
                after.resync_applied = after.resync_applied.saturating_add(record.len);
            }
            Op::Write
            | Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::Mark
            | Op::ResyncBegin
            | Op::ResyncEnd
            | Op::Overflow
            | Op::Digest => {}
        }
    }
    let last = records.last().map(|entry| entry.record);
    match last.map(|last| last.op) {
        Some(op @ (Op::ResyncBegin | Op::Overflow)) => {
            // It changes no byte: the state before it is a prefix of the log, with this very undo_end. At the start of an epoch
            // nothing is before it, and the newest consistent position stays in the epoch before.
            let before_it = records.len().checked_sub(2).map(|i| records[i].record);
            if let (false, Some(previous)) = (before.resync, before_it) {
                let position = Position { epoch: before.epoch, seq: previous.seq };
                after.consistent = Consistent { position, undo_end, time: before.time.max(previous.time) };
            }
            let announced = last.map_or(0, |last| last.len);
            (after.resync, after.resync_announced, after.resync_applied) = (true, announced, 0);
            after.overflow = op == Op::Overflow;
            if op == Op::ResyncBegin && before.seq == Seq(0) && records.len() == 1 {
                // The epoch begins with it. A resync that was under way before is none that the log of another target has ended.
                after.hashes = if before.resync { HashesDue::Needed } else { HashesDue::Useful };
            }
        }
        Some(Op::ResyncEnd) => {
            (after.resync, after.resync_announced, after.resync_applied) = (before.overflow, 0, 0);
        }
        Some(
            Op::Write
            | Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::Mark
            | Op::ResyncWrite
            | Op::ResyncZeroes
            | Op::Digest,
        )
        | None => {}
    }
    if !after.resync && begun(before, records) {
        after.consistent = Consistent { position: after.position(), undo_end, time: after.time };
    }
    if batch.point == Some(CutPoint::Periodic) {
        after.last_periodic = batch.end_time;
    }
    after
}

/// Whether anything of the position's epoch was replayed once `records` are. A heartbeat may come before the resync that an
/// epoch begins with; the images are then not what the source has.
fn begun(position: &ReplayPosition, records: &[IndexRecord]) -> bool {
    !records.is_empty() || position.resync || position.consistent.position.epoch == position.epoch
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
