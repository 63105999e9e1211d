//! How many regions are opened with one that is touched first: alone as long as that is rare, with its neighbours while it is not.
//! Pure.
//!
//! A first touch waits for a small synchronous write, whatever it says; the bits of neighbours are in the same page of the map and
//! cost nothing more. What they do cost is a longer repair after a crash of the host, so a guest that touches few regions opens few.

use std::ops::Range;

/// Most regions that are opened at once: an aligned group of so many has its bits in one page.
const GROUP_MAX: u64 = 64;
/// First touches within a tick for each region of a group: with 128 it is pairs, with 4096 groups of 64.
const TOUCHES_PER_REGION: u32 = 64;
/// Open regions from which on none is opened ahead, so that memory stays bounded: about 64 bytes for each.
const AHEAD_WHILE_BELOW: usize = 256 << 10;

/// Counts first touches.
#[derive(Debug)]
pub(super) struct Ahead {
    touches_per_region: u32,
    /// In this tick, and in the one before.
    now: u32,
    before: u32,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { touches_per_region: TOUCHES_PER_REGION, now: 0, before: 0 }
    }
}

impl Ahead {
    /// One that opens groups early, for tests.
    #[cfg(test)]
    pub fn eager() -> Self {
        Self { touches_per_region: 1, ..Self::default() }
    }

    /// `region` is touched first, while `open` are open of `regions`: the group to be opened with it.
    pub fn touch(&mut self, region: u64, open: usize, regions: u64) -> Range<u64> {
        self.now = self.now.saturating_add(1);
        let wanted = u64::from(self.now.max(self.before) / self.touches_per_region).clamp(1, GROUP_MAX);
        let group = if open < AHEAD_WHILE_BELOW { 1 << wanted.ilog2() } else { 1 };
        let first = region / group * group;
        first..(first + group).min(regions)
    }

    /// A tick is over.
    pub fn tick(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_touches_few_regions_opens_few() {
        let mut ahead = Ahead::default();
        for region in 0..127 {
            assert_eq!(ahead.touch(region * 100, 0, 1 << 20), region * 100..region * 100 + 1);
        }
        assert_eq!(ahead.touch(77, 0, 1 << 20), 76..78);
        ahead.tick();
        assert_eq!(ahead.touch(78, 0, 79), 78..79, "not beyond the disk's end");
        ahead.tick();
        ahead.tick();
        assert_eq!(ahead.touch(77, 0, 1 << 20), 77..78, "it was long ago");
    }

    #[test]
    fn who_touches_many_opens_groups_up_to_a_limit() {
        let mut ahead = Ahead::default();
        let groups: Vec<u64> = (0..10_000).map(|n| ahead.touch(n, 0, 1 << 20)).map(|g| g.end - g.start).collect();
        assert_eq!((groups[0], groups[1000], groups[9999]), (1, 8, GROUP_MAX));
        assert!(groups.is_sorted());
        assert_eq!(ahead.touch(5, AHEAD_WHILE_BELOW, 1 << 20), 5..6);
    }
}
