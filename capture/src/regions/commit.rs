//! A change of a dirty map on its way to the disk.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use farshore_changelog::{crashsafe, medium};

use super::MapError;
use super::layout::Page;

/// Changed pages on their way to the disk.
pub struct Commit {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Each with its place in the file.
    pub(super) pages: Vec<(u64, Page)>,
}

/// What a dirty map is worth whose change could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("{error}; it was {}removed", if *.removed { "" } else { "not " })]
pub struct CommitError {
    /// Why.
    #[source]
    pub error: MapError,
    /// It was durably removed: the next agent finds none and copies the whole disk again, so that nothing is forgotten. Where
    /// even that fails, what it says is older than the truth.
    pub removed: bool,
}

impl Commit {
    /// Writes the pages and waits until they are durable. It blocks. A map that cannot be written is removed.
    ///
    /// # Errors
    /// [`CommitError`]: from then on the map is not used.
    pub fn run(self) -> Result<(), CommitError> {
        let written = self.pages.iter().try_for_each(|(at, page)| medium::write_all_at(&self.file, &page[..], *at));
        written.and_then(|()| medium::sync_data(&self.file)).map_err(|source| {
            let removed = crashsafe::remove(&self.path).is_ok();
            CommitError { error: MapError::Io { path: self.path, what: "make a change durable", source }, removed }
        })
    }
}
