//! Quantities: time in microseconds, byte ranges, alignment.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Smallest unit of a disk's size and of any record's range, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Largest payload of one record, in bytes. A larger request becomes several records of consecutive seqs.
pub const RECORD_PAYLOAD_MAX_BYTES: u32 = 1 << 20;

/// Wall-clock time, microseconds since the Unix epoch. Never used to order operations (seq does).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMicros(pub u64);

impl UnixMicros {
    /// Time from `earlier` to `self`, zero when the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This time moved on by `by`.
    #[must_use]
    pub fn plus(self, by: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The same instant for printing (RFC 3339); the Unix epoch when it is out of the calendar's range.
    #[must_use]
    pub fn timestamp(self) -> jiff::Timestamp {
        i64::try_from(self.0).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok()).unwrap_or_default()
    }
}

impl From<jiff::Timestamp> for UnixMicros {
    fn from(t: jiff::Timestamp) -> Self {
        Self(u64::try_from(t.as_microsecond()).unwrap_or(0))
    }
}

impl fmt::Display for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

impl fmt::Debug for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A half-open range of bytes on a disk: `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// The range of `len` bytes at `offset`; `None` when it would pass the end of the address space.
    #[must_use]
    pub fn at(offset: u64, len: u64) -> Option<Self> {
        Some(Self { start: offset, end: offset.checked_add(len)? })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether the two share a byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_empty() && !other.is_empty()
    }

    /// Whether every byte of `other` lies in `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// The bytes both share, possibly none.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// The smallest range of whole `block`s (a power of two) that holds it.
    #[must_use]
    pub fn grow_to(self, block: u64) -> Self {
        Self { start: align_down(self.start, block), end: align_up(self.end, block) }
    }

    /// The largest range of whole `block`s (a power of two) inside it, possibly empty.
    #[must_use]
    pub fn shrink_to(self, block: u64) -> Self {
        let start = align_up(self.start, block);
        Self { start, end: align_down(self.end, block).max(start) }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// `n` rounded down to a multiple of `block`, a power of two.
#[must_use]
pub const fn align_down(n: u64, block: u64) -> u64 {
    debug_assert!(block.is_power_of_two());
    n & !(block - 1)
}

/// `n` rounded up to a multiple of `block`, a power of two; saturates at the last multiple.
#[must_use]
pub const fn align_up(n: u64, block: u64) -> u64 {
    align_down(n.saturating_add(block - 1), block)
}
