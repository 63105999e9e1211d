//! Put-if-absent, bounded gets and listings over any `object_store` backend, with timeouts and retries.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::SegmentNo;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use crate::crypt::{Closed, GroupCrypt, OVERHEAD};
use crate::error::VaultError;
use crate::folder::Folder;
use crate::keys::{Key, segment_path};
use crate::objects::OBJECT_MAX_BYTES;
use crate::retry::RetryPolicy;
use crate::url::OpenStore;

/// Longest wait for a store to begin to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Slowest transfer of a body that is waited for, in bytes a second; below it the operation counts as not answered.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// Most entries of one listing; a caller that gets as many asks again from the last.
pub const LISTED_MAX: usize = 65_536;

/// What a put-if-absent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Nothing was there; now our object is, durably.
    Created,
    /// An object is there already: another's, or our own of an attempt whose answer was lost.
    Exists,
}

/// An object that was asked for by size.
pub(crate) enum Sized {
    /// At most as large as asked for: all of it.
    Small(Bytes),
    /// Larger; not read.
    Large,
}

/// The store of one vault. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    store: Arc<dyn ObjectStore>,
    folder: Option<Arc<Folder>>,
    pub(crate) retry: RetryPolicy,
    /// Present where objects are sealed: in the part of a group in an encrypted vault.
    pub(crate) crypt: Option<Arc<GroupCrypt>>,
}

impl Store {
    pub(crate) fn new(open: OpenStore, retry: RetryPolicy) -> Self {
        Self { store: open.store, folder: open.folder.map(Arc::new), retry, crypt: None }
    }

