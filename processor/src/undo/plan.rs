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
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

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

    const SECTORS: usize = 40;

    /// Records whose payloads lie one after the other in blocks of some sectors.
    fn records() -> impl Strategy<Value = Vec<IndexRecord>> {
        let ops = [Op::Write, Op::ResyncWrite, Op::WriteZeroes, Op::Trim, Op::ResyncZeroes, Op::Flush, Op::Mark];
        let one = (prop::sample::select(ops.to_vec()), 0..2_u16, 0..SECTORS as u64, 1..12_u64, any::<bool>());
        prop::collection::vec(one, 0..40).prop_map(|all| {
            let (mut block, mut position) = (0, 0);
            let place = |(op, disk, start, sectors, next): (Op, u16, u64, u64, bool)| {
                let end = (start + sectors).min(SECTORS as u64);
                if next {
                    (block, position) = (block + 1, 0);
                }
                let mut entry = match op.changes_disk() {
                    true => entry(disk, op, start, end, 0),
                    false => entry(0, op, 0, 0, 0),
                };
                if op.has_payload() && op.changes_disk() {
                    (entry.block, entry.position) = (block, position);
                    position += entry.record.len as u32;
                }
                entry
            };
            all.into_iter().map(place).collect()
        })
    }

    /// What a sector holds: block and position of its payload, or zeroes.
    type Sector = Option<(u32, usize)>;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// The writes give each byte what the last record gives it, once; and just these bytes are saved before.
        #[test]
        fn the_plan_is_what_the_records_do_one_after_the_other(records in records()) {
            let mut naive: Vec<BTreeMap<usize, Sector>> = vec![BTreeMap::new(); 2];
            for entry in records.iter().filter(|entry| entry.record.op.changes_disk()) {
                let first = (entry.record.offset / 512) as usize;
                for n in 0..(entry.record.len / 512) as usize {
                    let from = (entry.block, entry.position as usize + n * 512);
                    let content = entry.record.op.has_payload().then_some(from);
                    naive[usize::from(entry.record.disk.0)].insert(first + n, content);
                }
            }
            let plans = plan(&records);
            prop_assert!(plans.windows(2).all(|pair| pair[0].disk < pair[1].disk));
            prop_assert_eq!(plans.len(), naive.iter().filter(|disk| !disk.is_empty()).count());
            for plan in plans {
                let mut planned: BTreeMap<usize, Sector> = BTreeMap::new();
                let mut put = |offset: u64, content: Sector| planned.insert((offset / 512) as usize, content);
                for write in &plan.writes {
                    match write {
                        Write::Zeroes(range) => {
                            for at in (range.start..range.end).step_by(512) {
                                prop_assert!(put(at, None).is_none(), "written twice");
                            }
                        }
                        Write::Data { offset, pieces } => {
                            let mut at = *offset;
                            for (block, range) in pieces {
                                for from in range.clone().step_by(512) {
                                    prop_assert!(put(at, Some((*block, from))).is_none(), "written twice");
                                    at += 512;
                                }
                            }
                        }
                    }
                }
                let wanted = &naive[usize::from(plan.disk.0)];
                prop_assert_eq!(&planned, wanted);
                let saved: Vec<usize> = plan.saves.iter().flat_map(|r| (r.start / 512) as usize..(r.end / 512) as usize).collect();
                prop_assert_eq!(saved, wanted.keys().copied().collect::<Vec<_>>());
                prop_assert!(plan.saves.windows(2).all(|pair| pair[0].end < pair[1].start), "they are merged");
            }
            let used: BTreeSet<u32> =
                records.iter().filter(|r| r.record.op.changes_disk() && r.record.op.has_payload()).map(|r| r.block).collect();
            prop_assert_eq!(blocks(&records), used.into_iter().collect::<Vec<_>>());
        }
    }
}
