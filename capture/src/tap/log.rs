//! A lane's end of the log: one producer, shared by the taps of all disks that live on the lane's thread.

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, MARK_NAME_MAX_BYTES, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{Draft, Producer, Ring, ShipperState, Slot};
use farshore_changelog::units::{ByteRange, UnixMicros, align_up};
use smallvec::SmallVec;

/// What the ring's payloads are rounded up to, in bytes.
const SLOT_PAGE_BYTES: u64 = 4096;
/// Slots of a lane, as a divisor of all, that only words about the group may take: a full ring must still be able to say that it is
/// full, and each process that starts anew, while it stays full, that a resync begins.
const WORD_SLOTS_SHARE: u64 = 8;
/// Most of them: two a start, for more starts than an outage sees.
const WORD_SLOTS_MAX: u64 = 256;
/// Whoever waits for room asks again far sooner than this.
const ASKS_AGAIN: Duration = Duration::from_secs(2);

/// The slots of a request: nearly always one.
pub(super) type Slots = SmallVec<[Slot; 1]>;

/// Why a mark could not be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// The ring is full; a later try may find room.
    #[error("the ring is full: the shipper has not read enough yet")]
    Full,
    /// The name cannot be one.
    #[error("the name of a mark has 1 to {MARK_NAME_MAX_BYTES} bytes")]
    Name,
    /// The group has another writer.
    #[error("this source is fenced: another writer has the group")]
    Fenced,
}

/// A lane's producer, its clock, and its fairness. It belongs to one thread; the taps there share it in an `Rc<RefCell<_>>`.
pub struct LaneLog {
    ring: Ring,
    producer: Producer,
    last_time: UnixMicros,
    /// The largest reservation that was refused since there was room for it last: smaller ones must not overtake it for ever.
    refused_bytes: u64,
    /// Since when reservations have been refused without one that found room in between.
    refused_since: Option<Instant>,
    /// The last of them.
    refused_at: Option<Instant>,
}

impl LaneLog {
    /// Takes the producer of `lane`. After another process has left the ring, [`Ring::recover`] comes first.
    ///
    /// # Panics
    /// When the lane does not exist or its producer was taken before.
    #[must_use]
    pub fn new(ring: &Ring, lane: u32) -> Self {
        Self {
            ring: ring.clone(),
            producer: ring.producer(lane),
            last_time: UnixMicros::default(),
            refused_bytes: 0,
            refused_since: None,
            refused_at: None,
        }
    }

    /// Puts a mark: everything acknowledged before this call, on any disk of the group, is before it.
    ///
    /// # Errors
    /// [`MarkError`]; nothing was put.
    pub fn mark(&mut self, name: &str) -> Result<Seq, MarkError> {
        if name.is_empty() || name.len() > MARK_NAME_MAX_BYTES {
            return Err(MarkError::Name);
        }
        if self.fenced() {
            return Err(MarkError::Fenced);
        }
        if self.producer.free_slots() <= self.word_slots() {
            return Err(MarkError::Full);
        }
        let mut slot = self.producer.reserve(name.len() as u32).ok_or(MarkError::Full)?;
        slot.payload_mut()[..name.len()].copy_from_slice(name.as_bytes());
        Ok(self.put(slot, Op::Mark, name.len() as u64))
    }

    fn word_slots(&self) -> u64 {
        (self.producer.slots() / WORD_SLOTS_SHARE).min(WORD_SLOTS_MAX)
    }

    /// Puts a word about the group that has no payload; `None` when the ring is full.
    pub(crate) fn announce(&mut self, op: Op, len: u64) -> Option<Seq> {
        let slot = self.producer.reserve(0)?;
        Some(self.put(slot, op, len))
    }

    fn put(&mut self, mut slot: Slot, op: Op, len: u64) -> Seq {
        let draft = Draft { time: self.now(), disk: DiskIndex(0), op, flags: RecordFlags::NONE, offset: 0, len };
        let seq = self.producer.sequence(&mut [(&mut slot, draft)]);
        slot.commit();
        seq
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Whether another writer has the group, so that nothing is logged any more.
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.ring.shipper_state() == ShipperState::Fenced
    }

