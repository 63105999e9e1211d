//! The uploads: sealed segments out of the spool into the vault, several at once, and confirmed in order.
//!
//! - `flight`: one segment on its way, and what a refusal of it means
//! - `line`: what all of them share, and the patience with vault and disk
//! - `gate`, `width`: which of them may be put now, and how many at once (pure)
//! - `waits`: how long is waited after which error (pure)
//!
//! What a segment needs before the next may be confirmed (watermark, ring, spool) is in [`Uploads::confirm`]. A segment that is in the
//! vault above one that is not counts for nothing yet: the watermark stays below the hole, so does every seal that is set by it, and a
//! source that comes back puts what is missing. How far above a hole one can be is a promise to whoever reads the log
//! ([`PUT_AHEAD_MAX`]).

mod flight;
mod gate;
mod line;
mod waits;
mod width;

use std::sync::Arc;

use farshore_changelog::ids::Epoch;
use farshore_changelog::ring::Ring;
use farshore_vault::{EpochObject, PUT_AHEAD_MAX};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::data_keys::DataKeys;
use crate::epoch::{self, Opening};
use crate::error::ShipError;
use crate::spool::Spooled;
use crate::state::{SourceEpoch, SourceState, Watermark};
use crate::uploader::{Progress, Queued};
use crate::voice::{Half, Trouble};
use flight::{Verdict, fly};
pub(crate) use line::Line;

/// Uploads at once, at most, unless the config says otherwise: fewer than may be above a hole, so that one that takes long leaves some room.
pub const UPLOADS: usize = 14;
/// Uploads at once, at most.
pub const UPLOADS_MAX: usize = PUT_AHEAD_MAX as usize;
/// Bytes of the segments that are on their way at once; a larger one goes alone. They are in memory, also when their files were read back.
const IN_FLIGHT_MAX_BYTES: u64 = 64 << 20;

/// Everything the uploads need.
pub(crate) struct Uploads {
    pub(crate) line: Arc<Line>,
    pub(crate) source: SourceEpoch,
    /// The newest confirmed segment, of this epoch or the one before.
    pub(crate) watermark: Option<Watermark>,
    pub(crate) state: SourceState,
    pub(crate) data_keys: DataKeys,
    /// The epoch whose data key the vault's part was given last.
    pub(crate) keyed: Option<Epoch>,
    /// The epoch of the newest confirmed segment; the data keys of those before are forgotten.
    pub(crate) forgotten_before: Option<Epoch>,
    pub(crate) ring: Ring,
    pub(crate) progress: Arc<Progress>,
    /// The segments, in order. The spool's limit bounds it.
    pub(crate) queue: UnboundedReceiver<Queued>,
}

/// How the uploads end without an error.
pub(crate) enum Uploaded {
    /// The queue was closed and everything in it is confirmed.
    All,
    /// Another writer's epoch ends ours.
    Over(EpochObject),
}

impl Uploads {
    /// Uploads until the queue ends or the epoch does.
    ///
    /// # Errors
    /// [`ShipError`]: the vault conflicts with us, or a note contradicts it.
    pub(crate) async fn run(&mut self) -> Result<Uploaded, ShipError> {
        let mut flights = FuturesOrdered::new();
        let (mut next, mut closed, mut places, mut bytes): (Option<Queued>, bool, u64, u64) = (None, false, 0, 0);
        loop {
            if let Some(queued) = next.take_if(|queued| self.may_begin(&queued.segment, flights.len(), bytes)) {
                self.give_data_key(queued.segment.epoch).await?;
                if self.is_first(&queued.segment)
                    && let Some(by) = self.open_epoch().await?
                {
                    return Ok(Uploaded::Over(by));
                }
                bytes += queued.segment.bytes;
                flights.push_back(fly(Arc::clone(&self.line), queued, places));
                places += 1;
            }
            if closed && next.is_none() && flights.is_empty() {
                return Ok(Uploaded::All);
            }
            tokio::select! {
                biased;
                Some(landed) = flights.next(), if !flights.is_empty() => {
                    let (segment, verdict) = landed?;
                    bytes -= segment.bytes;
                    if let Some(by) = self.land(&segment, verdict).await? {
                        return Ok(Uploaded::Over(by));
                    }
                }
                queued = self.queue.recv(), if next.is_none() && !closed => (next, closed) = (queued, queued.is_none()),
            }
        }
    }

    /// Whether a segment may be taken up while `flights` others of `bytes` are on their way.
    fn may_begin(&self, segment: &Spooled, flights: usize, bytes: u64) -> bool {
        // Everything of the epoch before is confirmed before that one is sealed, and nothing of ours is put before that.
        let alone = self.is_first(segment);
        (flights == 0 || !alone) && has_room(flights, self.line.gate.window(), bytes, segment.bytes)
    }

    /// Whether it is the first of an epoch that is to be opened.
    fn is_first(&self, segment: &Spooled) -> bool {
        segment.epoch == self.source.epoch && !self.source.opened
    }

    /// Confirms a segment below which all are confirmed. Gives the epoch that ends ours, if there is one.
    async fn land(&mut self, segment: &Spooled, verdict: Verdict) -> Result<Option<EpochObject>, ShipError> {
        match verdict {
            Verdict::Stored => self.confirm(segment).await.map(|()| None),
            Verdict::Over(by) if by.nonce != self.source.nonce => Ok(Some(by)),
            Verdict::Over(_) => {
                Err(conflict(segment, "the epoch after it is our own and was opened before it".to_owned()))
            }
            Verdict::Foreign => {
                Err(conflict(segment, "another object lies under its key, and the epoch is not over".to_owned()))
            }
        }
    }

