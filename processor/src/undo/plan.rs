//! Which bytes a batch changes, and with what. Pure.
//!
//! Of several records of a batch that change the same byte the last one wins; each byte is written once, in the order of the
//! disk, and saved once before.

use std::ops::Range;

use farshore_changelog::ids::DiskIndex;
use farshore_changelog::op::Op;
use farshore_changelog::segment::IndexRecord;
use farshore_changelog::units::ByteRange;

use crate::extents::{Cut, Extents};

/// Where the bytes of a changed range come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It reads as zeroes afterwards.
    Zeroes,
    /// Bytes of a block of the segment.
    Payload {
        /// The block.
        block: u32,
        /// Where in the raw block the range's first byte is.
        position: usize,
    },
}

impl Cut for Content {
    fn skip(&self, bytes: u64) -> Self {
        match *self {
            Self::Zeroes => Self::Zeroes,
            Self::Payload { block, position } => {
                let bytes = usize::try_from(bytes).expect("a payload is at most 1 MiB");
                Self::Payload { block, position: position + bytes }
            }
        }
    }
}

/// What a batch does to one disk.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    /// Which disk.
    pub disk: DiskIndex,
    /// The ranges to be saved, merged, in order.
    pub saves: Vec<ByteRange>,
    /// The writes in order: each is one write call, or one hole.
    pub writes: Vec<Write>,
}

/// One write to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Bytes of blocks, one after the other.
    Data {
        /// First byte.
        offset: u64,
        /// Block and range in the raw block.
        pieces: Vec<(u32, Range<usize>)>,
    },
    /// Zeroes.
    Zeroes(ByteRange),
}

/// A write of data is not joined beyond this, in bytes.
const WRITE_MAX_BYTES: u64 = 4 << 20;

/// Plans `records`, one batch of a segment, in the order of the log.
#[must_use]
pub fn plan(records: &[IndexRecord]) -> Vec<DiskPlan> {
    let mut disks: Vec<(DiskIndex, Extents<Content>)> = Vec::new();
    for entry in records {
        let record = &entry.record;
        let content = match record.op {
            Op::Write | Op::ResyncWrite => {
                Content::Payload { block: entry.block, position: entry.payload_range().start }
            }
            Op::WriteZeroes | Op::Trim | Op::ResyncZeroes => Content::Zeroes,
            Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => continue,
        };
        let at = disks.iter().position(|(disk, _)| *disk == record.disk).unwrap_or_else(|| {
            disks.push((record.disk, Extents::default()));
            disks.len() - 1
        });
        disks[at].1.overwrite(record.range(), content);
    }
    disks.sort_by_key(|(disk, _)| *disk);
    disks
        .into_iter()
        .map(|(disk, extents)| DiskPlan { disk, saves: extents.covered(), writes: writes(&extents) })
        .collect()
}

/// Neighbours of one kind become one write.
fn writes(extents: &Extents<Content>) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    // Where the last write ends, and its length.
    let (mut end, mut len) = (0, 0);
    for (range, content) in extents.iter() {
        let joins = !writes.is_empty() && end == range.start;
        match (writes.last_mut(), content) {
            (Some(Write::Zeroes(last)), Content::Zeroes) if joins => last.end = range.end,
            (_, Content::Zeroes) => {
                writes.push(Write::Zeroes(range));
                len = 0;
            }
            (last, Content::Payload { block, position }) => {
                let bytes = usize::try_from(range.len()).expect("a payload is at most 1 MiB");
                let piece = (*block, *position..*position + bytes);
                match last {
                    Some(Write::Data { pieces, .. }) if joins && len + range.len() <= WRITE_MAX_BYTES => {
                        pieces.push(piece);
                        len += range.len();
                    }
                    _ => {
                        writes.push(Write::Data { offset: range.start, pieces: vec![piece] });
                        len = range.len();
                    }
                }
            }
        }
        end = range.end;
    }
    writes
}

/// The blocks with the content and the digests of `records`, in order.
#[must_use]
pub fn blocks(records: &[IndexRecord]) -> Vec<u32> {
    let wanted = |op: Op| match op {
        Op::Write | Op::ResyncWrite | Op::Digest => true,
        Op::WriteZeroes
        | Op::Trim
        | Op::Flush
        | Op::Mark
        | Op::ResyncBegin
        | Op::ResyncZeroes
        | Op::ResyncEnd
        | Op::Overflow => false,
    };
    let with_payload = records.iter().filter(|r| wanted(r.record.op) && !r.payload_range().is_empty());
    let mut blocks: Vec<u32> = with_payload.map(|entry| entry.block).collect();
    blocks.dedup();
    blocks
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::Seq;
    use farshore_changelog::op::{Record, RecordFlags};
    use farshore_changelog::units::UnixMicros;

    use super::*;

    fn entry(disk: u16, op: Op, start: u64, end: u64, position: u32) -> IndexRecord {
        let record = Record {
            seq: Seq(1),
            time: UnixMicros(1),
            disk: DiskIndex(disk),
            op,
            flags: RecordFlags::NONE,
            offset: start * 512,
            len: (end - start) * 512,
        };
        IndexRecord { record, block: 3, position }
    }

    fn sectors(start: u64, end: u64) -> ByteRange {
        ByteRange { start: start * 512, end: end * 512 }
    }

    #[test]
    fn the_last_record_wins_and_neighbours_are_joined() {
        let plans = plan(&[
            entry(1, Op::Write, 0, 4, 0),
            entry(0, Op::Trim, 7, 9, 0),
            entry(1, Op::WriteZeroes, 4, 8, 0),
            entry(1, Op::ResyncWrite, 1, 2, 9000),
            entry(1, Op::ResyncZeroes, 8, 9, 0),
            entry(1, Op::Write, 20, 21, 4096),
            entry(1, Op::Flush, 0, 0, 0),
        ]);
        assert_eq!(plans.iter().map(|p| p.disk.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(plans[0].writes, [Write::Zeroes(sectors(7, 9))]);
        assert_eq!(plans[1].saves, [sectors(0, 9), sectors(20, 21)]);
        let first = Write::Data { offset: 0, pieces: vec![(3, 0..512), (3, 9000..9512), (3, 1024..2048)] };
        let last = Write::Data { offset: 20 * 512, pieces: vec![(3, 4096..4608)] };
        assert_eq!(plans[1].writes, [first, Write::Zeroes(sectors(4, 9)), last]);
    }
}
