//! One disk's log in a folder vault, applied to an image record by record, by the shortest way there is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use farshore_changelog::ids::{DiskIndex, Seq};
use farshore_changelog::op::{Op, Record};
use farshore_changelog::segment::{Kind, Segment, SegmentError};

use crate::durable;
use crate::sealed;
use crate::site::GROUP;

/// Zeroes that are written at once.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// Where the replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The record that was applied last.
    pub seq: Seq,
    /// What it was.
    pub op: Op,
    /// Whether the image is the disk at a moment, and no resync or overflow is open.
    pub consistent: bool,
}

/// Applies epoch `epoch` of the group's log to `image`, the first disk's, and tells `after` where it stands after each record.
///
/// # Panics
/// When a segment is not whole, or the image cannot be written.
pub fn replay(vault: &Path, epoch: u64, image: &File, mut after: impl FnMut(Standing)) {
    let mut consistent = true;
    for path in durable::segment_files(vault, GROUP, epoch) {
        let segment =
            Segment::parse(sealed::content(&path)).unwrap_or_else(|e| panic!("{} is not whole: {e}", path.display()));
        if segment.index().head().kind == Kind::Seal {
            continue;
        }
        let applied = segment.for_each(|record, payload| {
            apply(image, record, payload);
            match record.op {
                Op::ResyncBegin | Op::Overflow => consistent = false,
                Op::ResyncEnd => consistent = true,
                Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => {}
                Op::Flush | Op::Mark | Op::Digest => {}
            }
            after(Standing { seq: record.seq, op: record.op, consistent });
            Ok::<_, SegmentError>(())
        });
        applied.unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
    }
}

fn apply(image: &File, record: &Record, payload: &[u8]) {
    let range = record.range();
    let written = match record.op {
        Op::Write | Op::ResyncWrite if record.disk == DiskIndex(0) => image.write_all_at(payload, range.start),
        Op::WriteZeroes | Op::Trim | Op::ResyncZeroes if record.disk == DiskIndex(0) => {
            let steps = (range.start..range.end).step_by(ZEROES.len());
            steps.into_iter().try_for_each(|at| {
                image.write_all_at(&ZEROES[..(range.end - at).min(ZEROES.len() as u64) as usize], at)
            })
        }
        Op::Write | Op::ResyncWrite | Op::WriteZeroes | Op::Trim | Op::ResyncZeroes => Ok(()),
        Op::Flush | Op::Mark | Op::Digest | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow => Ok(()),
    };
    written.expect("the image can be written");
}