    /// In an encrypted vault: gives the group's part of it the key of the segments of `epoch`, before the first of them, and before the
    /// epoch's object, which takes it to the target.
    async fn give_data_key(&mut self, epoch: Epoch) -> Result<(), ShipError> {
        if self.keyed == Some(epoch) {
            return Ok(());
        }
        let vault = self.line.patiently(async |vault| Ok(vault.clone())).await?;
        if vault.is_encrypted() {
            let note = || self.line.spool.note(|| self.data_keys.of(epoch, &self.source));
            let key = self.line.of_disk(note).await?;
            vault.know_data_key(epoch, key);
        }
        self.keyed = Some(epoch);
        Ok(())
    }

    async fn open_epoch(&mut self) -> Result<Option<EpochObject>, ShipError> {
        let opening =
            self.line.patiently(async |vault| epoch::open(vault, &self.source, self.watermark.as_ref()).await);
        let hash = match opening.await? {
            Opening::Open(hash) => hash,
            Opening::Taken(by) => return Ok(Some(by)),
        };
        if hash != self.source.object_hash() {
            let what = format!(
                "the vault holds this epoch's object with the hash {hash}, which is not what our segments name"
            );
            return Err(ShipError::State { path: self.state.path("epoch.json"), what });
        }
        if self.source.parent.is_none() {
            self.announce().await?;
        }
        let vault = self.line.door.vault().await?.id().to_owned();
        let nonce = self.source.nonce;
        // An agent may have noted the next one meanwhile: nothing of that is in the vault.
        let opened = |noted: &mut SourceEpoch| {
            if noted.nonce == nonce {
                (noted.opened, noted.vault) = (true, Some(vault.clone()));
            }
        };
        let note = || self.line.spool.note(|| self.state.update_epoch(opened));
        let noted = self.line.of_disk(note).await?;
        if noted.nonce != nonce {
            let what = format!("epoch {} was begun meanwhile: this shipper's is over", noted.epoch);
            return Err(ShipError::State { path: self.state.path("epoch.json"), what });
        }
        self.source = noted;
        self.line.door.set_known();
        tracing::info!(epoch = self.source.epoch.0, reason = ?self.source.reason, "epoch opened");
        Ok(None)
    }

    /// Says that there is one group more, so that a target need not list them to find it. Before the epoch is noted as opened: after a
    /// crash in between it is said twice, and never not at all.
    async fn announce(&self) -> Result<(), ShipError> {
        match self.line.patiently(async |_| self.line.door.vault().await?.announce().await).await? {
            Some(number) => tracing::info!(number, "the group is announced to whoever follows the vault"),
            None => tracing::warn!(
                "the group is not announced: the numbers under announced/ in the vault are in disorder; a target finds it within an \
                 hour all the same"
            ),
        }
        Ok(())
    }

    /// Notes a segment that is in the vault, in the order that a restart counts on: watermark, ring, spool.
    async fn confirm(&mut self, segment: &Spooled) -> Result<(), ShipError> {
        let Spooled { epoch, number, hash, last_seq, .. } = *segment;
        let watermark = Watermark { epoch, number, hash, last_seq };
        let note = || self.line.spool.note(|| self.state.set_watermark(&watermark));
        self.line.of_disk(note).await?;
        if self.forgotten_before != Some(epoch) {
            let note = || self.line.spool.note(|| self.data_keys.forget_before(epoch));
            self.line.of_disk(note).await?;
            self.forgotten_before = Some(epoch);
        }
        self.watermark = Some(watermark);
        if epoch == self.source.epoch {
            self.progress.confirmed(number);
            self.ring.set_confirmed_seq(last_seq);
        }
        if let Err(e) = self.line.spool.remove(epoch, number) {
            // It is confirmed all the same, and its file is removed with a later one.
            self.line.voice.trouble(Half::Uploader, Trouble::of(&e).unwrap_or(Trouble::Failed), &e);
        }
        self.ring.set_spool_bytes(self.line.spool.bytes());
        self.line.gate.confirmed();
        tracing::debug!(
            epoch = epoch.0,
            number = number.0,
            last_seq = last_seq.0,
            bytes = segment.bytes,
            "segment confirmed"
        );
        Ok(())
    }
}

/// Whether one more of `more` bytes may be on its way beside `flights` others of `bytes`. Pure.
fn has_room(flights: usize, window: usize, bytes: u64, more: u64) -> bool {
    flights == 0 || (flights < window && bytes + more <= IN_FLIGHT_MAX_BYTES)
}

fn conflict(segment: &Spooled, what: String) -> ShipError {
    ShipError::Conflict { epoch: segment.epoch, number: segment.number, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_a_single_larger_segment_goes_alone() {
        let mib = 1 << 20;
        assert!(has_room(0, 4, 0, 80 * mib), "it would never go");
        assert!(!has_room(1, 4, 80 * mib, 1));
        assert!(has_room(3, 4, 56 * mib, 8 * mib) && !has_room(3, 4, 56 * mib, 8 * mib + 1));
        assert!(!has_room(4, 4, 0, 1) && !has_room(2, 1, 0, 1));
    }
}
