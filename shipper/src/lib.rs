//! Ring to sealed segments to cache store.
//!
//! ```text
//! ring ─take─▶ sealer (fold) ─▶ press (compress, hash) ─▶ seal ─▶ spool ─▶ uploader ─▶ vault
//!       ◀─────────── release, once the spool has it durably
//! ```
//!
//! - [`shipper`]: [`Shipper`], opened on the notes of the last one, and the two threads that drive its halves
//! - [`config`]: what it needs to know
//! - [`filler`]: the half of the main thread, step by step: takes, decides, seals, releases
//!   - `opening`: its first stage: proves what lies in the spool
//!   - [`restart`]: what a shipper finds when it starts, and where it goes on (pure)
//!   - `patience`: how long it goes on with what does not work
//!   - [`fold`]: which bytes of a run of records survive (pure)
//!   - [`batch`]: when a segment is sealed (pure)
//!   - [`sealer`]: the segment in the making and the chain it continues
//!     - [`level`]: how much time that takes (pure)
//!     - `storing`: a sealed segment on its way into the spool
//! - [`spool`]: sealed segments on disk until the vault has confirmed them
//! - [`uploader`]: the half of the second thread, one future
//!   - `uploads`: segments into the vault, several at once and confirmed in order, and what a refusal means
//!     - [`bandwidth`]: how fast, by the time of day (pure)
//!     - `pacer`: when the next may go at that pace (pure)
//!   - [`epoch`]: opens the epoch before its first segment, and seals the one before
//!   - `data_keys`: the keys that segments of an encrypted vault are sealed with
//!   - `looks`: what the target has put for this source: the epoch after ours, requests, hashes
//!   - `fetch`: these hashes, into the state folder
//!   - [`door`]: the way to the vault, and which of its errors are waited out
//! - [`requests`]: what the target has asked of the source, in the state folder, where the agent finds it
//! - [`state`]: the durable notes of a source (`epoch.json`, `shipped.json`, `fenced.json`), which the agent reads and writes too
//! - [`voice`]: what the shipper says of itself in the ring's header
//! - [`error`]: what can go wrong and what to do then
//!
//! The order of durable steps is that of `docs/format.md`: spool durable, ring released, upload, watermark noted, spool file
//! removed. A crash between any two of them is found at the next start by [`restart`].

pub mod bandwidth;
pub mod batch;
pub mod config;
mod data_keys;
pub mod door;
pub mod epoch;
pub mod error;
mod fetch;
pub mod filler;
pub mod fold;
pub mod level;
mod looks;
mod opening;
mod pacer;
mod patience;
pub mod requests;
pub mod restart;
pub mod sealer;
pub mod shipper;
pub mod spool;
pub mod state;
mod storing;
pub mod uploader;
mod uploads;
pub mod voice;

#[cfg(test)]
mod tests;

pub use config::ShipperConfig;
pub use error::ShipError;
pub use filler::{Filler, Pause};
pub use level::Compression;
pub use shipper::{Shipper, is_running};
pub use state::{Fenced, SourceEpoch, SourceState, Watermark};
pub use uploader::{End, Uploader};