    /// The wall clock, which never goes back on this lane.
    fn now(&mut self) -> UnixMicros {
        self.last_time = self.last_time.max(clock::wall());
        self.last_time
    }

    /// Slots with room for these payloads, all or none.
    pub(super) fn reserve(&mut self, payloads: impl ExactSizeIterator<Item = u32> + Clone) -> Option<Slots> {
        let (needed, count) = (room_needed(payloads.clone()), payloads.len());
        // Asked before anything is taken: what is given back again is free only once everything before it is.
        let refused = self.refused_bytes > 0 && self.refused_bytes > needed && self.short_of_room();
        let slots = self.producer.free_slots() >= count as u64 + self.word_slots();
        let room = !refused && slots && (count < 2 || self.producer.free_payload_bytes() >= needed);
        let reserve_all = || payloads.map(|bytes| self.producer.reserve(bytes)).collect::<Option<Slots>>();
        let slots = if room { reserve_all() } else { None };
        if slots.is_some() {
            self.forget_refused();
        } else {
            let now = clock::mono();
            self.refused_bytes = self.refused_bytes.max(needed);
            self.refused_since.get_or_insert(now);
            self.refused_at = Some(now);
        }
        slots
    }

    /// Whether a reservation was refused and there is no room for it yet.
    pub(super) fn short_of_room(&self) -> bool {
        self.refused_since.is_some()
            && (self.producer.free_payload_bytes() < self.refused_bytes
                || self.producer.free_slots() <= self.word_slots())
    }

    /// How long requests have been waiting for room; zero when nobody asks any more.
    pub(super) fn refused_for(&self) -> Duration {
        let now = clock::mono();
        let asks = self.refused_at.is_some_and(|last| now - last <= ASKS_AGAIN);
        self.refused_since.filter(|_| asks).map_or(Duration::ZERO, |since| now - since)
    }

    /// Nobody waits for room any more: requests are done without the log.
    pub(super) fn forget_refused(&mut self) {
        (self.refused_bytes, self.refused_since, self.refused_at) = (0, None, None);
    }

    /// A slot for a resync read, as long as the other half of the lane stays free for the guest.
    pub(super) fn reserve_for_resync(&mut self, payload: u32) -> Option<Slot> {
        let stays = self.producer.free_payload_bytes().checked_sub(u64::from(payload))?;
        let slots = self.producer.free_slots() > self.word_slots();
        if !slots || self.short_of_room() || stays < self.producer.payload_capacity() / 2 {
            return None;
        }
        self.producer.reserve(payload)
    }

    /// Puts slots in the group's order as one request: slot, operation, flags and range of each record. Gives the last of their
    /// seqs; `None` when there are no slots.
    pub(super) fn order<'a>(
        &mut self,
        disk: DiskIndex,
        records: impl IntoIterator<Item = (&'a mut Slot, Op, RecordFlags, ByteRange)>,
    ) -> Option<Seq> {
        let time = self.now();
        let draft = |(slot, op, flags, range): (_, _, _, ByteRange)| {
            (slot, Draft { time, disk, op, flags, offset: range.start, len: range.len() })
        };
        let mut drafts: SmallVec<[(&mut Slot, Draft); 1]> = records.into_iter().map(draft).collect();
        let others = drafts.len().checked_sub(1)?;
        Some(Seq(self.producer.sequence(&mut drafts).0 + others as u64))
    }

    /// Payload bytes of the lane.
    pub(super) fn payload_capacity(&self) -> u64 {
        self.producer.payload_capacity()
    }
}

/// Free bytes with which payloads certainly fit: each takes whole pages, and one of them may have to skip the end of the area.
/// One alone is just tried.
fn room_needed(payloads: impl ExactSizeIterator<Item = u32> + Clone) -> u64 {
    let pages = payloads.map(|bytes| align_up(u64::from(bytes), SLOT_PAGE_BYTES));
    let skipped = if pages.len() < 2 { 0 } else { pages.clone().max().unwrap_or(0) };
    pages.sum::<u64>() + skipped
}
