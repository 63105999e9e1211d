//! How often and how patiently something that may pass is tried again.

use std::time::Duration;

use farshore_changelog::clock;

/// Waits that double from `first` to `cap`, each cut by up to a half at random so that many clients do not come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.next.min(self.cap);
        self.next = full.saturating_mul(2).min(self.cap);
        let half = full / 2;
        let jitter = u32::from(clock::nonce()[0]);
        half + half * jitter / 255
    }

    /// Something worked: the next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// How often one vault operation is tried before its error is handed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The first wait.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl RetryPolicy {
    /// For commands and readers: about ten seconds before a store that does not answer is reported.
    pub const PATIENT: Self =
        Self { attempts: 6, first_wait: Duration::from_millis(250), longest_wait: Duration::from_secs(5) };
    /// For a caller with a loop of its own.
    pub const ONCE: Self = Self { attempts: 1, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };

    /// The waits between its attempts.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff::new(self.first_wait, self.longest_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for full in [100, 200, 350, 350] {
            let wait = backoff.next_wait().as_millis();
            assert!((full / 2..=full).contains(&wait), "{wait} is not within half of {full}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
