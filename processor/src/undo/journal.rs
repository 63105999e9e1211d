//! The one writer of the undo journal.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::medium::{self, Create};
use farshore_changelog::segment::{Index, Kind, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::{clock, crashsafe};

use super::files::{self, UndoFile};
use super::published;
use super::reader::{Found, JournalReader};
use crate::error::TargetError;
use crate::position::{LastUndo, ReplayPosition};

/// A file that has reached this size is followed by a new one at the next batch, also where no point is cut: so that a long
/// resync does not make one file of everything.
const FILE_ROTATES_AT_BYTES: u64 = 1 << 30;
/// `watermark` of an undo batch whose end is a consistent position. 0: a resync is in progress there, or the next undo batch
/// saves more of the same batch.
pub const CONSISTENT: SegmentNo = SegmentNo(1);
/// Files that retention leaves in any case: the batch before the next one is in them, whose hash the next one names.
const FILES_KEPT: usize = 2;
/// Bytes copied at a time.
const COPY_STEP_BYTES: usize = 1 << 20;

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    undo: PathBuf,
    group: GroupName,
    end: u64,
    /// Where the last successful fdatasync left it: no image was touched for what lies beyond.
    durable_end: u64,
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
    /// Opens the journal in the folder `undo`, which is created when it is absent. `undo_end` is the position's, `last` the
    /// batch that ends there, where it is known. What follows the last complete batch was never finished and is cut off; the
    /// complete batches beyond `undo_end` are durable when this returns.
    ///
    /// # Errors
    /// [`TargetError::NoWayBack`] when the journal does not reach `undo_end`, or a batch beyond it that was complete once is not
    /// whole. Damage below it is no error where `last` is known, else [`TargetError::Damaged`].
    pub fn open(undo: &Path, group: &GroupName, undo_end: u64, last: Option<LastUndo>) -> Result<Opened, TargetError> {
        crashsafe::create_dir_all(undo).map_err(TargetError::io("create", undo))?;
        let published = published::read(&undo.join("published"))?.unwrap_or(0);
        let mut reader = JournalReader::open(undo, group.clone())?;
        if !reader.reaches(undo_end) {
            let what = "the undo file that belongs to the position is missing".to_owned();
            return Err(TargetError::NoWayBack { undo: undo.to_path_buf(), at: undo_end, what });
        }
        let start = if last.is_some() { undo_end } else { scan_start(&reader, undo_end) };
        let LastUndo { number, hash: prev } = last.unwrap_or(LastUndo::NONE);
        let (undo, group) = (undo.to_path_buf(), group.clone());
        let mut journal = Self { undo, group, end: start, durable_end: start, number, prev, file: None, failed: false };
        let beyond = journal.scan(&mut reader, undo_end, published)?;
        if journal.end > undo_end {
            make_durable(&journal.undo, undo_end, journal.end)?;
        }
        journal.durable_end = journal.end;
        Ok(Opened { journal, beyond })
    }

    /// Opens a journal that cannot be read from `undo_end` on: what comes next goes after everything that lies there. For a target
    /// of which every position before is given up.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn open_after_damage(
        undo: &Path,
        group: &GroupName,
        undo_end: u64,
        last: Option<LastUndo>,
    ) -> Result<Self, TargetError> {
        crashsafe::create_dir_all(undo).map_err(TargetError::io("create", undo))?;
        let published = published::read(&undo.join("published"))?.unwrap_or(0);
        let end = files::list(undo)?.last().map_or(0, UndoFile::end).max(undo_end).max(published);
        let LastUndo { number, hash: prev } = last.unwrap_or(LastUndo::NONE);
        let (undo, group) = (undo.to_path_buf(), group.clone());
        Ok(Self { undo, group, end, durable_end: end, number, prev, file: None, failed: false })
    }

    /// Walks to the end of the journal; gives the batches beyond `undo_end`.
    fn scan(
        &mut self,
        reader: &mut JournalReader,
        undo_end: u64,
        published: u64,
    ) -> Result<Vec<(u64, Box<Index>)>, TargetError> {
        let (mut beyond, undo) = (Vec::new(), self.undo.clone());
        let bad = |at: u64, what: String| match at < undo_end {
            true => TargetError::damaged(&undo, at, what),
            false => TargetError::NoWayBack { undo: undo.clone(), at, what },
        };
        loop {
            let counts = self.end < undo_end.max(published);
            let index = match reader.batch_at(self.end) {
                Ok(Found::Batch(index)) => index,
                Ok(Found::End) if counts => {
                    let what = "it ends there, before the position, or before what was published";
                    return Err(bad(self.end, what.to_owned()));
                }
                Ok(Found::End) => return Ok(beyond),
                Ok(Found::Unfinished { error, .. }) if counts => return Err(bad(self.end, error.to_string())),
                Ok(Found::Unfinished { path, offset, .. }) => {
                    cut_off(reader, &path, offset).map_err(|e| match e {
                        e @ TargetError::Damaged { .. } => bad(self.end, e.to_string()),
                        e => e,
                    })?;
                    return Ok(beyond);
                }
                Err(e @ TargetError::Damaged { .. }) => return Err(bad(self.end, e.to_string())),
                Err(e) => return Err(e),
            };
            if self.end >= undo_end && !blocks_are_whole(reader, self.end, &index)? {
                if self.end < published {
                    return Err(bad(self.end, "a block of a published undo batch is damaged".to_owned()));
                }
                let file = reader.files().iter().rev().find(|file| file.start <= self.end);
                let file = file.expect("the batch was read from it").clone();
                cut_off(reader, &file.path, self.end - file.start)?;
                return Ok(beyond);
            }
            if self.number != SegmentNo(0) && index.head().prev != self.prev {
                return Err(bad(self.end, "an undo batch does not follow the one before it".to_owned()));
            }
            let at = self.end;
            self.end += index.total_len();
            if at < undo_end && self.end > undo_end {
                return Err(bad(at, "the position's undo_end lies inside an undo batch".to_owned()));
            }
            (self.number, self.prev) = (index.head().number, index.hash());
            if at >= undo_end {
                beyond.push((at, index));
            }
        }
    }

    /// Journal offset after the last batch.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The last batch.
    #[must_use]
    pub fn last(&self) -> LastUndo {
        LastUndo { number: self.number, hash: self.prev }
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
            journal.durable_end = journal.end;
            Ok(())
        })
    }

    /// After a failed append or fdatasync: takes away what no image was touched for. What an fdatasync refused is never asked for
    /// a second one, and on a full disk a batch that is tried again and again must not fill it for good. Not while `needed`
    /// says that a view may have read it; then the next opening makes it durable, and it stays.
    pub fn give_back(&mut self, needed: impl FnOnce() -> io::Result<bool>) {
        let Some(open) = &self.file else { return };
        if self.end == self.durable_end && open.start + open.file.metadata().map_or(0, |m| m.len()) == self.end {
            return;
        }
        let keep = self.durable_end - open.start;
        let cut = needed().and_then(|needed| match (needed, keep) {
            (true, _) => Ok(()),
            (false, 0) => crashsafe::remove(&open.path),
            (false, keep) => medium::set_len(&open.file, keep).and_then(|()| medium::sync_all(&open.file)),
        });
        if let Err(e) = cut {
            tracing::warn!(path = %open.path.display(), error = %e, "an undo batch that was not made durable could not be taken back");
        }
        self.failed = true;
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

/// Makes what lies between `from` and `end` durable: its writer was killed before its fdatasync, or that failed. What comes next
/// goes into a new file, and a power cut must not take this and leave that one. After a failed fdatasync the kernel takes the
/// pages for clean, and another one would succeed and prove nothing; so the bytes, which were proved, are written once more.
fn make_durable(undo: &Path, from: u64, end: u64) -> Result<(), TargetError> {
    for file in files::list(undo)?.iter().filter(|file| file.end() > from && file.start < end) {
        let (first, last) = (from.saturating_sub(file.start), end.min(file.end()) - file.start);
        let io = TargetError::io("write once more", &file.path);
        let opened = OpenOptions::new().read(true).write(true).open(&file.path);
        let done = opened.and_then(|old| match first {
            // Its name may be in memory only, too.
            0 => crashsafe::replace_with(&file.path, |new| copy(&old, new, 0..last)),
            first => copy(&old, &old, first..last).and_then(|()| medium::sync_all(&old)),
        });
        done.map_err(io)?;
    }
    Ok(())
}

fn copy(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let mut buf = vec![0; COPY_STEP_BYTES];
    let mut at = range.start;
    while at < range.end {
        let step = buf.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        from.read_exact_at(&mut buf[..step], at)?;
        medium::write_all_at(to, &buf[..step], at)?;
        at += step as u64;
    }
    Ok(())
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

/// The files of the folder `undo` that lie wholly below the journal offset `needed`, oldest first.
///
/// # Errors
/// [`TargetError::Io`].
pub fn not_needed(undo: &Path, needed: u64) -> Result<Vec<UndoFile>, TargetError> {
    let mut found = files::list(undo)?;
    found.truncate(found.len().saturating_sub(FILES_KEPT));
    found.truncate(found.partition_point(|file| file.end() <= needed));
    Ok(found)
}

/// Removes `files`, which are [`not_needed`].
///
/// # Errors
/// [`TargetError::Io`].
pub fn remove(files: &[UndoFile]) -> Result<(), TargetError> {
    // Oldest first, each durably: after a crash the journal has no gap.
    files.iter().try_for_each(|file| crashsafe::remove(&file.path).map_err(TargetError::io("remove", &file.path)))
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
