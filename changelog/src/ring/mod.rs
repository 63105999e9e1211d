//! The ring: the hot end of the change log, in shared memory between capture and shipper. Layout: `docs/format.md` "Ring".
//!
//! - [`Ring`]: the file, made or opened, and the words of its header
//! - [`Producer`] and [`Slot`]: the writing end of one lane, and a reserved slot of it
//! - [`Consumer`] and [`Taken`]: the reading end, which merges the lanes by seq
//! - [`RecoveryReport`]: what a takeover did with the slots that a dead process left
//!
//! Inside: `layout` (offsets), `header` (proof of the header page), `mapping` (the memory; the only pointers), `descriptor`
//! (proof of a slot), `recovery` (the table), `takeover` (its application), `doorbell` and the
//! `futex` under it, `sync` (which atomics), `proof` (the memory order, tried by a model checker).
//!
//! # Memory order
//!
//! A lane has one producer, which alone stores its `head`, `tail` and payload counters; the group has one consumer. What
//! one side must see of the other hangs on six pairs of a Release store and an Acquire load:
//!
//! 1. `head` is stored after the slot's `seq` = 0, number and state; so whoever sees the head sees no earlier life of the
//!    slots below it.
//! 2. `seq` is stored after all of the descriptor and after the payload; so whoever reads it (not zero) can check that the
//!    slot's number is still the one meant. A slot with a seq is freed only after this consumer, or recovery, has settled it.
//! 3. `state` = committed or aborted is stored by the slot's owner after anything it still changed (REREAD); the consumer
//!    reads descriptor and payload only after it has read that state.
//! 4. `state` = consumed is stored by the consumer after its last read of the payload; the producer reuses the memory only
//!    after it has read that state. The same holds for void, which the slot's owner stores.
//! 5. `void_below` is stored by recovery after it has settled every slot; the consumer loads it before it scans. So a seq
//!    below it that the scan does not find has no slot.
//! 6. `number` and `tail` are stored by a producer after the recovery before it; so a consumer that finds by either that a slot
//!    it waited for is gone sees the `void_below` that says why.
//!
//! Seqs are dense because they come from one `fetch_add`, and two operations of which one was acknowledged before the
//! other began have seqs in that order, because changes of one atomic follow happens-before. The consumer takes seq n only
//! after n - 1, so it does not matter in which order slots become visible.
//!
//! A crash of a process loses no store that came before it in program order, but a compiler may swap relaxed ones. Where
//! recovery relies on an order (`head` before `payload_head`, `tail` before `payload_tail` and before state = free,
//! `read_seq` before state = consumed, the descriptor before `seq` before a settled state), the later store is Release.

mod consumer;
mod descriptor;
mod doorbell;
mod error;
#[cfg(not(loom))]
mod futex;
#[cfg(loom)]
#[path = "proof/futex.rs"]
mod futex;
pub mod header;
#[cfg_attr(loom, allow(dead_code, reason = "a model lies in no file"))]
mod layout;
#[cfg(not(loom))]
mod mapping;
#[cfg(loom)]
#[path = "proof/memory.rs"]
mod mapping;
mod producer;
#[cfg(loom)]
mod proof;
mod recovery;
mod slot;
mod spec;
mod sync;
mod takeover;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::ids::Seq;
use crate::medium::{self, Create};
use crate::op::Record;
use crate::units::UnixMicros;

pub use consumer::{Consumer, Taken};
pub use error::RingError;
pub use layout::{
    LANES_MAX, PAYLOAD_BYTES_PER_LANE_MAX, PAYLOAD_BYTES_PER_LANE_MIN, SLOTS_PER_LANE_MAX, SLOTS_PER_LANE_MIN,
};
#[cfg(not(loom))]
pub use mapping::PayloadArea;
pub use producer::Producer;
pub use slot::{Draft, Slot};
pub use spec::{DiskEntry, DiskIdentity, DiskKind, RingSpec, boot_id, path_in};
pub use takeover::{RecoveryReport, Settled};

use header::{HeaderError, Unverified};
use layout::{COUNTER_MAX, HEADER_BYTES, HeaderWords};
use mapping::{Lane, Mapping};

