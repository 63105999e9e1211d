//! Digests in a batch. Pure.
//!
//! A digest says what the source read at its seq. The image is compared once the digest's batch is in it, so no later record of
//! the same batch may touch the range; where one of the segment does, a batch ends between the two.

use std::collections::{BTreeMap, BTreeSet};

use farshore_changelog::ids::{DiskIndex, Hash, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::segment::IndexRecord;
use farshore_changelog::units::ByteRange;

/// Prefix of the name of the mark that ends a run of digests; the number of the request follows.
pub const MARK_PREFIX: &str = "verify-";

/// What the source says a range held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// When.
    pub seq: Seq,
    /// Where.
    pub disk: DiskIndex,
    /// Which bytes.
    pub range: ByteRange,
    /// Their hash.
    pub hash: Hash,
}

/// The range of a digest's record; `None` for every other operation.
#[must_use]
pub fn digested(entry: &IndexRecord) -> Option<ByteRange> {
    let record = &entry.record;
    (record.op == Op::Digest).then(|| ByteRange { start: record.offset, end: record.offset.saturating_add(record.len) })
}

/// The request whose run of digests the mark `name` ends.
#[must_use]
pub fn ended_request(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(MARK_PREFIX)?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// After which of `records` a batch must end, beside where it ends for other reasons.
#[must_use]
pub fn ends(records: &[IndexRecord]) -> BTreeSet<usize> {
    let mut ends = BTreeSet::new();
    let mut open = Open::default();
    let mut last_boundary = None;
    for (i, entry) in records.iter().enumerate() {
        let record = &entry.record;
        let range = digested(entry).unwrap_or_else(|| record.range());
        // Digests are boundaries, so the last boundary lies behind every open one. (Two that overlap in part are rare, and kept
        // apart like a digest and a write.)
        if open.touches(record.disk, range) {
            ends.extend(last_boundary);
            open = Open::default();
        }
        if record.op == Op::Digest {
            open.add(record.disk, range);
        }
        if record.op.is_of_group() {
            open = Open::default(); // a batch ends there in any case
        }
        if record.flags.has(RecordFlags::BOUNDARY) {
            last_boundary = Some(i);
        }
    }
    ends
}

/// Digested ranges, disjoint, of which the batch has not ended yet.
#[derive(Default)]
struct Open(BTreeMap<(DiskIndex, u64), u64>);

impl Open {
    fn touches(&self, disk: DiskIndex, range: ByteRange) -> bool {
        let before = self.0.range((disk, 0)..(disk, range.end)).next_back();
        before.is_some_and(|((_, start), end)| ByteRange { start: *start, end: *end }.overlaps(range))
    }

    fn add(&mut self, disk: DiskIndex, range: ByteRange) {
        self.0.insert((disk, range.start), range.end);
    }
}
