//! The writing end of one lane: reserves slots, puts them in the group's order, and frees what was read.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::ids::Seq;
use crate::op::RecordFlags;
use crate::units::{RECORD_PAYLOAD_MAX_BYTES, align_up};

use super::descriptor::{State, check_record};
use super::layout::PAGE_BYTES;
use super::mapping::Lane;
use super::slot::{Draft, Slot};
use super::spec::RingSpec;

/// The one writer of a lane. It may move to another thread but not be shared.
pub struct Producer {
    lane: Arc<Lane>,
    spec: Arc<RingSpec>,
    // What the lane's words say; only this producer writes them, so it need not read them again.
    head: Cell<u64>,
    tail: Cell<u64>,
    payload_head: Cell<u64>,
    payload_tail: Cell<u64>,
}

impl Producer {
    pub(super) fn new(lane: Arc<Lane>, spec: Arc<RingSpec>) -> Self {
        let words = lane.words();
        let (head, tail) = (words.head.load(Acquire), words.tail.load(Acquire));
        let (payload_head, payload_tail) = (words.payload_head.load(Acquire), words.payload_tail.load(Acquire));
        Self {
            head: Cell::new(head),
            tail: Cell::new(tail),
            payload_head: Cell::new(payload_head),
            payload_tail: Cell::new(payload_tail),
            lane,
            spec,
        }
    }

    /// Takes the next slot, with room for `payload_bytes` (0 is possible). `None` while the lane is full: the shipper has
    /// not read enough yet.
    ///
    /// # Panics
    /// When more than [`RECORD_PAYLOAD_MAX_BYTES`] are asked for: such a request becomes several records.
    pub fn reserve(&mut self, payload_bytes: u32) -> Option<Slot> {
        assert!(
            payload_bytes <= RECORD_PAYLOAD_MAX_BYTES,
            "a record has at most {RECORD_PAYLOAD_MAX_BYTES} payload bytes"
        );
        self.reclaim();
        let number = self.head.get();
        if number - self.tail.get() == self.lane.geometry().slots() {
            return None;
        }
        let payload_head = self.payload_head.get();
        let room = allocate(payload_head, self.payload_tail.get(), payload_bytes, self.payload_capacity())?;
        let slot = self.lane.slot(number);
        slot.seq.store(0, Relaxed);
        slot.number.store(number, Release);
        slot.position.store(room.position, Relaxed);
        slot.reserved.store(room.reserved, Relaxed);
        slot.state.store(State::Reserved.code(), Release);
        self.head.set(number + 1);
        self.payload_head.set(payload_head + u64::from(room.reserved));
        // In this order: a crash between the two is seen by recovery, as the last slot then lies beyond payload_head.
        let words = self.lane.words();
        words.head.store(self.head.get(), Release);
        words.payload_head.store(self.payload_head.get(), Release);
        Some(Slot::new(&self.lane, number, room.position, room.reserved, payload_bytes))
    }

    /// Puts reserved slots of this lane in the group's order, as parts of one request: they get consecutive seqs, and
    /// all but the last get [`RecordFlags::MORE`]. Gives the first seq. The payloads must be whole, and the range locks held.
    ///
    /// # Panics
    /// When `requests` is empty, or a slot is another lane's, has a seq already, or is smaller than its draft's payload.
    pub fn sequence(&mut self, requests: &mut [(&mut Slot, Draft)]) -> Seq {
        for (slot, draft) in requests.iter() {
            assert!(slot.is_of(&self.lane), "a slot of another lane");
            assert!(slot.seq().is_none(), "a slot that has its seq already");
            let payload = draft.with(Seq(0), draft.flags).payload_len();
            assert!(payload <= slot.len() as u64, "a slot smaller than its payload");
        }
        let last = requests.len().checked_sub(1).expect("at least one request to put in order");
        let first = self.lane.header().next_seq.fetch_add(requests.len() as u64, AcqRel);
        for (index, (slot, draft)) in requests.iter_mut().enumerate() {
            let more = if index < last { RecordFlags::MORE } else { RecordFlags::NONE };
            let record = draft.with(Seq(first + index as u64), draft.flags.with(more));
            debug_assert_eq!(check_record(&record, &self.spec.disks), Ok(()));
            slot.place(record);
        }
        Seq(first)
    }

