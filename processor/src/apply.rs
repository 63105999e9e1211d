//! Applies one batch, in the order on which everything rests (`docs/format.md`, "Replay and the undo journal"):
//!
//! ```text
//! undo, durable ─▶ published ─▶ images ─▶ images, durable ─▶ (compared) ─▶ catalogue, durable ─▶ position, durable
//! ```
//!
//! A batch runs as [`Step`]s, one at a time, so that a test can stop after each and open the target again. What a batch saves
//! may be more than one undo segment (a trim of a large range): all of them are durable before the first image is changed.
//! The batch before is settled ([`crate::settle`]) when the first of them is ready, and before it is appended.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use farshore_changelog::ids::{DiskIndex, Position, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{IndexRecord, Kind, Segment, SegmentError, SegmentWriter};
use farshore_changelog::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES, SECTOR_BYTES, UnixMicros, align_down, align_up};

use crate::batch::{Batch, CutPoint, position_after};
use crate::compare::batch::Compare;
use crate::error::{GroupError, TargetError};
use crate::image::Image;
use crate::points::{POINTS_MAX, Point, PointKind};
use crate::position::{HashesDue, ReplayPosition};
use crate::prepare;
use crate::replay::Replay;
use crate::undo::plan::{self, Write};

/// Most payload of one batch, decoded, in bytes; a source seals its segments far earlier.
const BATCH_PAYLOAD_MAX_BYTES: u64 = 256 << 20;
/// Old content in one undo segment, in bytes; a batch that saves more takes several.
const UNDO_PART_BYTES: u64 = 16 << 20;
/// Records in one undo segment.
const UNDO_PART_RECORDS: usize = 100_000;
/// zstd level of the undo journal, one of its fast modes: it is written once and mostly never read.
const UNDO_ZSTD_LEVEL: i32 = -5;

/// What was done, or is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Old content is read, as much as one undo segment takes.
    ReadOld,
    /// The batch before counts.
    Settle,
    /// One undo segment is appended.
    SaveUndo,
    /// The journal is made durable.
    SyncUndo,
    /// Views are told to look into the journal.
    Publish,
    /// One write to an image.
    WriteImage,
    /// One image is made durable.
    SyncImage,
    /// Digests are held against the images.
    Compare,
    /// What was compared is noted.
    WriteReport,
    /// The catalogue is replaced.
    WriteCatalogue,
    /// The position is written; the batch counts.
    WritePosition,
}

/// A batch on its way into the target.
#[derive(Debug)]
pub struct BatchRun<'a> {
    replay: &'a mut Replay,
    segment: &'a Segment,
    batch: &'a Batch,
    /// Raw blocks with the payload of the batch.
    blocks: BTreeMap<u32, Vec<u8>>,
    saves: VecDeque<(DiskIndex, ByteRange)>,
    /// Old content that was read and not appended.
    part: Option<SegmentWriter>,
    appended: bool,
    unpublished: bool,
    writes: VecDeque<(DiskIndex, Write)>,
    compare: Option<Compare>,
    unreported: bool,
    point: Option<PointKind>,
    done: bool,
}

impl<'a> BatchRun<'a> {
    /// Prepares a batch; nothing is written yet. [`crate::chain::fits`] was asked before.
    ///
    /// # Errors
    /// In words, when the segment's bytes are not what its index says, or are more than the limit.
    pub fn new(replay: &'a mut Replay, segment: &'a Segment, batch: &'a Batch) -> Result<Self, String> {
        let records = &segment.index().records()[batch.records.clone()];
        let payload: u64 = records.iter().map(|entry| entry.record.payload_len()).sum();
        if payload > BATCH_PAYLOAD_MAX_BYTES {
            return Err(format!(
                "{payload} bytes of payload in one batch, at most {BATCH_PAYLOAD_MAX_BYTES} are replayed"
            ));
        }
        let (mut saves, mut writes) = (VecDeque::new(), VecDeque::new());
        for disk in plan::plan(records) {
            saves.extend(disk.saves.into_iter().map(|range| (disk.disk, range)));
            writes.extend(disk.writes.into_iter().map(|write| (disk.disk, write)));
        }
        // Many at a time, while the blocks are opened: of a cold image each read would wait for the disk.
        prepare::announce(&replay.images, &saves, UNDO_PART_BYTES);
        let open = |block: u32| segment.open_block(block).map_err(|e| e.to_string());
        let blocks = prepare::open_all(&plan::blocks(records), replay.pool.is_some(), &open)?;
        let mark = match records.last() {
            Some(last) if last.record.op == Op::Mark => Some(mark_name(&open(last.block)?, last)?),
            _ => None,
        };
        let compare = Compare::new(records, &blocks, mark.as_deref(), &replay.comparison);
        let point = match batch.point {
            None => None,
            Some(CutPoint::Periodic) => Some(PointKind::Periodic),
            Some(CutPoint::Mark) => Some(PointKind::Mark(mark.ok_or("a point at a mark, and no mark")?)),
        };
        let unpublished = !saves.is_empty();
        Ok(Self {
            replay,
            segment,
            batch,
            blocks,
            saves,
            part: None,
            appended: false,
            unpublished,
            writes,
            compare,
            unreported: false,
            point,
            done: false,
        })
    }

