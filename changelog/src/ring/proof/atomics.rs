//! The model checker's atomics, as the ring uses them. One place in the sources can be made weaker than it is written, so
//! that a test can ask whether the models would notice (`weakened.rs`).
//!
//! loom leaves out interleavings that it takes for equal to others, and for that it remembers the last access to each word
//! alone: a thread that loads a word and then stores it hides the loads of the others before. So each step here also counts
//! in one word of all threads, which orders nothing (Relaxed) and makes every interleaving a different one.

use std::sync::atomic::Ordering;

use super::weakened::in_force;

loom::lazy_static! {
    static ref STEPS: loom::sync::atomic::AtomicUsize = loom::sync::atomic::AtomicUsize::new(0);
}

/// A step of the calling thread.
fn step() {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(in_force(order))
            }

            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, in_force(order));
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, in_force(order))
            }

            #[track_caller]
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, in_force(order))
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// A weaker fence is one that keeps acquire and release, and has no place in the one order of the `SeqCst` fences.
#[track_caller]
pub fn fence(order: Ordering) {
    step();
    loom::sync::atomic::fence(match in_force(order) {
        Ordering::Relaxed => Ordering::AcqRel,
        order => order,
    });
}
