//! How fast a segment is written and read: 8 MiB of 4 KiB records whose bytes compress to about half, the size at which the
//! shipper closes a segment. Run with `cargo bench -p farshore-benches --bench segment`.

use divan::Bencher;
use divan::counter::BytesCount;
use farshore_benches::micro::{self, SEGMENT_BYTES};
use farshore_changelog::segment::Segment;

const RECORD_BYTES: usize = 4096;

/// Stored, and the two levels that matter: the shipper's default and zstd's own.
const LEVELS: [Option<i32>; 3] = [None, Some(1), Some(3)];

fn main() {
    divan::main();
}

#[divan::bench(args = LEVELS)]
fn write_and_seal(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let payload = micro::payload();
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| micro::segment(level, RECORD_BYTES, &payload));
}

/// What the processor does before it applies a byte: every hash is compared, nothing is decoded but the index.
#[divan::bench(args = LEVELS)]
fn parse_and_verify(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let written = micro::parsed(micro::segment(level, RECORD_BYTES, &micro::payload()));
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| Segment::parse(written.bytes().clone()));
}

/// Parse, verify, and decode every payload.
#[divan::bench(args = LEVELS)]
fn read_all(bencher: Bencher<'_, '_>, level: Option<i32>) {
    let written = micro::parsed(micro::segment(level, RECORD_BYTES, &micro::payload()));
    bencher.counter(BytesCount::new(SEGMENT_BYTES)).bench_local(|| {
        let segment = Segment::parse(written.bytes().clone()).expect("the segment just written");
        micro::read_all(&segment)
    });
}
