//! A store double for tests of every stage: an operation fails before it is done, is done and its answer is lost, takes its
//! time, or never ends. The second is the one that protocols forget.

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
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
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
    /// A put is not done, and is refused as if something were there: S3's 409 says that another put of the key was at work, not
    /// that it has succeeded.
    Undecided,
    /// It is done, at this many bytes a second.
    Slow(u64),
    /// It stops in the middle of the body for ever: a put is not done, of a get the first half comes.
    Stall,
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
    /// Bytes of the bodies of puts that have not ended, and the most there were.
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

/// Counts the body of a put until it ends or is given up.
struct InFlight<'a> {
    store: &'a FaultStore,
    bytes: u64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.store.in_flight.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl FaultStore {
    /// Around `inner`, with nothing wrong yet.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            rules: Mutex::default(),
            down: AtomicBool::new(false),
            puts: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            most_in_flight: AtomicU64::new(0),
        })
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

    /// Forgets what was injected and not met yet.
    pub fn forget(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    /// The most bytes of bodies that were on their way to the store at one time.
    #[must_use]
    pub fn most_in_flight_bytes(&self) -> u64 {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    fn set_off(&self, bytes: u64) -> InFlight<'_> {
        let now = self.in_flight.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        InFlight { store: self, bytes }
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

    async fn around<T>(&self, on: On, key: &Path, bytes: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.with(self.draw(on, key), key, bytes, work).await
    }

    /// `bytes`: the length of the body, as far as it is known before.
    async fn with<T>(
        &self,
        drawn: Option<Fault>,
        key: &Path,
        bytes: u64,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let refused = || Error::AlreadyExists { path: key.to_string(), source: "injected fault: undecided".into() };
        let denied = || Error::PermissionDenied { path: key.to_string(), source: "injected fault: denied".into() };
        match drawn {
            None => work.await,
            Some(Fault::Before) => Err(fault("not done")),
            Some(Fault::After) => {
                work.await?;
                Err(fault("done, answer lost"))
            }
            Some(Fault::Denied) => Err(denied()),
            Some(Fault::Undecided) => Err(refused()),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::Slow(bytes_per_second)) => {
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)).await;
                work.await
            }
            Some(Fault::Stall) => std::future::pending().await,
        }
    }
}

/// The object, of which the second half never comes.
async fn stalled(found: GetResult) -> Result<GetResult> {
    let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
    let extensions = found.extensions.clone();
    let whole = found.bytes().await?;
    let half = whole.slice(..whole.len() / 2);
    let body = futures::stream::iter([Ok(half)]).chain(futures::stream::pending()).boxed();
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
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
        let bytes = payload.content_length() as u64;
        let _on_its_way = self.set_off(bytes);
        let put = async {
            self.puts.fetch_add(1, Ordering::SeqCst);
            self.inner.put_opts(location, payload, opts).await
        };
        self.around(On::Put, location, bytes, put).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.around(On::Put, location, 0, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.draw(On::Get, location) {
            Some(Fault::Stall) => stalled(self.inner.get_opts(location, options).await?).await,
            drawn => self.with(drawn, location, 0, self.inner.get_opts(location, options)).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around(On::Get, location, 0, self.inner.get_ranges(location, ranges)).await
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
        self.around(On::Get, &prefix_path, 0, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(On::Put, to, 0, self.inner.copy_opts(from, to, options)).await
    }
}
