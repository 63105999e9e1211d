//! Ending an epoch: a seal at the first free number, which only one of two writers can get (DESIGN, "Epochs").

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_changelog::segment::{Kind, Segment, SegmentHead, SegmentWriter};

use crate::error::VaultError;
use crate::group::{GroupVault, PUT_AHEAD_MAX};
use crate::keys::Key;
use crate::objects::{EpochObject, Object};
use crate::store::{Put, Sized};

/// No seal is larger: header, empty index, footer. A larger object is a log segment and is passed over unread.
const SEAL_MAX_BYTES: u64 = 1024;
/// Segments that are passed on the way to the first free number, at most: a spool holds far fewer than this.
const WALK_MAX: u64 = 10_000_000;

impl GroupVault {
    /// Seals `sealed` for its successor `by`: creates a seal at the first free number above `above`, the watermark that the
    /// caller knows. A seal that exists is found and given back, so anyone may do it again or finish it. Gives the number of the
    /// first seal: the cut of the epoch is the number before. (With credentials that may not read the log, of a seal.)
    ///
    /// # Errors
    /// Those of the store, [`VaultError::Damaged`] when what lies on the way is not of this epoch, or seals it for another
    /// successor, or when `by` is not the successor of `sealed`.
    pub async fn seal(&self, sealed: Epoch, above: SegmentNo, by: &EpochObject) -> Result<SegmentNo, VaultError> {
        if by.objection(&by.key()).is_some() || by.parent != Some(sealed) || by.group != self.group {
            let what = format!("it is not the successor of epoch {sealed} of group {}", self.group);
            return Err(VaultError::Damaged { key: by.key().to_string(), what });
        }
        let mut number = above.next();
        for _ in 0..WALK_MAX {
            let key = self.segment_key(sealed, number);
            match self.store.get_small(&key, SEAL_MAX_BYTES).await {
                Ok(Some(Sized::Large)) => number = number.next(),
                Ok(Some(Sized::Small(bytes))) => {
                    if self.is_seal(&key, sealed, number, by, bytes)? {
                        self.store.settle(&key, true).await?;
                        return Ok(number);
                    }
                    number = number.next();
                }
                Ok(None) => {
                    // Refused: somebody was quicker, or it was our own attempt whose answer was lost. The loop reads it.
                    if self.store.put_new(&key, self.new_seal(sealed, number, by)).await? == Put::Created {
                        return Ok(number);
                    }
                }
                // A source need not be allowed to read its own log. It may then pass a seal and make a second one above,
                // which changes nothing: the first is the cut.
                Err(VaultError::Refused { .. }) => {
                    if self.store.put_new(&key, self.new_seal(sealed, number, by)).await? == Put::Created {
                        return self.seal_lower(sealed, above, number, by).await;
                    }
                    number = number.next();
                }
                Err(e) => return Err(e),
            }
        }
        let what = format!("no free number in {WALK_MAX} segments above {above}");
        Err(VaultError::Damaged { key: format!("groups/{}/log/{sealed}", self.group), what })
    }

    /// A writer that may not look has sealed at `number`. A number that it has passed may be free all the same: what was refused may have
    /// been undecided, and a source puts several at once, so that one stands where one below does not. A hole below a seal is one that
    /// nobody can fill, so those below are asked again until as many stand as can stand above a hole. The lowest that was free is the cut.
    async fn seal_lower(
        &self,
        sealed: Epoch,
        above: SegmentNo,
        number: SegmentNo,
        by: &EpochObject,
    ) -> Result<SegmentNo, VaultError> {
        let mut first = number;
        loop {
            let lowest = first.0.saturating_sub(PUT_AHEAD_MAX).max(above.0 + 1);
            let asked = (lowest..first.0).map(SegmentNo).map(async |below| {
                let put = self.put_segment_unseen(sealed, below, self.new_seal(sealed, below, by)).await?;
                Ok::<_, VaultError>((put == Put::Created).then_some(below))
            });
            let free = futures::future::try_join_all(asked).await?.into_iter().flatten().next();
            match free {
                Some(below) => first = below,
                None => return Ok(first),
            }
        }
    }

    fn new_seal(&self, sealed: Epoch, number: SegmentNo, by: &EpochObject) -> Bytes {
        let created = clock::wall();
        Bytes::from(SegmentWriter::seal_object(self.group.clone(), sealed, number, by.epoch, by.nonce.0, created).bytes)
    }

    /// Whether the object under `key` is the seal; proves it first.
    fn is_seal(
        &self,
        key: &Key,
        sealed: Epoch,
        number: SegmentNo,
        by: &EpochObject,
        bytes: Bytes,
    ) -> Result<bool, VaultError> {
        let damaged = |what: String| VaultError::Damaged { key: key.to_string(), what };
        let segment = Segment::parse(bytes).map_err(|e| damaged(e.to_string()))?;
        let head: &SegmentHead = segment.index().head();
        if (&head.group, head.epoch, head.number) != (&self.group, sealed, number) {
            return Err(damaged(format!(
                "it is segment {} of epoch {} of group {}",
                head.number, head.epoch, head.group
            )));
        }
        match head.kind {
            Kind::Log => Ok(false),
            Kind::Undo => Err(damaged("it is an undo batch".to_owned())),
            Kind::Seal if (head.successor, head.nonce) == (by.epoch, by.nonce.0) => Ok(true),
            Kind::Seal => Err(damaged(format!(
                "it seals for epoch {}, not for the epoch {} that was opened",
                head.successor, by.epoch
            ))),
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
