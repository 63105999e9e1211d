//! The atomics that the ring's words are made of: std's, or, in a build with `--cfg loom`, those of the model checker
//! (`proof/atomics.rs`). All code of the ring takes them from here, so what is proved is what runs.

#[cfg(loom)]
pub(super) use super::proof::atomics::{AtomicU32, AtomicU64, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
