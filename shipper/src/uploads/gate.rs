//! Which of the segments that were taken up may be put now: the lowest, as many at once as [`Width`] says.
//!
//! They are confirmed in order, so one that takes long keeps those above it from being confirmed. So that the line is not idle then, some
//! more may be put above it ([`window`]); how far above a hole a segment can be has its limit in the format.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_vault::{PUT_AHEAD_MAX, VaultError};
use tokio::sync::Notify;

use super::width::{Began, Width};

/// Lets the lowest through.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    width: Width,
    /// Place of the lowest one that is not confirmed. Places count what was taken up, from 0.
    lowest: u64,
    /// Places that wait for their turn.
    waiting: BTreeSet<u64>,
    /// Those that have theirs.
    under_way: usize,
}

/// A place that has its turn or waits for it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    place: u64,
    under_way: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.gate.inner();
        if self.under_way {
            inner.under_way -= 1;
        } else {
            inner.waiting.remove(&self.place);
        }
        drop(inner);
        self.gate.changed.notify_waiters();
    }
}

/// How many of those that are not confirmed may be in the vault or on their way there, when `width` may be on their way: half as many
/// again, and never more than the format allows. One at a time goes in order. Pure.
fn window(width: usize) -> usize {
    (width + width / 2).min(PUT_AHEAD_MAX as usize)
}

impl Gate {
    /// For at most `most` at once.
    pub(crate) fn new(most: usize) -> Self {
        let inner = Inner { width: Width::new(most), lowest: 0, waiting: BTreeSet::new(), under_way: 0 };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// How many may be taken up and not confirmed.
    pub(crate) fn window(&self) -> usize {
        window(self.inner().width.now())
    }

    /// Waits until the one at `place` may be put. It has its turn until that is dropped.
    pub(crate) async fn turn(&self, place: u64) -> Turn<'_> {
        self.inner().waiting.insert(place);
        let mut turn = Turn { gate: self, place, under_way: false };
        loop {
            // Before it is asked, so that no change is missed.
            let changed = self.changed.notified();
            if self.inner().let_through(place) {
                turn.under_way = true;
                // The next may be let through too.
                self.changed.notify_waiters();
                return turn;
            }
            changed.await;
        }
    }

    /// The lowest one is confirmed.
    pub(crate) fn confirmed(&self) {
        self.inner().lowest += 1;
        self.changed.notify_waiters();
    }

    /// A put begins.
    pub(crate) fn begin(&self) -> Began {
        self.inner().width.begin()
    }

    /// It has ended.
    pub(crate) fn end<T>(&self, began: Began, ended: &Result<T, VaultError>, took: Duration) {
        let mut inner = self.inner();
        let was = inner.width.now();
        match ended {
            Ok(_) => inner.width.went_well(began, took),
            Err(e) => inner.width.failed(began, e),
        }
        let now = inner.width.now();
        drop(inner);
        if now != was {
            tracing::debug!(uploads = now, was, "uploads at once");
            self.changed.notify_waiters();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn let_through(&mut self, place: u64) -> bool {
        let width = self.width.now();
        let may = self.under_way < width
            && place < self.lowest + window(width) as u64
            && self.waiting.first().is_none_or(|first| place <= *first);
        if may {
            self.waiting.remove(&place);
            self.under_way += 1;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::UPLOADS;
    use super::*;

    fn at_once<'a>(gate: &'a Gate, place: u64) -> Option<Turn<'a>> {
        gate.turn(place).now_or_never()
    }

    #[test]
    fn the_lowest_go_and_above_one_that_takes_long_half_as_many_again() {
        let gate = Gate::new(4);
        let mut turns: Vec<_> = (0..4).map(|place| at_once(&gate, place).expect("four at once")).collect();
        assert!(at_once(&gate, 4).is_none(), "a fifth");
        // Those above the lowest end.
        turns.truncate(1);
        let above: Vec<_> = (4..8).map(|place| at_once(&gate, place)).collect();
        assert!(above[0].is_some() && above[1].is_some() && above[2].is_none(), "six that are not confirmed");
        drop(above);
        gate.confirmed();
        assert!(at_once(&gate, 6).is_some() && at_once(&gate, 7).is_none());
        assert_eq!(gate.inner().under_way, 1, "who gave up waiting, or ended, is not counted");
        assert!(gate.inner().waiting.is_empty());
    }

    #[test]
    fn who_waits_at_a_lower_place_goes_first() {
        let gate = Gate::new(1);
        let first = at_once(&gate, 0).expect("one");
        gate.confirmed();
        let mut low = Box::pin(gate.turn(1));
        assert!(low.as_mut().now_or_never().is_none());
        drop(first);
        assert!(at_once(&gate, 2).is_none(), "the one below waits");
        assert!(low.now_or_never().is_some());
    }

    #[test]
    fn one_at_a_time_leaves_no_hole_and_nothing_goes_further_than_the_format_allows() {
        assert_eq!([1, 2, 4, UPLOADS, 16].map(window), [1, 3, 6, 16, 16]);
    }
}
