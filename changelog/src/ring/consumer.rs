//! The reading end: merges the lanes by the dense seq.
//!
//! Each slot is looked at once when its number comes below its lane's head, and then filed: by its seq, or, as long as it
//! has none, in the lane's list of slots to look at again. So a slot whose client is slow costs one look a scan and holds
//! nothing up, and a scan costs what is new.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::ids::Seq;
use crate::op::Record;

use super::descriptor::{Descriptor, State};
use super::doorbell;
use super::error::RingError;
use super::layout::HeaderWords;
use super::mapping::{Lane, Region};
use super::spec::RingSpec;
use super::sync::AtomicU64;

/// The one reader of a ring: the shipper's side.
pub struct Consumer {
    path: PathBuf,
    spec: Arc<RingSpec>,
    lanes: Vec<Cursor>,
    /// The last seq taken or passed over.
    position: u64,
    /// Slots that have a seq beyond `position`, by it. At most one a slot.
    placed: BTreeMap<u64, Place>,
    /// Aborted slots that were passed over and not released yet, in seq order.
    passed: VecDeque<(u64, Place)>,
    /// Seqs that were taken and not released yet, in order.
    out: VecDeque<u64>,
}

/// A slot of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    lane: usize,
    number: u64,
}

/// How far a lane was looked through.
struct Cursor {
    lane: Arc<Lane>,
    /// The next slot number to look at.
    next: u64,
    /// Slots below `next` that had no seq yet.
    waiting: Vec<u64>,
}

/// What a look at a slot gave.
enum Look {
    /// No seq yet.
    Waiting,
    /// In the order.
    Placed(u64),
    /// Void, or freed and perhaps reserved again under another number.
    Gone,
}

/// What has become of a slot that is next in the order.
enum Next {
    NotYet,
    Take(Record, Descriptor),
    /// Passed over; its slot is to be consumed when it is released.
    PassAborted,
    /// Passed over; its slot is the producer's again.
    PassVoid,
}

/// A committed record with its payload, until it is handed to [`Consumer::release`].
pub struct Taken {
    record: Record,
    region: Region,
    number: u64,
}

