//! The captured device: every change of the source disk becomes a record of the ring, from the same memory.
//!
//! A change takes its steps in this order, and each waits for nothing that a later one holds, so nothing can deadlock:
//!
//! 1. memory: ring slots (`payload`, before a write's bytes are received; `submit` for zeroes), all or none
//! 2. the range lock over the whole pages it touches
//! 3. the edges: blocks that it changes only in part are read, so that the payload becomes whole
//! 4. its regions' bits in the dirty map, durable (G5)
//! 5. its place in the order: the seqs, consecutive (G2)
//! 6. the disk, from the slots; a part that fails is read back into its slot (G3)
//! 7. commit, release of the lock, and with FUA an fdatasync; then the answer
//!
//! Where the log has had no room for too long (G6) the same steps run on heap memory: step 4 notes the regions as lost too, and
//! steps 5 and 7 leave no record. Without a log (a group that is not set up yet), or once another writer has the group (G10),
//! step 4 falls away as well: a fenced source keeps serving its disk.
//!
//! - [`request`]: requests checked and sent on their ways
//! - [`plan`]: what a change becomes on whole blocks; pure
//! - [`log`]: the lane's producer
//! - [`change`]: steps 2 to 7
//! - [`flush`]: fdatasync, shared by all who wait for one; its first failure latches
//! - [`dirty`]: the bits of the regions, and who waits for them; [`ahead`]: how many at once, pure; [`lost`]: regions on their way out of the log and back
//! - [`copy`]: lost regions read back into the log; [`known`]: what the target has already
//! - [`digest`]: the hashes of the whole disk, as records of the log
//! - [`mark`]: marks, through any tap of the lane
//! - [`state`]: what others may know

mod ahead;
mod change;
mod copy;
mod digest;
mod dirty;
mod flush;
mod known;
mod log;
mod lost;
mod mark;
mod plan;
mod read;
mod request;
mod state;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore_changelog::ids::DiskIndex;
use farshore_changelog::units::ByteRange;
use slab::Slab;
use smallvec::SmallVec;

use crate::device::{Answer, Device, DeviceInfo, DeviceTokens, Finished, Payload, Request, RequestId, TICK};
use crate::disk::SourceDisk;
use crate::engine::spare::Spares;
use crate::engine::{Completion, Engine, HeapBuf, Io, IoBuf, Piece, Pieces};
use crate::range_lock::{RangeLock, Ticket};

use change::Change;
use digest::Digests;
use flush::Flushes;
use plan::Plan;
use read::{Query, Reading};
use request::wanted;

pub use copy::CopyMode;
pub use known::{Known, WAIT as HASHES_WAIT, WAIT_FROM_BYTES as HASHES_WAIT_FROM_BYTES};
pub use log::{LaneLog, MarkError};
pub use lost::Repair;
pub use state::{DiskState, DiskStatus};

/// Largest request, in bytes; less where the lane is small (a quarter of its payload).
pub const REQUEST_MAX_BYTES: u32 = 32 << 20;
/// The block size that clients are told to prefer, in bytes: a page of their file systems.
const PREFERRED_BLOCK_BYTES: u32 = 4096;
/// The unit of range locks, in bytes: a page. Where the disk's blocks are smaller, a file system still zeroes the parts of a page
/// through its page cache, beside direct writes to the other parts; those are not left to race.
const LOCK_UNIT_BYTES: u64 = 4096;
/// Pause before the ring is asked for room again; the shipper cannot wake us.
const ROOM_RETRY: Duration = Duration::from_millis(2);

/// What a tap is made of.
pub struct TapSetup {
    /// The disk, open and locked.
    pub disk: SourceDisk,
    /// Its place in the ring's disk table.
    pub index: DiskIndex,
    /// Whose tokens it uses on its lane.
    pub tokens: DeviceTokens,
    /// Its lane's log; `None`: nothing is logged.
    pub log: Option<Rc<RefCell<LaneLog>>>,
    /// Its dirty map, and what to do about lost regions; `None` without a log.
    pub repair: Option<Repair>,
    /// Where it says how it is.
    pub state: Arc<DiskState>,
}

/// The captured device. It lives on one lane thread.
pub struct Tap {
    info: DeviceInfo,
    disk: SourceDisk,
    block_bytes: u64,
    index: DiskIndex,
    tokens: DeviceTokens,
    log: Option<Rc<RefCell<LaneLog>>>,
    repair: Option<Repair>,
    state: Arc<DiskState>,
    lock: RangeLock<Holder>,
    pending: Slab<Pending>,
    changes: Slab<Change>,
    reads: Slab<Reading>,
    /// Memory of reads that are over, for the next ones.
    spares: Spares,
    /// Requests that found no room in the ring, in their order.
    waiting: VecDeque<Waiting>,
    flushes: Flushes,
    digests: Option<Digests>,
    stopping: bool,
}

