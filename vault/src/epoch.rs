//! Opening an epoch, and reading the line of epochs (DESIGN: one possible successor each, opened by a conditional create).

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, Hash};

use crate::error::VaultError;
use crate::group::GroupVault;
use crate::keys::Key;
use crate::objects::{EpochObject, OBJECT_MAX_BYTES, Object};
use crate::store::{Put, Sized};

/// Whose the epoch is that somebody wanted to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Ours: created now, or by an attempt before whose answer was lost. With the hash of the stored object.
    Mine(Hash),
    /// Another's, who was first.
    Taken(EpochObject),
}

impl GroupVault {
    /// Opens the epoch of `object`. The caller has noted its nonce durably before: it decides whose an object is that exists.
    ///
    /// # Errors
    /// Those of the store, [`VaultError::Unreachable`] when it stayed undecided: ask again with the same object.
    /// [`VaultError::Damaged`] when `object` or the one found is not one of this group.
    pub async fn create_epoch(&self, object: &EpochObject) -> Result<Opened, VaultError> {
        let key = Key::Epoch(self.group.clone(), object.epoch);
        if let Some(what) = object.objection(&key) {
            return Err(VaultError::Damaged { key: key.to_string(), what });
        }
        let mut backoff = self.store.retry.backoff();
        for _ in 1..self.store.retry.attempts {
            match self.create_epoch_once(&key, object).await {
                Err(e) if e.is_transient() => tokio::time::sleep(backoff.next_wait()).await,
                other => return other,
            }
        }
        self.create_epoch_once(&key, object).await
    }

    /// A put that was refused, or that nobody knows the end of, is decided by reading what is there.
    async fn create_epoch_once(&self, key: &Key, object: &EpochObject) -> Result<Opened, VaultError> {
        let bytes = Bytes::from(object.encoded());
        let undecided = match self.store.put_once(key, bytes.clone()).await {
            Ok(Put::Created) => return Ok(Opened::Mine(Hash::of(&bytes))),
            Ok(Put::Exists) => VaultError::Unreachable {
                what: format!("read {key} again, which exists"),
                source: "the store says that it exists and that it does not".into(),
            },
            Err(e) if e.is_transient() => e,
            Err(e) => return Err(e),
        };
        match self.store.get_small_once(key, OBJECT_MAX_BYTES).await? {
            Some(Sized::Small(stored)) => {
                self.store.settle(key, true).await?;
                whose(key, object, &stored)
            }
            Some(Sized::Large) => Err(VaultError::Damaged { key: key.to_string(), what: "it is too large".to_owned() }),
            None => Err(undecided),
        }
    }

    /// An epoch's object and its hash; `None` when it was not opened.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Version`] or [`VaultError::Damaged`].
    pub async fn get_epoch(&self, epoch: Epoch) -> Result<Option<(EpochObject, Hash)>, VaultError> {
        let key = Key::Epoch(self.group.clone(), epoch);
        match self.store.get(&key, OBJECT_MAX_BYTES).await? {
            Some(bytes) => Ok(Some((EpochObject::decode(&key, &bytes)?, Hash::of(&bytes)))),
            None => Ok(None),
        }
    }

    /// The newest epoch at or above `from`, `None` when `from` itself was not opened. Gets upwards, lists nothing: a
    /// source may be allowed to get and not to list.
    ///
    /// # Errors
    /// As [`GroupVault::get_epoch`].
    pub async fn newest_epoch(&self, from: Epoch) -> Result<Option<(EpochObject, Hash)>, VaultError> {
        let mut newest = None;
        let mut epoch = from.max(Epoch(1));
        while let Some(found) = self.get_epoch(epoch).await? {
            newest = Some(found);
            epoch = epoch.next();
        }
        Ok(newest)
    }
}

fn whose(key: &Key, ours: &EpochObject, stored: &[u8]) -> Result<Opened, VaultError> {
    let found = EpochObject::decode(key, stored)?;
    if found.nonce != ours.nonce {
        return Ok(Opened::Taken(found));
    }
    if found != *ours {
        let what = "it bears our nonce and says something else than we noted".to_owned();
        return Err(VaultError::Damaged { key: key.to_string(), what });
    }
    Ok(Opened::Mine(Hash::of(stored)))
}
