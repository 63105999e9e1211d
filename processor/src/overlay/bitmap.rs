//! Which granules of a disk lie in the overlay: one bit each, in pages that exist once a bit of theirs is set.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{BITS_BYTES, GRANULES_PER_PAGE};

/// One page of bits, and what of it is durable.
#[derive(Debug, Clone)]
struct Page {
    bits: Box<[u8; BITS_BYTES]>,
    /// Of the durable slot; 0 when none was written.
    generation: u64,
    /// Slot that holds it; the next write goes to the other.
    slot: u64,
    /// A bit was set since the last flush took the page.
    dirty: bool,
}

/// A page that a flush is to write: where, and what.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its number.
    pub page: u64,
    /// The slot that does not hold the durable state.
    pub slot: u64,
    /// The generation after the durable one.
    pub generation: u64,
    /// The bits to write.
    pub bits: Box<[u8; BITS_BYTES]>,
}

/// The bitmap of an overlay.
#[derive(Debug, Default)]
pub struct Bitmap {
    pages: BTreeMap<u64, Page>,
}

impl Bitmap {
    /// Takes a page that was read from the file.
    pub fn load(&mut self, page: u64, bits: Box<[u8; BITS_BYTES]>, generation: u64, slot: u64) {
        self.pages.insert(page, Page { bits, generation, slot, dirty: false });
    }

    /// Whether `granule` lies in the overlay.
    #[must_use]
    pub fn has(&self, granule: u64) -> bool {
        let (page, bit) = (granule / GRANULES_PER_PAGE, (granule % GRANULES_PER_PAGE) as usize);
        self.pages.get(&page).is_some_and(|p| p.bits[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Notes that `granules` lie in the overlay.
    pub fn set(&mut self, granules: Range<u64>) {
        let mut at = granules.start;
        while at < granules.end {
            let number = at / GRANULES_PER_PAGE;
            let end = granules.end.min((number + 1) * GRANULES_PER_PAGE);
            let page = self.pages.entry(number).or_insert_with(|| Page {
                bits: Box::new([0; BITS_BYTES]),
                generation: 0,
                slot: 1, // the first write goes to slot 0
                dirty: false,
            });
            let first = number * GRANULES_PER_PAGE;
            page.dirty |= set_bits(&mut page.bits, (at - first) as usize..(end - first) as usize);
            at = end;
        }
    }

    /// The first run of granules from `from`, not past `to`, that all lie in the overlay or all do not: its end, and which.
    #[must_use]
    pub fn run(&self, from: u64, to: u64) -> (u64, bool) {
        let here = self.has(from);
        let mut at = from;
        while at < to {
            let number = at / GRANULES_PER_PAGE;
            let first = number * GRANULES_PER_PAGE;
            let stop = to.min(first + GRANULES_PER_PAGE);
            match self.pages.get(&number) {
                None if here => return (at, here),
                None => at = stop,
                Some(page) => {
                    let end =
                        first + same_bits(&page.bits, (at - first) as usize..(stop - first) as usize, here) as u64;
                    if end < stop {
                        return (end, here);
                    }
                    at = stop;
                }
            }
        }
        (at, here)
    }

    /// The pages with bits that are not durable yet; their bits as they are now.
    pub fn take_dirty(&mut self) -> Vec<Pending> {
        let mut pending = Vec::new();
        for (number, page) in &mut self.pages {
            if std::mem::take(&mut page.dirty) {
                pending.push(Pending {
                    page: *number,
                    slot: 1 - page.slot,
                    generation: page.generation + 1,
                    bits: page.bits.clone(),
                });
            }
        }
        pending
    }

    /// What [`Bitmap::take_dirty`] gave is durable.
    pub fn written(&mut self, pending: &[Pending]) {
        for done in pending {
            if let Some(page) = self.pages.get_mut(&done.page) {
                page.generation = done.generation;
                page.slot = done.slot;
            }
        }
    }
}

/// Sets the bits of `range`; whether one of them was not set.
fn set_bits(bits: &mut [u8; BITS_BYTES], range: Range<usize>) -> bool {
    let mut changed = false;
    for (byte, mask) in masks(range) {
        changed |= bits[byte] & mask != mask;
        bits[byte] |= mask;
    }
    changed
}

/// How far from `range.start` the bits are all `set`.
fn same_bits(bits: &[u8; BITS_BYTES], range: Range<usize>, set: bool) -> usize {
    let end = range.end;
    for (byte, mask) in masks(range) {
        let different = (if set { !bits[byte] } else { bits[byte] }) & mask;
        if different != 0 {
            return byte * 8 + different.trailing_zeros() as usize;
        }
    }
    end
}

/// The bytes that `range` touches, each with the mask of its bits in the range.
fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u8)> {
    let bytes = if range.is_empty() { 0..0 } else { range.start / 8..range.end.div_ceil(8) };
    bytes.map(move |byte| {
        let low = range.start.saturating_sub(byte * 8).min(8);
        let high = (range.end - byte * 8).min(8);
        let mask = (0xffu16 >> (8 - (high - low))) << low;
        (byte, mask as u8)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_granules(
            ranges in prop::collection::vec((0u64..3 * GRANULES_PER_PAGE, 0u64..200), 0..20),
            from in 0u64..3 * GRANULES_PER_PAGE,
            len in 1u64..70_000,
        ) {
            let (mut bitmap, mut model) = (Bitmap::default(), BTreeSet::new());
            for (start, len) in ranges {
                bitmap.set(start..start + len);
                model.extend(start..start + len);
            }
            let to = from + len;
            let (end, here) = bitmap.run(from, to);
            prop_assert!(end > from && end <= to);
            prop_assert_eq!(here, model.contains(&from));
            for granule in from..end {
                prop_assert_eq!(model.contains(&granule), here);
                prop_assert_eq!(bitmap.has(granule), here);
            }
            prop_assert!(end == to || model.contains(&end) != here);
        }
    }

    #[test]
    fn a_page_goes_to_its_slots_in_turn_and_only_when_it_changed() {
        let mut bitmap = Bitmap::default();
        bitmap.set(5..6);
        let first = bitmap.take_dirty();
        assert_eq!((first.len(), first[0].slot, first[0].generation), (1, 0, 1));
        bitmap.written(&first);
        bitmap.set(5..6);
        assert!(bitmap.take_dirty().is_empty());
        bitmap.set(6..7);
        let second = bitmap.take_dirty();
        assert_eq!((second[0].slot, second[0].generation), (1, 2));
    }
}
