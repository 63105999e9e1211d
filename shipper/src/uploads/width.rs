//! How many uploads go on at once. Pure: how each put went in, a number out.
//!
//! Several at once hide the round trip to the store. They do not make a line wider, so where each takes long by itself, or the store asks
//! for fewer, there are fewer: on a slow line each of many would take longer than the vault waits for a body. And where a line loses
//! packets each connection has only so much of it (about the segment size of TCP by the round trip and the square root of the loss), however
//! wide it is, so as long as all goes well there are more, up to the limit.

use std::time::Duration;

use farshore_vault::VaultError;

/// A put that takes longer than this waits neither for round trips nor for a lossy line's share: one less goes at once. Half of what the
/// vault waits for even the smallest body.
const SLOW: Duration = Duration::from_secs(30);

/// So many go on at first, if as many are allowed: enough for a round trip.
const FIRST: usize = 4;

/// How many may go on, from one to as many as are allowed.
#[derive(Debug, Clone)]
pub(crate) struct Width {
    most: usize,
    now: usize,
    /// No put was slow or failed yet: the limit is not known, and looked for in steps that double.
    untried: bool,
    /// Puts that went well since it changed last.
    well: usize,
    /// Changes of the number downwards: what was begun before one says nothing about the number after it.
    lowered: u64,
}

/// When a put began, as far as [`Width`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Began(u64);

impl Width {
    /// At most `most`, and so many at first.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, now: most.min(FIRST), untried: true, well: 0, lowered: 0 }
    }

    /// How many may go on now.
    pub(crate) fn now(&self) -> usize {
        self.now
    }

    /// A put begins.
    pub(crate) fn begin(&self) -> Began {
        Began(self.lowered)
    }

    /// A put was answered after `took`. As many as go on at once must go well before there is one more, or at first twice as many.
    pub(crate) fn went_well(&mut self, began: Began, took: Duration) {
        if took > SLOW {
            self.lower(began, self.now - 1);
            return;
        }
        self.well += 1;
        if self.well >= self.now {
            let more = if self.untried { self.now * 2 } else { self.now + 1 };
            (self.well, self.now) = (0, self.most.min(more));
        }
    }

    /// A put failed with this.
    pub(crate) fn failed(&mut self, began: Began, error: &VaultError) {
        if error.is_transient() {
            self.lower(began, self.now / 2);
        }
    }

    fn lower(&mut self, began: Began, to: usize) {
        (self.well, self.untried) = (0, false);
        if began == self.begin() {
            (self.now, self.lowered) = (to.max(1), self.lowered + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled() -> VaultError {
        VaultError::Throttled { what: "put x".into(), source: "503".into() }
    }

    #[test]
    fn a_round_of_throttled_puts_halves_once_and_a_round_that_goes_well_adds_one() {
        let (mut width, quick) = (Width::new(8), Duration::from_millis(50));
        assert_eq!(width.now(), FIRST);
        (0..FIRST).for_each(|_| width.went_well(width.begin(), quick));
        assert_eq!(width.now(), 8);
        let round: Vec<_> = (0..8).map(|_| width.begin()).collect();
        round.iter().for_each(|began| width.failed(*began, &throttled()));
        assert_eq!(width.now(), 4);
        for halved in [2, 1, 1] {
            width.failed(width.begin(), &throttled());
            assert_eq!(width.now(), halved);
        }
        for more in [2, 3, 4, 5, 6, 7, 8, 8] {
            for _ in 0..width.now() {
                width.went_well(width.begin(), quick);
            }
            assert_eq!(width.now(), more);
        }
        // One in between that fails makes the others count for nothing.
        let mut width = Width { now: 4, ..width };
        (0..3).for_each(|_| width.went_well(width.begin(), quick));
        width.failed(Began(0), &throttled());
        width.went_well(width.begin(), quick);
        assert_eq!(width.now(), 4);
    }

    #[test]
    fn as_long_as_all_goes_well_there_are_twice_as_many() {
        let mut width = Width::new(16);
        for more in [8, 16, 16] {
            (0..width.now()).for_each(|_| width.went_well(width.begin(), Duration::from_secs(2)));
            assert_eq!(width.now(), more);
        }
        assert_eq!((Width::new(3).now(), Width::new(0).now()), (3, 1));
    }

    #[test]
    fn on_a_slow_line_there_are_fewer() {
        let mut width = Width::new(4);
        for fewer in [3, 2, 1, 1] {
            width.went_well(width.begin(), SLOW * 2);
            assert_eq!(width.now(), fewer);
        }
    }

    #[test]
    fn a_refusal_says_nothing_of_the_number() {
        let mut width = Width::new(4);
        width.failed(width.begin(), &VaultError::Refused { what: "put x".into(), source: "403".into() });
        width.failed(width.begin(), &VaultError::Gone { what: "put x".into(), source: "404".into() });
        assert_eq!(width.now(), 4);
    }
}
