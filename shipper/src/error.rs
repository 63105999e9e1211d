//! What can go wrong while shipping, by what is done about it.

use std::path::PathBuf;

use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::ring::RingError;
use farshore_changelog::segment::SegmentError;
use farshore_vault::VaultError;

/// Why the shipper stopped. What may pass by itself (a vault that does not answer) is waited for and is not among these.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// A value of the configuration cannot be used.
    #[error("{what}")]
    Config {
        /// Which, and what is possible.
        what: String,
    },
    /// Another shipper of this group runs.
    #[error("another shipper of this group runs: {path} is locked; stop it first")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The ring cannot be used.
    #[error("the ring cannot be shipped from")]
    Ring(#[from] RingError),
    /// The vault cannot be used, and waiting does not help.
    #[error("the vault cannot be shipped to")]
    Vault(#[from] VaultError),
    /// A note of the group's state is missing, damaged, or contradicts another.
    #[error("{path}: {what}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A sealed segment in the spool is damaged or missing.
    #[error(
        "spool file {path} {what}; nothing beyond it is shipped, and the ring has given up its records. Bring it back, or begin the \
         next epoch, which copies every disk again: `farshore resync --full`"
    )]
    Spool {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The ring has given up records that are neither in the spool nor in the vault.
    #[error(
        "records up to seq {released} were released from the ring, and spool and vault hold only those up to {known}: the spool \
         was lost, or its disk is not mounted. Bring it back, or begin the next epoch, which copies every disk again: \
         `farshore resync --full`"
    )]
    SpoolLost {
        /// What the ring says was released.
        released: Seq,
        /// What spool and watermark say.
        known: Seq,
    },
    /// The spool belongs to another ring than this one.
    #[error(
        "the spool holds segments up to seq {known} of epoch {epoch}, which this ring has not reached: they are of an earlier ring \
         of the same epoch and must be discarded before the ring is made"
    )]
    OtherRing {
        /// The epoch.
        epoch: Epoch,
        /// Last seq of the spool.
        known: Seq,
    },
    /// A segment cannot be made of what the ring holds.
    #[error("segment {number} of epoch {epoch} cannot be sealed")]
    Seal {
        /// The epoch.
        epoch: Epoch,
        /// The segment.
        number: SegmentNo,
        /// Why.
        source: SegmentError,
    },
    /// Something that is not ours lies where our segment belongs, and the epoch is not over.
    #[error(
        "segment {number} of epoch {epoch} conflicts with the vault: {what}. Two sources may be shipping as this group; stop one"
    )]
    Conflict {
        /// The epoch.
        epoch: Epoch,
        /// The segment.
        number: SegmentNo,
        /// What was found.
        what: String,
    },
    /// The state or spool folder cannot be written or read.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file system's answer, with the path.
        source: std::io::Error,
    },
}

impl ShipError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// An error and its causes on one line, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
