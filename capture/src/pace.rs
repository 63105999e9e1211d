//! How fast lost regions are read: no more bytes a second than allowed, and less where the disk answers slowly, because then the
//! guest is waiting too. Times in, times out; one for all disks of a group.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A read that takes longer than this makes the next ones wait, unless the config says otherwise.
pub const LATENCY: Duration = Duration::from_millis(50);
/// Longest pause for a slow disk: the copy never stands still.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pace of a group's resync.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    latency: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// No read begins before.
    next: Option<Instant>,
    /// What a slow disk adds.
    pause: Duration,
}

impl Pace {
    /// At most so many bytes a second (`None`: no limit), slower where a read takes longer than `latency`.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>, latency: Duration) -> Self {
        Self { bytes_per_second, latency, state: Mutex::default() }
    }

    /// No limit of bytes, and the usual latency.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(None, LATENCY)
    }

    /// How long the next read has to wait at `now`; `None` when it may begin.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let next = self.state.lock().unwrap_or_else(PoisonError::into_inner).next;
        next.filter(|next| *next > now).map(|next| next - now)
    }

    /// A read of `bytes` begins at `now`.
    pub fn begins(&self, now: Instant, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = match self.bytes_per_second {
            Some(rate) => Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64),
            None => Duration::ZERO,
        };
        let from = state.next.map_or(now, |next| next.max(now));
        state.next = Some(from + cost + state.pause);
    }

    /// It took this long: the pause doubles while reads are slow, and halves while they are not.
    pub fn ended(&self, took: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pause = if took > self.latency {
            (state.pause * 2).clamp(self.latency, PAUSE_MAX)
        } else if state.pause < Duration::from_millis(1) {
            Duration::ZERO
        } else {
            state.pause / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use farshore_changelog::clock;

    use super::*;

    #[test]
    fn bytes_cost_time_and_nothing_is_saved_up() {
        let pace = Pace::new(Some(1 << 20), LATENCY);
        let now = clock::mono();
        assert_eq!(pace.wait(now), None);
        pace.begins(now, 1 << 20);
        assert_eq!(pace.wait(now), Some(Duration::from_secs(1)));
        pace.begins(now, 1 << 19);
        assert_eq!(pace.wait(now), Some(Duration::from_millis(1500)));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.wait(later), None);
        pace.begins(later, 1 << 20);
        assert_eq!(pace.wait(later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_slow_disk_is_given_time_and_gets_less_of_it_when_it_recovers() {
        let pace = Pace::new(None, Duration::from_millis(10));
        let now = clock::mono();
        let pause = || {
            pace.begins(now, 1 << 20);
            let wait = pace.wait(now).unwrap_or_default();
            pace.state.lock().unwrap().next = None;
            wait
        };
        assert_eq!(pause(), Duration::ZERO);
        let mut before = Duration::ZERO;
        for _ in 0..20 {
            pace.ended(Duration::from_millis(11));
            let now = pause();
            assert!(now > before || now == PAUSE_MAX, "{before:?} then {now:?}");
            before = now;
        }
        assert_eq!(before, PAUSE_MAX);
        for _ in 0..11 {
            pace.ended(Duration::from_millis(1));
        }
        assert_eq!(pause(), Duration::ZERO);
    }
}
