//! Record lists to test with, fixed and random ones.

use proptest::prelude::*;

use crate::ids::{DiskIndex, Epoch, GroupName, Hash, SegmentNo, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::segment::{Kind, SegmentError, SegmentWriter, Stamp};
use crate::units::{SECTOR_BYTES, UnixMicros};

/// A record with its payload.
pub type Entry = (Record, Payload);

/// A payload that does not fill the screen when a test fails.
#[derive(Clone, PartialEq)]
pub struct Payload(Vec<u8>);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {}", self.0.len(), Hash::of(&self.0))
    }
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

pub fn record(seq: u64, op: Op, offset: u64, len: u64) -> Record {
    Record {
        seq: Seq(seq),
        time: UnixMicros(1_700_000_000_000_000 + seq),
        disk: DiskIndex(0),
        op,
        flags: RecordFlags::NONE,
        offset,
        len,
    }
}

pub fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

/// A stamp that covers `entries` exactly.
pub fn stamp(entries: &[Entry]) -> Stamp {
    let first = entries.first().map_or(Seq(10), |(r, _)| r.seq);
    Stamp {
        group: group(),
        epoch: Epoch(3),
        number: SegmentNo(7),
        first_seq: first,
        last_seq: entries.last().map_or(Seq(first.0 - 1), |(r, _)| r.seq),
        created: UnixMicros(1_700_000_001_000_000),
        watermark: SegmentNo(5),
        prev: Hash::of(b"predecessor"),
    }
}

pub fn write(kind: Kind, level: Option<i32>, entries: &[Entry]) -> Result<SegmentWriter, SegmentError> {
    let mut writer = SegmentWriter::new(kind, level);
    for (record, payload) in entries {
        writer.push(record, payload)?;
    }
    Ok(writer)
}

pub fn sealed(kind: Kind, level: Option<i32>, entries: &[Entry]) -> Vec<u8> {
    write(kind, level, entries).unwrap().seal(stamp(entries)).unwrap().bytes
}

/// Half of the bytes vary, so that both codecs have something to do.
pub fn payload(seed: u64, len: u64) -> Payload {
    let byte = |i: u64| if i.is_multiple_of(2) { (i ^ seed).wrapping_mul(0x9e37_79b9) as u8 } else { seed as u8 };
    Payload((0..len).map(byte).collect())
}

/// One record of every operation, small, the last one a boundary as sealing makes it.
pub fn every_op() -> Vec<Entry> {
    let ranged = |seq, op, len| record(seq, op, seq * SECTOR_BYTES, len);
    let name = "before the upgrade";
    let records = [
        record(1, Op::ResyncBegin, 0, 1 << 30),
        ranged(2, Op::Write, 512),
        ranged(3, Op::WriteZeroes, 4096),
        ranged(4, Op::Trim, 1 << 40),
        record(5, Op::Flush, 0, 0),
        ranged(7, Op::ResyncWrite, 1024),
        ranged(8, Op::ResyncZeroes, 1 << 20),
        record(9, Op::ResyncEnd, 0, 0),
        record(10, Op::Overflow, 0, 0),
        ranged(11, Op::Digest, 1 << 20),
        record(12, Op::Mark, 0, name.len() as u64),
    ];
    let mut entries: Vec<Entry> = records.map(|r| (r, payload(r.seq.0, r.payload_len()))).into();
    entries[10].1 = name.as_bytes().to_vec().into();
    entries[10].0.flags = RecordFlags::BOUNDARY;
    entries
}

/// What the strategy of log records draws for one operation.
#[derive(Debug, Clone)]
struct Drawn {
    op: Op,
    seq_step: u64,
    disk: u16,
    sector: u64,
    sectors: u64,
    bits: u8,
    time: u64,
    split: bool,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let op = prop::sample::select(&Op::ALL[..]);
    let sectors = prop_oneof![8 => 1..64u64, 1 => 1..=2048u64];
    (op, 1..4u64, 0..32u16, 0..1u64 << 40, sectors, any::<u8>(), any::<u64>(), prop::bool::weighted(0.2)).prop_map(
        |(op, seq_step, disk, sector, sectors, bits, time, split)| Drawn {
            op,
            seq_step,
            disk,
            sector,
            sectors,
            bits,
            time,
            split,
        },
    )
}

