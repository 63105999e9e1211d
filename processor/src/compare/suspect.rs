//! Which points hold a range that was found to differ from the source. Somewhere before it was found the image went bad. A point
//! has the range from the image, bad, unless the undo journal saved all of it after the point and before it was found.
//! Points from the repair on are good again.

use std::collections::BTreeMap;
use std::path::Path;

use farshore_changelog::ids::{DiskIndex, GroupName};
use farshore_changelog::units::ByteRange;

use super::report::Mismatch;
use crate::error::TargetError;
use crate::extents::{Cut, Extents};
use crate::undo::JournalReader;

/// Journal offsets of positions that hold the bad range: above `good_upto`, and below `repaired_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Positions with an `undo_end` up to this have the range from the journal; `None`: none has.
    pub good_upto: Option<u64>,
    /// Positions with an `undo_end` from this on have what the source has.
    pub repaired_at: Option<u64>,
}

impl Suspect {
    /// Whether the position with this `undo_end` holds the bad range.
    #[must_use]
    pub fn holds(&self, undo_end: u64) -> bool {
        self.good_upto.is_none_or(|good| undo_end > good) && self.repaired_at.is_none_or(|repaired| undo_end < repaired)
    }
}

/// That a range was saved; there is nothing to know of it.
#[derive(Clone)]
struct Saved;

impl Cut for Saved {
    fn skip(&self, _: u64) -> Self {
        Self
    }
}

/// Which positions hold each of `mismatches`, by one walk through the journal in the folder `undo`. Where the journal is
/// damaged, what lies before that tells nothing.
///
/// # Errors
/// [`TargetError::Io`].
pub fn suspects(undo: &Path, group: &GroupName, mismatches: &[Mismatch]) -> Result<Vec<Suspect>, TargetError> {
    // What each batch saved of each range, by the batch's journal offset.
    let mut saved: Vec<BTreeMap<u64, Vec<ByteRange>>> = vec![BTreeMap::new(); mismatches.len()];
    let mut places: BTreeMap<(DiskIndex, u64), Vec<usize>> = BTreeMap::new();
    for (i, mismatch) in mismatches.iter().enumerate() {
        places.entry((mismatch.disk, mismatch.range.start)).or_default().push(i);
    }
    let longest = mismatches.iter().map(|m| m.range.len()).max().unwrap_or(0);
    let upto = mismatches.iter().map(|m| m.undo_end).max().unwrap_or(0);
    let mut reader = JournalReader::open(undo, group.clone())?;
    let starts: Vec<u64> = reader.files().iter().map(|file| file.start).collect();
    let mut at = starts.first().copied().unwrap_or(upto);
    while at < upto {
        match reader.expect_batch(at) {
            Ok(index) => {
                for record in index.records().iter().map(|entry| &entry.record) {
                    let near = places.range((record.disk, record.offset.saturating_sub(longest))..);
                    let near =
                        near.take_while(|((disk, start), _)| (*disk, *start) < (record.disk, record.range().end));
                    for &i in near.flat_map(|(_, at_this_start)| at_this_start) {
                        let both = record.range().intersect(mismatches[i].range);
                        if !both.is_empty() && at < mismatches[i].undo_end {
                            saved[i].entry(at).or_default().push(both);
                        }
                    }
                }
                at += index.total_len();
            }
            Err(e @ TargetError::Io { .. }) => return Err(e),
            Err(_) => {
                saved.iter_mut().for_each(BTreeMap::clear);
                at = starts.iter().copied().find(|start| *start > at).unwrap_or(upto);
            }
        }
    }
    let suspect = |(mismatch, saved): (&Mismatch, &BTreeMap<u64, Vec<ByteRange>>)| {
        let mut covered = Extents::default();
        // From the newest batch back: the first offset from which on all of it was saved.
        let whole = saved.iter().rev().find(|(_, ranges)| {
            ranges.iter().for_each(|range| covered.fill(*range, &Saved));
            covered.covered().iter().any(|piece| piece.contains(mismatch.range))
        });
        Suspect { good_upto: whole.map(|(offset, _)| *offset), repaired_at: mismatch.repaired_at }
    };
    Ok(mismatches.iter().zip(&saved).map(suspect).collect())
}