/// What the shipper is doing, as it says in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ShipperState {
    /// Not at work yet.
    Starting = 0,
    /// Segments reach the vault.
    Shipping = 1,
    /// The vault does not answer; segments stay in the spool.
    VaultUnreachable = 2,
    /// Another writer has the group: this epoch is over for good.
    Fenced = 3,
    /// Stopped by an error that needs a person.
    Stopped = 4,
    /// The spool, or the disk under it, has no room: what comes stays in the ring until it has.
    SpoolFull = 5,
    /// The spool, or the folder of the shipper's notes, cannot be written or read: what comes stays in the ring until it can.
    SpoolFailed = 6,
    /// A sealed segment that the vault does not have is missing or damaged, and the ring has given up its records: nothing of this
    /// epoch can follow. Unless it comes back, the group needs `farshore resync --full`.
    SegmentLost = 7,
}

impl ShipperState {
    const ALL: [Self; 8] = [
        Self::Starting,
        Self::Shipping,
        Self::VaultUnreachable,
        Self::Fenced,
        Self::Stopped,
        Self::SpoolFull,
        Self::SpoolFailed,
        Self::SegmentLost,
    ];

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}

/// A mapped ring. Clones are handles to the same mapping.
///
/// One process at a time may hold the producers of a ring: it holds the exclusive flocks of the source disks first.
#[derive(Clone)]
pub struct Ring(Arc<Inner>);

struct Inner {
    map: Arc<Mapping>,
    spec: Arc<RingSpec>,
    path: PathBuf,
    /// Lanes whose producer was taken, a bit each.
    produced: AtomicU64,
    consumed: AtomicBool,
}