/// Who holds a range, or waits for it.
#[derive(Debug, Clone, Copy)]
enum Holder {
    Change(usize),
    Copy(usize),
    Digest,
}

/// The memory of a change's parts; zeroes that are not logged have none.
type Memory = SmallVec<[Option<IoBuf>; 1]>;

/// What an operation in flight is for; its key is the token.
enum Pending {
    Edge { change: usize, edge: usize },
    Part { change: usize, part: usize },
    Reread { change: usize, part: usize },
    Read { reading: usize },
    Query(Query),
    Sync,
    Map,
    Copy { copy: usize },
    Digest,
}

/// A request that needs a slot.
enum Waiting {
    Flush { id: RequestId },
    Zeroes { id: RequestId, plan: Plan, fua: bool },
}

/// The engine to push to and the list of answers, for one call.
struct Cx<'a> {
    engine: &'a mut dyn Engine,
    finished: &'a mut Vec<Finished>,
}

impl Cx<'_> {
    fn answer(&mut self, id: RequestId, result: io::Result<Answer>) {
        self.finished.push(Finished { id, result });
    }
}

/// An error as the system would give it.
fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Tap {
    /// Puts a tap on a disk.
    #[must_use]
    pub fn new(setup: TapSetup) -> Self {
        let TapSetup { disk, index, tokens, log, repair, state } = setup;
        let quarter = log.as_ref().map_or(u64::MAX, |log| log.borrow().payload_capacity() / 4);
        let info = DeviceInfo {
            name: disk.name().as_str().to_owned(),
            size_bytes: disk.size_bytes(),
            preferred_block_bytes: PREFERRED_BLOCK_BYTES,
            max_request_bytes: u32::try_from(quarter).unwrap_or(u32::MAX).min(REQUEST_MAX_BYTES),
            read_only: false,
            fast_zero: disk.punches_holes(),
        };
        let tap = Self {
            info,
            block_bytes: u64::from(disk.block_bytes()),
            disk,
            index,
            tokens,
            log,
            repair,
            state,
            lock: RangeLock::default(),
            pending: Slab::new(),
            changes: Slab::new(),
            reads: Slab::new(),
            spares: Spares::default(),
            waiting: VecDeque::new(),
            flushes: Flushes::default(),
            digests: None,
            stopping: false,
        };
        tap.tell_lost();
        tap
    }

    /// The log, as long as operations go into it.
    fn logging(&self) -> Option<&Rc<RefCell<LaneLog>>> {
        self.log.as_ref().filter(|log| !log.borrow().fenced())
    }

    /// What the disk or its map holds is not known any more: whoever takes the ring over must not go on with it.
    fn distrust(&self) {
        if let Some(log) = &self.log {
            log.borrow().ring().distrust();
        }
    }

    /// The log, as long as it has room.
    fn roomy_log(&self) -> Option<&Rc<RefCell<LaneLog>>> {
        let overflow = self.repair.as_ref().is_some_and(|repair| repair.progress.in_overflow());
        self.logging().filter(|_| !overflow)
    }

    /// Pushes an operation.
    fn push(&mut self, cx: &mut Cx<'_>, pending: Pending, io: Io) {
        let key = self.pending.insert(pending);
        // Operations in flight are bounded by requests in flight, far below 2^32.
        cx.engine.push(self.tokens.token(key as u32), io);
    }

    /// Memory for the parts of a change; `None` when the ring has no room for all of them now.
    fn memory(&self, plan: &Plan) -> Option<Memory> {
        let Some(log) = self.roomy_log() else {
            let heap = |bytes: u32| (bytes > 0).then(|| IoBuf::Heap(HeapBuf::new(bytes as usize)));
            return Some(plan.parts.iter().map(|part| heap(part.payload_bytes())).collect());
        };
        let slots = log.borrow_mut().reserve(plan.parts.iter().map(plan::Part::payload_bytes))?;
        Some(slots.into_iter().map(|slot| Some(IoBuf::Slot(slot))).collect())
    }

    /// Keeps the memory of a read that is over.
    fn keep_spare(&mut self, piece: Piece) {
        if let IoBuf::Heap(buf) = piece.buf {
            self.spares.keep(buf);
        }
    }

    /// Asks for a range, for `holder`; whether it is held at once.
    fn take_range(&mut self, range: ByteRange, holder: Holder) -> (Ticket, bool) {
        self.lock.request(range.grow_to(LOCK_UNIT_BYTES), holder)
    }

    /// Releases a range and starts those who waited for it.
    fn release_range(&mut self, cx: &mut Cx<'_>, ticket: Ticket) {
        for holder in self.lock.release(ticket) {
            match holder {
                Holder::Change(change) => self.begin_change(cx, change),
                Holder::Copy(copy) => self.begin_copy(cx, copy),
                Holder::Digest => self.begin_digest(cx),
            }
        }
    }

    /// Starts what waits for room in the ring, as far as there is some now.
    fn retry_waiting(&mut self, cx: &mut Cx<'_>) {
        while let Some(next) = self.waiting.pop_front() {
            let kept = match next {
                Waiting::Flush { id } => self.try_flush(cx, id),
                Waiting::Zeroes { id, plan, fua } => self.try_zeroes(cx, id, plan, fua),
            };
            if let Some(kept) = kept {
                self.waiting.push_front(kept);
                return;
            }
        }
    }

    fn wait_for_room(&mut self, cx: &mut Cx<'_>, request: Waiting) {
        self.waiting.push_back(request);
        self.retry_waiting(cx);
    }

    fn short_of_room(&self) -> bool {
        !self.waiting.is_empty() || self.roomy_log().is_some_and(|log| log.borrow().short_of_room())
    }

    /// When requests have waited for room for too long, the group goes on without the log.
    fn watch_room(&self) {
        let (Some(repair), Some(log)) = (&self.repair, self.logging()) else { return };
        let mut log = log.borrow_mut();
        if repair.progress.in_overflow() {
            log.forget_refused();
        } else if log.refused_for() >= repair.progress.rules().wait(log.ring(), self.stopping) {
            repair.progress.enter_overflow(&mut log);
        }
    }
}

