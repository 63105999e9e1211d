//! The one writer of the undo journal.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::medium::{self, Create};
use farshore_changelog::segment::{Index, Kind, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::{clock, crashsafe};

use super::files;
use super::published;
use super::reader::{Found, JournalReader};
use crate::error::TargetError;
use crate::position::ReplayPosition;

/// A file that has reached this size is followed by a new one at the next batch, also where no point is cut: so that a long
/// resync does not make one file of everything.
const FILE_ROTATES_AT_BYTES: u64 = 1 << 30;
/// `watermark` of an undo batch whose end is a consistent position. 0: a resync is in progress there, or the next undo batch
/// saves more of the same batch.
pub const CONSISTENT: SegmentNo = SegmentNo(1);
/// Files that retention leaves in any case: the batch before the next one is in them, whose hash the next one names.
const FILES_KEPT: usize = 2;

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    undo: PathBuf,
    group: GroupName,
    end: u64,
    number: SegmentNo,
    prev: Hash,
    file: Option<OpenFile>,
    /// The first failed write or fsync: what the medium holds is not known any more.
    failed: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    start: u64,
    /// Its entry in the folder is not durable yet.
    new: bool,
}

/// A journal as it was found.
#[derive(Debug)]
pub struct Opened {
    /// Ready for the next batch.
    pub journal: Journal,
    /// The complete batches beyond the position, by journal offset: they are written back.
    pub beyond: Vec<(u64, Box<Index>)>,
}

impl Journal {
    /// Opens the journal in the folder `undo`, which is created when it is absent. `undo_end` is the position's. What
    /// follows the last complete batch was never finished and is cut off.
    ///
    /// # Errors
    /// [`TargetError::Damaged`] when the journal does not reach `undo_end`, when `undo_end` lies inside a batch, or when a batch
    /// that was complete once is not whole.
    pub fn open(undo: &Path, group: &GroupName, undo_end: u64) -> Result<Opened, TargetError> {
        crashsafe::create_dir_all(undo).map_err(TargetError::io("create", undo))?;
        let published = published::read(&undo.join("published"))?.unwrap_or(0);
        let mut reader = JournalReader::open(undo, group.clone())?;
        let mut journal = Self {
            undo: undo.to_path_buf(),
            group: group.clone(),
            end: scan_start(&reader, undo_end),
            number: SegmentNo(0),
            prev: Hash::ZERO,
            file: None,
            failed: false,
        };
        if journal.end > undo_end {
            return Err(TargetError::damaged(undo, undo_end, "the undo file that belongs to the position is missing"));
        }
        let mut beyond = Vec::new();
        loop {
            let index = match reader.batch_at(journal.end)? {
                Found::Batch(index) => index,
                Found::End if journal.end < undo_end.max(published) => {
                    let what = "the undo journal ends before the position, or before what was published";
                    return Err(TargetError::damaged(undo, journal.end, what));
                }
                Found::End => break,
                Found::Unfinished { path, offset, error } if journal.end < undo_end.max(published) => {
                    return Err(TargetError::damaged(&path, offset, error.to_string()));
                }
                Found::Unfinished { path, offset, .. } => {
                    cut_off(&reader, &path, offset)?;
                    break;
                }
            };
            if journal.end >= undo_end && !blocks_are_whole(&mut reader, journal.end, &index)? {
                if journal.end < published {
                    return Err(TargetError::damaged(
                        undo,
                        journal.end,
                        "a block of a published undo batch is damaged",
                    ));
                }
                let file = reader.files().iter().rev().find(|file| file.start <= journal.end);
                let file = file.expect("the batch was read from it").clone();
                cut_off(&reader, &file.path, journal.end - file.start)?;
                break;
            }
            if journal.number != SegmentNo(0) && index.head().prev != journal.prev {
                return Err(TargetError::damaged(undo, journal.end, "an undo batch does not follow the one before it"));
            }
            let (at, crossed) = (journal.end, journal.end < undo_end);
            journal.end += index.total_len();
            if crossed && journal.end > undo_end {
                return Err(TargetError::damaged(undo, undo_end, "the position's undo_end lies inside an undo batch"));
            }
            (journal.number, journal.prev) = (index.head().number, index.hash());
            if at >= undo_end {
                beyond.push((at, index));
            }
        }
        if journal.end > undo_end {
            // A process that was killed before its fdatasync may have left them in memory only, and what comes next goes into
            // a new file: without this a power cut could take them and leave that one, and a view may have read them.
            for file in files::list(undo)?.iter().filter(|file| file.end() > undo_end) {
                let synced = File::open(&file.path).and_then(|open| medium::sync_all(&open));
                synced.map_err(TargetError::io("fsync", &file.path))?;
            }
            crashsafe::sync_dir(undo).map_err(TargetError::io("fsync", undo))?;
        }
        Ok(Opened { journal, beyond })
    }

    /// Journal offset after the last batch.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends a batch that covers the seqs from `first_seq` to `last_seq`; `consistent`: whether a VM may be started from the
    /// position at its end. It is durable after [`Journal::sync`].
    ///
    /// # Errors
    /// [`TargetError::Io`]; after the first one every further call fails.
    ///
    /// # Panics
    /// When the records were refused by the format's own rules: a programming error in the plan.
    pub fn append(
        &mut self,
        records: SegmentWriter,
        epoch: Epoch,
        first_seq: Seq,
        last_seq: Seq,
        consistent: bool,
    ) -> Result<(), TargetError> {
        let stamp = self.stamp(epoch, first_seq, last_seq, consistent);
        self.append_as(records, stamp)
    }

