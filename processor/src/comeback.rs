//! When a group that stopped is tried again. Pure: times in, waits out.
//!
//! Nothing stops for good: a disk gets room, a mount comes back, somebody puts a segment back, a failover gives the lock away. So
//! a stopped group drops its target, and after a while opens it anew, which proves and rolls back what was half done.

use std::time::Duration;

use crate::error::GroupError;

/// First wait of a stopped group, unless the config says otherwise.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait of a stopped group, unless the config says otherwise.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a stopped group waits until it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    /// The longest one.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: RETRY_FIRST, most: RETRY_MAX }
    }
}

impl Backoff {
    /// The wait after the `tries`-th failure in a row, from 1 on.
    #[must_use]
    pub fn after(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(u32::BITS - 1);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

/// A group that has stopped.
#[derive(Debug)]
pub struct Stopped {
    /// Why, when it was last tried.
    pub error: GroupError,
    /// Failures in a row.
    pub tries: u32,
    /// When the first of them was (target's clock).
    pub since: jiff::Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30) };
        let waits: Vec<u64> = (1..9).map(|tries| backoff.after(tries).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff.after(u32::MAX), backoff.most);
    }
}
