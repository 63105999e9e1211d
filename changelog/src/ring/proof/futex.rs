//! The futex as the kernel has it, for the model: a lock over the look at the word and the sleep. There is no timeout, so a
//! wake-up that is lost is a deadlock, which the model checker reports.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::sync::AtomicU32;

loom::lazy_static! {
    /// The kernel's queue. One serves, because a ring has one bell.
    static ref SLEEPERS: loom::sync::Mutex<()> = loom::sync::Mutex::new(());
    static ref WOKEN: loom::sync::Condvar = loom::sync::Condvar::new();
}

pub(super) fn wake(_: &AtomicU32) {
    let _queue = SLEEPERS.lock().unwrap();
    WOKEN.notify_one();
}

pub(super) fn wait(word: &AtomicU32, expected: u32, _: Duration) {
    let queue = SLEEPERS.lock().unwrap();
    if word.load(Ordering::Relaxed) == expected {
        drop(WOKEN.wait(queue).unwrap());
    }
}
