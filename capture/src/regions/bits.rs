//! One kind of bit of a dirty map in memory.

use super::layout::{BITS_BYTES, pages};

/// One bit a region, in whole pages.
#[derive(Debug)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    regions: u64,
    /// How many are set.
    pub count: u64,
}

impl Bits {
    pub fn new(regions: u64) -> Self {
        Self { bytes: vec![0; pages(regions) * BITS_BYTES], regions, count: 0 }
    }

    pub fn page(&self, n: usize) -> &[u8] {
        &self.bytes[n * BITS_BYTES..(n + 1) * BITS_BYTES]
    }

    pub fn set_page(&mut self, n: usize, bits: &[u8]) {
        self.bytes[n * BITS_BYTES..(n + 1) * BITS_BYTES].copy_from_slice(bits);
        self.count += bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    }

    /// Whether no bit beyond the last region is set.
    pub fn end_is_clear(&self) -> bool {
        self.next(self.regions).is_none()
    }

    pub fn get(&self, region: u64) -> bool {
        self.bytes.get((region / 8) as usize).is_some_and(|byte| byte & (1 << (region % 8)) != 0)
    }

    pub fn set(&mut self, region: u64) -> bool {
        let new = !self.get(region);
        self.bytes[(region / 8) as usize] |= 1 << (region % 8);
        self.count += u64::from(new);
        new
    }

    pub fn clear(&mut self, region: u64) -> bool {
        let was = self.get(region);
        if was {
            self.bytes[(region / 8) as usize] &= !(1 << (region % 8));
            self.count -= 1;
        }
        was
    }

    /// The first one that is set, at or after `from`.
    pub fn next(&self, from: u64) -> Option<u64> {
        let first = usize::try_from(from / 8).ok()?;
        let rest = self.bytes.get(first..)?;
        rest.iter().enumerate().find_map(|(n, byte)| {
            // In the first byte, what lies before `from` does not count.
            let byte = if n == 0 { byte & (0xff << (from % 8)) } else { *byte };
            (byte != 0).then(|| (first + n) as u64 * 8 + u64::from(byte.trailing_zeros()))
        })
    }
}
