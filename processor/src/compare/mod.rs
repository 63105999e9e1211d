//! The images against the source: every digest of the log is held against the image at exactly its seq.
//!
//! - [`digests`]: pure: where a batch must end so that the image can be compared, and the digests of a batch
//! - [`batch`]: what one batch has to compare, and the comparing
//! - [`report`]: [`Comparison`], what was compared and what differs (`verify.json`); it only reports, replay goes on
//! - [`suspect`]: which points have a range that differed from the image, and not from the undo journal

pub mod batch;
pub mod digests;
pub mod report;
pub mod suspect;

pub use report::{Comparison, Mismatch, Run};

#[cfg(test)]
mod tests;
