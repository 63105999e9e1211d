//! Where the content of a disk is at one position: for every range that was overwritten since, the first batch that saved it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc;

use farshore_changelog::ids::{DISKS_PER_GROUP_MAX, DiskIndex, GroupName};
use farshore_changelog::op::Op;
use farshore_changelog::segment::Index;
use farshore_changelog::units::ByteRange;

use super::damage;
use super::journal::blocks_are_whole;
use super::reader::{Found, JournalReader};
use crate::error::TargetError;
use crate::extents::{Cut, Extents};

/// Batches whose indices are kept for reading blocks of them.
const CACHED_BATCHES: usize = 64;
/// Batches that were read before they are taken in.
const AHEAD_BATCHES: usize = 16;
/// Decoded blocks that are kept, each at most 1.25 MiB.
const CACHED_BLOCKS: usize = 16;

/// What a range held at the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It read as zeroes.
    Zeroes,
    /// Its bytes lie in a block of a batch; [`UndoIndex::read`] gets them.
    Data {
        /// Journal offset of the batch.
        batch: u64,
        /// The block.
        block: u32,
        /// Where in the raw block, in bytes.
        position: u32,
    },
}

impl Cut for Saved {
    fn skip(&self, bytes: u64) -> Self {
        match *self {
            Self::Zeroes => Self::Zeroes,
            Self::Data { batch, block, position } => {
                let bytes = u32::try_from(bytes).expect("a record's payload is at most 1 MiB");
                Self::Data { batch, block, position: position + bytes }
            }
        }
    }
}

/// The index of a position: the journal from its `undo_end` on.
///
/// To read a block: [`UndoIndex::lookup`]; what nothing covers is read from the image; then, if
/// [`super::Published::load`] has passed [`UndoIndex::scanned`], [`UndoIndex::refresh`] and look once more.
#[derive(Debug)]
pub struct UndoIndex {
    reader: JournalReader,
    from: u64,
    scanned: u64,
    disks: Vec<Extents<Saved>>,
    batches: VecDeque<(u64, Box<Index>)>,
    blocks: VecDeque<(u64, u32, Vec<u8>)>,
}

impl UndoIndex {
    /// The index of the position with `undo_end` = `from`, in the folder `undo` of `group`. Scans all complete batches; one
    /// that is just being written is left for [`UndoIndex::refresh`].
    ///
    /// # Errors
    /// [`TargetError`] when `from` was pruned, or a batch is damaged below what was published (`undo/published`).
    pub fn open(undo: &Path, group: GroupName, from: u64) -> Result<Self, TargetError> {
        let reader = JournalReader::open(undo, group)?;
        let disks = std::iter::repeat_with(Extents::default).take(DISKS_PER_GROUP_MAX).collect();
        let mut index = Self { reader, from, scanned: from, disks, batches: VecDeque::new(), blocks: VecDeque::new() };
        let published = super::published::read(&undo.join("published"))?.unwrap_or(0);
        index.scan_ahead(published)?;
        index.refresh(published)?;
        // Beyond what was published (it is lost with the power): a whole batch says the truth, anything else never changed
        // an image, and replay cuts it off when it comes back and puts another one there.
        while index.scan_whole()? {}
        Ok(index)
    }

    /// The journal offset that this index belongs to.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The journal offset up to which batches were taken in.
    #[must_use]
    pub fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Takes in the batches up to `published`; nothing to do when it was passed already.
    ///
    /// # Errors
    /// [`TargetError::Damaged`] when one of them is not whole.
    pub fn refresh(&mut self, published: u64) -> Result<(), TargetError> {
        while self.scanned < published {
            let at = self.scanned;
            let scanned = self.scan_one();
            if !self.noted(at, scanned)? {
                let missing = self.reader.expect_batch(at).map(drop);
                self.noted(at, missing)?;
            }
        }
        Ok(())
    }

    /// Damage of the batch at `at` is noted, so that no other point that needs it is opened.
    fn noted<T>(&self, at: u64, done: Result<T, TargetError>) -> Result<T, TargetError> {
        if let Err(e @ TargetError::Damaged { .. }) = &done {
            damage::note(self.reader.undo(), at, &e.to_string());
        }
        done
    }

