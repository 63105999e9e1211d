//! How much time compression takes: as much as there is. Pure.

/// zstd levels, from what costs least to what costs most. Negative ones are zstd's fast modes.
const FASTEST: i32 = -5;
const FAST: i32 = -1;
const USUAL: i32 = 1;
const SMALL: i32 = 3;
/// Fill of the ring at which time counts most, in percent …
const RING_URGENT: u32 = 50;
/// … and at which it counts.
const RING_FILLS: u32 = 25;
/// Fill of the spool at which the line, and not the processor, is what is short, in percent.
const SPOOL_FILLS: u32 = 10;

/// The configured level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// By how far the shipper is behind.
    Adaptive,
    /// Always this zstd level.
    Level(i32),
}

impl Compression {
    /// The level for the blocks that come, by how full ring and spool are, in percent.
    #[must_use]
    pub fn level(self, ring: u32, spool: u32) -> i32 {
        match self {
            Self::Level(level) => level,
            Self::Adaptive if ring >= RING_URGENT => FASTEST,
            Self::Adaptive if ring >= RING_FILLS => FAST,
            Self::Adaptive if spool >= SPOOL_FILLS => SMALL,
            Self::Adaptive => USUAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_wants_speed_and_a_full_spool_small_segments() {
        let level = |ring, spool| Compression::Adaptive.level(ring, spool);
        assert_eq!((level(0, 0), level(30, 0), level(60, 0), level(0, 50)), (USUAL, FAST, FASTEST, SMALL));
        assert_eq!(level(60, 90), FASTEST, "the guest's writes come first");
        assert_eq!(Compression::Level(9).level(60, 90), 9);
    }
}