impl Ring {
    /// Makes a ring at `path`, in place of whatever is there. All of its memory is allocated here, so a full `/dev/shm` is an
    /// error now and never a SIGBUS later.
    ///
    /// # Errors
    /// [`RingError::Refused`] for a spec out of range, [`RingError::NoSpace`], [`RingError::Io`]. What was at `path` is
    /// then untouched.
    pub fn create(path: &Path, spec: &RingSpec) -> Result<Self, RingError> {
        let refused = |what| RingError::Refused { path: path.to_owned(), what };
        let geometry = header::check_spec(spec).map_err(refused)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".new");
        let new = path.with_file_name(name);
        let made = fill(&new, geometry.file_bytes(), &header::encode(spec));
        let placed = made.and_then(|()| medium::rename(&new, path).map_err(|e| RingError::io(path, "put in place", e)));
        if let Err(e) = placed {
            // Best effort: the error that is returned says more than one of the clean-up would.
            let _ = medium::remove(&new);
            return Err(e);
        }
        Self::open_any_boot(path)
    }

    /// Opens the ring at `path`, once its header is proved and is from this boot.
    ///
    /// # Errors
    /// [`RingError`]: every kind but `NoSpace`.
    pub fn open(path: &Path) -> Result<Self, RingError> {
        let boot = boot_id().map_err(|e| RingError::io(path, "find the boot of", e))?;
        let ring = Self::open_any_boot(path)?;
        if ring.spec().boot_id != boot {
            return Err(RingError::OtherBoot { path: path.to_owned() });
        }
        Ok(ring)
    }

    fn open_any_boot(path: &Path) -> Result<Self, RingError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => RingError::Missing { path: path.to_owned() },
            _ => RingError::io(path, "open", e),
        })?;
        let bytes = file.metadata().map_err(|e| RingError::io(path, "stat", e))?.len();
        let mut page = [0; HEADER_BYTES];
        let page = &mut page[..usize::try_from(bytes).unwrap_or(HEADER_BYTES).min(HEADER_BYTES)];
        file.read_exact_at(page, 0).map_err(|e| RingError::io(path, "read", e))?;
        let verified = Unverified::new(page).verify(bytes).map_err(|e| match e {
            HeaderError::Refused(what) => RingError::Refused { path: path.to_owned(), what },
            HeaderError::Version(found) => RingError::Version { path: path.to_owned(), found },
            HeaderError::Damaged(what) => RingError::Damaged { path: path.to_owned(), what },
        })?;
        let map = Mapping::new(&file, verified.geometry()).map_err(|e| RingError::io(path, "map", e))?;
        check_words(map.header()).map_err(|what| RingError::Damaged { path: path.to_owned(), what })?;
        Ok(Self(Arc::new(Inner {
            map: Arc::new(map),
            spec: Arc::new(verified.into_spec()),
            path: path.to_owned(),
            produced: AtomicU64::new(0),
            consumed: AtomicBool::new(false),
        })))
    }

    /// What the ring was made for.
    #[must_use]
    pub fn spec(&self) -> &RingSpec {
        &self.0.spec
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The writing end of a lane. After another process has left the ring, [`Ring::recover`] comes first.
    ///
    /// # Panics
    /// When the lane does not exist, or its producer was taken before: a lane has one writer.
    #[must_use]
    pub fn producer(&self, lane: u32) -> Producer {
        let handle = self.lane(lane);
        let taken = self.0.produced.fetch_or(1 << lane, AcqRel);
        assert!(taken & (1 << lane) == 0, "the producer of lane {lane} was taken before");
        Producer::new(handle, Arc::clone(&self.0.spec))
    }

    /// Where the payloads of a lane lie in memory.
    ///
    /// # Panics
    /// When the lane does not exist.
    // A model's memory is not one piece that a kernel could be shown.
    #[cfg(not(loom))]
    #[must_use]
    pub fn payload_area(&self, lane: u32) -> PayloadArea {
        PayloadArea::new(self.lane(lane))
    }

    /// The reading end, which continues at [`Ring::read_seq`].
    ///
    /// # Panics
    /// When it was taken before: a ring has one reader.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        assert!(!self.0.consumed.swap(true, AcqRel), "the consumer of the ring was taken before");
        Consumer::new(self.0.path.clone(), Arc::clone(&self.0.spec), self.lanes())
    }

    /// Settles what a dead capture process left in flight. The caller holds the exclusive flock of every source disk, so nothing
    /// is written to them any more. A consumer may be at work meanwhile.
    ///
    /// For an operation with payload, `settle` reads the record's range into the slice it is given. For zeroes and trims the
    /// slice is empty: it zeroes the range again, which is idempotent. Where either fails it makes the range's regions
    /// durably lost and answers [`Settled::Unreadable`]. Records come in seq order.
    ///
    /// # Errors
    /// [`RingError::Damaged`]: the ring is lost; nothing was changed and `settle` was not called.
    ///
    /// # Panics
    /// When a producer was taken before.
    pub fn recover(&self, settle: &mut dyn FnMut(&Record, &mut [u8]) -> Settled) -> Result<RecoveryReport, RingError> {
        assert_eq!(self.0.produced.load(Acquire), 0, "recovery comes before the first producer");
        let damaged = |what| RingError::Damaged { path: self.0.path.clone(), what };
        check_words(self.header()).map_err(damaged)?;
        let report = takeover::take_over(&self.lanes(), &self.0.spec, settle).map_err(damaged)?;
        doorbell::ring(&self.header().doorbell);
        Ok(report)
    }

    /// The seq that the next operation takes.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.header().next_seq.load(Acquire))
    }

    /// Every seq below it lies durably in the spool or the vault.
    #[must_use]
    pub fn read_seq(&self) -> Seq {
        Seq(self.header().read_seq.load(Acquire))
    }

    /// Every seq up to it is confirmed in the vault.
    #[must_use]
    pub fn confirmed_seq(&self) -> Seq {
        Seq(self.header().confirmed_seq.load(Acquire))
    }

    /// Notes that every seq up to `seq` is confirmed in the vault.
    pub fn set_confirmed_seq(&self, seq: Seq) {
        self.header().confirmed_seq.store(seq.0, Release);
    }

    /// What the shipper said it is doing.
    #[must_use]
    pub fn shipper_state(&self) -> ShipperState {
        // A code that nobody wrote is no sign of a shipper at work.
        ShipperState::from_code(self.header().shipper_state.load(Acquire)).unwrap_or(ShipperState::Stopped)
    }

    /// Says what the shipper is doing.
    pub fn set_shipper_state(&self, state: ShipperState) {
        self.header().shipper_state.store(state as u32, Release);
    }

    /// The shipper's last sign of life; 0 before its first.
    #[must_use]
    pub fn shipper_seen(&self) -> UnixMicros {
        UnixMicros(self.header().shipper_seen.load(Acquire))
    }

    /// Notes a sign of life of the shipper.
    pub fn set_shipper_seen(&self, at: UnixMicros) {
        self.header().shipper_seen.store(at.0, Release);
    }

    /// Bytes of sealed segments in the spool.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.header().spool_bytes.load(Acquire)
    }

    /// Notes how many bytes of sealed segments the spool holds.
    pub fn set_spool_bytes(&self, bytes: u64) {
        self.header().spool_bytes.store(bytes, Release);
    }

    /// The newest `resync end`, when no region was lost since: every lost bit that a dirty map still has is of a region whose
    /// records lie in the log up to it. `None` while a resync is open or none has ended.
    #[must_use]
    pub fn resync_end(&self) -> Option<Seq> {
        Some(Seq(self.header().resync_end.load(Acquire))).filter(|seq| *seq > Seq(0))
    }

    /// Notes the newest `resync end`; `None` before a region becomes lost.
    pub fn set_resync_end(&self, end: Option<Seq>) {
        self.header().resync_end.store(end.unwrap_or_default().0, Release);
    }

    /// Whether an fdatasync of a disk, or a write of its dirty map, has failed: no other process may go on with this ring.
    #[must_use]
    pub fn is_distrusted(&self) -> bool {
        self.header().distrusted.load(Acquire) != 0
    }

    /// Notes, for good, that a disk or its dirty map has failed. The shipper goes on: what was logged is as it was.
    pub fn distrust(&self) {
        self.header().distrusted.store(1, Release);
    }

    fn header(&self) -> &HeaderWords {
        self.0.map.header()
    }

    fn lane(&self, lane: u32) -> Arc<Lane> {
        Lane::new(&self.0.map, lane)
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        (0..self.0.map.geometry().lanes()).map(|lane| self.lane(lane)).collect()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("path", &self.0.path).field("spec", &self.0.spec).finish_non_exhaustive()
    }
}

