//! The ring's file in memory, and the only file of the ring that dereferences a pointer.
//!
//! Every word that processes share is reached as an atomic. Payload bytes are plain memory, reached through a [`Region`]; who
//! may have one is decided by the slot states (see the module page of [`super`]).
//!
//! The file is allocated in full before it is mapped and nothing in farshore truncates it, so touching a page cannot
//! raise SIGBUS. It is readable and writable by its owner only.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::layout::{Geometry, H_WORDS, HeaderWords, LaneWords, SlotWords};

/// How often an allocation that a signal interrupted is tried again.
const ALLOCATE_RETRIES_MAX: u32 = 16;

/// Allocates all `bytes` of `file`, so that no page of it can be missing later.
///
/// # Errors
/// The kernel's, `ENOSPC` above all.
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let len = i64::try_from(bytes).map_err(io::Error::other)?;
    let mut tries = 0;
    loop {
        match nix::fcntl::posix_fallocate(file, 0, len) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINTR) if tries < ALLOCATE_RETRIES_MAX => tries += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// A mapped ring file. Lives until the last handle to a part of it is gone.
pub(super) struct Mapping {
    map: MmapRaw,
    geometry: Geometry,
}

impl Mapping {
    /// Maps `file`, whose header has been proved to say `geometry`.
    ///
    /// # Errors
    /// The kernel's; `UnexpectedEof` when the file is shorter than its geometry.
    pub fn new(file: &File, geometry: Geometry) -> io::Result<Self> {
        let bytes = usize::try_from(geometry.file_bytes()).map_err(io::Error::other)?;
        if file.metadata()?.len() != geometry.file_bytes() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file's length changed"));
        }
        let map = MmapOptions::new().len(bytes).map_raw(file)?;
        Ok(Self { map, geometry })
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The header's atomic words.
    pub fn header(&self) -> &HeaderWords {
        self.words(H_WORDS as u64)
    }

    /// The atomic words at a file offset. `T` is one of the three `repr(C)` structs of atomics of the layout.
    fn words<T: Words>(&self, offset: u64) -> &T {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.map.len());
        // SAFETY: in bounds and aligned (asserted; the mapping itself is page-aligned); `Words` is only implemented for
        // structs of atomics and padding, for which any bytes are valid and which others may change at any time; the
        // reference cannot outlive `self`, which owns the mapping.
        unsafe { &*self.map.as_mut_ptr().add(offset).cast::<T>() }
    }
}

/// Structs that consist of atomics and padding bytes that nobody reads.
trait Words {}
impl Words for HeaderWords {}
impl Words for LaneWords {}
impl Words for SlotWords {}

/// One lane of a mapping. Each producer, and the consumer for each lane, has an `Arc` of its own: threads of different lanes
/// then share no reference count.
pub(super) struct Lane {
    map: Arc<Mapping>,
    index: u32,
}

impl Lane {
    pub fn new(map: &Arc<Mapping>, index: u32) -> Arc<Self> {
        assert!(index < map.geometry.lanes(), "lane {index} of a ring with {} lanes", map.geometry.lanes());
        Arc::new(Self { map: Arc::clone(map), index })
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    pub fn geometry(&self) -> Geometry {
        self.map.geometry
    }

    /// The header's atomic words.
    pub fn header(&self) -> &HeaderWords {
        self.map.header()
    }

    /// The lane's atomic words.
    pub fn words(&self) -> &LaneWords {
        self.map.words(self.map.geometry.lane_offset(self.index))
    }

    /// The slot that number `n` lies in.
    pub fn slot(&self, n: u64) -> &SlotWords {
        self.map.words(self.map.geometry.slot_offset(self.index, n))
    }
}

/// Where a lane's payloads lie in memory, for an engine that has the kernel keep that memory at hand. It gives no right to the bytes,
/// and keeps the mapping alive.
pub struct PayloadArea(Arc<Lane>);

impl PayloadArea {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self(lane)
    }

    /// The address of its first byte.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        let Lane { map, index } = &*self.0;
        map.map.as_mut_ptr().wrapping_add(map.geometry.payload_area_offset(*index) as usize)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.geometry().payload_bytes() as usize // the mapping holds it
    }

    /// Whether `part` lies in it.
    #[must_use]
    pub fn holds(&self, part: &[u8]) -> bool {
        let from = part.as_ptr().addr().checked_sub(self.start().addr());
        from.and_then(|from| from.checked_add(part.len())).is_some_and(|end| end <= self.bytes())
    }
}

/// The bytes of one payload, and the right to them: exclusive for the owner of a reserved slot, shared for the reader of a
/// committed one. Keeps the mapping alive.
pub(super) struct Region {
    start: NonNull<u8>,
    len: usize,
    lane: Arc<Lane>,
}

// SAFETY: a region is a range of shared memory with no tie to a thread; its bytes are reached through `&self` and `&mut
// self` alone, as with a boxed slice.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives `&[u8]` only.
unsafe impl Sync for Region {}

impl Region {
    /// The `len` payload bytes at ever-rising position `position` of a lane.
    ///
    /// The caller's side of the contract, which slot states carry and no type can: until the region is dropped, nobody
    /// else writes these bytes, and nobody reads them if this region is written. It holds for the producer between
    /// reserving a slot and its commit, abort or give-back; for the consumer between reading the state `committed` and
    /// storing `consumed`; for recovery while no producer lives.
    ///
    /// # Panics
    /// When the bytes do not lie in one piece in the lane's payload area.
    pub fn new(lane: &Arc<Lane>, position: u64, len: u32) -> Self {
        let (map, geometry) = (&lane.map.map, lane.geometry());
        assert!(
            geometry.payload_fits(position, u64::from(len)),
            "payload of {len} bytes at {position} leaves its lane"
        );
        let offset = (geometry.payload_area_offset(lane.index) + position % geometry.payload_bytes()) as usize;
        assert!(offset + len as usize <= map.len());
        // SAFETY: the offset lies in the mapping (asserted), whose address is not null.
        let start = unsafe { NonNull::new_unchecked(map.as_mut_ptr().add(offset)) };
        Self { start, len: len as usize, lane: Arc::clone(lane) }
    }

    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds for the life of the mapping, which `self` keeps; any byte is a valid u8; not written meanwhile
        // by the contract of `new`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; exclusive by the contract of `new` and `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
