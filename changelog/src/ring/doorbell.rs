//! The doorbell: one futex word with which a producer wakes the shipper, at the price of a system call only when the
//! shipper sleeps.
//!
//! The sleeper stores 1, fences, and looks once more for work before it sleeps; a ringer makes its work visible, fences,
//! and looks at the word. The two fences (both `SeqCst`) have an order: if the ringer's is first, the sleeper's look
//! finds the work; if the sleeper's is first, the ringer finds the 1. So no wake-up is lost. A ringer that takes the 1
//! before the sleeper is in the kernel changes the word, and the kernel refuses to sleep on a changed word.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Wakes the sleeper, if there is one. Whatever it shall find must be stored before.
pub(super) fn ring(word: &AtomicU32) {
    fence(Ordering::SeqCst);
    if word.load(Ordering::Relaxed) == ASLEEP && word.swap(AWAKE, Ordering::AcqRel) == ASLEEP {
        wake(word);
    }
}

/// Sleeps until the bell is rung or `timeout` is over, unless `work` says that there is something to do. May return early.
pub(super) fn sleep_unless(word: &AtomicU32, timeout: Duration, work: impl FnOnce() -> bool) {
    word.store(ASLEEP, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if !work() {
        wait(word, timeout);
    }
    word.store(AWAKE, Ordering::Relaxed);
}

fn wake(word: &AtomicU32) {
    const SLEEPERS: libc::c_int = 1;
    // SAFETY: FUTEX_WAKE reads no memory of ours but compares the address of a word that is valid for the call; not the
    // private variant, because the sleeper is another process. Its result (how many woke) changes nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, SLEEPERS) };
}

fn wait(word: &AtomicU32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: the word and the timeout are valid for the whole call. Every way to return (woken, timed out, interrupted,
    // word changed) means the same to the caller: look again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, ASLEEP, &raw const timeout) };
}

#[cfg(test)]
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