impl Taken {
    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its payload, [`Record::payload_len`] bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.region.bytes()
    }
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Begins at the ring's `read_seq`. What a predecessor noted as read but did not mark so is marked now.
    pub(super) fn new(path: PathBuf, spec: Arc<RingSpec>, lanes: Vec<Arc<Lane>>) -> Self {
        let read_seq = lanes[0].header().read_seq.load(Acquire);
        for lane in &lanes {
            finish_release(lane, read_seq);
        }
        let lanes = lanes
            .into_iter()
            .map(|lane| Cursor { next: lane.words().tail.load(Acquire), lane, waiting: Vec::new() })
            .collect();
        Self {
            path,
            spec,
            lanes,
            position: read_seq.saturating_sub(1),
            placed: BTreeMap::new(),
            passed: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// The last seq taken or passed over.
    #[must_use]
    pub fn position(&self) -> Seq {
        Seq(self.position)
    }

    /// The next committed record in the group's order; `None` while the next seq is not settled yet. Aborted and void seqs
    /// are passed over, which moves the position too, even where `None` is given.
    ///
    /// # Errors
    /// [`RingError::Damaged`] when a slot contradicts itself or the order; the ring is lost then.
    pub fn take(&mut self) -> Result<Option<Taken>, RingError> {
        loop {
            let seq = self.position + 1;
            let Some(&place) = self.placed.get(&seq) else {
                // In this order: what recovery settled before it raised void_below is seen by the scan.
                let void_below = self.header().void_below.load(Acquire);
                if self.next_seq() <= seq {
                    return Ok(None);
                }
                self.scan()?;
                if self.placed.contains_key(&seq) {
                    continue;
                }
                if seq >= void_below {
                    return Ok(None);
                }
                // Nobody bears a seq from here to the next one that was found: void, and passed over in one step.
                let found = self.placed.first_key_value().map_or(void_below, |(first, _)| *first);
                self.position = found.min(void_below) - 1;
                continue;
            };
            let taken = match self.look_at_next(seq, place)? {
                Next::NotYet => return Ok(None),
                Next::Take(record, descriptor) => {
                    // `payload_len` is at most 1 MiB (proved).
                    let len = record.payload_len() as u32;
                    let region = Region::new(&self.lanes[place.lane].lane, descriptor.position, len);
                    self.out.push_back(seq);
                    Some(Taken { record, region, number: place.number })
                }
                Next::PassAborted => {
                    self.passed.push_back((seq, place));
                    None
                }
                Next::PassVoid => None,
            };
            self.placed.remove(&seq);
            self.position = seq;
            if taken.is_some() {
                return Ok(taken);
            }
        }
    }

    /// Gives back everything up to `upto`, which now lies durably elsewhere: `taken` must be all that was taken up to there.
    /// The ring's `read_seq` becomes `upto + 1`, and the slots can be used again.
    ///
    /// # Panics
    /// When `upto` lies beyond the position, or `taken` holds more or less than what was taken up to it: a slot would
    /// be used again while its payload is still being read.
    pub fn release(&mut self, upto: Seq, taken: Vec<Taken>) {
        assert!(upto.0 <= self.position, "release up to {upto}, beyond the position {}", self.position);
        let due = self.out.partition_point(|seq| *seq <= upto.0);
        assert_eq!(taken.len(), due, "release up to {upto} must hand back exactly what was taken up to there");
        assert!(taken.iter().all(|t| t.record.seq <= upto), "release up to {upto} of a later record");
        self.out.drain(..due);
        // read_seq first: were the slots consumed first, a crash between would lose them to the next consumer, which begins at
        // read_seq. The other way round it marks them itself (`finish_release`).
        let read_seq = &self.header().read_seq;
        read_seq.store(read_seq.load(Relaxed).max(upto.0 + 1), Release);
        for Taken { region, number, .. } in taken {
            region.lane().slot(number).state.store(State::Consumed.code(), Release);
        }
        while let Some((_, place)) = self.passed.pop_front_if(|(seq, _)| *seq <= upto.0) {
            self.lanes[place.lane].lane.slot(place.number).state.store(State::Consumed.code(), Release);
        }
    }

    /// How full the fullest lane is, in percent of its slots or of its payload area, whichever is more: what was taken and not
    /// released counts, and what is still being written. A lane's producer frees what was released when it needs room next.
    #[must_use]
    pub fn fill_percent(&self) -> u32 {
        let used = |tail: &AtomicU64, head: &AtomicU64, all: u64| {
            // The tail first: the head that is read then is no smaller.
            let tail = tail.load(Acquire);
            u32::try_from(head.load(Acquire).saturating_sub(tail).min(all) * 100 / all).unwrap_or(100)
        };
        let fill = |cursor: &Cursor| {
            let (words, geometry) = (cursor.lane.words(), cursor.lane.geometry());
            let slots = used(&words.tail, &words.head, geometry.slots());
            slots.max(used(&words.payload_tail, &words.payload_head, geometry.payload_bytes()))
        };
        self.lanes.iter().map(fill).max().unwrap_or_default()
    }

    /// Sleeps until there may be something to take, at most `timeout`. Returns at once when there is something.
    pub fn wait(&self, timeout: Duration) {
        if !self.has_work() {
            doorbell::sleep_unless(&self.header().doorbell, timeout, || self.has_work());
        }
    }

    fn header(&self) -> &HeaderWords {
        self.lanes[0].lane.header()
    }

    fn next_seq(&self) -> u64 {
        self.header().next_seq.load(Acquire)
    }

    /// Whether [`Consumer::take`] would find something that it did not see the last time.
    fn has_work(&self) -> bool {
        let seq = self.position + 1;
        if let Some(place) = self.placed.get(&seq) {
            let slot = self.lanes[place.lane].lane.slot(place.number);
            return slot.state.load(Acquire) != State::Reserved.code() || slot.number.load(Relaxed) != place.number;
        }
        if self.next_seq() <= seq {
            return false;
        }
        self.header().void_below.load(Acquire) > seq
            || self.lanes.iter().any(|cursor| {
                cursor.lane.words().head.load(Acquire) > cursor.next
                    || cursor.waiting.iter().any(|n| !matches!(look(&cursor.lane, *n), Look::Waiting))
            })
    }

    /// Files the slots that have got a seq since the last scan.
    fn scan(&mut self) -> Result<(), RingError> {
        for index in 0..self.lanes.len() {
            self.scan_lane(index).map_err(|what| self.damaged(format!("lane {index}: {what}")))?;
        }
        Ok(())
    }

    fn scan_lane(&mut self, index: usize) -> Result<(), String> {
        let Cursor { lane, next, waiting } = &mut self.lanes[index];
        let (head, first) = window(lane, *next)?;
        // Slots that were freed unseen were void: nothing else is freed without this consumer.
        let fresh = first.max(*next)..head;
        *next = head;
        let again = std::mem::take(waiting);
        let mut filed = Vec::new();
        for number in again.into_iter().chain(fresh) {
            match look(lane, number) {
                Look::Waiting => waiting.push(number),
                Look::Gone => {}
                Look::Placed(seq) => filed.push((seq, number)),
            }
        }
        let next_seq = self.next_seq();
        for (seq, number) in filed {
            self.file(index, seq, number, next_seq)?;
        }
        Ok(())
    }

    fn file(&mut self, lane: usize, seq: u64, number: u64, next_seq: u64) -> Result<(), String> {
        if seq >= next_seq {
            return Err(format!("slot {number} bears seq {seq}, which was not taken yet"));
        }
        if seq <= self.position {
            // Left by a predecessor, which had it read: it is consumed and waits for its producer, which may have used it again
            // since it was looked at.
            let slot = self.lanes[lane].lane.slot(number);
            let state = slot.state.load(Acquire);
            return match State::from_code(state) {
                Some(State::Consumed | State::Void | State::Free) => Ok(()),
                _ if slot.number.load(Relaxed) != number => Ok(()),
                Some(State::Reserved | State::Committed | State::Aborted) | None => {
                    Err(format!("slot {number} in state {state} bears seq {seq}, which was read already"))
                }
            };
        }
        match self.placed.insert(seq, Place { lane, number }) {
            None => Ok(()),
            Some(other) => {
                Err(format!("slot {number} and slot {} of lane {} both bear seq {seq}", other.number, other.lane))
            }
        }
    }

    /// Reads the slot that bears the next seq.
    fn look_at_next(&self, seq: u64, place: Place) -> Result<Next, RingError> {
        let lane = &self.lanes[place.lane].lane;
        let slot = lane.slot(place.number);
        let wrong =
            |what: &str| self.damaged(format!("lane {}: slot {} of seq {seq}: {what}", place.lane, place.number));
        let state = slot.state.load(Acquire);
        if slot.number.load(Acquire) != place.number || lane.words().tail.load(Acquire) > place.number {
            // Freed without us: recovery made it void.
            let void = lane.header().void_below.load(Acquire) > seq;
            return if void { Ok(Next::PassVoid) } else { Err(wrong("freed before it was read")) };
        }
        let aborted = match State::from_code(state) {
            Some(State::Reserved) => return Ok(Next::NotYet),
            Some(State::Void) => return Ok(Next::PassVoid),
            Some(State::Committed) => false,
            Some(State::Aborted) => true,
            Some(State::Free | State::Consumed) | None => {
                return Err(wrong(&format!("state {state} before it was read")));
            }
        };
        let (descriptor, good) = Descriptor::load(slot, place.number);
        if !good || descriptor.seq != seq {
            return Err(wrong("checksum of its descriptor"));
        }
        let record = descriptor.prove(&self.spec.disks, lane.geometry()).map_err(|what| wrong(&what))?;
        Ok(if aborted { Next::PassAborted } else { Next::Take(record, descriptor) })
    }

    fn damaged(&self, what: String) -> RingError {
        RingError::Damaged { path: self.path.clone(), what }
    }
}

/// Looks at slot `number`, which lies below its lane's head.
fn look(lane: &Lane, number: u64) -> Look {
    let slot = lane.slot(number);
    let seq = slot.seq.load(Acquire);
    if seq != 0 {
        // Stored before the seq. Another number: this one was void, and its place has been reserved again.
        return if slot.number.load(Relaxed) == number { Look::Placed(seq) } else { Look::Gone };
    }
    let void = slot.state.load(Acquire) == State::Void.code();
    if void || lane.words().tail.load(Acquire) > number { Look::Gone } else { Look::Waiting }
}

/// Head and tail of a lane while its producer may be at work, proved so that a walk between them ends.
fn window(lane: &Lane, next: u64) -> Result<(u64, u64), String> {
    let before = lane.words().tail.load(Acquire);
    let head = lane.words().head.load(Acquire);
    // Read once more: the head just read belongs to a tail between the two.
    let after = lane.words().tail.load(Acquire);
    if before > head || next > head || head.saturating_sub(after) > lane.geometry().slots() {
        return Err(format!("head {head} and tail {before} to {after}, looked through up to {next}"));
    }
    Ok((head, after.min(head)))
}

/// Marks what lies below `read_seq` as consumed: a predecessor noted it as read and died before it had marked it.
fn finish_release(lane: &Lane, read_seq: u64) {
    let Ok((head, tail)) = window(lane, 0) else {
        return; // the first scan says what is wrong
    };
    for number in tail..head {
        let Look::Placed(seq) = look(lane, number) else {
            continue;
        };
        let slot = lane.slot(number);
        let settled = [State::Committed, State::Aborted].map(State::code).contains(&slot.state.load(Acquire));
        // The number after the state: else its producer may have used the slot again since the look, and the state is of a record
        // that nobody has read. A settled slot of this number waits for us.
        if settled && seq < read_seq && slot.number.load(Relaxed) == number {
            slot.state.store(State::Consumed.code(), Release);
        }
    }
}
