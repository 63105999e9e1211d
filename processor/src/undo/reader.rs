//! Reads the undo journal, batch by batch, verified. It changes nothing and works beside a running processor.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use farshore_changelog::ids::GroupName;
use farshore_changelog::segment::{Index, Kind, SegmentError};

use super::files::{self, UndoFile};
use crate::error::TargetError;

/// Most undo files kept open.
const OPEN_FILES_MAX: usize = 64;

/// What lies at a journal offset.
#[derive(Debug)]
pub enum Found {
    /// A batch whose header, index and footer are proved; a block is proved when it is read.
    Batch(Box<Index>),
    /// Nothing: the journal ends there.
    End,
    /// Bytes that are not a whole batch: one that is being written, was never finished, or is damaged. Which of these only
    /// the caller can know.
    Unfinished {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        error: SegmentError,
    },
}

/// Reads one group's journal.
#[derive(Debug)]
pub struct JournalReader {
    undo: PathBuf,
    group: GroupName,
    files: Vec<UndoFile>,
    open: HashMap<u64, File>,
}

impl JournalReader {
    /// A reader of the journal in the folder `undo` of `group`.
    ///
    /// # Errors
    /// As [`files::list`].
    pub fn open(undo: &Path, group: GroupName) -> Result<Self, TargetError> {
        let files = files::list(undo)?;
        Ok(Self { undo: undo.to_path_buf(), group, files, open: HashMap::new() })
    }

    /// The journal's folder.
    #[must_use]
    pub fn undo(&self) -> &Path {
        &self.undo
    }

    /// Whose it is.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// The journal offset of the oldest byte that was not pruned; `None` when there is no file.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.files.first().map(|file| file.start)
    }

    /// The files as they were when the reader last looked.
    #[must_use]
    pub fn files(&self) -> &[UndoFile] {
        &self.files
    }

    /// Whether a file holds the byte before `end`, and reaches it: what belongs to a position with this `undo_end` is there.
    #[must_use]
    pub fn reaches(&self, end: u64) -> bool {
        end == 0 || self.files.iter().any(|file| file.start < end && end <= file.end())
    }

    /// The batch that begins at the journal offset `at`. The next one begins at `at` plus its `total_len`.
    ///
    /// # Errors
    /// [`TargetError::Refused`] when `at` was pruned; [`TargetError::Damaged`] when the file that should hold it is missing, or
    /// another group's batch lies there; [`TargetError::Io`].
    pub fn batch_at(&mut self, at: u64) -> Result<Found, TargetError> {
        let Some(found) = self.place(at)? else { return Ok(Found::End) };
        let (path, offset) = (found.path.clone(), at - found.start);
        let mut file = self.file(&found)?;
        let len = file.metadata().map_err(TargetError::io("stat", &path))?.len();
        if offset >= len {
            return Ok(Found::End);
        }
        match Index::read(&mut file, offset, None) {
            Ok(index) if index.head().kind != Kind::Undo || index.head().group != self.group => {
                let (kind, group) = (index.head().kind, &index.head().group);
                Err(TargetError::damaged(
                    &path,
                    offset,
                    format!("a segment of kind {kind:?} of group {group} lies there"),
                ))
            }
            Ok(index) => Ok(Found::Batch(Box::new(index))),
            Err(SegmentError::Io(e)) => Err(TargetError::io("read", &path)(e)),
            Err(error) => Ok(Found::Unfinished { path, offset, error }),
        }
    }

    /// As [`JournalReader::batch_at`] where a whole batch must be.
    ///
    /// # Errors
    /// As there, and [`TargetError::Damaged`] when there is none.
    pub fn expect_batch(&mut self, at: u64) -> Result<Box<Index>, TargetError> {
        match self.batch_at(at)? {
            Found::Batch(index) => Ok(index),
            Found::End => Err(TargetError::damaged(&self.undo, at, "the undo journal ends where a batch must be")),
            Found::Unfinished { path, offset, error } => Err(TargetError::damaged(&path, offset, error.to_string())),
        }
    }

    /// The raw bytes of `block` of the batch `index` at the journal offset `at`, proved; at most 1.25 MiB.
    ///
    /// # Errors
    /// [`TargetError::Damaged`] when they are not what was sealed; [`TargetError::Io`].
    pub fn block(&mut self, at: u64, index: &Index, block: u32) -> Result<Vec<u8>, TargetError> {
        let Some(found) = self.place(at)? else {
            return Err(TargetError::damaged(&self.undo, at, "the undo journal ends where a batch must be"));
        };
        let (path, offset) = (found.path.clone(), at - found.start);
        let mut file = self.file(&found)?;
        index.read_block(&mut file, offset, block).map_err(|error| match error {
            SegmentError::Io(e) => TargetError::io("read", &path)(e),
            error => TargetError::damaged(&path, offset + index.block_range(block).start, error.to_string()),
        })
    }

    /// The file that `at` lies in, or that ends there as the last one; `None` beyond the end.
    fn place(&mut self, at: u64) -> Result<Option<UndoFile>, TargetError> {
        if let Some(file) = holding(&self.files, at)
            && file.end() > at
        {
            return Ok(Some(file.clone()));
        }
        self.files = files::list(&self.undo)?;
        self.open.retain(|start, _| self.files.iter().any(|file| file.start == *start));
        let Some(i) = self.files[..self.files.partition_point(|file| file.start <= at)].len().checked_sub(1) else {
            return match self.files.first() {
                None => Ok(None),
                Some(first) => Err(TargetError::refused(
                    &first.path,
                    format!(
                        "the undo journal begins at {}, what is needed at {at} was pruned; take a newer point",
                        first.start
                    ),
                )),
            };
        };
        let (file, next) = (&self.files[i], self.files.get(i + 1));
        if file.end() > at || (file.end() == at && next.is_none()) {
            return Ok(Some(file.clone()));
        }
        let next =
            next.map_or_else(|| "there is no next one".to_owned(), |n| format!("the next begins at {}", n.start));
        let what = format!("it ends at {}, and {next}: the undo journal from {at} on is missing", file.end());
        Err(TargetError::damaged(&file.path, file.len, what))
    }

    fn file(&mut self, file: &UndoFile) -> Result<&File, TargetError> {
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(&file.start) {
            self.open.clear();
        }
        match self.open.entry(file.start) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let opened = File::open(&file.path).map_err(TargetError::io("open", &file.path))?;
                Ok(entry.insert(opened))
            }
        }
    }
}

/// The file with the highest start at or below `at`.
fn holding(files: &[UndoFile], at: u64) -> Option<&UndoFile> {
    files[..files.partition_point(|file| file.start <= at)].last()
}
