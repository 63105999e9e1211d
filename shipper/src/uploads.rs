//! The uploads: sealed segments out of the spool into the vault, one at a time and in order, and what a refusal means.
//!
//! A segment comes from the spool for its upload, so one that is put again is the same bytes; how many are in memory, however slow
//! the vault is, is the spool's to bound. What it needs before the next may be confirmed (watermark, ring, spool) is in
//! `Uploads::confirm`; uploading several at once only has to keep the order of that call.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::Epoch;
use farshore_changelog::ring::Ring;
use farshore_vault::retry::Backoff;
use farshore_vault::{EpochObject, GroupVault, Put, VaultError};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::data_keys::DataKeys;
use crate::door::Door;
use crate::epoch::{self, Opening};
use crate::error::ShipError;
use crate::patience::{FIRST_RETRY, LONGEST_RETRY};
use crate::spool::{Spool, Spooled};
use crate::state::{SourceEpoch, SourceState, Watermark};
use crate::uploader::{Progress, Queued};
use crate::voice::{Asking, Half, Trouble, Voice};

/// First wait after the vault did not answer.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait: how late, at most, the end of an outage is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Everything the uploads need.
pub(crate) struct Uploads {
    pub(crate) door: Arc<Door>,
    pub(crate) source: SourceEpoch,
    /// The newest confirmed segment, of this epoch or the one before.
    pub(crate) watermark: Option<Watermark>,
    pub(crate) state: SourceState,
    pub(crate) data_keys: DataKeys,
    /// The epoch whose data key the vault's part was given last.
    pub(crate) keyed: Option<Epoch>,
    /// The epoch of the newest confirmed segment; the data keys of those before are forgotten.
    pub(crate) forgotten_before: Option<Epoch>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) ring: Ring,
    pub(crate) progress: Arc<Progress>,
    pub(crate) voice: Arc<Voice>,
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
        while let Some(queued) = self.queue.recv().await {
            if let Some(by) = self.ship(queued).await? {
                return Ok(Uploaded::Over(by));
            }
        }
        Ok(Uploaded::All)
    }

    /// Gives the epoch that ends ours, if there is one.
    async fn ship(&mut self, queued: Queued) -> Result<Option<EpochObject>, ShipError> {
        let Queued { segment, tried } = &queued;
        let tried = Cell::new(*tried);
        self.give_data_key(segment.epoch).await?;
        if segment.epoch == self.source.epoch
            && !self.source.opened
            && let Some(by) = self.open_epoch().await?
        {
            return Ok(Some(by));
        }
        let bytes = self.of_disk(|this| this.spool.read(segment)).await?;
        let verdict = self.patiently(async |vault, _| upload(vault, segment, &bytes, &tried).await).await?;
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
        let vault = self.patiently(async |vault, _| Ok(vault.clone())).await?;
        if vault.is_encrypted() {
            let key = self.of_disk(|this| this.spool.note(|| this.data_keys.of(epoch, &this.source))).await?;
            vault.know_data_key(epoch, key);
        }
        self.keyed = Some(epoch);
        Ok(())
    }

    async fn open_epoch(&mut self) -> Result<Option<EpochObject>, ShipError> {
        let opening =
            self.patiently(async |vault, this| epoch::open(vault, &this.source, this.watermark.as_ref()).await);
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
        let vault = self.door.vault().await?.id().to_owned();
        let opened = |noted: &mut SourceEpoch| (noted.opened, noted.vault) = (true, Some(vault.clone()));
        let note = |this: &mut Self| this.spool.note(|| this.state.update_epoch(opened));
        self.source = self.of_disk(note).await?;
        self.door.set_known();
        tracing::info!(epoch = self.source.epoch.0, reason = ?self.source.reason, "epoch opened");
        Ok(None)
    }

    /// Notes a segment that is in the vault, in the order that a restart counts on: watermark, ring, spool.
    async fn confirm(&mut self, segment: &Spooled) -> Result<(), ShipError> {
        let Spooled { epoch, number, hash, last_seq, .. } = *segment;
        let watermark = Watermark { epoch, number, hash, last_seq };
        self.of_disk(|this| this.spool.note(|| this.state.set_watermark(&watermark))).await?;
        if self.forgotten_before != Some(epoch) {
            self.of_disk(|this| this.spool.note(|| this.data_keys.forget_before(epoch))).await?;
            self.forgotten_before = Some(epoch);
        }
        self.watermark = Some(watermark);
        if epoch == self.source.epoch {
            self.progress.confirmed(number);
            self.ring.set_confirmed_seq(last_seq);
        }
        if let Err(e) = self.spool.remove(epoch, number) {
            // It is confirmed all the same, and its file is removed with a later one.
            self.voice.trouble(Half::Uploader, Trouble::of(&e).unwrap_or(Trouble::Failed), &e);
        }
        self.ring.set_spool_bytes(self.spool.bytes());
        tracing::debug!(
            epoch = epoch.0,
            number = number.0,
            last_seq = last_seq.0,
            bytes = segment.bytes,
            "segment confirmed"
        );
        Ok(())
    }

    /// Does `work`, which uses the spool or the notes, until it is done, with waits between, for as long as they cannot be used.
    async fn of_disk<T>(&mut self, work: impl Fn(&mut Self) -> Result<T, ShipError>) -> Result<T, ShipError> {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match work(self) {
                Ok(done) => {
                    self.voice.well(Half::Uploader);
                    return Ok(done);
                }
                Err(e) => {
                    let Some(trouble) = Trouble::of(&e) else { return Err(e) };
                    self.voice.trouble(Half::Uploader, trouble, &e);
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    /// Does `work` until it gives something, with waits between, for as long as the vault does not answer.
    async fn patiently<T>(
        &mut self,
        work: impl AsyncFn(&GroupVault, &Self) -> Result<T, VaultError>,
    ) -> Result<T, ShipError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let tried = match self.door.group().await {
                Ok(vault) => work(&vault, self).await,
                Err(e) => Err(e),
            };
            match tried {
                Ok(done) => {
                    self.voice.reached(Asking::Uploads);
                    return Ok(done);
                }
                Err(e) if self.door.may_pass(&e) => {
                    self.voice.unreachable(Asking::Uploads, &e);
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is in the vault.
    Stored,
    /// The epoch was over.
    Over(EpochObject),
    /// Something else is in its place.
    Foreign,
}

/// One attempt to store a segment, and what a refusal means (DESIGN, "Epochs"): a first refusal is undecided and asked again;
/// then the next epoch decides. Where there is none, nobody can have sealed, so what lies there is either ours, of an
/// attempt whose answer was lost, or another source's. `tried`: there was an attempt before, whose end is not known.
///
/// A source that may not read its own log cannot look whether something is there at all: it asks on ([`GroupVault::put_segment_unseen`]).
async fn upload(
    vault: &GroupVault,
    segment: &Spooled,
    bytes: &Bytes,
    tried: &Cell<bool>,
) -> Result<Verdict, VaultError> {
    let Spooled { epoch, number, .. } = *segment;
    for _ in 0..2 {
        let put = vault.put_segment(epoch, number, bytes.clone()).await;
        if put.inspect_err(|_| tried.set(true))? == Put::Created {
            return Ok(Verdict::Stored);
        }
    }
    if let Some((by, _)) = vault.get_epoch(epoch.next()).await? {
        return Ok(Verdict::Over(by));
    }
    match vault.get_segment(epoch, number).await {
        Ok(Some(stored)) if stored == bytes => Ok(Verdict::Stored),
        Ok(Some(_)) => Ok(Verdict::Foreign),
        Ok(None) => Err(VaultError::Unreachable {
            what: format!("store segment {number} of epoch {epoch}"),
            source: "the store says that it exists and that it does not".into(),
        }),
        Err(VaultError::Refused { .. }) if tried.get() => {
            if vault.put_segment_unseen(epoch, number, bytes.clone()).await? == Put::Created {
                return Ok(Verdict::Stored);
            }
            // It is there since the attempt whose end was not known, or somebody has sealed there meanwhile.
            let next = vault.get_epoch(epoch.next()).await?;
            Ok(next.map_or(Verdict::Stored, |(by, _)| Verdict::Over(by)))
        }
        Err(VaultError::Refused { .. }) => Ok(Verdict::Foreign),
        Err(e) => Err(e),
    }
}

fn conflict(segment: &Spooled, what: String) -> ShipError {
    ShipError::Conflict { epoch: segment.epoch, number: segment.number, what }
}
