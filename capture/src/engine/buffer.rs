//! Memory for disk and socket I/O: aligned for O_DIRECT, owned by the operation that uses it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;

use farshore_changelog::ring::Slot;
use smallvec::SmallVec;

/// Alignment of every buffer's first byte: what the strictest O_DIRECT asks for, and the ring's payloads have it too.
pub const BUFFER_ALIGN_BYTES: usize = 4096;

/// Zeroed heap memory, aligned to [`BUFFER_ALIGN_BYTES`].
pub struct HeapBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory alone, like a `Box<[u8]>`.
unsafe impl Send for HeapBuf {}
// SAFETY: as a `Box<[u8]>`: shared references only read.
unsafe impl Sync for HeapBuf {}

impl HeapBuf {
    /// `len` bytes of zeroes.
    ///
    /// # Panics
    /// When `len` passes `isize::MAX`, which no request length does. Aborts when memory is out.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), BUFFER_ALIGN_BYTES).expect("a buffer is smaller than the address space")
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` has `len` initialised bytes, and the borrow of self keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for HeapBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

impl From<&[u8]> for HeapBuf {
    fn from(bytes: &[u8]) -> Self {
        let mut buf = Self::new(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf
    }
}

/// Memory of an operation.
pub enum IoBuf {
    /// Memory of its own.
    Heap(HeapBuf),
    /// A payload in the ring: what lies in it becomes part of the log without a copy.
    Slot(Slot),
}

impl IoBuf {
    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            IoBuf::Heap(buf) => buf.as_slice(),
            IoBuf::Slot(slot) => slot.payload(),
        }
    }

    /// Its bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            IoBuf::Heap(buf) => buf.as_mut_slice(),
            IoBuf::Slot(slot) => slot.payload_mut(),
        }
    }
}

/// A buffer and the part of it that an operation is about.
pub struct Piece {
    /// The memory.
    pub buf: IoBuf,
    /// The bytes of it that count; within the buffer.
    pub range: Range<usize>,
}

/// The buffers of an operation, in order: nearly always one, which then lies in the operation itself.
pub type Pieces = SmallVec<[Piece; 1]>;

impl Piece {
    /// The whole of `buf`.
    #[must_use]
    pub fn whole(buf: IoBuf) -> Self {
        let range = 0..buf.as_slice().len();
        Self { buf, range }
    }

    /// `len` zeroed bytes of heap memory.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        Self { buf: IoBuf::Heap(HeapBuf::new(len)), range: 0..len }
    }

    /// Bytes that count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether none counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes that count.
    ///
    /// # Panics
    /// When the range does not lie within the buffer.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buf.as_slice()[self.range.clone()]
    }

    /// The bytes that count, to change.
    ///
    /// # Panics
    /// When the range does not lie within the buffer.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.buf.as_mut_slice()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_memory_is_aligned_zeroed_and_of_the_length_asked_for() {
        for len in [0, 1, 512, 4097, 1 << 20] {
            let buf = HeapBuf::new(len);
            assert_eq!(buf.as_slice().as_ptr() as usize % BUFFER_ALIGN_BYTES, 0);
            assert_eq!(buf.as_slice().len(), len);
            assert!(buf.as_slice().iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_piece_shows_its_range_alone() {
        let mut piece = Piece { buf: IoBuf::Heap(HeapBuf::from(&b"abcdef"[..])), range: 2..4 };
        assert_eq!(piece.as_slice(), b"cd");
        piece.as_mut_slice().copy_from_slice(b"XY");
        assert_eq!(piece.buf.as_slice(), b"abXYef");
    }
}
