//! When the next bytes may go at a pace. Pure: times in, waits out.
//!
//! A token bucket that may be overdrawn: whatever is next goes as soon as what went before is paid for. So any time is kept to the pace
//! but for one segment, however large it is.

use std::time::{Duration, Instant};

use crate::bandwidth::Rate;

/// Whoever waits looks again this often: the pace may be another by then.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// Time that was not used and may be made up for: whoever waits wakes late.
const CREDIT_MAX: Duration = Duration::from_millis(250);

/// The bucket.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Bytes that may go; below 0: those that went and are not paid for.
    credit: f64,
    /// When that was.
    at: Instant,
}

impl Pacer {
    /// Empty, and not overdrawn.
    pub(crate) fn new(now: Instant) -> Self {
        Self { credit: 0.0, at: now }
    }

    /// How long the next has to wait at `pace`; `None`: no limit.
    pub(crate) fn wait(&mut self, now: Instant, pace: Option<Rate>) -> Duration {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let Some(pace) = pace else {
            self.credit = 0.0;
            return Duration::ZERO;
        };
        let a_second = pace.bytes_per_second();
        self.credit = (self.credit + a_second * passed.as_secs_f64()).min(a_second * CREDIT_MAX.as_secs_f64());
        if self.credit >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.credit / a_second) }
    }

    /// So many bytes go.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.credit -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use farshore_changelog::clock;

    use super::*;

    fn rate(text: &str) -> Option<Rate> {
        Some(Rate::parse(text).unwrap())
    }

    #[test]
    fn what_goes_is_paid_for_before_the_next() {
        let start = clock::mono();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (mut pacer, pace) = (Pacer::new(start), rate("8 Mbit/s"));
        assert_eq!(pacer.wait(start, pace), Duration::ZERO, "the first goes at once");
        pacer.spend(4_000_000);
        assert_eq!(pacer.wait(start, pace), Duration::from_secs(4));
        assert_eq!(pacer.wait(at(3000), pace), Duration::from_secs(1));
        assert_eq!(pacer.wait(at(4100), pace), Duration::ZERO, "it wakes late, ");
        pacer.spend(1_000_000);
        assert_eq!(pacer.wait(at(4100), pace), Duration::from_millis(900), "and loses nothing by that");
    }

    #[test]
    fn over_any_time_no_more_goes_than_the_pace_and_one_segment() {
        for bytes in [1_000, 300_000, 4_000_000] {
            let (start, mut now, mut sent) = (clock::mono(), Duration::from_secs(100), 0);
            let (mut pacer, pace) = (Pacer::new(start), rate("50 Mbit/s"));
            let begin = now;
            while now < begin + Duration::from_secs(60) {
                let wait = pacer.wait(start + now, pace);
                if wait.is_zero() {
                    pacer.spend(bytes);
                    sent += bytes;
                }
                now += wait.min(LOOK);
            }
            let paid = (60.0 + CREDIT_MAX.as_secs_f64()) * 50e6 / 8.0;
            assert!(sent as f64 <= paid + bytes as f64 && sent as f64 >= paid * 0.98, "{sent} bytes of {paid}");
        }
    }

    #[test]
    fn another_pace_counts_at_once() {
        let (start, mut pacer) = (clock::mono(), Pacer::new(clock::mono()));
        pacer.wait(start, rate("80 kbit/s"));
        pacer.spend(1_000_000);
        assert_eq!(pacer.wait(start, rate("80 kbit/s")).as_secs(), 100);
        assert_eq!(pacer.wait(start, rate("800 kbit/s")).as_secs(), 10);
        assert_eq!(pacer.wait(start, None), Duration::ZERO);
        assert_eq!(
            pacer.wait(start, rate("80 kbit/s")),
            Duration::ZERO,
            "what went without a limit is not paid for later"
        );
    }
}