    /// Takes in batches up to `published`, which another thread reads meanwhile. It ends before the first that is not whole, or
    /// cannot be read: what is to be said of that is for [`UndoIndex::refresh`].
    fn scan_ahead(&mut self, published: u64) -> Result<(), TargetError> {
        let mut reader = JournalReader::open(self.reader.undo(), self.reader.group().clone())?;
        let (mut at, (batches, read)) = (self.scanned, mpsc::sync_channel(AHEAD_BATCHES));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while at < published
                    && let Ok(Found::Batch(index)) = reader.batch_at(at)
                {
                    at += index.total_len();
                    if batches.send(index).is_err() {
                        return;
                    }
                }
            });
            read.iter().for_each(|index| self.take_in(&index));
        });
        Ok(())
    }

    /// Takes in the batch at `scanned`; `false` when there is no whole one.
    fn scan_one(&mut self) -> Result<bool, TargetError> {
        let Found::Batch(index) = self.reader.batch_at(self.scanned)? else { return Ok(false) };
        self.take_in(&index);
        Ok(true)
    }

    /// Takes in `index`, that of the batch at `scanned`.
    fn take_in(&mut self, index: &Index) {
        let batch = self.scanned;
        for entry in index.records() {
            let record = &entry.record;
            let saved = match record.op {
                Op::Write => Saved::Data { batch, block: entry.block, position: entry.position },
                Op::WriteZeroes => Saved::Zeroes,
                Op::Trim
                | Op::Flush
                | Op::Mark
                | Op::ResyncBegin
                | Op::ResyncWrite
                | Op::ResyncZeroes
                | Op::ResyncEnd
                | Op::Overflow
                | Op::Digest => {
                    unreachable!("the reader of segments refuses these in an undo batch")
                }
            };
            if let Some(disk) = self.disks.get_mut(usize::from(record.disk.0)) {
                disk.fill(record.range(), &saved);
            }
        }
        self.scanned += index.total_len();
    }

    /// As [`UndoIndex::scan_one`] for a batch that nobody said to be durable: its blocks are proved too.
    fn scan_whole(&mut self) -> Result<bool, TargetError> {
        let at = self.scanned;
        let Found::Batch(index) = self.reader.batch_at(at)? else { return Ok(false) };
        if !blocks_are_whole(&mut self.reader, at, &index)? {
            return Ok(false);
        }
        self.scan_one()
    }

    /// `range` of `disk` in order without a gap: where the content of each piece is saved, `None` where it is in the image.
    #[must_use]
    pub fn lookup(&self, disk: DiskIndex, range: ByteRange) -> Vec<(ByteRange, Option<Saved>)> {
        match self.disks.get(usize::from(disk.0)) {
            Some(extents) => extents.pieces(range),
            None => vec![(range, None)],
        }
    }

    /// Count of the ranges that are saved, over all disks.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.disks.iter().map(Extents::len).sum()
    }

    /// Fills `buf` with the content of a piece that [`UndoIndex::lookup`] gave, from the piece's start.
    ///
    /// # Errors
    /// [`TargetError::Damaged`] when the journal's bytes are not what was sealed; [`TargetError::Io`].
    pub fn read(&mut self, saved: &Saved, buf: &mut [u8]) -> Result<(), TargetError> {
        match *saved {
            Saved::Zeroes => buf.fill(0),
            Saved::Data { batch, block, position } => {
                let raw = self.block(batch, block)?;
                let start = position as usize;
                buf.copy_from_slice(&raw[start..start + buf.len()]);
            }
        }
        Ok(())
    }

    fn block(&mut self, batch: u64, block: u32) -> Result<&[u8], TargetError> {
        match self.blocks.iter().position(|(b, n, _)| (*b, *n) == (batch, block)) {
            Some(at) => {
                // Last used, last dropped.
                let used = self.blocks.remove(at).expect("it was just found there");
                self.blocks.push_front(used);
            }
            None => {
                let index = self.batch(batch)?;
                let read = self.reader.block(batch, &index, block);
                let raw = self.noted(batch, read)?;
                self.batches.push_front((batch, index));
                self.blocks.truncate(CACHED_BLOCKS - 1);
                self.blocks.push_front((batch, block, raw));
            }
        }
        Ok(&self.blocks[0].2)
    }

    /// The index of a batch, taken out of the cache.
    fn batch(&mut self, batch: u64) -> Result<Box<Index>, TargetError> {
        if let Some(at) = self.batches.iter().position(|(b, _)| *b == batch)
            && let Some((_, index)) = self.batches.remove(at)
        {
            return Ok(index);
        }
        self.batches.truncate(CACHED_BATCHES - 1);
        let found = self.reader.expect_batch(batch);
        self.noted(batch, found)
    }
}
