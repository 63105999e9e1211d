//! Which bytes of a run of records survive: those that no later record of the run overwrites (`docs/format.md`, "Folding").

use std::collections::BTreeMap;
use std::ops::Range;

use farshore_changelog::ids::DiskIndex;
use farshore_changelog::op::{Record, RecordFlags};
use farshore_changelog::units::ByteRange;

/// What is left of a record, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the record in the run.
    pub source: usize,
    /// The record with the range that is left.
    pub record: Record,
    /// Where the piece's payload lies in the record's; empty when it has none.
    pub payload: Range<usize>,
}

/// Whether a position may be published after this record, wherever it lies in its segment. It ends a run.
#[must_use]
pub fn is_boundary(record: &Record) -> bool {
    record.op.is_boundary() || (record.flags.has(RecordFlags::FUA) && !record.flags.has(RecordFlags::MORE))
}

/// Folds a run of records, in which only the last may be a boundary. The pieces come in the order of the records, those of
/// one record in rising order, and applying them gives the same disks as applying the records.
#[must_use]
pub fn fold<'a>(run: impl ExactSizeIterator<Item = &'a Record> + DoubleEndedIterator) -> Vec<Piece> {
    let mut covered: BTreeMap<DiskIndex, Covered> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(run.len());
    for (source, record) in run.enumerate().rev() {
        if !record.op.changes_disk() {
            pieces.push(Piece { source, record: *record, payload: 0..usize_of(record.payload_len()) });
            continue;
        }
        let later = covered.entry(record.disk).or_default();
        // Backwards, as the whole list is turned round at the end.
        for left in later.gaps(record.range()).into_iter().rev() {
            pieces.push(piece(source, record, left));
        }
        later.insert(record.range());
    }
    pieces.reverse();
    pieces
}

fn piece(source: usize, record: &Record, left: ByteRange) -> Piece {
    let start = usize_of(left.start - record.offset);
    let payload = if record.op.has_payload() { start..start + usize_of(left.len()) } else { 0..0 };
    Piece { source, record: Record { offset: left.start, len: left.len(), ..*record }, payload }
}

/// Only ever of lengths within a payload.
fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a 64-bit machine")
}

/// Ranges of one disk, disjoint and not touching: start to end.
#[derive(Debug, Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// The parts of `range` that are not covered, in rising order.
    fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        if let Some((_, &end)) = self.0.range(..=range.start).next_back() {
            at = at.max(end);
        }
        for (&start, &end) in self.0.range(range.start..range.end) {
            if start > at {
                gaps.push(ByteRange { start: at, end: start });
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(ByteRange { start: at, end: range.end });
        }
        gaps
    }

    fn insert(&mut self, range: ByteRange) {
        let ByteRange { mut start, mut end } = range;
        if let Some((&before, &its_end)) = self.0.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        while let Some((&next, &its_end)) = self.0.range(start..=end).next() {
            end = end.max(its_end);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
