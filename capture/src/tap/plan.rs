//! What a change of any range becomes on a disk of whole blocks: pure arithmetic, no I/O.

use farshore_changelog::op::Op;
use farshore_changelog::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES};
use smallvec::{SmallVec, smallvec};

/// One record for nearly every request, which then lies in the plan itself.
pub(super) type Parts = SmallVec<[Part; 1]>;

/// A request as records of consecutive seqs, and what has to be read before they are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whole blocks: what is locked.
    pub locked: ByteRange,
    /// In the order of the disk; together they are `locked`.
    pub parts: Parts,
    /// At most two.
    pub edges: Vec<Edge>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Whole blocks.
    pub range: ByteRange,
    pub op: PartOp,
}

/// What a part does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartOp {
    /// Writes its payload, of which `wanted` comes from the request and the rest from the edges.
    Data {
        /// On the disk; within the part.
        wanted: ByteRange,
    },
    /// Zeroes its range.
    Zeroes(Zeroing),
}

/// How zeroes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// Write zeroes; `keep` keeps the range allocated.
    Write { keep: bool },
    /// Trim.
    Trim,
}

/// A block of which the request changes only a part: it is read first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// The block.
    pub block: ByteRange,
    /// The part that it lies in.
    pub part: usize,
    /// What of the block stays as it is: one or two ranges.
    pub keep: Vec<ByteRange>,
}

impl Part {
    /// The operation of its record.
    pub fn record_op(&self) -> Op {
        match self.op {
            PartOp::Data { .. } => Op::Write,
            PartOp::Zeroes(Zeroing::Write { .. }) => Op::WriteZeroes,
            PartOp::Zeroes(Zeroing::Trim) => Op::Trim,
        }
    }

    /// Bytes of its payload.
    pub fn payload_bytes(&self) -> u32 {
        match self.op {
            // At most RECORD_PAYLOAD_MAX_BYTES: see `data`.
            PartOp::Data { .. } => self.range.len() as u32,
            PartOp::Zeroes(_) => 0,
        }
    }
}

/// A write of `range`.
pub(super) fn write(range: ByteRange, block: u64) -> Plan {
    let locked = range.grow_to(block);
    let mut parts = Parts::new();
    let mut start = locked.start;
    while start < locked.end {
        let end = (start + u64::from(RECORD_PAYLOAD_MAX_BYTES)).min(locked.end);
        let part = ByteRange { start, end };
        parts.push(Part { range: part, op: PartOp::Data { wanted: part.intersect(range) } });
        start = end;
    }
    let edges = edges(range, locked, block, &parts);
    Plan { locked, parts, edges }
}

/// Zeroes in `range`: a block that it covers only in part is written, what is between is zeroed.
pub(super) fn write_zeroes(range: ByteRange, block: u64, keep: bool) -> Plan {
    let locked = range.grow_to(block);
    let inner = range.shrink_to(block);
    let whole = Part { range: inner, op: PartOp::Zeroes(Zeroing::Write { keep }) };
    let partial = |start, end| {
        let part = ByteRange { start, end };
        (!part.is_empty()).then(|| Part { range: part, op: PartOp::Data { wanted: part.intersect(range) } })
    };
    let parts: Parts = if inner.is_empty() {
        // One block, or two that meet within it: both are edges.
        write(range, block).parts
    } else {
        [partial(locked.start, inner.start), Some(whole), partial(inner.end, locked.end)]
            .into_iter()
            .flatten()
            .collect()
    };
    let edges = edges(range, locked, block, &parts);
    Plan { locked, parts, edges }
}

/// A trim of `range`: of the whole blocks in it; `None` when there is none, and nothing is done.
pub(super) fn trim(range: ByteRange, block: u64) -> Option<Plan> {
    let locked = range.shrink_to(block);
    let parts = smallvec![Part { range: locked, op: PartOp::Zeroes(Zeroing::Trim) }];
    (!locked.is_empty()).then_some(Plan { locked, parts, edges: Vec::new() })
}