    /// Slots of the whole lane.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.lane.geometry().slots()
    }

    /// Slots that are free now.
    #[must_use]
    pub fn free_slots(&self) -> u64 {
        self.reclaim();
        self.lane.geometry().slots() - (self.head.get() - self.tail.get())
    }

    /// Payload bytes that are free now. Padding at the end of the area may make the next payload need more than its length.
    #[must_use]
    pub fn free_payload_bytes(&self) -> u64 {
        self.reclaim();
        self.payload_capacity() - (self.payload_head.get() - self.payload_tail.get())
    }

    /// Payload bytes of the whole lane.
    #[must_use]
    pub fn payload_capacity(&self) -> u64 {
        self.lane.geometry().payload_bytes()
    }

    /// Frees the oldest slots as far as they were read or given back.
    fn reclaim(&self) {
        let (first, head) = (self.tail.get(), self.head.get());
        let (mut tail, mut payload_tail) = (first, self.payload_tail.get());
        while tail < head {
            let slot = self.lane.slot(tail);
            match State::from_code(slot.state.load(Acquire)) {
                Some(State::Consumed | State::Void) => {}
                Some(State::Free | State::Reserved | State::Committed | State::Aborted) | None => break,
            }
            payload_tail += u64::from(slot.reserved.load(Relaxed));
            tail += 1;
        }
        if tail == first {
            return;
        }
        self.tail.set(tail);
        self.payload_tail.set(payload_tail);
        // In this order: between tail and head no slot may be free, and recovery computes payload_tail anew.
        let words = self.lane.words();
        words.tail.store(tail, Release);
        words.payload_tail.store(payload_tail, Release);
        for n in first..tail {
            self.lane.slot(n).state.store(State::Free.code(), Release);
        }
    }
}

/// Where a payload lies, and what it takes of the area: its bytes rounded up to pages, and the padding before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    position: u64,
    reserved: u32,
}

/// The next `len` bytes of a FIFO area of `capacity` bytes, of which `[tail, head)` is in use. A payload that does not fit
/// before the area's end goes to its start, and the rest of the end is padding.
fn allocate(head: u64, tail: u64, len: u32, capacity: u64) -> Option<Room> {
    let len = align_up(u64::from(len), PAGE_BYTES);
    let to_end = capacity - head % capacity;
    let padding = if len > to_end { to_end } else { 0 };
    let reserved = padding + len;
    if head + reserved - tail > capacity {
        return None;
    }
    // Padding is less than one payload, so the sum is below 2 * RECORD_PAYLOAD_MAX_BYTES.
    Some(Room { position: head + padding, reserved: reserved as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: u64 = 4 << 20;

    proptest! {
        /// Payloads never overlap, never wrap, and freeing in order gives every byte back.
        #[test]
        fn the_payload_area_is_a_fifo(steps in prop::collection::vec((any::<bool>(), 0..=RECORD_PAYLOAD_MAX_BYTES), 1..300)) {
            let (mut head, mut tail) = (0u64, 0u64);
            let mut live = std::collections::VecDeque::new();
            for (free, len) in steps {
                if free {
                    if let Some((_, _, reserved)) = live.pop_front() {
                        tail += u64::from(reserved);
                    }
                } else if let Some(room) = allocate(head, tail, len, CAPACITY) {
                    prop_assert_eq!(room.position % PAGE_BYTES, 0);
                    let start = room.position % CAPACITY;
                    prop_assert!(start + u64::from(len) <= CAPACITY);
                    for (other_start, other_len, _) in &live {
                        let (a, b) = (start..start + u64::from(len), *other_start..*other_start + u64::from(*other_len));
                        prop_assert!(a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start);
                    }
                    head += u64::from(room.reserved);
                    live.push_back((start, len, room.reserved));
                } else {
                    prop_assert!(!live.is_empty(), "an empty area refused {} bytes", len);
                }
                prop_assert_eq!(head - tail, live.iter().map(|(_, _, r)| u64::from(*r)).sum::<u64>());
                prop_assert!(head - tail <= CAPACITY);
            }
        }
    }
}
