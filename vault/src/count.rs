//! A store around another that counts what is asked of it, as a cloud counts and bills: for tests and measurements of what a stage costs.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// Entries that one request of a listing gives at most: S3's limit. Azure gives 5,000.
pub const LIST_PAGE: u64 = 1000;

/// Requests that were made, refused ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Puts.
    pub puts: u64,
    /// Gets of something that was there.
    pub gets: u64,
    /// Gets that gave nothing: billed like the others.
    pub misses: u64,
    /// Listings, each as many requests as it has pages.
    pub lists: u64,
    /// Deletes.
    pub deletes: u64,
}

impl Requests {
    /// Those that came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            puts: self.puts - before.puts,
            gets: self.gets - before.gets,
            misses: self.misses - before.misses,
            lists: self.lists - before.lists,
            deletes: self.deletes - before.deletes,
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(self) -> u64 {
        self.puts + self.gets + self.misses + self.lists + self.deletes
    }
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    misses: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The store. Whoever counts keeps an `Arc` of it and hands a clone to the vault.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
}

impl CountingStore {
    /// Around `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { inner, counters: Arc::default() })
    }

    /// In the memory of the process.
    #[must_use]
    pub fn in_memory() -> Arc<Self> {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { puts, gets, misses, lists, deletes } = &*self.counters;
        Requests { puts: of(puts), gets: of(gets), misses: of(misses), lists: of(lists), deletes: of(deletes) }
    }

    fn got<T>(&self, found: Result<T>) -> Result<T> {
        count(if found.is_ok() { &self.counters.gets } else { &self.counters.misses });
        found
    }

    /// Counts a further request with the first entry of each further page.
    fn paged(&self, listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        count(&self.counters.lists);
        let (counters, mut entries) = (Arc::clone(&self.counters), 0_u64);
        let look = move |_: &Result<ObjectMeta>| {
            if entries > 0 && entries.is_multiple_of(LIST_PAGE) {
                count(&counters.lists);
            }
            entries += 1;
        };
        listed.inspect(look).boxed()
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountingStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        count(&self.counters.puts);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        count(&self.counters.puts);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.got(self.inner.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.got(self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        self.inner.delete_stream(locations.inspect(move |_| count(&counters.deletes)).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.inner.list_with_delimiter(prefix).await;
        let entries = listed.as_ref().map_or(0, |l| (l.common_prefixes.len() + l.objects.len()) as u64);
        self.counters.lists.fetch_add(entries.div_ceil(LIST_PAGE).max(1), Ordering::Relaxed);
        listed
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        count(&self.counters.puts);
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn each_request_is_counted_and_a_listing_by_its_pages() {
        let store = CountingStore::in_memory();
        let key = |n: u64| Path::from(format!("log/{n:05}"));
        for n in 0..LIST_PAGE + 1 {
            store.put(&key(n), PutPayload::from_static(b"x")).await.unwrap();
        }
        let mut before = Requests { puts: LIST_PAGE + 1, ..Requests::default() };
        assert_eq!(store.requests(), before);
        let mut step = |asked: Requests| {
            assert_eq!(store.requests().since(std::mem::replace(&mut before, store.requests())), asked)
        };
        assert!(store.get(&key(0)).await.is_ok() && store.get(&Path::from("nowhere")).await.is_err());
        step(Requests { gets: 1, misses: 1, ..Requests::default() });
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len() as u64, LIST_PAGE + 1);
        step(Requests { lists: 2, ..Requests::default() });
        assert_eq!(
            store.list_with_offset(None, &key(0)).try_collect::<Vec<_>>().await.unwrap().len() as u64,
            LIST_PAGE
        );
        assert!(store.list(Some(&Path::from("nothing"))).try_collect::<Vec<_>>().await.unwrap().is_empty());
        step(Requests { lists: 2, ..Requests::default() });
        store.delete(&key(0)).await.unwrap();
        store.list_with_delimiter(None).await.unwrap();
        step(Requests { lists: 1, deletes: 1, ..Requests::default() });
    }
}