    /// Whether it is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Runs `attempt` until it gives something that waiting does not change, as often as the policy says.
    async fn retrying<T, F: Future<Output = Result<T, VaultError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, VaultError> {
        let mut backoff = self.retry.backoff();
        for _ in 1..self.retry.attempts {
            match attempt().await {
                Err(e) if e.is_transient() => {
                    tracing::debug!(error = %e, "vault operation is tried again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                other => return other,
            }
        }
        attempt().await
    }

    /// Creates the object under `key` unless one is there. After a transient error it may be there all the same.
    pub(crate) async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, VaultError> {
        let bytes = self.sealed(key, bytes)?;
        self.retrying(|| self.put_sealed(key, bytes.clone())).await
    }

    /// One attempt of [`Store::put_new`].
    pub(crate) async fn put_once(&self, key: &Key, bytes: Bytes) -> Result<Put, VaultError> {
        let bytes = self.sealed(key, bytes)?;
        self.put_sealed(key, bytes).await
    }

    fn sealed(&self, key: &Key, bytes: Bytes) -> Result<Bytes, VaultError> {
        self.crypt.as_ref().map_or(Ok(bytes.clone()), |crypt| crypt.seal(key, &bytes))
    }

    async fn put_sealed(&self, key: &Key, bytes: Bytes) -> Result<Put, VaultError> {
        self.check_present(key).await?;
        let time = body_time(bytes.len() as u64);
        let options = PutOptions::from(PutMode::Create);
        let path = key.path();
        let put = self.store.put_opts(&path, PutPayload::from_bytes(bytes), options);
        let found = match timely("put", key, ANSWER_TIMEOUT + time, put).await? {
            Ok(_) => Put::Created,
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Put::Exists,
            Err(e) => return Err(VaultError::of_store(format!("put {key}"), e)),
        };
        self.settle(key, found == Put::Exists).await?;
        Ok(found)
    }

    /// Makes an object that somebody created durable, where the store does not do so itself.
    pub(crate) async fn settle(&self, key: &Key, existed: bool) -> Result<(), VaultError> {
        let name = key.to_string();
        self.in_folder("make durable", key, move |folder| folder.settle(&name, existed)).await
    }

    /// Refuses to go on when a folder vault is not there, so that nothing is created in the empty mount point of one.
    async fn check_present(&self, key: &Key) -> Result<(), VaultError> {
        if *key == Key::Vault {
            return Ok(());
        }
        self.in_folder("put", key, Folder::check_present).await
    }

    /// Does `work`, which blocks, when the store is a folder.
    async fn in_folder(
        &self,
        doing: &str,
        key: &Key,
        work: impl FnOnce(&Folder) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), VaultError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let done = timely(doing, key, ANSWER_TIMEOUT, tokio::task::spawn_blocking(move || work(&folder))).await?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| VaultError::Unreachable {
            what: format!("{doing} {key}"),
            source,
        };
        done.map_err(|e| failed(Box::new(e)))?.map_err(|e| failed(Box::new(e)))
    }

    /// The object under `key`, `None` when there is none.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] when it is larger than `max_bytes`.
    pub(crate) async fn get(&self, key: &Key, max_bytes: u64) -> Result<Option<Bytes>, VaultError> {
        match self.get_small(key, max_bytes).await? {
            None => Ok(None),
            Some(Sized::Small(bytes)) => Ok(Some(bytes)),
            Some(Sized::Large) => {
                let what = format!("it is larger than {max_bytes} bytes");
                Err(VaultError::Damaged { key: key.to_string(), what })
            }
        }
    }

    /// As [`Store::get`], but a larger object is no error and is not read.
    pub(crate) async fn get_small(&self, key: &Key, max_bytes: u64) -> Result<Option<Sized>, VaultError> {
        self.retrying(|| self.get_small_once(key, max_bytes)).await
    }

    /// One attempt of [`Store::get_small`].
    pub(crate) async fn get_small_once(&self, key: &Key, max_bytes: u64) -> Result<Option<Sized>, VaultError> {
        match self.get_sealed(key, max_bytes).await? {
            Some(Sized::Small(bytes)) => self.opened(key, bytes).await.map(|bytes| Some(Sized::Small(bytes))),
            other => Ok(other),
        }
    }

    async fn opened(&self, key: &Key, bytes: Bytes) -> Result<Bytes, VaultError> {
        let Some(crypt) = &self.crypt else { return Ok(bytes) };
        let epoch = match crypt.open(key, &bytes) {
            Ok(content) => return Ok(content),
            Err(Closed::Failed(e)) => return Err(e),
            Err(Closed::DataKey(epoch)) => epoch,
        };
        let damaged = |what: String| Err(VaultError::Damaged { key: key.to_string(), what });
        let of_epoch = Key::Epoch(crypt.group().clone(), epoch);
        let Some(Sized::Small(object)) = self.get_sealed(&of_epoch, OBJECT_MAX_BYTES).await? else {
            return damaged(format!("the object of epoch {epoch}, which has its data key, is not there"));
        };
        match crypt.open(&of_epoch, &object).and_then(|_| crypt.open(key, &bytes)) {
            Ok(content) => Ok(content),
            Err(Closed::Failed(e)) => Err(e),
            Err(Closed::DataKey(_)) => damaged(format!(
                "it is sealed with the data key of epoch {epoch}, which these keys do not open: it takes the vault's key, and that its source \
                 has shipped in that epoch"
            )),
        }
    }

    async fn get_sealed(&self, key: &Key, max_bytes: u64) -> Result<Option<Sized>, VaultError> {
        let max_bytes = max_bytes + if self.crypt.is_some() { OVERHEAD } else { 0 };
        let path = key.path();
        let found = self.store.get_opts(&path, GetOptions::default());
        let found = match timely("get", key, ANSWER_TIMEOUT, found).await? {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(VaultError::of_store(format!("get {key}"), e)),
        };
        if found.meta.size > max_bytes {
            return Ok(Some(Sized::Large));
        }
        let time = ANSWER_TIMEOUT + body_time(found.meta.size);
        let bytes = timely("get", key, time, found.bytes()).await?;
        bytes.map(|b| Some(Sized::Small(b))).map_err(|e| VaultError::of_store(format!("get {key}"), e))
    }

    /// Removes the object under `key`; an absent one is no error.
    pub(crate) async fn delete(&self, key: &Key) -> Result<(), VaultError> {
        self.retrying(|| async move {
            let mut deleted = self.store.delete_stream(futures::stream::iter([Ok(key.path())]).boxed());
            match timely("delete", key, ANSWER_TIMEOUT, deleted.try_next()).await? {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(VaultError::of_store(format!("delete {key}"), e)),
            }
        })
        .await
    }

    /// Number and size in bytes of the segments under `prefix` from `from` on, in order, the first [`LISTED_MAX`] of them.
    /// What is not a segment by its key is passed over: it is not the vault's.
    pub(crate) async fn list_segments(
        &self,
        prefix: &Path,
        from: SegmentNo,
    ) -> Result<Vec<(SegmentNo, u64)>, VaultError> {
        self.retrying(|| async move {
            let mut lowest = BinaryHeap::new();
            // A log is long, and mostly its end is asked for: a store need not give the beginning.
            let mut listed = match from.0.checked_sub(1).filter(|&before| before > 0) {
                Some(before) => self.store.list_with_offset(Some(prefix), &segment_path(prefix, SegmentNo(before))),
                None => self.store.list(Some(prefix)),
            };
            while let Some(meta) = timely("list", prefix, ANSWER_TIMEOUT, listed.try_next()).await?.transpose() {
                let meta = meta.map_err(|e| VaultError::of_store(format!("list {prefix}"), e))?;
                match Key::parse(meta.location.as_ref()) {
                    // The last number of all has none after it; no writer comes that far.
                    Some(Key::Segment(_, _, number)) if number >= from && number.0 < u64::MAX => {
                        lowest.push((number, meta.size));
                    }
                    _ => {}
                }
                if lowest.len() > LISTED_MAX {
                    lowest.pop();
                }
            }
            Ok(lowest.into_sorted_vec())
        })
        .await
    }

    /// The vault's keys under `prefix`, at most [`LISTED_MAX`] of them.
    pub(crate) async fn list_keys(&self, prefix: &Path) -> Result<Vec<Key>, VaultError> {
        self.retrying(|| async move {
            let mut keys = Vec::new();
            let mut listed = self.store.list(Some(prefix));
            while keys.len() < LISTED_MAX
                && let Some(meta) = timely("list", prefix, ANSWER_TIMEOUT, listed.try_next()).await?.transpose()
            {
                let meta = meta.map_err(|e| VaultError::of_store(format!("list {prefix}"), e))?;
                keys.extend(Key::parse(meta.location.as_ref()));
            }
            Ok(keys)
        })
        .await
    }

    /// The prefixes directly below `prefix`.
    pub(crate) async fn list_prefixes(&self, prefix: &Path) -> Result<Vec<Path>, VaultError> {
        self.retrying(|| async move {
            match timely("list", prefix, ANSWER_TIMEOUT, self.store.list_with_delimiter(Some(prefix))).await? {
                Ok(listed) => Ok(listed.common_prefixes),
                Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
                Err(e) => Err(VaultError::of_store(format!("list {prefix}"), e)),
            }
        })
        .await
    }
}

/// Time that a body of `bytes` may take.
fn body_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// `work`, or [`VaultError::Unreachable`] when it takes longer than `limit`.
async fn timely<T>(
    doing: &str,
    what: &(impl std::fmt::Display + Sync),
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, VaultError> {
    tokio::time::timeout(limit, work).await.map_err(|e| VaultError::Unreachable {
        what: format!("{doing} {what} within {} s", limit.as_secs()),
        source: Box::new(e),
    })
}
