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
//!
//! What is left of an epoch that is over, or cannot be finished because a segment of it is missing or damaged, is set aside: when the
//! next epoch began without a clean stop, the regions of everything that was not confirmed became lost, and are copied again.

use std::path::Path;

use farshore_changelog::ids::{Epoch, Hash, SegmentNo, Seq};

use crate::error::ShipError;
use crate::spool::{Found, Spooled};
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
    pub stale: Vec<(Epoch, SegmentNo)>,
    /// Files of earlier epochs that are of no use any more.
    pub aside: Vec<Found>,
    /// Segments to upload, in order. Those of the epoch before come first: they are uploaded before it is sealed.
    pub queue: Vec<Spooled>,
    /// What the next segment continues.
    pub head: ChainHead,
    /// The newest confirmed segment of the current epoch; number 0 when there is none.
    pub confirmed: ChainHead,
}

/// Decides. `found` is in the order of epoch and number.
///
/// # Errors
/// [`ShipError::Spool`] when the segments of the current epoch do not continue the watermark and each other, and which one does
/// not.
pub fn plan(source: &SourceEpoch, watermark: Option<&Watermark>, found: Vec<Found>) -> Result<Plan, ShipError> {
    let confirmed_in = |epoch: Epoch| {
        let mark = watermark.filter(|w| w.epoch == epoch)?;
        Some(ChainHead { number: mark.number, hash: mark.hash, last_seq: mark.last_seq })
    };
    let confirmed = confirmed(source, watermark);
    let mut plan = Plan { stale: Vec::new(), aside: Vec::new(), queue: Vec::new(), head: confirmed, confirmed };
    // Of the epoch before only the watermark is known, and not even that when nothing of it was confirmed.
    let mut parent_head = source.parent.and_then(confirmed_in);
    let mut parent_is_open = !source.opened;
    for file in found {
        let Found { epoch, number, .. } = file;
        if watermark.is_some_and(|w| w.epoch == epoch && number <= w.number) {
            plan.stale.push((epoch, number));
        } else if epoch == source.epoch {
            let followed = file.segment.and_then(|segment| Ok((follow(Some(&plan.head), &segment)?, segment)));
            let (head, segment) = followed.map_err(|what| refused(&file.path, what))?;
            plan.head = head;
            plan.queue.push(segment);
        } else if epoch > source.epoch {
            let what = format!("is of epoch {epoch}, and the group is in epoch {}", source.epoch);
            return Err(refused(&file.path, what));
        } else if Some(epoch) == source.parent && parent_is_open {
            let segment = file.segment.clone();
            match segment.and_then(|segment| Ok((follow(parent_head.as_ref(), &segment)?, segment))) {
                Ok((head, segment)) => {
                    parent_head = Some(head);
                    plan.queue.push(segment);
                }
                Err(what) => {
                    tracing::warn!(file = %file.path.display(), "set aside, with all that follows it in its epoch: it {what}");
                    parent_is_open = false;
                    plan.aside.push(file);
                }
            }
        } else {
            plan.aside.push(file);
        }
    }
    Ok(plan)
}

/// The newest segment of the current epoch that is known to be confirmed.
#[must_use]
pub fn confirmed(source: &SourceEpoch, watermark: Option<&Watermark>) -> ChainHead {
    let start = ChainHead { number: SegmentNo(0), hash: source.object_hash(), last_seq: Seq(0) };
    watermark.filter(|w| w.epoch == source.epoch).map_or(start, |w| ChainHead {
        number: w.number,
        hash: w.hash,
        last_seq: w.last_seq,
    })
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

fn refused(path: &Path, what: String) -> ShipError {
    ShipError::Spool { path: path.to_owned(), what }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