impl Device for Tap {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn payload(&mut self, offset: u64, len: u32) -> Option<Payload> {
        let range = ByteRange::at(offset, len.into())?;
        if range.is_empty() {
            return Some(Payload { pieces: Pieces::new() });
        }
        let plan = plan::write(range, self.block_bytes);
        let memory = self.memory(&plan)?;
        let piece = |(part, buf): (&plan::Part, Option<IoBuf>)| Some(Piece { buf: buf?, range: wanted(part)? });
        Some(Payload { pieces: plan.parts.iter().zip(memory).filter_map(piece).collect() })
    }

    fn give_back(&mut self, payload: Payload) {
        drop(payload); // a slot without a seq gives itself back
    }

    fn sent(&mut self, data: Piece) {
        self.keep_spare(data);
    }

    fn submit(
        &mut self,
        engine: &mut dyn Engine,
        id: RequestId,
        request: Request,
        payload: Option<Payload>,
        finished: &mut Vec<Finished>,
    ) {
        self.start(&mut Cx { engine, finished }, id, request, payload);
    }

    fn completed(&mut self, engine: &mut dyn Engine, completion: Completion, finished: &mut Vec<Finished>) {
        let cx = &mut Cx { engine, finished };
        let (_, own) = DeviceTokens::split(completion.token);
        match self.pending.remove(own as usize) {
            Pending::Edge { change, edge } => self.edge_read(cx, change, edge, completion),
            Pending::Part { change, part } => self.part_done(cx, change, part, completion),
            Pending::Reread { change, part } => self.part_reread(cx, change, part, completion),
            Pending::Read { reading } => self.read_done(cx, reading, completion),
            Pending::Query(query) => query.done(cx, completion.result),
            Pending::Sync => self.synced(cx, completion.result),
            Pending::Map => self.map_committed(cx, completion.result),
            Pending::Copy { copy } => self.copy_read(cx, copy, completion),
            Pending::Digest => self.digest_read(cx, completion),
        }
        self.retry_waiting(cx);
        self.pump_copies(cx);
        self.pump_digests(cx);
    }

    fn tick(&mut self, engine: &mut dyn Engine, finished: &mut Vec<Finished>) -> Option<Duration> {
        let cx = &mut Cx { engine, finished };
        self.watch_room();
        self.retry_waiting(cx);
        let due = [self.tend_repair(cx), self.pump_digests(cx)].into_iter().flatten().min();
        let short = self.short_of_room();
        self.state.short_of_room.store(short, Relaxed);
        let due = if short { Some(ROOM_RETRY) } else { due };
        due.map(|due| due.min(TICK))
    }

    fn waits_for_room(&self) -> bool {
        self.short_of_room()
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn busy(&self) -> usize {
        self.pending.len() + self.changes.len() + self.waiting.len() + self.copies() + self.digests_busy()
    }
}
