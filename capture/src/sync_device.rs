//! A device over anything with blocking reads and writes, such as a recovery point's view: each request is a call on one of
//! the engine's helper threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use farshore_changelog::units::ByteRange;
use slab::Slab;

use crate::device::{Answer, Device, DeviceInfo, DeviceTokens, Extent, Finished, Payload, Request, RequestId};
use crate::engine::{Call, Completion, Engine, Io, Piece, Pieces};
use crate::range_lock::{RangeLock, Ticket};

/// Longest request, in bytes: what a client may assume that did not ask.
pub const REQUEST_MAX_BYTES: u32 = crate::nbd::consts::DEFAULT_MAX_PAYLOAD_BYTES;
/// Most bytes of payload of writes that have not ended; a further write waits, unless it is alone.
pub const PAYLOAD_MAX_BYTES: u64 = 64 << 20;

/// Something with blocking reads and writes. Calls come from several threads at once; overlapping changes never do.
pub trait Blocking: Send + Sync + 'static {
    /// Size in bytes; it does not change.
    fn size(&self) -> u64;

    /// Refuses every change.
    fn read_only(&self) -> bool {
        false
    }

    /// Smallest request that is served efficiently, in bytes.
    fn preferred_block_bytes(&self) -> u32 {
        4096
    }

    /// Whether [`Blocking::zero_at`] is quicker than writing zeroes.
    fn fast_zero(&self) -> bool {
        false
    }

    /// Fills `buf` from `offset`, the whole of it.
    ///
    /// # Errors
    /// When any byte could not be read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `data` at `offset`, the whole of it.
    ///
    /// # Errors
    /// When any byte could not be written; some may have been.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes `len` bytes at `offset` read as zeroes; with `no_hole` they stay allocated.
    ///
    /// # Errors
    /// When it could not be done; part of the range may have changed.
    fn zero_at(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()>;

    /// Gives up `len` bytes at `offset`, which may read as anything afterwards.
    ///
    /// # Errors
    /// When it could not be done.
    fn trim_at(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes every change durable that returned before.
    ///
    /// # Errors
    /// When that is not certain.
    fn flush(&self) -> io::Result<()>;

    /// What is allocated from `offset` on: extents that add up to `len` bytes or less, at least one.
    ///
    /// # Errors
    /// When it could not be found out.
    fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>>;
}

/// A request that has not ended.
struct Job {
    id: RequestId,
    ticket: Option<Ticket>,
    /// What to do once the range is held.
    call: Option<Call>,
    /// Where the call puts its extents.
    extents: Option<Receiver<Vec<Extent>>>,
    payload_bytes: u64,
    reads: bool,
}

/// The device.
pub struct SyncDevice<T> {
    inner: Arc<T>,
    info: DeviceInfo,
    tokens: DeviceTokens,
    jobs: Slab<Job>,
    /// Held, or waited for, by a job.
    lock: RangeLock<usize>,
    /// Payload handed out and not written yet, in bytes.
    payload_bytes: u64,
}

impl<T: Blocking> SyncDevice<T> {
    /// A device named `name` over `inner`; `owner` is its place on its lane.
    #[must_use]
    pub fn new(name: String, owner: u32, inner: Arc<T>) -> Self {
        let info = DeviceInfo {
            name,
            size_bytes: inner.size(),
            preferred_block_bytes: inner.preferred_block_bytes(),
            max_request_bytes: REQUEST_MAX_BYTES,
            read_only: inner.read_only(),
            fast_zero: inner.fast_zero(),
        };
        Self {
            inner,
            info,
            tokens: DeviceTokens { owner },
            jobs: Slab::new(),
            lock: RangeLock::default(),
            payload_bytes: 0,
        }
    }

    /// The call that does `request`.
    fn call(&self, request: Request, payload: Option<Payload>, job: &mut Job) -> Call {
        let inner = Arc::clone(&self.inner);
        match request {
            Request::Read { offset, len } => Box::new(move || {
                // Allocated here, so that requests which wait for a thread hold no memory.
                let mut piece = Piece::heap(len as usize);
                (inner.read_at(piece.as_mut_slice(), offset).map(|()| u64::from(len)), [piece].into())
            }),
            Request::Write { offset, fua, .. } => {
                let pieces = payload.map_or_else(Pieces::new, |p| p.pieces);
                plain(move || {
                    let mut at = offset;
                    for piece in &pieces {
                        inner.write_at(piece.as_slice(), at)?;
                        at += piece.len() as u64;
                    }
                    if fua { inner.flush() } else { Ok(()) }
                })
            }
            Request::WriteZeroes { offset, len, fua, no_hole, .. } => plain(move || {
                inner.zero_at(offset, len, no_hole)?;
                if fua { inner.flush() } else { Ok(()) }
            }),
            Request::Trim { offset, len, fua } => plain(move || {
                inner.trim_at(offset, len)?;
                if fua { inner.flush() } else { Ok(()) }
            }),
            Request::Flush => plain(move || inner.flush()),
            // Nothing to warm up: the page cache does it by itself.
            Request::Cache { .. } => plain(|| Ok(())),
            Request::BlockStatus { offset, len, .. } => {
                let (report, extents) = bounded(1);
                job.extents = Some(extents);
                plain(move || {
                    let found = inner.extents(offset, len)?;
                    // The job waits for this call; it cannot be gone.
                    let _ = report.send(found);
                    Ok(())
                })
            }
        }
    }
}

fn plain(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Call {
    Box::new(move || (work().map(|()| 0), Pieces::new()))
}

/// The bytes that a request changes.
fn changes(request: &Request) -> Option<ByteRange> {
    match *request {
        Request::Write { offset, len, .. } => ByteRange::at(offset, u64::from(len)),
        Request::WriteZeroes { offset, len, .. } | Request::Trim { offset, len, .. } => ByteRange::at(offset, len),
        Request::Read { .. } | Request::Flush | Request::Cache { .. } | Request::BlockStatus { .. } => None,
    }
}

impl<T: Blocking> Device for SyncDevice<T> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn payload(&mut self, _offset: u64, len: u32) -> Option<Payload> {
        let wanted = self.payload_bytes + u64::from(len);
        if self.payload_bytes > 0 && wanted > PAYLOAD_MAX_BYTES {
            return None;
        }
        self.payload_bytes = wanted;
        Some(Payload { pieces: [Piece::heap(len as usize)].into() })
    }

    fn give_back(&mut self, payload: Payload) {
        self.payload_bytes -= bytes(&payload);
    }

    fn submit(
        &mut self,
        engine: &mut dyn Engine,
        id: RequestId,
        request: Request,
        payload: Option<Payload>,
        _finished: &mut Vec<Finished>,
    ) {
        let payload_bytes = payload.as_ref().map_or(0, bytes);
        let reads = matches!(request, Request::Read { .. });
        let mut job = Job { id, ticket: None, call: None, extents: None, payload_bytes, reads };
        let call = self.call(request, payload, &mut job);
        let key = self.jobs.insert(job);
        let held = changes(&request).is_none_or(|range| {
            let (ticket, held) = self.lock.request(range, key);
            self.jobs[key].ticket = Some(ticket);
            held
        });
        if held {
            engine.push(self.tokens.token(key as u32), Io::Call(call));
        } else {
            self.jobs[key].call = Some(call);
        }
    }

    fn completed(&mut self, engine: &mut dyn Engine, completion: Completion, finished: &mut Vec<Finished>) {
        let (_, key) = DeviceTokens::split(completion.token);
        let job = self.jobs.remove(key as usize);
        self.payload_bytes -= job.payload_bytes;
        if let Some(ticket) = job.ticket {
            for key in self.lock.release(ticket) {
                if let Some(call) = self.jobs[key].call.take() {
                    engine.push(self.tokens.token(key as u32), Io::Call(call));
                }
            }
        }
        let answer = |_| match job.extents.and_then(|found| found.try_recv().ok()) {
            Some(extents) => Answer::Extents(extents),
            None if job.reads => Answer::Data(completion.pieces),
            None => Answer::Done,
        };
        finished.push(Finished { id: job.id, result: completion.result.map(answer) });
    }

    fn tick(&mut self, _engine: &mut dyn Engine, _finished: &mut Vec<Finished>) -> Option<Duration> {
        None
    }

    fn busy(&self) -> usize {
        self.jobs.len()
    }
}

fn bytes(payload: &Payload) -> u64 {
    payload.pieces.iter().map(|p| p.len() as u64).sum()
}
