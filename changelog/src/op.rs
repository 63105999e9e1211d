//! The operation enum and the record that carries one operation through every stage.

use crate::ids::{DiskIndex, Seq};
use crate::units::{ByteRange, UnixMicros};

/// What was done to a disk. The codes are durable (ring descriptors, segment index) and never reused.
///
/// Match it without `_`: a stage that does not know an operation must not compile, not skip it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// `len` bytes of payload at `offset`.
    Write = 1,
    /// `len` bytes of zeroes at `offset`; no payload.
    WriteZeroes = 2,
    /// `len` bytes at `offset` are no longer needed and read as zeroes; no payload.
    Trim = 3,
    /// Everything acknowledged before it on its disk is durable at the source.
    Flush = 4,
    /// A named consistent position of the whole group; the payload is its name (UTF-8, `len` bytes).
    Mark = 5,
    /// From here the log alone does not give the disk: `len` bytes of its group's disks are lost regions still to be
    /// copied, and no recovery point may be cut.
    ResyncBegin = 6,
    /// `len` bytes read from the source under the range lock at this seq.
    ResyncWrite = 7,
    /// `len` bytes that the source reads as zeroes at this seq; no payload.
    ResyncZeroes = 8,
    /// No region is lost any more: from here positions are consistent again.
    ResyncEnd = 9,
    /// From here operations of the guest are missing from the log, which had no room for them: no position is consistent
    /// until the resync that follows has ended.
    Overflow = 10,
    /// The payload is the BLAKE3 of the `len` bytes at `offset`, as the source read them under the range lock at this seq.
    Digest = 11,
}

/// Bytes of payload of a [`Op::Digest`].
pub const DIGEST_BYTES: u64 = 32;

impl Op {
    /// Every operation, in code order.
    pub const ALL: [Op; 11] = [
        Op::Write,
        Op::WriteZeroes,
        Op::Trim,
        Op::Flush,
        Op::Mark,
        Op::ResyncBegin,
        Op::ResyncWrite,
        Op::ResyncZeroes,
        Op::ResyncEnd,
        Op::Overflow,
        Op::Digest,
    ];

    /// The durable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The operation of a durable code; `None` for a code this version does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.code() == code)
    }

    /// Whether a record of it carries `len` bytes of payload. (A digest carries [`DIGEST_BYTES`].)
    #[must_use]
    pub const fn has_payload(self) -> bool {
        match self {
            Op::Write | Op::Mark | Op::ResyncWrite => true,
            Op::WriteZeroes
            | Op::Trim
            | Op::Flush
            | Op::ResyncBegin
            | Op::ResyncZeroes
            | Op::ResyncEnd
            | Op::Overflow
            | Op::Digest => false,
        }
    }

    /// Whether it changes the bytes `[offset, offset + len)` of its disk.
    #[must_use]
    pub const fn changes_disk(self) -> bool {
        match self {
            Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => true,
            Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => false,
        }
    }

    /// Whether a position may be published after it wherever it lies in its segment, and nothing is folded across it (FUA gives
    /// that to any operation).
    #[must_use]
    pub const fn is_boundary(self) -> bool {
        match self {
            Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => true,
            Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => false,
        }
    }

    /// Whether it is a word about the whole group, without a disk and a range.
    #[must_use]
    pub const fn is_of_group(self) -> bool {
        match self {
            Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow => true,
            Op::Write | Op::WriteZeroes | Op::Trim | Op::Flush | Op::ResyncWrite | Op::ResyncZeroes | Op::Digest => {
                false
            }
        }
    }

    /// Whether the range reads as zeroes afterwards.
    #[must_use]
    pub const fn zeroes(self) -> bool {
        match self {
            Op::WriteZeroes | Op::Trim | Op::ResyncZeroes => true,
            Op::Write
            | Op::Flush
            | Op::Mark
            | Op::ResyncBegin
            | Op::ResyncWrite
            | Op::ResyncEnd
            | Op::Overflow
            | Op::Digest => false,
        }
    }
}

/// Bits that qualify a record. Durable; unknown bits are refused by every reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// The guest asked for force unit access: durable before it was acknowledged.
    pub const FUA: Self = Self(1);
    /// The next seq belongs to the same request: no position may be published between the two.
    pub const MORE: Self = Self(2);
    /// The payload was read back from the disk (after a failed write, or by the recovery of a slot).
    pub const REREAD: Self = Self(4);
    /// The guest asked for zeroes that stay allocated (NBD `NO_HOLE`).
    pub const NO_HOLE: Self = Self(8);
    /// In a segment's index only: the state after this record is a consistent prefix, a position may be published.
    pub const BOUNDARY: Self = Self(16);

    const KNOWN: u8 = 31;

    /// The flags of a durable byte; `None` when a bit is set that this version does not know.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These bits less `other`'s.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One operation of the log, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its place in the group's order.
    pub seq: Seq,
    /// When the seq was taken (source's wall clock).
    pub time: UnixMicros,
    /// The disk it belongs to; 0 for operations of the whole group (mark, resync begin and end).
    pub disk: DiskIndex,
    /// What it did.
    pub op: Op,
    /// How.
    pub flags: RecordFlags,
    /// First byte it touches; 0 where the operation has no range.
    pub offset: u64,
    /// Bytes it touches, or of payload (mark), or lost (resync begin), or that were hashed (digest).
    pub len: u64,
}

impl Record {
    /// Bytes of payload that go with it.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        if self.op == Op::Digest {
            DIGEST_BYTES
        } else if self.op.has_payload() {
            self.len
        } else {
            0
        }
    }

    /// The bytes of the disk that it changes; empty for operations that change none. A range that passes the end of
    /// the address space is cut there (readers refuse such a record before this is asked).
    #[must_use]
    pub fn range(&self) -> ByteRange {
        if self.op.changes_disk() {
            ByteRange { start: self.offset, end: self.offset.saturating_add(self.len) }
        } else {
            ByteRange::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_both_ways_and_unknown_ones_are_refused() {
        for op in Op::ALL {
            assert_eq!(Op::from_code(op.code()), Some(op));
        }
        assert_eq!(Op::from_code(0), None);
        assert_eq!(Op::from_code(12), None);
        assert_eq!(RecordFlags::from_bits(32), None);
    }
}
