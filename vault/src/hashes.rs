//! The hashes of the target's images, which spare a resync what both sides have (`docs/format.md`, "Region hashes").

use bytes::Bytes;
use farshore_changelog::hashes::CHUNK_MAX_BYTES;
use farshore_changelog::ids::{DiskIndex, Epoch};

use crate::error::VaultError;
use crate::group::GroupVault;
use crate::keys::{Key, hashes_prefix};
use crate::objects::{HashPlan, OBJECT_MAX_BYTES, Object};
use crate::store::Put;

impl GroupVault {
    /// Publishes one chunk: the bytes of a [`farshore_changelog::hashes::Chunk`]. [`Put::Exists`]: an earlier attempt did.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_hash_chunk(
        &self,
        epoch: Epoch,
        disk: DiskIndex,
        chunk: u32,
        bytes: Bytes,
    ) -> Result<Put, VaultError> {
        self.store.put_new(&Key::HashChunk(self.group.clone(), epoch, disk, chunk), bytes).await
    }

    /// The bytes of a chunk, not proved in any way; `None` when there is none.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Damaged`] when the object is larger than a chunk can be.
    pub async fn get_hash_chunk(&self, epoch: Epoch, disk: DiskIndex, chunk: u32) -> Result<Option<Bytes>, VaultError> {
        self.store.get(&Key::HashChunk(self.group.clone(), epoch, disk, chunk), CHUNK_MAX_BYTES).await
    }

    /// Publishes the plan of an epoch, once every chunk of it lies in the vault.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Damaged`] when it is a plan that nobody can follow.
    pub async fn put_hash_plan(&self, plan: &HashPlan) -> Result<Put, VaultError> {
        let key = Key::HashPlan(self.group.clone(), plan.epoch);
        if let Some(what) = plan.objection(&key) {
            return Err(VaultError::Damaged { key: key.to_string(), what });
        }
        self.store.put_new(&key, Bytes::from(plan.encode())).await
    }

    /// The plan of an epoch; `None` when none was published.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Version`] or [`VaultError::Damaged`].
    pub async fn get_hash_plan(&self, epoch: Epoch) -> Result<Option<HashPlan>, VaultError> {
        let key = Key::HashPlan(self.group.clone(), epoch);
        let bytes = self.store.get(&key, OBJECT_MAX_BYTES).await?;
        bytes.map(|bytes| HashPlan::decode(&key, &bytes)).transpose()
    }

    /// Removes the chunks of an epoch that is over. The plan stays: it says for ever that the epoch's resync may leave out what
    /// the target had that published it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_hash_chunks(&self, epoch: Epoch) -> Result<(), VaultError> {
        for key in self.store.list_keys(&hashes_prefix(&self.group, epoch)).await? {
            if matches!(key, Key::HashChunk(..)) {
                self.store.delete(&key).await?;
            }
        }
        Ok(())
    }
}
