//! `verify.json`: what of a target was compared with its source, and what differs (`docs/format.md`, "Comparison").

use std::io;

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{DiskIndex, Position};
use farshore_changelog::units::{ByteRange, UnixMicros};
use serde::{Deserialize, Serialize};

use super::digests::Digest;
use crate::error::TargetError;
use crate::target::{GroupDir, read_bounded};

/// The version that is written and read.
const FORMAT: u64 = 1;
/// Most ranges that differ of which each is kept; the rest is counted.
pub const MISMATCHES_MAX: usize = 4096;
/// Largest report that is read, in bytes.
const REPORT_MAX_BYTES: u64 = 16 << 20;

/// What one run of digests found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Digests that were compared.
    pub regions: u64,
    /// Bytes that they covered.
    pub bytes: u64,
    /// Of the regions, those that differed.
    pub differing: u64,
    /// Digests that came while nothing was consistent, and were not compared.
    pub skipped: u64,
}

/// A run that its mark has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The request that it answered.
    pub request: u64,
    /// Where its mark lies.
    pub position: Position,
    /// Source's time of that.
    pub time: UnixMicros,
    /// What it found.
    pub counts: Counts,
}

/// A range in which image and source differed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mismatch {
    /// The disk.
    pub disk: DiskIndex,
    /// Which bytes.
    pub range: ByteRange,
    /// When it was found: at the digest's place in the log.
    pub position: Position,
    /// The journal offset that belongs to that.
    pub undo_end: u64,
    /// What of it was not written again since.
    pub left: Vec<ByteRange>,
    /// The journal offset at which all of it was: positions from there on have what the source has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired_at: Option<u64>,
}

/// The report of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Digests up to here are counted: a batch that is applied again after a crash counts once.
    pub through: Position,
    /// The run under way.
    pub running: Counts,
    /// The last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Run>,
    /// What differs, and what differed in a point that is kept. Oldest first.
    pub mismatches: Vec<Mismatch>,
    /// Mismatches that were not kept.
    pub more: u64,
}

impl Comparison {
    /// Reads the report of a group; that of one that never was compared is empty.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn read(dir: &GroupDir) -> Result<Self, TargetError> {
        let path = dir.comparison();
        let bytes = match read_bounded(&path, REPORT_MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(TargetError::io("read", &path)(e)),
        };
        let damaged = |what: String| TargetError::damaged(&path, 0, what);
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let format = value.as_object_mut().and_then(|map| map.remove("format")).and_then(|v| v.as_u64());
        match format {
            Some(FORMAT) => serde_json::from_value(value).map_err(|e| damaged(e.to_string())),
            Some(found) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                Err(TargetError::Version { path: path.clone(), found, supported: FORMAT as u32 })
            }
            None => Err(damaged("it says no format".to_owned())),
        }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`TargetError::Io`]; the old report is then untouched.
    pub fn write(&self, dir: &GroupDir) -> Result<(), TargetError> {
        let mut value = serde_json::to_value(self).expect("numbers and ranges can be written as JSON");
        value["format"] = FORMAT.into();
        let mut bytes = serde_json::to_vec(&value).expect("a JSON value can be written");
        bytes.push(b'\n');
        let path = dir.comparison();
        crashsafe::replace(&path, &bytes).map_err(TargetError::io("write", &path))
    }

    /// Ranges that differ now.
    pub fn open(&self) -> impl Iterator<Item = &Mismatch> {
        self.mismatches.iter().filter(|m| m.repaired_at.is_none())
    }

    /// `range` of `disk` was written by the batch after which the journal ends at `undo_end`. Gives whether that changes
    /// anything.
    pub fn written(&mut self, disk: DiskIndex, range: ByteRange, undo_end: u64) -> bool {
        let mut changed = false;
        let open = self.mismatches.iter_mut().filter(|m| m.repaired_at.is_none() && m.disk == disk);
        for mismatch in open.filter(|m| m.range.overlaps(range)) {
            let before = mismatch.left.clone();
            mismatch.left = before.iter().flat_map(|piece| without(*piece, range)).collect();
            if mismatch.left.is_empty() {
                mismatch.repaired_at = Some(undo_end);
            }
            changed |= mismatch.left != before;
        }
        changed
    }

    /// Takes in a digest that was compared at `position`, with the journal at `undo_end`.
    pub fn compared(&mut self, digest: &Digest, equal: bool, position: Position, undo_end: u64) {
        self.running.regions += 1;
        self.running.bytes += digest.range.len();
        if equal {
            self.written(digest.disk, digest.range, undo_end);
            return;
        }
        self.running.differing += 1;
        let (disk, range) = (digest.disk, digest.range);
        if self.open().any(|m| m.disk == disk && m.range.contains(range)) {
            return;
        }
        if self.mismatches.len() >= MISMATCHES_MAX {
            self.more += 1;
            return;
        }
        self.mismatches.push(Mismatch { disk, range, position, undo_end, left: vec![range], repaired_at: None });
    }

    /// The mark of `request` ends the run.
    pub fn ended(&mut self, request: u64, position: Position, time: UnixMicros) {
        let counts = std::mem::take(&mut self.running);
        self.last = Some(Run { request, position, time, counts });
    }

    /// Forgets what was repaired before the oldest journal offset that a point needs.
    pub fn forget_before(&mut self, oldest: u64) {
        self.mismatches.retain(|m| m.repaired_at.is_none_or(|repaired| repaired >= oldest));
        if self.mismatches.is_empty() {
            self.more = 0;
        }
    }
}

/// What of `piece` lies outside of `range`.
fn without(piece: ByteRange, range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let before = ByteRange { start: piece.start, end: piece.end.min(range.start) };
    let after = ByteRange { start: piece.start.max(range.end), end: piece.end };
    [before, after].into_iter().filter(|rest| !rest.is_empty())
}
