//! The simulated store: objects in memory, behind a network that fails before and after, loses answers, is slow or away for one
//! side, and brings a put later than whoever asked for it lives.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::medium::{Death, Died, Process};
use crate::rng::Rng;

/// Whose requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// How the store behaves: of so many requests one; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreFaults {
    pub fails_before: u64,
    pub answer_lost: u64,
    /// A put is refused, and the key is free.
    pub undecided: u64,
    /// A body comes to an end too early, or stands still.
    pub body_breaks: u64,
    /// The longest delay of a request, in microseconds.
    pub slow_micros: u64,
}

/// A put that the network has.
struct UnderWay {
    id: u64,
    key: Path,
    bytes: PutPayload,
    opts: PutOptions,
    /// Gone when nobody waits for it any more.
    waiter: Weak<()>,
    landed: Option<Result<PutResult>>,
}

struct Inner {
    rng: Rng,
    faults: StoreFaults,
    away: [bool; 2],
    /// The source may do no more than it must.
    least_privilege: bool,
    under_way: Vec<UnderWay>,
    next: u64,
    notes: Vec<String>,
    /// The processor ends at this request from now.
    processor_dies_at: Option<u64>,
}

/// What both sides' stores are views of.
pub struct SimStore {
    objects: InMemory,
    inner: Mutex<Inner>,
}

impl SimStore {
    pub fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            rng: Rng::new(seed, 4),
            faults: StoreFaults::default(),
            away: [false; 2],
            least_privilege: false,
            under_way: Vec::new(),
            next: 0,
            notes: Vec::new(),
            processor_dies_at: None,
        };
        Arc::new(Self { objects: InMemory::new(), inner: Mutex::new(inner) })
    }

    /// The store as `side` sees it.
    pub fn side(self: &Arc<Self>, side: Side) -> Arc<dyn ObjectStore> {
        Arc::new(SideStore { side, shared: Arc::clone(self) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_faults(&self, faults: StoreFaults) {
        self.inner().faults = faults;
    }

    pub fn set_away(&self, side: Side, away: bool) {
        self.inner().away[side as usize] = away;
    }

    pub fn set_least_privilege(&self, least: bool) {
        self.inner().least_privilege = least;
    }

    pub fn kill_processor_after(&self, requests: Option<u64>) {
        self.inner().processor_dies_at = requests;
    }

    /// What happened since the last call.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().notes)
    }

    /// Every object below `prefix`, without any fault.
    pub fn below(&self, prefix: &Path) -> Vec<(Path, Bytes)> {
        let mut keys: Vec<Path> = self
            .objects
            .list(Some(prefix))
            .filter_map(async |meta| meta.ok().map(|m| m.location))
            .collect()
            .now_or_never()
            .expect("memory answers at once");
        keys.sort();
        keys.into_iter().filter_map(|key| self.object(&key).map(|bytes| (key, bytes))).collect()
    }

    /// One object, without any fault.
    pub fn object(&self, key: &Path) -> Option<Bytes> {
        let get = async { self.objects.get(key).await.ok()?.bytes().await.ok() };
        get.now_or_never().expect("memory answers at once")
    }

    /// Puts `bytes` in place of what lies under `key`: the store has rotted, or somebody has changed it.
    pub fn spoil(&self, key: &Path, bytes: Option<Bytes>) {
        let spoiled = async {
            match bytes {
                Some(bytes) => self.objects.put(key, PutPayload::from_bytes(bytes)).await.map(drop),
                None => self.objects.delete(key).await,
            }
        };
        spoiled.now_or_never().expect("memory answers at once").expect("memory takes it");
    }

    /// A put reaches the store.
    fn land(&self, put: &mut UnderWay) {
        if put.landed.is_none() {
            let done = self.objects.put_opts(&put.key, put.bytes.clone(), put.opts.clone());
            put.landed = Some(done.now_or_never().expect("memory answers at once"));
        }
    }

    /// Before a request looks, some puts under way land; those that nobody waits for land or are lost.
    fn observe(&self) {
        let mut inner = self.inner();
        let mut under_way = std::mem::take(&mut inner.under_way);
        under_way.retain_mut(|put| {
            let orphan = put.waiter.strong_count() == 0;
            match inner.rng.below(if orphan { 6 } else { 3 }) {
                0 => {
                    if orphan {
                        inner.notes.push(format!("a late put lands: {}", put.key));
                    }
                    self.land(put);
                    !orphan
                }
                1 if orphan => false,
                _ => true,
            }
        });
        inner.under_way = under_way;
    }

    /// Whether a request fails at once: its side is away, or its process ends here.
    fn arrive(&self, side: Side, what: &str, key: &Path) -> Result<(), Error> {
        let mut inner = self.inner();
        inner.notes.push(format!("{side:?} {what} {key}"));
        if let (Side::Target, Some(left)) = (side, &mut inner.processor_dies_at) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                inner.processor_dies_at = None;
                drop(inner);
                std::panic::resume_unwind(Box::new(Died { process: Process::Processor, death: Death::Kill }));
            }
        }
        if inner.away[side as usize] {
            return Err(failed("the network is away"));
        }
        let key = key.as_ref();
        let may = what == "puts" || (what == "gets" && (key.contains("/to-source/") || !key.starts_with("groups/")));
        if side == Side::Source && inner.least_privilege && !may {
            let source = "the credentials do not allow it".into();
            return Err(Error::PermissionDenied { path: key.to_owned(), source });
        }
        Ok(())
    }

    fn draw(&self, faults: impl FnOnce(&StoreFaults) -> u64) -> bool {
        let mut inner = self.inner();
        let n = faults(&inner.faults);
        n > 0 && inner.rng.one_in(n)
    }

    /// A part of the way to the store or back.
    async fn travel(&self) {
        let time = {
            let mut inner = self.inner();
            let longest = inner.faults.slow_micros;
            let fast = longest == 0 || !inner.rng.one_in(4);
            if fast { inner.rng.micros(100, 3_000) } else { inner.rng.micros(1_000, longest.max(1_000)) }
        };
        tokio::time::sleep(time).await;
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "SimStore", source: what.to_owned().into() }
}

