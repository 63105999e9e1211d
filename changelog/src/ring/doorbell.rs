//! The doorbell: one futex word with which a producer wakes the shipper, at the price of a system call only when the
//! shipper sleeps.
//!
//! The sleeper stores 1, fences, and looks once more for work before it sleeps; a ringer makes its work visible, fences,
//! and looks at the word. The two fences (both `SeqCst`) have an order: if the ringer's is first, the sleeper's look
//! finds the work; if the sleeper's is first, the ringer finds the 1. So no wake-up is lost. A ringer that takes the 1
//! before the sleeper is in the kernel changes the word, and the kernel refuses to sleep on a changed word.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::futex;
use super::sync::{AtomicU32, fence};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Wakes the sleeper, if there is one. Whatever it shall find must be stored before.
pub(super) fn ring(word: &AtomicU32) {
    fence(Ordering::SeqCst);
    if word.load(Ordering::Relaxed) == ASLEEP && word.swap(AWAKE, Ordering::AcqRel) == ASLEEP {
        futex::wake(word);
    }
}

/// Sleeps until the bell is rung or `timeout` is over, unless `work` says that there is something to do. May return early.
pub(super) fn sleep_unless(word: &AtomicU32, timeout: Duration, work: impl FnOnce() -> bool) {
    word.store(ASLEEP, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if !work() {
        futex::wait(word, ASLEEP, timeout);
    }
    word.store(AWAKE, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock;

    #[test]
    fn the_bell_wakes_a_sleeper_long_before_its_timeout() {
        let (word, work) = (AtomicU32::new(AWAKE), AtomicBool::new(false));
        let start = clock::mono();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !work.load(Ordering::Acquire) {
                    sleep_unless(&word, Duration::from_secs(60), || work.load(Ordering::Acquire));
                }
            });
            clock::sleep(Duration::from_millis(20));
            work.store(true, Ordering::Release);
            ring(&word);
        });
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(word.load(Ordering::Relaxed), AWAKE);
    }

    #[test]
    fn a_sleep_without_a_bell_ends_with_its_timeout_and_work_prevents_it() {
        let word = AtomicU32::new(AWAKE);
        let start = clock::mono();
        sleep_unless(&word, Duration::from_millis(30), || false);
        assert!(start.elapsed() >= Duration::from_millis(25));
        let start = clock::mono();
        sleep_unless(&word, Duration::from_secs(60), || true);
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