/// Valid log records: all operations, gaps between seqs, pieces of folded operations, boundaries where they may be.
pub fn log_entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(drawn(), 0..24).prop_map(|drawn| {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seq = 0;
        for d in drawn {
            seq += d.seq_step;
            push_drawn(&mut entries, seq, &d);
        }
        for (r, _) in entries.iter_mut().filter(|(r, _)| r.seq.0 == seq) {
            r.flags = r.flags.without(RecordFlags::MORE);
        }
        if let Some((last, _)) = entries.last_mut() {
            last.flags = last.flags.with(RecordFlags::BOUNDARY);
        }
        entries
    })
}

fn push_drawn(entries: &mut Vec<Entry>, seq: u64, d: &Drawn) {
    let mut r = Record { time: UnixMicros(d.time), ..record(seq, d.op, 0, 0) };
    let bit = |n: u8, flag: RecordFlags| if d.bits & n != 0 { flag } else { RecordFlags::NONE };
    if !d.op.is_of_group() {
        r.disk = DiskIndex(d.disk);
    }
    match d.op {
        Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => {
            (r.offset, r.len) = (d.sector * SECTOR_BYTES, d.sectors * SECTOR_BYTES);
            r.flags = bit(1, RecordFlags::FUA).with(bit(2, RecordFlags::MORE)).with(bit(4, RecordFlags::REREAD));
        }
        Op::Mark => r.len = 1 + d.sectors % 128,
        Op::ResyncBegin => r.len = d.sector,
        Op::Digest => (r.offset, r.len) = (d.sector * SECTOR_BYTES, d.sectors * SECTOR_BYTES),
        Op::Flush | Op::ResyncEnd | Op::Overflow => {}
    }
    if d.op == Op::WriteZeroes {
        r.flags = r.flags.with(bit(8, RecordFlags::NO_HOLE));
    }
    let ends = !d.op.changes_disk() || r.flags.has(RecordFlags::FUA);
    let boundary = ends && d.bits & 16 != 0 && !r.flags.has(RecordFlags::MORE);
    let bytes = if d.op == Op::Mark { vec![b'm'; r.len as usize].into() } else { payload(seq, r.payload_len()) };
    if d.split && d.op.changes_disk() && d.sectors >= 3 {
        // The middle sector was overwritten later: two pieces stay.
        let at = (d.sectors / 2) * SECTOR_BYTES;
        let rest = at + SECTOR_BYTES;
        let second = Record { offset: r.offset + rest, len: r.len - rest, ..r };
        let cut = |range: std::ops::Range<u64>| bytes.get(range.start as usize..range.end as usize);
        entries.push((Record { len: at, ..r }, cut(0..at).unwrap_or_default().to_vec().into()));
        entries.push((second, cut(rest..r.len).unwrap_or_default().to_vec().into()));
    } else {
        entries.push((r, bytes));
    }
    if boundary && let Some((last, _)) = entries.last_mut() {
        last.flags = last.flags.with(RecordFlags::BOUNDARY);
    }
}

/// A valid undo batch: one seq, disjoint ranges in any order.
pub fn undo_entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (any::<bool>(), 0..4u16, 0..1000u64, 1..300u64, any::<u64>());
    prop::collection::vec(one, 0..24)
        .prop_map(|drawn| {
            let mut sector = 0;
            let place = |(zeroes, disk, gap, sectors, time)| {
                let op = if zeroes { Op::WriteZeroes } else { Op::Write };
                let offset = (sector + gap) * SECTOR_BYTES;
                sector += gap + sectors;
                let base = record(900, op, offset, sectors * SECTOR_BYTES);
                let r = Record { disk: DiskIndex(disk), time: UnixMicros(time), ..base };
                (r, payload(offset, r.payload_len()))
            };
            drawn.into_iter().map(place).collect()
        })
        .prop_shuffle()
}