/// Makes the file `path`: `bytes` long, allocated in full, with this header.
fn fill(path: &Path, bytes: u64, page: &[u8; HEADER_BYTES]) -> Result<(), RingError> {
    let io = |doing| move |e| RingError::io(path, doing, e);
    match medium::remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("clear the way for")(e)),
        _ => {}
    }
    let file = medium::create(path, Create::NewPrivate).map_err(io("make"))?;
    mapping::allocate(&file, bytes).map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => RingError::NoSpace { path: path.to_owned(), bytes, source: e },
        _ => RingError::io(path, "allocate", e),
    })?;
    medium::write_all_at(&file, page, 0).map_err(io("write the header of"))
}

/// Proves the header's atomic words against each other. Other processes may be changing them: each is loaded before the one that
/// it may not pass.
fn check_words(words: &HeaderWords) -> Result<(), String> {
    let confirmed = words.confirmed_seq.load(Acquire);
    let read = words.read_seq.load(Acquire);
    let void_below = words.void_below.load(Acquire);
    let resync_end = words.resync_end.load(Acquire);
    let next = words.next_seq.load(Acquire);
    let beyond = confirmed >= next || resync_end >= next || read > next || void_below > next || next > COUNTER_MAX;
    if read == 0 || void_below == 0 || beyond {
        return Err(format!(
            "next_seq {next} with void_below {void_below}, read_seq {read}, confirmed_seq {confirmed}, resync_end {resync_end}"
        ));
    }
    let (doorbell, shipper) = (words.doorbell.load(Acquire), words.shipper_state.load(Acquire));
    if doorbell > 1 || ShipperState::from_code(shipper).is_none() {
        return Err(format!("doorbell {doorbell}, shipper state {shipper}"));
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests;
