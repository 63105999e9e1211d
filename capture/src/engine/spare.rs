//! Heap memory that is used again: in steady state a disk's reads take none from the allocator, and none that has to be zeroed.

use super::HeapBuf;
use super::buffer::BUFFER_ALIGN_BYTES;

/// Most bytes that are kept; what comes back beyond them is freed.
pub const SPARE_BYTES_MAX: usize = 8 << 20;
/// Largest buffer that is kept. What is larger takes the disk far longer than the allocator.
const LARGEST_BYTES: usize = 1 << 20;
/// Buffers have sizes of powers of two, from their alignment on.
const SIZES: usize = (LARGEST_BYTES.ilog2() - BUFFER_ALIGN_BYTES.ilog2()) as usize + 1;

/// The spare buffers of one owner.
#[derive(Default)]
pub struct Spares {
    by_size: [Vec<HeapBuf>; SIZES],
    bytes: usize,
}

impl Spares {
    /// A buffer of at least `len` bytes, for an operation that fills them: what lies in it is left from an earlier one.
    #[must_use]
    pub fn take(&mut self, len: usize) -> HeapBuf {
        let Some((place, bytes)) = size(len) else { return HeapBuf::new(len) };
        let Some(buf) = self.by_size[place].pop() else { return HeapBuf::new(bytes) };
        self.bytes -= bytes;
        buf
    }

    /// Takes a buffer that is no longer needed.
    pub fn keep(&mut self, buf: HeapBuf) {
        let len = buf.as_slice().len();
        if let Some((place, bytes)) = size(len)
            && bytes == len
            && self.bytes + bytes <= SPARE_BYTES_MAX
        {
            self.bytes += bytes;
            self.by_size[place].push(buf);
        }
    }
}

/// The place of buffers that hold `len` bytes, and their size; `None` when they are not kept.
fn size(len: usize) -> Option<(usize, usize)> {
    let bytes = len.max(BUFFER_ALIGN_BYTES).checked_next_power_of_two().filter(|bytes| *bytes <= LARGEST_BYTES)?;
    Some(((bytes.ilog2() - BUFFER_ALIGN_BYTES.ilog2()) as usize, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_used_again_for_what_fits() {
        let mut spares = Spares::default();
        for (len, bytes) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (LARGEST_BYTES, LARGEST_BYTES)] {
            let buf = spares.take(len);
            assert_eq!(buf.as_slice().len(), bytes);
            let memory = buf.as_slice().as_ptr();
            spares.keep(buf);
            assert_eq!(spares.take(bytes).as_slice().as_ptr(), memory);
        }
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let mut spares = Spares::default();
        spares.keep(HeapBuf::new(LARGEST_BYTES + 1));
        spares.keep(HeapBuf::new(5000));
        assert_eq!(spares.bytes, 0, "neither is of a size that is handed out");
        for _ in 0..2 * SPARE_BYTES_MAX / LARGEST_BYTES {
            spares.keep(HeapBuf::new(LARGEST_BYTES));
        }
        spares.keep(HeapBuf::new(4096));
        assert_eq!(spares.bytes, SPARE_BYTES_MAX);
    }
}
