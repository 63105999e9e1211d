//! How fast a segment is written and read: 8 MiB of 4 KiB records whose bytes compress to about half, the size at which the
//! shipper closes a segment. Run with `cargo bench -p farshore-benches --bench segment`.

use divan::Bencher;
use divan::counter::BytesCount;
use farshore_changelog::ids::{DiskIndex, Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Sealed, Segment, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;

const RECORD_BYTES: usize = 4096;
const SEGMENT_BYTES: usize = 8 << 20;

/// Stored, and the two levels that matter: the shipper's default and zstd's own.
const LEVELS: [Option<i32>; 3] = [None, Some(1), Some(3)];

fn main() {
    divan::main();
}

/// Half of each record is noise, half is one byte.
fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![b'f'; SEGMENT_BYTES];
    for half in bytes.chunks_exact_mut(RECORD_BYTES).map(|record| &mut record[..RECORD_BYTES / 2]) {
        half.fill_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
    }
    bytes
}

fn write(level: Option<i32>, payload: &[u8]) -> Sealed {
    let mut writer = SegmentWriter::new(Kind::Log, level);
    let mut seq = 0;
    for bytes in payload.chunks_exact(RECORD_BYTES) {
        let record = Record {
            seq: Seq(seq + 1),
            time: UnixMicros(1_735_689_600_000_000 + seq),
            disk: DiskIndex(0),
            op: Op::Write,
            flags: RecordFlags::NONE,
            offset: seq * RECORD_BYTES as u64,
            len: RECORD_BYTES as u64,
        };
        writer.push(&record, bytes).expect("a valid record within the limits");
        seq += 1;
    }
    let stamp = Stamp {
        group: GroupName::new("bench").expect("a valid name"),
        epoch: Epoch(1),
        number: SegmentNo(1),
        first_seq: Seq(1),
        last_seq: Seq(seq),
        created: UnixMicros(1_735_689_600_000_000),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    writer.seal(stamp).expect("a valid segment")
}

fn parsed(bytes: Vec<u8>) -> Segment {
    Segment::parse(bytes.into()).expect("the segment just written")
}

#[divan::bench(args = LEVELS)]
fn write_and_seal(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let payload = payload();
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| write(level, &payload));
}

/// What the processor does before it applies a byte: every hash is compared, nothing is decoded but the index.
#[divan::bench(args = LEVELS)]
fn parse_and_verify(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let written = parsed(write(level, &payload()).bytes);
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| Segment::parse(written.bytes().clone()));
}

/// Parse, verify, and decode every payload.
#[divan::bench(args = LEVELS)]
fn read_all(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let written = parsed(write(level, &payload()).bytes);
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| {
        let segment = Segment::parse(written.bytes().clone()).expect("the segment just written");
        let mut total = 0;
        segment
            .for_each(|_, payload| {
                total += divan::black_box(payload).len();
                Ok::<_, SegmentError>(())
            })
            .expect("the segment just written");
        total
    });
}
