//! A store double for tests of every stage: an operation fails before it is done, is done and its answer is lost, takes its
//! time, or never ends. The second is the one that protocols forget.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::cloud::http::Special;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done and fails.
    Before,
    /// It is done, and fails all the same: the answer was lost.
    After,
    /// It is done, later.
    Delay(Duration),
    /// It is not done: fewer requests are wanted.
    Throttled,
    /// It is not done: these credentials may not.
    Denied,
    /// A put is not done, and is refused as if something were there: S3's 409 says that another put of the key was at work, not
    /// that it has succeeded.
    Undecided,
    /// It is done, at this many bytes a second.
    Slow(u64),
    /// It stops in the middle of the body for ever: a put is not done, of a get the first half comes.
    Stall,
    /// The connection breaks in the middle of the body: a put is not done, of a get the first half comes.
    Reset,
}

/// Which operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Puts.
    Put,
    /// Gets.
    Get,
    /// Deletes.
    Delete,
    /// Listings; the key is the prefix.
    List,
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
    rules: Arc<Rules>,
    puts: AtomicU64,
    /// Bytes of the bodies of puts that have not ended, and the most there were.
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

/// What is to go wrong, apart from the store: a stream of deletes outlives the borrow of it.
#[derive(Debug, Default)]
struct Rules {
    list: Mutex<VecDeque<Rule>>,
    down: AtomicBool,
}

impl Rules {
    fn list(&self) -> MutexGuard<'_, VecDeque<Rule>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, on: On, key: &Path) -> Option<Fault> {
        if self.down.load(Ordering::SeqCst) {
            return Some(Fault::Before);
        }
        let mut list = self.list();
        let hit = list.iter_mut().find(|r| r.on == on && r.times > 0 && key.as_ref().contains(&r.key_part))?;
        hit.times -= 1;
        Some(hit.fault)
    }
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
            rules: Arc::default(),
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
        self.rules.list().push_back(rule);
    }

    /// Forgets what was injected and not met yet.
    pub fn forget(&self) {
        self.rules.list().clear();
    }

    /// While it is down every operation fails before it is done.
    pub fn set_down(&self, down: bool) {
        self.rules.down.store(down, Ordering::SeqCst);
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

    async fn around<T>(&self, on: On, key: &Path, bytes: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
        meet(self.rules.draw(on, key), key, bytes, work).await
    }
}

/// Does `work`, or what the fault says. `bytes`: the length of the body, as far as it is known before.
async fn meet<T>(drawn: Option<Fault>, key: &Path, bytes: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
    let refused = || Error::AlreadyExists { path: key.to_string(), source: "injected fault: undecided".into() };
    let denied = || Error::PermissionDenied { path: key.to_string(), source: "injected fault: denied".into() };
    match drawn {
        None => work.await,
        Some(Fault::Before) => Err(fault("not done")),
        Some(Fault::Reset) => Err(fault("connection reset in the middle of the body")),
        Some(Fault::After) => {
            work.await?;
            Err(fault("done, answer lost"))
        }
        Some(Fault::Throttled) => Err(throttled()),
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

/// The object, of which `rest` comes instead of the second half.
async fn half(found: GetResult, rest: BoxStream<'static, Result<Bytes>>) -> Result<GetResult> {
    let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
    let extensions = found.extensions.clone();
    let whole = found.bytes().await?;
    let half = whole.slice(..whole.len() / 2);
    let body = futures::stream::iter([Ok(half)]).chain(rest).boxed();
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
}

/// A stream that breaks.
fn failed<T: Send + 'static>() -> BoxStream<'static, Result<T>> {
    futures::stream::iter([Err(fault("connection reset"))]).boxed()
}

fn throttled() -> Error {
    Error::Generic { store: "FaultStore", source: Box::new(Special::Throttled { status: 503 }) }
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
        match self.rules.draw(On::Get, location) {
            Some(Fault::Stall) => {
                half(self.inner.get_opts(location, options).await?, futures::stream::pending().boxed()).await
            }
            Some(Fault::Reset) => half(self.inner.get_opts(location, options).await?, failed()).await,
            drawn => meet(drawn, location, 0, self.inner.get_opts(location, options)).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around(On::Get, location, 0, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (rules, inner) = (Arc::clone(&self.rules), Arc::clone(&self.inner));
        let delete = move |location: Result<Path>| {
            let (rules, inner) = (Arc::clone(&rules), Arc::clone(&inner));
            async move {
                let location = location?;
                meet(rules.draw(On::Delete, &location), &location, 0, inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.rules.draw(On::List, prefix.unwrap_or(&Path::default())) {
            None | Some(Fault::Delay(_) | Fault::Slow(_)) => self.inner.list(prefix),
            // Every listing ends in an answer, and that is what fails.
            Some(Fault::After | Fault::Reset) => self.inner.list(prefix).chain(failed()).boxed(),
            Some(Fault::Before | Fault::Throttled | Fault::Denied | Fault::Undecided) => failed(),
            Some(Fault::Stall) => futures::stream::pending().boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix_path = prefix.cloned().unwrap_or_default();
        self.around(On::Get, &prefix_path, 0, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(On::Put, to, 0, self.inner.copy_opts(from, to, options)).await
    }
}
