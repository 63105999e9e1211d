//! How long the filling half goes on with what does not work, or does not come.

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_vault::retry::Backoff;

/// How long a shipper that was told to stop goes on to empty the ring, and then the spool.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long it waits, within that, for operations that have their place in the order and are not finished, and for a spool that
/// cannot be used.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// First wait after the spool did not take a segment, or was not what it should be.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest wait: how late, at most, it is noticed that it can be used again.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// When something that failed is tried again.
pub(crate) struct Retry {
    backoff: Backoff,
    due: Option<Instant>,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY), due: None }
    }

    /// Time until it is due; `None` when it is.
    pub(crate) fn left(&self) -> Option<Duration> {
        let now = clock::mono();
        self.due.filter(|due| *due > now).map(|due| due - now)
    }

    /// It failed, again or for the first time. Gives the wait.
    pub(crate) fn failed(&mut self) -> Duration {
        let wait = self.backoff.next_wait();
        self.due = Some(clock::mono() + wait);
        wait
    }

    pub(crate) fn worked(&mut self) {
        self.backoff.reset();
        self.due = None;
    }
}

/// How far a shipper goes that is about to end.
pub(crate) struct Drain {
    /// Everything that had its place in the order then.
    until: Seq,
    end: Instant,
    moved: Instant,
}

impl Drain {
    pub(crate) fn new(next_seq: Seq) -> Self {
        let now = clock::mono();
        Self { until: Seq(next_seq.0 - 1), end: now + DRAIN_MAX, moved: now }
    }

    pub(crate) fn moved(&mut self) {
        self.moved = clock::mono();
    }

    pub(crate) fn is_over(&self, sealed: Seq) -> bool {
        let now = clock::mono();
        sealed >= self.until || now.duration_since(self.moved) >= SETTLE_MAX || now >= self.end
    }
}
