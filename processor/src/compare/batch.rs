//! What one batch has to compare, and the comparing: after its images are durable, and before its position counts.

use std::collections::BTreeMap;

use farshore_changelog::ids::{DiskIndex, Hash, Position, Seq};
use farshore_changelog::segment::IndexRecord;
use farshore_changelog::units::{ByteRange, UnixMicros};

use super::digests::{Digest, digested, ended_request};
use super::report::Comparison;
use crate::error::TargetError;
use crate::image::Image;
use crate::replay::Replay;

/// What a batch has to compare.
#[derive(Debug)]
pub struct Compare {
    /// What it wrote, where something is known to differ.
    written: Vec<(DiskIndex, ByteRange)>,
    digests: Vec<Digest>,
    /// The run that its mark ends.
    ended: Option<u64>,
}

impl Compare {
    /// `None` where there is nothing to do. `blocks` are the raw blocks with the payload of `records`, `mark` the name of the
    /// mark that they end with.
    #[must_use]
    pub fn new(
        records: &[IndexRecord],
        blocks: &BTreeMap<u32, Vec<u8>>,
        mark: Option<&str>,
        known: &Comparison,
    ) -> Option<Self> {
        let digests = records.iter().filter_map(|entry| {
            let range = digested(entry)?;
            let hash = blocks.get(&entry.block)?.get(entry.payload_range())?;
            let hash = Hash(hash.try_into().ok()?);
            Some(Digest { seq: entry.record.seq, disk: entry.record.disk, range, hash })
        });
        let written = records.iter().map(|entry| &entry.record).filter(|record| record.op.changes_disk());
        let compare = Self {
            written: match known.open().next() {
                Some(_) => written.map(|record| (record.disk, record.range())).collect(),
                None => Vec::new(),
            },
            digests: digests.collect(),
            ended: mark.and_then(ended_request),
        };
        let nothing = compare.written.is_empty() && compare.digests.is_empty() && compare.ended.is_none();
        (!nothing).then_some(compare)
    }

    /// Compares; the batch ends at `end_seq` and `time`. Gives whether there is something to note.
    ///
    /// # Errors
    /// [`TargetError::Io`] when an image cannot be read.
    pub fn run(self, replay: &mut Replay, end_seq: Seq, time: UnixMicros) -> Result<bool, TargetError> {
        let (epoch, undo_end) = (replay.position().epoch, replay.journal.end());
        let consistent = !replay.position().resync;
        let end = Position { epoch, seq: end_seq };
        let known = &mut replay.comparison;
        // Of a batch that is applied again the report may be in memory only, so it is written in any case.
        let mut changed = !self.digests.is_empty() || self.ended.is_some();
        // No later record of the batch touches what a digest is of, so all of these come before.
        for (disk, range) in self.written {
            changed |= known.written(disk, range, undo_end);
        }
        let mut zeroes = BTreeMap::new();
        for digest in &self.digests {
            let position = Position { epoch, seq: digest.seq };
            if position <= known.through {
                continue; // counted already, before a crash
            }
            if consistent {
                let image = crate::apply::image_of(&mut replay.images, digest.disk);
                let found = hash(image, digest.range, &mut zeroes)?;
                if found != digest.hash {
                    tracing::error!(
                        image = %image.path().display(), range = %digest.range, %position,
                        "the image differs from the source: farshore verify --against-source --repair copies it again"
                    );
                }
                known.compared(digest, found == digest.hash, position, undo_end);
            } else {
                known.running.skipped += 1;
            }
        }
        if !self.digests.is_empty() {
            known.through = known.through.max(end);
        }
        if let Some(request) = self.ended
            && known.last.is_none_or(|last| last.position < end)
        {
            known.ended(request, end, time);
            known.forget_before(replay.points.first().map_or(undo_end, |oldest| oldest.undo_end));
        }
        Ok(changed)
    }
}

/// Of a hole the hash is known once it was computed for one of that length.
pub(crate) fn hash(image: &Image, range: ByteRange, zeroes: &mut BTreeMap<u64, Hash>) -> Result<Hash, TargetError> {
    if !image.is_hole(range)? {
        return image.hash(range);
    }
    match zeroes.get(&range.len()) {
        Some(hash) => Ok(*hash),
        None => {
            let hash = image.hash(range)?;
            zeroes.insert(range.len(), hash);
            Ok(hash)
        }
    }
}
