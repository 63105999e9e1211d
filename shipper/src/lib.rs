//! Ring to sealed segments to cache store.
//!
//! ```text
//! ring ─take─▶ sealer (fold, compress, seal) ─▶ spool ─▶ uploader ─▶ vault
//!       ◀─────────── release, once the spool has it durably
//! ```
//!
//! - [`shipper`]: [`Shipper`], opened on what the last one left, and the two threads that drive it
//! - [`filler`]: the half of the main thread, step by step: takes, decides, seals, releases
//! - [`config`]: what it needs to know
//! - [`fold`]: which bytes of a run of records survive (pure)
//! - [`batch`]: when a segment is sealed (pure)
//! - [`sealer`]: the segment in the making and the chain it continues
//! - [`spool`]: sealed segments on disk until the vault has confirmed them
//! - [`restart`]: what a shipper finds when it starts, and where it goes on (pure)
//! - [`uploader`]: the half of the second thread: segments into the vault in order, and what a refusal means
//! - [`epoch`]: opens the epoch before its first segment, and seals the one before
//! - [`state`]: the durable notes of a source (`epoch.json`, `shipped.json`, `fenced.json`), which the agent reads and writes too
//! - [`requests`]: what the target has asked of the source, in the state folder, where the agent finds it
//! - [`error`]: what can go wrong and what to do then
//!
//! The order of durable steps is that of `docs/format.md`: spool durable, ring released, upload, watermark noted, spool file
//! removed. A crash between any two of them is found at the next start by [`restart`].

pub mod batch;
pub mod config;
pub mod epoch;
pub mod error;
pub mod filler;
pub mod fold;
pub mod requests;
pub mod restart;
pub mod sealer;
pub mod shipper;
pub mod spool;
pub mod state;
pub mod uploader;

#[cfg(test)]
mod tests;

pub use config::ShipperConfig;
pub use error::ShipError;
pub use filler::{Filler, Pause};
pub use shipper::{Shipper, is_running};
pub use state::{Fenced, SourceEpoch, SourceState, Watermark};
pub use uploader::{End, Uploader};