    /// The step that [`BatchRun::step`] does next; `None` once the batch counts.
    #[must_use]
    pub fn next_step(&self) -> Option<Step> {
        if self.done {
            None
        } else if self.part.is_none() && !self.saves.is_empty() {
            Some(Step::ReadOld)
        } else if self.replay.is_unsettled() {
            Some(Step::Settle)
        } else if self.part.is_some() {
            Some(Step::SaveUndo)
        } else if self.appended {
            Some(Step::SyncUndo)
        } else if self.unpublished {
            Some(Step::Publish)
        } else if !self.writes.is_empty() {
            Some(Step::WriteImage)
        } else if self.replay.images.iter().any(Image::is_dirty) {
            Some(Step::SyncImage)
        } else if self.compare.is_some() {
            Some(Step::Compare)
        } else if self.unreported {
            Some(Step::WriteReport)
        } else if self.point.is_some() {
            Some(Step::WriteCatalogue)
        } else {
            Some(Step::WritePosition)
        }
    }

    /// Does the next step and says which it was; `None` once the batch counts.
    ///
    /// # Errors
    /// [`TargetError`]: the target must be dropped and opened again.
    pub fn step(&mut self) -> Result<Option<Step>, TargetError> {
        let Some(step) = self.next_step() else { return Ok(None) };
        match step {
            Step::ReadOld => self.read_old()?,
            Step::Settle => self.replay.settle()?,
            Step::SaveUndo => self.save_undo()?,
            Step::SyncUndo => {
                self.replay.journal.sync()?;
                self.appended = false;
            }
            Step::Publish => {
                self.replay.published.store(self.replay.journal.end());
                self.unpublished = false;
            }
            Step::WriteImage => self.write_image()?,
            Step::SyncImage => {
                if let Some(image) = self.replay.images.iter_mut().find(|image| image.is_dirty()) {
                    image.sync()?;
                }
            }
            Step::Compare => {
                if let Some(compare) = self.compare.take() {
                    self.unreported = compare.run(self.replay, self.batch.end_seq, self.time_after())?;
                }
            }
            Step::WriteReport => {
                self.replay.comparison.write(&self.replay.dir)?;
                self.unreported = false;
            }
            Step::WriteCatalogue => self.write_catalogue()?,
            Step::WritePosition => self.write_position()?,
        }
        Ok(Some(step))
    }

    /// All steps that are left.
    ///
    /// # Errors
    /// As [`BatchRun::step`].
    pub fn run(mut self) -> Result<(), TargetError> {
        while self.step()?.is_some() {}
        Ok(())
    }

    /// All steps up to where the batch may be left; then it is.
    ///
    /// # Errors
    /// As [`BatchRun::step`].
    pub fn run_ahead(mut self) -> Result<(), TargetError> {
        while !self.leave() && self.step()?.is_some() {}
        Ok(())
    }

    /// Leaves the rest for [`Replay::settle`], once its images only need to be made durable. What must count before anything else
    /// is looked at cannot be left.
    pub fn leave(&mut self) -> bool {
        if self.next_step() != Some(Step::SyncImage) || self.compare.is_some() || self.point.is_some() {
            return false;
        }
        let after = self.position_after();
        if after.hashes != HashesDue::No {
            return false;
        }
        self.replay.leave_unsettled(after);
        self.done = true;
        true
    }

    /// The position that counts once the batch does; right about `undo_end` once everything is saved.
    fn position_after(&self) -> ReplayPosition {
        let index = self.segment.index();
        let (undo_end, last_undo) = (self.replay.journal.end(), Some(self.replay.journal.last()));
        let before = self.replay.applied();
        let after = position_after(before, index.head(), index.hash(), self.batch, self.records(), undo_end);
        ReplayPosition { last_undo, ..after }
    }

