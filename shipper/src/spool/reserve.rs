//! A little room on the disk of the notes that is kept for them.
//!
//! A confirmed segment's file is removed once the watermark is noted, and the note needs a few blocks. Where spool and notes share a
//! disk that is full, each would wait for the other. So nothing is put into the spool while the reserve is not there, and a note
//! that finds no room is written in its place.

use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::Hash;

/// Bytes that are kept: a note takes a block or two, and so does what the file system writes with it.
const RESERVE_BYTES: usize = 256 << 10;

/// The file that keeps them.
#[derive(Debug, Clone)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// In the state folder.
    #[must_use]
    pub fn in_folder(state_dir: &Path) -> Self {
        Self { path: state_dir.join("reserve") }
    }

    /// Makes it, unless it is there.
    ///
    /// # Errors
    /// Of the file system: it is not there then.
    pub fn keep(&self) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|m| m.len() == RESERVE_BYTES as u64) {
            return Ok(());
        }
        // Not zeroes: a file system may store these as nothing.
        let noise = (0..RESERVE_BYTES / 32).flat_map(|n| Hash::of(&n.to_le_bytes()).0);
        crashsafe::replace(&self.path, &noise.collect::<Vec<u8>>())
    }

    /// Gives its room away. Gives whether there was any.
    pub fn give_up(&self) -> bool {
        std::fs::metadata(&self.path).is_ok() && crashsafe::remove(&self.path).is_ok()
    }
}
