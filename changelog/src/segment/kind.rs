//! What a segment is for, and how its blocks and index are encoded. Both codes are durable and never reused.

use super::SegmentError;

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Records of the change log.
    Log = 1,
    /// One batch of the undo journal: what ranges held before they were overwritten.
    Undo = 2,
    /// The end of an epoch; holds no record.
    Seal = 3,
}

impl Kind {
    /// Every kind, in code order.
    pub const ALL: [Kind; 3] = [Kind::Log, Kind::Undo, Kind::Seal];

    /// The durable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a durable code.
    ///
    /// # Errors
    /// [`SegmentError::Unknown`] for a code this version does not know.
    pub fn from_code(code: u8) -> Result<Self, SegmentError> {
        let known = Self::ALL.into_iter().find(|kind| kind.code() == code);
        known.ok_or(SegmentError::Unknown { what: "kind", found: code })
    }
}

/// How blocks and index are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// One zstd frame each.
    Zstd = 1,
}

impl Codec {
    /// Every codec, in code order.
    pub const ALL: [Codec; 2] = [Codec::Stored, Codec::Zstd];

    /// The durable code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The codec of a durable code.
    ///
    /// # Errors
    /// [`SegmentError::Unknown`] for a code this version does not know.
    pub fn from_code(code: u8) -> Result<Self, SegmentError> {
        let known = Self::ALL.into_iter().find(|codec| codec.code() == code);
        known.ok_or(SegmentError::Unknown { what: "codec", found: code })
    }
}
