//! What all uploads of a group share: the way to the vault, the spool, how many may go on, and how fast; and the patience with each.

use std::sync::Arc;

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::retry::Backoff;
use farshore_vault::{GroupVault, Put, VaultError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::gate::Gate;
use super::waits::Waits;
use crate::bandwidth::Bandwidth;
use crate::door::Door;
use crate::error::ShipError;
use crate::pacer::{LOOK, Pacer};
use crate::patience::{FIRST_RETRY, LONGEST_RETRY};
use crate::spool::Spool;
use crate::voice::{Asking, Half, Trouble, Voice};

/// What the uploads share.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) door: Arc<Door>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) voice: Arc<Voice>,
    pub(crate) gate: Gate,
    bandwidth: Bandwidth,
    /// Held by the one that waits for its time; the others queue for it.
    pacer: Mutex<Pacer>,
}

impl Line {
    /// For at most `uploads` at once.
    pub(crate) fn new(
        door: Arc<Door>,
        spool: Arc<Spool>,
        voice: Arc<Voice>,
        uploads: usize,
        bandwidth: Bandwidth,
    ) -> Self {
        let pacer = Mutex::new(Pacer::new(clock::mono()));
        Self { door, spool, voice, gate: Gate::new(uploads), bandwidth, pacer }
    }

    /// Puts a segment, in its time, and learns from how that goes.
    ///
    /// # Errors
    /// Those of [`GroupVault::put_segment`].
    pub(crate) async fn put(
        &self,
        vault: &GroupVault,
        epoch: Epoch,
        number: SegmentNo,
        bytes: &Bytes,
    ) -> Result<Put, VaultError> {
        self.pace(bytes.len() as u64).await;
        let (began, since) = (self.gate.begin(), Instant::now());
        let put = vault.put_segment(epoch, number, bytes.clone()).await;
        self.gate.end(began, &put, since.elapsed());
        put
    }

    /// Waits until so many bytes may be sent.
    pub(crate) async fn pace(&self, bytes: u64) {
        if self.bandwidth.is_unlimited() {
            return;
        }
        let mut pacer = self.pacer.lock().await;
        loop {
            let wait = pacer.wait(Instant::now().into_std(), self.bandwidth.at(clock::wall()));
            if wait.is_zero() {
                break;
            }
            // The limit may be another one meanwhile.
            tokio::time::sleep(wait.min(LOOK)).await;
        }
        pacer.spend(bytes);
    }

    /// Does `work`, which uses the spool or the notes, until it is done, with waits between, for as long as they cannot be used.
    ///
    /// # Errors
    /// [`ShipError`] that waiting does not mend.
    pub(crate) async fn of_disk<T>(&self, mut work: impl FnMut() -> Result<T, ShipError>) -> Result<T, ShipError> {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match work() {
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
    ///
    /// # Errors
    /// [`ShipError::Vault`] that waiting does not mend.
    pub(crate) async fn patiently<T>(
        &self,
        work: impl AsyncFn(&GroupVault) -> Result<T, VaultError>,
    ) -> Result<T, ShipError> {
        let mut waits = Waits::new();
        loop {
            let tried = match self.door.group().await {
                Ok(vault) => work(&vault).await,
                Err(e) => Err(e),
            };
            match tried {
                Ok(done) => {
                    self.voice.reached(Asking::Uploads);
                    return Ok(done);
                }
                Err(e) if self.door.may_pass(&e) => {
                    self.voice.unreachable(Asking::Uploads, &e);
                    tokio::time::sleep(waits.after(&e)).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
