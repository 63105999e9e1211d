//! What is planned before a byte is moved: which bytes of a run survive (the shipper's fold), and where a segment is cut into
//! batches (the processor's replay).

use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use farshore_benches::micro;
use farshore_changelog::ids::{Epoch, GroupName, Hash};
use farshore_processor::batch::cut;
use farshore_processor::position::ReplayPosition;
use farshore_shipper::fold;

/// Records of a full segment of 4 KiB writes.
const RECORDS: u64 = 2048;

fn main() {
    divan::main();
}

/// Over so many blocks: none is written twice, more than a third of the records are written over, nearly all are.
#[divan::bench(args = [1 << 40, RECORDS, RECORDS / 16])]
fn fold_a_run(bencher: Bencher<'_, '_>, blocks: u64) {
    let run = micro::run(RECORDS, blocks);
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| fold::fold(run.iter()));
}

#[divan::bench]
fn cut_a_segment(bencher: Bencher<'_, '_>) {
    let segment = micro::parsed(micro::segment(None, 4096, &micro::payload()));
    let group = GroupName::new("bench").expect("a good name");
    let start = ReplayPosition::start(group, Epoch(1), Hash::ZERO);
    let index = segment.index();
    bencher
        .counter(ItemsCount::new(index.records().len()))
        .bench_local(|| cut(index.head(), index.records(), &start, Duration::from_secs(300)));
}