    /// Says in the journal that what it holds beyond `undo_end` will never count: those batches were rolled back to `position`, and
    /// their run is not applied again. Nothing is written where there is nothing. Durable when it returns.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn disown_tail(&mut self, position: &ReplayPosition) -> Result<(), TargetError> {
        if self.end == position.undo_end {
            return Ok(());
        }
        // Without records its times are `created`.
        let stamp = self.stamp(position.epoch, position.seq.next(), position.seq, false);
        self.append_as(SegmentWriter::new(Kind::Undo, None), Stamp { created: position.time, ..stamp })?;
        self.sync()
    }

    fn stamp(&self, epoch: Epoch, first_seq: Seq, last_seq: Seq, consistent: bool) -> Stamp {
        Stamp {
            group: self.group.clone(),
            epoch,
            number: self.number.next(),
            first_seq,
            last_seq,
            created: clock::wall(),
            watermark: if consistent { CONSISTENT } else { SegmentNo(0) },
            prev: self.prev,
        }
    }

    fn append_as(&mut self, records: SegmentWriter, stamp: Stamp) -> Result<(), TargetError> {
        self.check()?;
        let sealed = match records.seal(stamp) {
            Ok(sealed) => sealed,
            Err(SegmentError::Io(e)) => return Err(TargetError::io("compress for", &self.undo)(e)),
            Err(e) => panic!("an undo batch breaks the format: {e}"),
        };
        let end = self.end;
        self.latch(|journal| {
            let file = journal.file()?;
            medium::write_all_at(&file.file, &sealed.bytes, end - file.start)
                .map_err(TargetError::io("write", &file.path))
        })?;
        self.end += sealed.bytes.len() as u64;
        (self.number, self.prev) = (sealed.head.number, sealed.hash);
        Ok(())
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// [`TargetError::Io`]; after the first one every further call fails.
    pub fn sync(&mut self) -> Result<(), TargetError> {
        self.check()?;
        self.latch(|journal| {
            let Some(open) = &mut journal.file else { return Ok(()) };
            medium::sync_data(&open.file).map_err(TargetError::io("fdatasync", &open.path))?;
            if open.new {
                crashsafe::sync_parent(&open.path).map_err(TargetError::io("fsync the folder of", &open.path))?;
                open.new = false;
            }
            Ok(())
        })
    }

    /// The next batch begins a new file. Called between batches, at every point: retention removes whole files.
    pub fn rotate(&mut self) {
        self.file = None;
    }

    /// Whether the next batch should begin a new file because this one is large.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.file.as_ref().is_some_and(|open| self.end - open.start >= FILE_ROTATES_AT_BYTES)
    }

    fn check(&self) -> Result<(), TargetError> {
        if self.failed {
            return Err(TargetError::io("write", &self.undo)(io::Error::other(
                "an earlier write of the journal failed",
            )));
        }
        Ok(())
    }

    fn latch(&mut self, work: impl FnOnce(&mut Self) -> Result<(), TargetError>) -> Result<(), TargetError> {
        let done = work(self);
        self.failed |= done.is_err();
        done
    }

    fn file(&mut self) -> Result<&OpenFile, TargetError> {
        if self.file.is_none() {
            // After a restart the last file is never written again: its end may be a hole that a power cut made.
            let path = files::path_of(&self.undo, self.end);
            let file = medium::create(&path, Create::Emptied).map_err(TargetError::io("create", &path))?;
            self.file = Some(OpenFile { file, path, start: self.end, new: true });
        }
        Ok(self.file.as_ref().expect("it was just opened"))
    }
}

/// The first batch to read: where the file begins that holds the end of the last batch before `undo_end`, so that its number
/// and hash are known; else where the journal begins.
fn scan_start(reader: &JournalReader, undo_end: u64) -> u64 {
    let before = reader.files().iter().rev().find(|file| file.start < undo_end);
    before.or(reader.files().first()).map_or(0, |file| file.start)
}

/// Whether every block of the batch `index` at the journal offset `at` is what was sealed.
pub(super) fn blocks_are_whole(reader: &mut JournalReader, at: u64, index: &Index) -> Result<bool, TargetError> {
    for block in 0..u32::try_from(index.block_count()).expect("a block count has 32 bits") {
        match reader.block(at, index, block) {
            Ok(_) => {}
            Err(TargetError::Damaged { .. }) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Cuts the file at `offset`: no image was touched for what follows. Only the last file can hold something unfinished.
fn cut_off(reader: &JournalReader, path: &Path, offset: u64) -> Result<(), TargetError> {
    if reader.files().last().is_some_and(|last| last.path != path) {
        return Err(TargetError::damaged(path, offset, "a batch is not whole, and another undo file follows"));
    }
    tracing::info!(path = %path.display(), offset, "an unfinished undo batch is cut off: no image was touched for it");
    if offset == 0 {
        return crashsafe::remove(path).map_err(TargetError::io("remove", path));
    }
    let file = OpenOptions::new().write(true).open(path).map_err(TargetError::io("open", path))?;
    medium::set_len(&file, offset).and_then(|()| medium::sync_all(&file)).map_err(TargetError::io("cut", path))
}

/// Removes the files of the folder `undo` that lie wholly below the journal offset `needed`. Gives the bytes freed.
///
/// # Errors
/// [`TargetError::Io`].
pub fn remove_before(undo: &Path, needed: u64) -> Result<u64, TargetError> {
    let found = files::list(undo)?;
    let mut freed = 0;
    for file in &found[..found.len().saturating_sub(FILES_KEPT)] {
        if file.end() > needed {
            break;
        }
        // Oldest first, each durably: after a crash the journal has no gap.
        crashsafe::remove(&file.path).map_err(TargetError::io("remove", &file.path))?;
        freed += file.len;
    }
    Ok(freed)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
