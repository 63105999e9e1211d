//! Why a segment could not be written or is not believed.

use std::io;

use super::layout::{VERSION_1, VERSION_2};
use crate::ids::Seq;

/// Why a segment could not be written or is not believed. All kinds but [`SegmentError::Io`] say that the bytes (or, in
/// the writer, the records) are at fault: to try again with the same ones is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The object or file ends before the segment does: it was cut off, or never finished.
    #[error(
        "segment is too short: it needs {needed} bytes and {found} are there; fetch it again, or drop what was never finished"
    )]
    TooShort {
        /// Bytes from the segment's start that are needed.
        needed: u64,
        /// Bytes from the segment's start that are there.
        found: u64,
    },
    /// The bytes do not begin, or do not end, as a segment does.
    #[error("not a segment: the magic is wrong")]
    BadMagic,
    /// A version this program does not read.
    #[error(
        "segment has version {found}, this program reads the versions {VERSION_1} to {VERSION_2}; use the farshore release that wrote it, or a newer one"
    )]
    Version {
        /// The version in the header.
        found: u16,
    },
    /// A code this version does not know.
    #[error("segment has an unknown {what} {found}; use the farshore release that wrote it, or a newer one")]
    Unknown {
        /// What the code stands for.
        what: &'static str,
        /// The code.
        found: u8,
    },
    /// A field contradicts another, or the format.
    #[error("segment is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// The stored bytes are not those that were sealed.
    #[error("segment is damaged: the hash of the {part} is not the one it was sealed with")]
    HashMismatch {
        /// Which bytes.
        part: Part,
    },
    /// A record breaks a rule of the format.
    #[error("record of seq {seq} is refused: {what}")]
    Record {
        /// The record's seq.
        seq: Seq,
        /// The rule.
        what: &'static str,
    },
    /// A limit of the format is passed.
    #[error("segment passes a limit: {what} is {found}, at most {max} is allowed")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// What was found or would come of it.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The bytes could not be read, or the compressor has failed.
    #[error("segment could not be read or encoded")]
    Io(#[from] io::Error),
}

/// The part of a segment that one hash covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Header, index and footer.
    Index,
    /// The block of this number.
    Block(u32),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Index => f.write_str("header, index and footer"),
            Part::Block(block) => write!(f, "block {block}"),
        }
    }
}

/// Refuses `found` above `max`.
pub(super) fn limit(what: &'static str, found: u64, max: u64) -> Result<(), SegmentError> {
    if found <= max { Ok(()) } else { Err(SegmentError::Limit { what, found, max }) }
}
