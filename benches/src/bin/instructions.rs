//! One stage over and over, to be counted by an instruction counter: `instructions STAGE TIMES`. `benches/instructions.sh` runs it
//! with two numbers of times and divides what the second takes more, so what begins and ends does not count.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, bail};
use farshore_benches::micro::{self, Ends, SEGMENT_BYTES};
use farshore_changelog::ids::{Epoch, GroupName, Hash};
use farshore_processor::batch::cut;
use farshore_processor::position::ReplayPosition;
use farshore_shipper::fold::fold;

/// Records of a run that is folded.
const RUN: u64 = 2048;

/// Each stage by name, and how many records (or other units) one time is.
const STAGES: [(&str, usize); 13] = [
    ("ring-depth-1", 1),
    ("ring-depth-32", 32),
    ("ring-depth-512", 512),
    ("ring-slow-clients-1000", 1),
    ("fold-no-overwrites", RUN as usize),
    ("fold-some-overwritten", RUN as usize),
    ("segment-write-stored-4k", SEGMENT_BYTES / 4096),
    ("segment-write-stored-64k", SEGMENT_BYTES / 65_536),
    ("segment-write-zstd1-4k", SEGMENT_BYTES / 4096),
    ("segment-verify-4k", SEGMENT_BYTES / 4096),
    ("segment-read-stored-4k", SEGMENT_BYTES / 4096),
    ("segment-read-stored-64k", SEGMENT_BYTES / 65_536),
    ("batch-cut", SEGMENT_BYTES / 4096),
];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(stage) = args.next() else {
        STAGES.iter().for_each(|(name, units)| println!("{name} {units}"));
        return Ok(());
    };
    let times: usize = args.next().context("how many times?")?.parse()?;
    match stage.as_str() {
        "ring-slow-clients-1000" => beside_slow_clients(times),
        "fold-no-overwrites" => folding(times, 1 << 40),
        "fold-some-overwritten" => folding(times, RUN),
        "segment-write-stored-4k" => writing(times, None, 4096),
        "segment-write-stored-64k" => writing(times, None, 65_536),
        "segment-write-zstd1-4k" => writing(times, Some(1), 4096),
        "segment-verify-4k" => verifying(times),
        "segment-read-stored-4k" => reading(times, 4096),
        "segment-read-stored-64k" => reading(times, 65_536),
        "batch-cut" => cutting(times)?,
        _ => match stage.strip_prefix("ring-depth-").map(str::parse) {
            Some(Ok(depth)) => through_the_ring(times, depth),
            _ => bail!("no stage {stage}"),
        },
    }
    Ok(())
}

fn through_the_ring(times: usize, depth: usize) {
    let (mut ends, mut slots) = (Ends::new("depth"), Vec::with_capacity(depth));
    (0..times).for_each(|_| ends.put_through(depth, &mut slots));
}

/// Beside slots that are reserved and get no seq.
fn beside_slow_clients(times: usize) {
    let (mut ends, mut slots) = (Ends::new("slow"), Vec::with_capacity(1));
    let slow: Vec<_> = (0..1000).map(|_| ends.producer.reserve(0).expect("a free slot")).collect();
    (0..times).for_each(|_| ends.put_through(1, &mut slots));
    drop(slow);
}

fn folding(times: usize, blocks: u64) {
    let run = micro::run(RUN, blocks);
    (0..times).for_each(|_| drop(black_box(fold(black_box(&run).iter()))));
}

fn writing(times: usize, level: Option<i32>, record_bytes: usize) {
    let payload = micro::payload();
    (0..times).for_each(|_| drop(black_box(micro::segment(level, record_bytes, &payload))));
}

fn verifying(times: usize) {
    let bytes = micro::parsed(micro::segment(None, 4096, &micro::payload())).bytes().clone();
    (0..times).for_each(|_| drop(black_box(farshore_changelog::segment::Segment::parse(bytes.clone()))));
}

fn reading(times: usize, record_bytes: usize) {
    let segment = micro::parsed(micro::segment(None, record_bytes, &micro::payload()));
    (0..times).for_each(|_| assert_eq!(micro::read_all(&segment), SEGMENT_BYTES));
}

fn cutting(times: usize) -> anyhow::Result<()> {
    let segment = micro::parsed(micro::segment(None, 4096, &micro::payload()));
    let start = ReplayPosition::start(GroupName::new("bench")?, Epoch(1), Hash::ZERO);
    let index = segment.index();
    (0..times).for_each(|_| drop(black_box(cut(index.head(), index.records(), &start, Duration::from_secs(300)))));
    Ok(())
}
