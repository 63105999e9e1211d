//! Reads the journal again, a little at a time, and proves it: damage is found while there may still be newer points, and not on
//! the day when the old one is needed.

use std::path::Path;

use farshore_changelog::ids::{GroupName, Hash, SegmentNo};
use farshore_changelog::segment::Index;

use super::damage;
use super::journal::blocks_are_whole;
use super::reader::{Found, JournalReader};
use crate::error::TargetError;

/// Where a walk through the journal stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrub {
    /// The next batch, by journal offset; where the journal begins before that it is begun there.
    at: u64,
    /// Number and hash of the batch before it, where it was whole.
    before: Option<(SegmentNo, Hash)>,
}

impl Scrub {
    /// Proves batches below the journal offset `upto`, from where it stands on, until `budget_bytes` were read. What is damaged is
    /// noted, what is whole again is not noted any more. Gives whether it came to the end; then it begins anew.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn step(&mut self, undo: &Path, group: &GroupName, upto: u64, budget_bytes: u64) -> Result<bool, TargetError> {
        let mut reader = JournalReader::open(undo, group.clone())?;
        let oldest = reader.oldest().unwrap_or(upto);
        if self.at < oldest {
            *self = Self { at: oldest, before: None };
        }
        let mut left = budget_bytes;
        while self.at < upto {
            let (at, before) = (self.at, self.before.take());
            let read = match batch(&mut reader, at, before)? {
                Ok(index) => {
                    damage::clear(undo, at);
                    self.before = Some((index.head().number, index.hash()));
                    self.at += index.total_len();
                    index.total_len()
                }
                Err((what, end)) => {
                    damage::note(undo, at, &what);
                    // The next batch's place may not be known; the next file's is.
                    let next = reader.files().iter().map(|file| file.start).find(|start| *start > at);
                    self.at = end.or(next).unwrap_or(upto).min(upto);
                    0
                }
            };
            if read >= left {
                return Ok(false);
            }
            left -= read;
        }
        *self = Self::default();
        Ok(true)
    }
}

/// What is wrong with a batch, and where it ends if that is known.
type Wrong = (String, Option<u64>);

/// The batch at `at`, proved whole, also against the one before.
fn batch(
    reader: &mut JournalReader,
    at: u64,
    before: Option<(SegmentNo, Hash)>,
) -> Result<Result<Box<Index>, Wrong>, TargetError> {
    let index = match reader.batch_at(at) {
        Ok(Found::Batch(index)) => index,
        Ok(Found::End) => return Ok(Err(("the undo journal ends there".to_owned(), None))),
        Ok(Found::Unfinished { error, .. }) => return Ok(Err((error.to_string(), None))),
        Err(e) => return unreadable(e).map(|what| Err((what, None))),
    };
    let end = Some(at + index.total_len());
    if before.is_some_and(|(number, hash)| index.head().number != number.next() || index.head().prev != hash) {
        return Ok(Err(("an undo batch does not follow the one before it".to_owned(), end)));
    }
    match blocks_are_whole(reader, at, &index) {
        Ok(true) => Ok(Ok(index)),
        Ok(false) => Ok(Err(("a block of the undo batch is not what was sealed".to_owned(), end))),
        Err(e) => unreadable(e).map(|what| Err((what, end))),
    }
}

/// An error that is the journal's own fault, in words: what the medium does not give back is damaged. Others are given back.
///
/// # Errors
/// The error.
pub fn unreadable(e: TargetError) -> Result<String, TargetError> {
    match &e {
        TargetError::Io { source, .. } if source.raw_os_error() != Some(libc::EIO) => Err(e),
        TargetError::Io { source, .. } => Ok(format!("{e}: {source}")),
        _ => Ok(e.to_string()),
    }
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