    fn records(&self) -> &'a [IndexRecord] {
        &self.segment.index().records()[self.batch.records.clone()]
    }

    /// Time of the position after the batch.
    fn time_after(&self) -> UnixMicros {
        self.replay.applied().time.max(self.batch.end_time)
    }

    fn read_old(&mut self) -> Result<(), TargetError> {
        let mut part = match &self.replay.pool {
            None => SegmentWriter::new(Kind::Undo, Some(UNDO_ZSTD_LEVEL)),
            Some(pool) => SegmentWriter::with_press(Kind::Undo, UNDO_ZSTD_LEVEL, pool.press()),
        };
        let (seq, time) = (self.batch.end_seq, self.time_after());
        let mut old = Vec::new();
        while part.payload_bytes() < UNDO_PART_BYTES && part.record_count() < UNDO_PART_RECORDS {
            let Some((disk, range)) = self.saves.front_mut() else { break };
            let image = image_of(&mut self.replay.images, *disk);
            let (stretch, hole) = first_stretch(image, *range)?;
            let op = if hole { Op::WriteZeroes } else { Op::Write };
            old.resize(if hole { 0 } else { as_len(stretch) }, 0);
            image.read(&mut old, stretch.start)?;
            let (offset, len) = (stretch.start, stretch.len());
            let record = Record { seq, time, disk: *disk, op, flags: RecordFlags::NONE, offset, len };
            part.push(&record, &old).map_err(|e| compress_failed(image, e))?;
            range.start = stretch.end;
            if range.is_empty() {
                self.saves.pop_front();
            }
        }
        self.part = Some(part);
        Ok(())
    }

    fn save_undo(&mut self) -> Result<(), TargetError> {
        let Some(part) = self.part.take() else { return Ok(()) };
        let consistent = self.saves.is_empty() && {
            let after = self.position_after();
            after.consistent.position == after.position()
        };
        let (position, seq) = (self.replay.position(), self.batch.end_seq);
        let (epoch, first_seq): (_, Seq) = (position.epoch, position.seq.next());
        self.replay.journal.append(part, epoch, first_seq, seq, consistent)?;
        self.appended = true;
        Ok(())
    }

    fn write_image(&mut self) -> Result<(), TargetError> {
        let Some((disk, write)) = self.writes.pop_front() else { return Ok(()) };
        let image = image_of(&mut self.replay.images, disk);
        match write {
            Write::Zeroes(range) => image.zero(range),
            Write::Data { offset, pieces } => {
                let bytes = |(block, range): &(u32, Range<usize>)| &self.blocks[block][range.clone()];
                let pieces: Vec<&[u8]> = pieces.iter().map(bytes).collect();
                image.write(offset, &pieces)
            }
        }
    }

    fn write_catalogue(&mut self) -> Result<(), TargetError> {
        let Some(kind) = self.point.take() else { return Ok(()) };
        let position = Position { epoch: self.replay.position().epoch, seq: self.batch.end_seq };
        let (time, undo_end) = (self.time_after(), self.replay.journal.end());
        let points = &mut self.replay.points;
        if points.len() >= POINTS_MAX {
            // Retention keeps far fewer; what it did not come to yet goes oldest first.
            points.remove(0);
        }
        let id = points.last().map_or(1, |last| last.id + 1);
        points.push(Point { id, position, time, clock: self.batch.end_time, undo_end, kind });
        self.replay.write_points()
    }

    fn write_position(&mut self) -> Result<(), TargetError> {
        let after = self.position_after();
        self.replay.position.advance(after)?;
        if self.batch.point.is_some() || self.replay.journal.is_large() {
            self.replay.journal.rotate();
        }
        self.done = true;
        Ok(())
    }
}

/// Applies `batch` of `segment`; it counts after [`Replay::settle`].
///
/// # Errors
/// [`GroupError::Damaged`] naming `key` when the segment's bytes cannot be used (nothing was written then); else that of
/// the target's files.
pub fn apply(replay: &mut Replay, segment: &Segment, batch: &Batch, key: &str) -> Result<(), GroupError> {
    let run = BatchRun::new(replay, segment, batch).map_err(|what| GroupError::Damaged { at: key.to_owned(), what })?;
    let done = run.run_ahead();
    if done.is_err() {
        replay.give_back();
    }
    Ok(done?)
}

fn mark_name(raw: &[u8], entry: &IndexRecord) -> Result<String, String> {
    let name = raw.get(entry.payload_range()).and_then(|bytes| std::str::from_utf8(bytes).ok());
    name.map(str::to_owned).ok_or_else(|| format!("the mark of seq {} has no name in UTF-8", entry.record.seq))
}

pub(crate) fn image_of(images: &mut [Image], disk: DiskIndex) -> &mut Image {
    images.get_mut(usize::from(disk.0)).expect("chain::fits proved that the disk is one of the epoch's")
}

/// The first stretch of `range` that becomes one undo record: whole sectors, and no more data than a record holds.
fn first_stretch(image: &Image, range: ByteRange) -> Result<(ByteRange, bool), TargetError> {
    let (found, hole) = image.first_extent(range)?;
    let hole_end = align_down(found.end, SECTOR_BYTES);
    if hole && hole_end > range.start {
        return Ok((ByteRange { start: range.start, end: hole_end }, true));
    }
    let data_end = align_up(found.end, SECTOR_BYTES).min(range.end);
    let end = data_end.min(range.start + u64::from(RECORD_PAYLOAD_MAX_BYTES));
    Ok((ByteRange { start: range.start, end }, false))
}

fn as_len(range: ByteRange) -> usize {
    usize::try_from(range.len()).expect("at most 1 MiB")
}

/// The records follow the format by construction, so only the compressor can fail.
fn compress_failed(image: &Image, e: SegmentError) -> TargetError {
    match e {
        SegmentError::Io(source) => TargetError::io("compress the old content of", image.path())(source),
        e => TargetError::refused(
            image.path(),
            format!("its old content cannot be saved ({e}); this is a bug, report it"),
        ),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
