//! What can be wrong with a ring, in kinds that tell the caller what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::VERSION;

/// Why a ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No file: the group's first start, or the host was restarted (tmpfs is empty then). Make a new ring; when the group
    /// had one before, in the next epoch.
    #[error("there is no ring at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It was made in another boot of this machine: whatever was in flight then is unknown. The ring is lost.
    #[error("the ring {path} was made before this machine was restarted; it is lost, the group needs its next epoch")]
    OtherBoot {
        /// The file.
        path: PathBuf,
    },
    /// It is not a ring this version can use, or a ring of this shape cannot be made.
    #[error("the ring {path} is refused: {what}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another version of farshore made it. What it holds may be nowhere else: that version can go on with it.
    #[error("the ring {path} has version {found}, this farshore uses version {VERSION}; use the version that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its content contradicts itself. The ring is lost: nothing of it may be guessed.
    #[error("the ring {path} is damaged: {what}; it is lost, the group needs its next epoch")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        what: String,
    },
    /// Its folder (tmpfs, that is memory) has no room for it.
    #[error(
        "no room for the {bytes} bytes of the ring {path}: free memory in its folder, or configure a smaller ring or another ring_dir"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes the ring needs.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system or the kernel refused something else.
    #[error("cannot {doing} the ring {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl RingError {
    /// An error of a system call on `path`.
    pub(super) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source }
    }
}
