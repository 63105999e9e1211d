//! What a shipper finds when it starts, and where it goes on: a pure decision over the noted epoch, the watermark and the
//! segments in the spool. Each crash between two durable steps is one of its cases:
//!
//! | crashed after | found | what is done |
//! |---|---|---|
//! | sealing, before the spool | nothing | the records are still in the ring |
//! | spool durable | a file beyond the watermark, its records still in the ring | it is uploaded; the ring's records are released |
//! | ring released | the same, without the records | it is uploaded |
//! | upload | the same | it is uploaded again: the same bytes under the same key |
//! | watermark noted | a file at the watermark | it is removed |

use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, Hash, SegmentNo, Seq};

use crate::error::ShipError;
use crate::spool::Spooled;
use crate::state::{SourceEpoch, Watermark};

/// The newest sealed segment of the current epoch: what the next one continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Its number; 0 when there is none yet.
    pub number: SegmentNo,
    /// Its hash; of the epoch object when there is none yet.
    pub hash: Hash,
    /// The last seq that is sealed.
    pub last_seq: Seq,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Confirmed segments whose files are still there.
    pub stale: Vec<Spooled>,
    /// Segments to upload, in order. Those of the epoch before come first: they are uploaded before it is sealed.
    pub queue: Vec<Spooled>,
    /// What the next segment continues.
    pub head: ChainHead,
    /// The newest confirmed segment of the current epoch; number 0 when there is none.
    pub confirmed: ChainHead,
}

/// Decides. `found` is in the order of epoch and number; `dir` is the spool folder, for messages.
///
/// # Errors
/// [`ShipError::Spool`] when the segments do not continue the watermark, each other and the epoch, and which one does not.
pub fn plan(
    source: &SourceEpoch,
    watermark: Option<&Watermark>,
    found: Vec<Spooled>,
    dir: &Path,
) -> Result<Plan, ShipError> {
    let current_start = ChainHead { number: SegmentNo(0), hash: source.object_hash(), last_seq: Seq(0) };
    let confirmed_in = |epoch: Epoch| {
        let mark = watermark.filter(|w| w.epoch == epoch)?;
        Some(ChainHead { number: mark.number, hash: mark.hash, last_seq: mark.last_seq })
    };
    let confirmed = confirmed_in(source.epoch).unwrap_or(current_start);
    let mut plan = Plan { stale: Vec::new(), queue: Vec::new(), head: confirmed, confirmed };
    // Of the epoch before only the watermark is known, and not even that when nothing of it was confirmed.
    let mut parent_head = source.parent.and_then(confirmed_in);
    for segment in found {
        let path = || dir.join(segment.file_name());
        if watermark.is_some_and(|w| w.epoch == segment.epoch && segment.number <= w.number) {
            plan.stale.push(segment);
            continue;
        }
        if segment.epoch == source.epoch {
            plan.head = follow(Some(&plan.head), &segment).map_err(|what| refused(path(), what))?;
        } else if Some(segment.epoch) == source.parent && !source.opened {
            parent_head = Some(follow(parent_head.as_ref(), &segment).map_err(|what| refused(path(), what))?);
        } else {
            let what = format!("is of epoch {}, and the group is in epoch {}", segment.epoch, source.epoch);
            return Err(refused(path(), what));
        }
        plan.queue.push(segment);
    }
    Ok(plan)
}

/// The chain after `segment`, which must continue `head` (where that is known: a first segment of the epoch before).
fn follow(head: Option<&ChainHead>, segment: &Spooled) -> Result<ChainHead, String> {
    let (number, first_seq) = head.map_or((SegmentNo(1), Seq(1)), |h| (h.number.next(), h.last_seq.next()));
    if segment.number != number {
        return Err(format!("is segment {}, but segment {number} is missing", segment.number));
    }
    if segment.first_seq != first_seq || head.is_some_and(|h| h.hash != segment.prev) {
        return Err("does not continue the segment before it".to_owned());
    }
    Ok(ChainHead { number: segment.number, hash: segment.hash, last_seq: segment.last_seq })
}

fn refused(path: PathBuf, what: String) -> ShipError {
    ShipError::Spool { path, what }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
