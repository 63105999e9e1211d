//! One group's part of the vault: its segments and the requests to its source. Epochs and seals are in [`crate::epoch`] and
//! `seal.rs`.

use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_changelog::segment::layout::TOTAL_MAX_BYTES;

use crate::crypt::DataKey;
use crate::error::VaultError;
use crate::keys::{Key, log_prefix};
use crate::objects::{OBJECT_MAX_BYTES, Object, Request};
use crate::store::{Put, Store};

/// A source puts segment n of an epoch only once segment n − `PUT_AHEAD_MAX` is confirmed: a number that is free lies at most so far below
/// one that is not.
pub const PUT_AHEAD_MAX: u64 = 16;
/// Most requests that a source is asked in a group's life; the walk to the first free number ends there.
const REQUESTS_MAX: u64 = 1_000_000;
/// How often a writer that may not read its log asks again whether a refusal stands …
const BLIND_ASKS: u32 = 5;
/// … and how long it waits before each time: longer than a store is busy with another put of the key.
const BLIND_WAIT: Duration = Duration::from_secs(2);

/// One group's part of an open vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupVault {
    pub(crate) store: Store,
    pub(crate) group: GroupName,
}

impl GroupVault {
    /// Whether what is put is sealed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.store.crypt.is_some()
    }

    /// Takes the data key of an epoch, before its object is created: it is sealed into that, and the segments of the epoch with it. Its source has
    /// noted it durably. Without effect in a plain vault.
    pub fn know_data_key(&self, epoch: Epoch, key: DataKey) {
        if let Some(crypt) = &self.store.crypt {
            crypt.know(epoch, key);
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Creates a segment unless an object is there. [`Put::Exists`] does not say whose: it may be this one, of an attempt
    /// whose answer was lost.
    ///
    /// # Errors
    /// Those of the store; after a transient one the segment may be there all the same.
    pub async fn put_segment(&self, epoch: Epoch, number: SegmentNo, bytes: Bytes) -> Result<Put, VaultError> {
        self.store.put_new(&self.segment_key(epoch, number), bytes).await
    }

    /// As [`GroupVault::put_segment`], for credentials that may not look what is there. S3 refuses (409) also while another put of the
    /// key is at work, such as our own that was given up, and the key may be free afterwards: a refusal is asked again until that
    /// one must have ended.
    ///
    /// # Errors
    /// As [`GroupVault::put_segment`].
    pub async fn put_segment_unseen(&self, epoch: Epoch, number: SegmentNo, bytes: Bytes) -> Result<Put, VaultError> {
        for _ in 0..BLIND_ASKS {
            if self.put_segment(epoch, number, bytes.clone()).await? == Put::Created {
                return Ok(Put::Created);
            }
            tokio::time::sleep(BLIND_WAIT).await;
        }
        self.put_segment(epoch, number, bytes).await
    }

    /// The bytes of a segment or seal, not proved in any way; `None` when there is none.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Damaged`] when the object is larger than a segment can be.
    pub async fn get_segment(&self, epoch: Epoch, number: SegmentNo) -> Result<Option<Bytes>, VaultError> {
        self.store.get(&self.segment_key(epoch, number), TOTAL_MAX_BYTES).await
    }

    /// Number and size in bytes of the segments and seals of `epoch` from `from` on, in order; at most
    /// [`crate::store::LISTED_MAX`] of them, so a full list is asked again from its last number.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_segments(&self, epoch: Epoch, from: SegmentNo) -> Result<Vec<(SegmentNo, u64)>, VaultError> {
        self.store.list_segments(&log_prefix(&self.group, epoch), from).await
    }

    /// Removes a segment; an absent one is no error. Only retention may call it, and only up to the watermark.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_segment(&self, epoch: Epoch, number: SegmentNo) -> Result<(), VaultError> {
        self.store.delete(&self.segment_key(epoch, number)).await
    }

    /// Asks something of the source, under the first free number, which is given back. One whose answer was lost is not asked
    /// twice.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Damaged`] when it cannot be asked, such as too many ranges.
    pub async fn put_request(&self, request: &Request) -> Result<u64, VaultError> {
        if self.store.crypt.as_ref().is_some_and(|crypt| crypt.is_at_a_loss()) {
            self.newest_epoch(Epoch(1)).await?;
        }
        // Nothing is put that nobody could read.
        let bytes = Bytes::from(request.encode());
        Request::decoded(&bytes)?;
        let mut backoff = self.store.retry.backoff();
        let (mut n, mut failures, mut undecided) = (1, 0, false);
        while n <= REQUESTS_MAX {
            match self.store.put_once(&Key::Request(self.group.clone(), n), bytes.clone()).await {
                Ok(Put::Created) => return Ok(n),
                // Ours, or one that asks for the same.
                Ok(Put::Exists) if undecided && self.get_request(n).await?.as_ref() == Some(request) => return Ok(n),
                Ok(Put::Exists) => (n, undecided) = (n + 1, false),
                Err(e) => {
                    failures += 1;
                    if !e.is_transient() || failures >= self.store.retry.attempts {
                        return Err(e);
                    }
                    undecided = true;
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
        let what = format!("it has {REQUESTS_MAX} requests");
        Err(VaultError::Damaged { key: format!("groups/{}/to-source/requests", self.group), what })
    }

    /// Request `n`; `None` when it was not asked yet.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Version`] or [`VaultError::Damaged`].
    pub async fn get_request(&self, n: u64) -> Result<Option<Request>, VaultError> {
        let key = Key::Request(self.group.clone(), n);
        let bytes = self.store.get(&key, OBJECT_MAX_BYTES).await?;
        bytes.map(|bytes| Request::decode(&key, &bytes)).transpose()
    }

    /// The number of the newest request, `from` when nothing was asked after it. Gets upwards, lists nothing, and reads no request: one
    /// that is damaged counts too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn newest_request(&self, from: u64) -> Result<u64, VaultError> {
        let mut newest = from;
        while newest < REQUESTS_MAX {
            match self.get_request(newest + 1).await {
                Ok(None) => break,
                Ok(Some(_)) | Err(VaultError::Version { .. } | VaultError::Damaged { .. }) => newest += 1,
                Err(e) => return Err(e),
            }
        }
        Ok(newest)
    }

    pub(crate) fn segment_key(&self, epoch: Epoch, number: SegmentNo) -> Key {
        Key::Segment(self.group.clone(), epoch, number)
    }
}