fn edges(range: ByteRange, locked: ByteRange, block: u64, parts: &[Part]) -> Vec<Edge> {
    let head = ByteRange { start: locked.start, end: range.start };
    let tail = ByteRange { start: range.end, end: locked.end };
    let part_of = |at: u64| {
        let holds = |p: &Part| p.range.start <= at && at < p.range.end;
        parts.iter().position(holds).expect("the parts cover what is locked")
    };
    let first = ByteRange { start: locked.start, end: locked.start + block };
    let last = ByteRange { start: locked.end - block, end: locked.end };
    let edge = |block: ByteRange, keep: &[ByteRange]| {
        let keep: Vec<_> = keep.iter().copied().filter(|k| !k.is_empty()).collect();
        (!keep.is_empty()).then(|| Edge { block, part: part_of(block.start), keep })
    };
    let all =
        if first == last { [edge(first, &[head, tail]), None] } else { [edge(first, &[head]), edge(last, &[tail])] };
    // Of a request on whole blocks this is nothing, and takes no memory.
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(offset: u64, len: u64) -> ByteRange {
        ByteRange::at(offset, len).unwrap()
    }

    #[test]
    fn aligned_changes_need_no_reads() {
        let plan = write(at(4096, 3 * MIB), 4096);
        assert_eq!(plan.parts.iter().map(|p| p.range.len()).collect::<Vec<_>>(), [MIB, MIB, MIB]);
        assert!(plan.edges.is_empty());
        let plan = write_zeroes(at(4096, 100 * MIB), 4096, false);
        assert_eq!((plan.parts.len(), plan.edges.len(), plan.parts[0].record_op()), (1, 0, Op::WriteZeroes));
    }

    #[test]
    fn trims_shrink_to_whole_blocks() {
        assert_eq!(trim(at(100, 4000), 4096), None);
        assert_eq!(trim(at(4095, 4097), 4096).unwrap().locked, at(4096, 4096));
    }

    #[test]
    fn both_ends_of_one_block_are_one_read() {
        let plan = write(at(4096 + 10, 20), 4096);
        assert_eq!(plan.edges, [Edge { block: at(4096, 4096), part: 0, keep: vec![at(4096, 10), at(4126, 4066)] }]);
        let plan = write_zeroes(at(4000, 200), 4096, true);
        assert_eq!((plan.parts.len(), plan.edges.len()), (1, 2), "two partial blocks are one write");
        assert_eq!(plan.parts[0].record_op(), Op::Write);
    }

    /// What any plan must be: parts that tile the locked range, and every byte either wanted, zeroed or kept, once.
    fn check(plan: &Plan, range: ByteRange, block: u64) {
        assert_eq!(plan.locked.grow_to(block), plan.locked);
        let mut next = plan.locked.start;
        let mut changed = 0;
        for part in &plan.parts {
            assert_eq!((part.range.start, part.range.grow_to(block)), (next, part.range));
            assert!(part.payload_bytes() <= RECORD_PAYLOAD_MAX_BYTES);
            next = part.range.end;
            changed += match part.op {
                PartOp::Data { wanted } => {
                    assert!(part.range.contains(wanted));
                    wanted.len()
                }
                PartOp::Zeroes(_) => part.range.len(),
            };
        }
        assert_eq!(next, plan.locked.end);
        assert_eq!(changed, range.len());
        let kept: u64 = plan.edges.iter().flat_map(|e| &e.keep).map(|k| k.len()).sum();
        assert_eq!(kept, plan.locked.len() - range.len());
        for edge in &plan.edges {
            assert_eq!(edge.block.len(), block);
            assert!(plan.parts[edge.part].range.contains(edge.block));
            assert!(matches!(plan.parts[edge.part].op, PartOp::Data { .. }));
            assert!(edge.keep.iter().all(|k| edge.block.contains(*k) && !k.overlaps(range)));
        }
    }

    proptest! {
        #[test]
        fn plans_tile_and_keep_what_was_not_asked_for(offset in 0u64..3 * MIB, len in 1u64..3 * MIB, small in any::<bool>(), wide in any::<bool>()) {
            let block = if wide { 4096 } else { 512 };
            let range = at(offset, if small { len % 9000 + 1 } else { len });
            check(&write(range, block), range, block);
            check(&write_zeroes(range, block, false), range, block);
            if let Some(plan) = trim(range, block) {
                check(&plan, plan.locked, block);
                prop_assert!(range.contains(plan.locked));
            }
        }
    }
}
