//! A store double for tests of every stage: an operation fails before it is done, is done and its answer is lost, or takes
//! its time. The second is the one that protocols forget.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done and fails.
    Before,
    /// It is done, and fails all the same: the answer was lost.
    After,
    /// It is done, later.
    Delay(Duration),
    /// It is not done: these credentials may not.
    Denied,
}

/// Which operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Puts.
    Put,
    /// Gets.
    Get,
}

#[derive(Debug)]
struct Rule {
    on: On,
    key_part: String,
    times: u64,
    fault: Fault,
}

/// A store around another that does what it is told to do wrong. Tests keep an `Arc` of it and hand a clone to the vault.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    rules: Mutex<VecDeque<Rule>>,
    down: AtomicBool,
    puts: AtomicU64,
}

impl FaultStore {
    /// Around `inner`, with nothing wrong yet.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { inner, rules: Mutex::default(), down: AtomicBool::new(false), puts: AtomicU64::new(0) })
    }

    /// In the memory of the process.
    #[must_use]
    pub fn in_memory() -> Arc<Self> {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// The next `times` operations whose key contains `key_part` meet `fault`; rules are used up in the order they were given.
    pub fn inject(&self, on: On, key_part: &str, times: u64, fault: Fault) {
        let rule = Rule { on, key_part: key_part.to_owned(), times, fault };
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push_back(rule);
    }

    /// While it is down every operation fails before it is done.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Puts that reached the store inside, refused ones included.
    #[must_use]
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    fn draw(&self, on: On, key: &Path) -> Option<Fault> {
        if self.down.load(Ordering::SeqCst) {
            return Some(Fault::Before);
        }
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = rules.iter_mut().find(|r| r.on == on && r.times > 0 && key.as_ref().contains(&r.key_part))?;
        hit.times -= 1;
        Some(hit.fault)
    }

    async fn around<T>(&self, on: On, key: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.draw(on, key) {
            None => work.await,
            Some(Fault::Before) => Err(fault("not done")),
            Some(Fault::After) => {
                work.await?;
                Err(fault("done, answer lost"))
            }
            Some(Fault::Denied) => {
                Err(Error::PermissionDenied { path: key.to_string(), source: "injected fault: denied".into() })
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
        }
    }
}

fn fault(what: &str) -> Error {
    Error::Generic { store: "FaultStore", source: format!("injected fault: {what}").into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let put = async {
            self.puts.fetch_add(1, Ordering::SeqCst);
            self.inner.put_opts(location, payload, opts).await
        };
        self.around(On::Put, location, put).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.around(On::Put, location, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.around(On::Get, location, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around(On::Get, location, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.down.load(Ordering::SeqCst) {
            return locations.map(|_| Err(fault("not done"))).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.down.load(Ordering::SeqCst) {
            return futures::stream::iter([Err(fault("not done"))]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix_path = prefix.cloned().unwrap_or_default();
        self.around(On::Get, &prefix_path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(On::Put, to, self.inner.copy_opts(from, to, options)).await
    }
}