/// One side's view.
struct SideStore {
    side: Side,
    shared: Arc<SimStore>,
}

impl fmt::Debug for SideStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStore({:?})", self.side)
    }
}

impl fmt::Display for SideStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl SideStore {
    /// A request's way to the store: it may not come there.
    async fn reach(&self, what: &str, key: &Path) -> Result<()> {
        let arrived = self.shared.arrive(self.side, what, key);
        self.shared.travel().await;
        arrived?;
        if self.shared.draw(|f| f.fails_before) {
            return Err(failed("it did not come there"));
        }
        self.shared.observe();
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for SideStore {
    async fn put_opts(&self, key: &Path, bytes: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let shared = &self.shared;
        self.reach("puts", key).await?;
        if shared.draw(|f| f.undecided) {
            let source = "a conditional request was under way for the key".into();
            return Err(Error::Precondition { path: key.to_string(), source });
        }
        let waits = Arc::new(());
        let id = {
            let mut inner = shared.inner();
            inner.next += 1;
            let (id, waiter) = (inner.next, Arc::downgrade(&waits));
            inner.under_way.push(UnderWay { id, key: key.clone(), bytes, opts, waiter, landed: None });
            id
        };
        shared.travel().await;
        let mut put = {
            let mut inner = shared.inner();
            let at = inner.under_way.iter().position(|put| put.id == id).expect("somebody waits for it");
            inner.under_way.swap_remove(at)
        };
        shared.land(&mut put);
        shared.travel().await;
        if shared.draw(|f| f.answer_lost) {
            return Err(failed("it was done, and the answer was lost"));
        }
        put.landed.expect("it has landed")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "SimStore".into() })
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.reach("gets", key).await?;
        let found = self.shared.objects.get_opts(key, options).await;
        self.shared.travel().await;
        if self.shared.draw(|f| f.answer_lost) {
            return Err(failed("the answer was lost"));
        }
        let found = found?;
        let GetResult { meta, range, attributes, extensions, .. } = &found;
        let (meta, range, attributes, extensions) =
            (meta.clone(), range.clone(), attributes.clone(), extensions.clone());
        let bytes = found.bytes().await?;
        let half = bytes.slice(..bytes.len() / 2);
        let shared = Arc::clone(&self.shared);
        let body = if self.shared.draw(|f| f.body_breaks) {
            let stalls = self.shared.inner().rng.one_in(2);
            let rest = async move {
                if stalls {
                    tokio::time::sleep(Duration::from_secs(100_000)).await;
                }
                Err(failed("the connection was reset in the middle of a body"))
            };
            futures::stream::iter([Ok(half)]).chain(rest.into_stream()).boxed()
        } else {
            let whole = async move {
                shared.travel().await;
                Ok(bytes)
            };
            whole.into_stream().boxed()
        };
        Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (shared, side) = (Arc::clone(&self.shared), self.side);
        keys.then(move |key| {
            let shared = Arc::clone(&shared);
            async move {
                let key = key?;
                let this = SideStore { side, shared };
                this.reach("deletes", &key).await?;
                this.shared.objects.delete(&key).await?;
                if this.shared.draw(|f| f.answer_lost) {
                    return Err(failed("the answer was lost"));
                }
                Ok(key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (shared, side, prefix) = (Arc::clone(&self.shared), self.side, prefix.cloned());
        let listed = async move {
            let this = SideStore { side, shared };
            if let Err(e) = this.reach("lists", &prefix.clone().unwrap_or_default()).await {
                return futures::stream::iter(vec![Err(e)]);
            }
            let mut found: Vec<_> = this.shared.objects.list(prefix.as_ref()).collect().await;
            this.shared.inner().rng.shuffle(&mut found);
            if this.shared.draw(|f| f.body_breaks) {
                found.truncate(found.len() / 2);
                found.push(Err(failed("the connection was reset in the middle of a listing")));
            }
            futures::stream::iter(found)
        };
        listed.into_stream().flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reach("lists", &prefix.cloned().unwrap_or_default()).await?;
        self.shared.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "SimStore".into() })
    }
}
