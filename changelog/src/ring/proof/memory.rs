//! The ring's memory in the model: words and payload on the heap. The payload's pages are watched: an access that another
//! thread's does not happen before, or after, is an error, as it would be for plain memory.
//!
//! It stands for `mapping.rs`, whose pointers the model checker cannot follow.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::layout::{Geometry, HeaderWords, LaneWords, PAGE_BYTES, SlotWords};
use super::sync::{AtomicU32, AtomicU64};

pub(super) fn allocate(_: &File, _: u64) -> io::Result<()> {
    unreachable!("a model has no file")
}

pub(super) struct Mapping {
    geometry: Geometry,
    header: HeaderWords,
    lanes: Vec<LaneMemory>,
}

struct LaneMemory {
    words: LaneWords,
    slots: Vec<SlotWords>,
    payload: Payload,
}

struct Payload {
    bytes: Vec<UnsafeCell<u8>>,
    /// One for each page: what the model checker watches in the place of its bytes.
    pages: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: the threads of a model take turns on one thread of the system, and whether they may touch a page is what the model
// checks.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Mapping {
    pub fn new(_: &File, _: Geometry) -> io::Result<Self> {
        unreachable!("a model has no file")
    }

    /// The memory of a ring that was just made.
    pub fn of_model(geometry: Geometry) -> Self {
        let lane = |_| LaneMemory {
            words: lane_words(),
            slots: (0..geometry.slots()).map(|_| SlotWords::default()).collect(),
            payload: Payload {
                bytes: (0..geometry.payload_bytes()).map(|_| UnsafeCell::new(0)).collect(),
                pages: (0..geometry.payload_bytes() / PAGE_BYTES).map(|_| loom::cell::UnsafeCell::new(())).collect(),
            },
        };
        Self { geometry, header: header_words(), lanes: (0..geometry.lanes()).map(lane).collect() }
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn header(&self) -> &HeaderWords {
        &self.header
    }
}

/// As `header::encode` leaves them.
fn header_words() -> HeaderWords {
    HeaderWords {
        next_seq: AtomicU64::new(1),
        _pad0: [0; 56],
        void_below: AtomicU64::new(1),
        _pad1: [0; 56],
        read_seq: AtomicU64::new(1),
        _pad2: [0; 56],
        confirmed_seq: AtomicU64::new(0),
        _pad3: [0; 56],
        doorbell: AtomicU32::new(0),
        _pad4: [0; 60],
        shipper_state: AtomicU32::new(0),
        _pad5: [0; 4],
        shipper_seen: AtomicU64::new(0),
        spool_bytes: AtomicU64::new(0),
        resync_end: AtomicU64::new(0),
        distrusted: AtomicU64::new(0),
    }
}

fn lane_words() -> LaneWords {
    LaneWords {
        head: AtomicU64::new(0),
        _pad0: [0; 56],
        tail: AtomicU64::new(0),
        _pad1: [0; 56],
        payload_head: AtomicU64::new(0),
        _pad2: [0; 56],
        payload_tail: AtomicU64::new(0),
    }
}

pub(super) struct Lane {
    map: Arc<Mapping>,
    index: u32,
}

impl Lane {
    pub fn new(map: &Arc<Mapping>, index: u32) -> Arc<Self> {
        Arc::new(Self { map: Arc::clone(map), index })
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    pub fn geometry(&self) -> Geometry {
        self.map.geometry
    }

    pub fn header(&self) -> &HeaderWords {
        &self.map.header
    }

    pub fn words(&self) -> &LaneWords {
        &self.memory().words
    }

    pub fn slot(&self, n: u64) -> &SlotWords {
        let slots = &self.memory().slots;
        &slots[n as usize & (slots.len() - 1)]
    }

    fn memory(&self) -> &LaneMemory {
        &self.map.lanes[self.index as usize]
    }
}

/// As in `mapping.rs`; each call of `bytes` and `bytes_mut` counts as an access to all of it.
pub(super) struct Region {
    lane: Arc<Lane>,
    start: usize,
    len: usize,
}

impl Region {
    pub fn new(lane: &Arc<Lane>, position: u64, len: u32) -> Self {
        let geometry = lane.geometry();
        assert!(geometry.payload_fits(position, u64::from(len)));
        let start = (position % geometry.payload_bytes()) as usize;
        Self { lane: Arc::clone(lane), start, len: len as usize }
    }

    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> &[u8] {
        let payload = &self.lane.memory().payload;
        self.pages().for_each(|page| payload.pages[page].with(|_| ()));
        // SAFETY: in bounds (the slice proves it) for the life of the lane's memory; not written meanwhile, as the model has
        // just checked.
        unsafe { std::slice::from_raw_parts(payload.bytes[self.start..][..self.len].as_ptr().cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let payload = &self.lane.memory().payload;
        self.pages().for_each(|page| payload.pages[page].with_mut(|_| ()));
        let cells = &payload.bytes[self.start..][..self.len];
        // SAFETY: as in `bytes`; exclusive by `&mut self` and what the model has just checked.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), self.len) }
    }

    fn pages(&self) -> std::ops::Range<usize> {
        let page = PAGE_BYTES as usize;
        self.start / page..(self.start + self.len).div_ceil(page)
    }
}
