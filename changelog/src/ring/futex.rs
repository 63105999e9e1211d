//! The futex under the doorbell. A build with `--cfg loom` has `proof/futex.rs` in its place.
#![allow(unsafe_code)]

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Wakes the one that sleeps on `word`, if it does.
pub(super) fn wake(word: &AtomicU32) {
    const SLEEPERS: libc::c_int = 1;
    // SAFETY: FUTEX_WAKE reads no memory of ours but compares the address of a word that is valid for the call; not the
    // private variant, because the sleeper is another process. Its result (how many woke) changes nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, SLEEPERS) };
}

/// Sleeps until it is woken or `timeout` is over, unless `word` is not `expected`. May return early.
pub(super) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: the word and the timeout are valid for the whole call. Every way to return (woken, timed out, interrupted,
    // word changed) means the same to the caller: look again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout) };
}
