//! What one record costs on its way through the ring, beside the disk and the network: reserve, sequence, commit, take,
//! release. Payloads are not filled: in the data path the kernel does that.

use divan::{Bencher, counter::BytesCount};
use farshore_benches::micro::{Ends, RECORD_BYTES, SLOTS};
use farshore_changelog::ring::Slot;

fn main() {
    divan::main();
}

/// `depth` records in flight at once, committed, taken and released together.
#[divan::bench(args = [1, 32, 512])]
fn through_the_ring(bencher: Bencher<'_, '_>, depth: usize) {
    let mut ends = Ends::new("depth");
    let mut slots = Vec::with_capacity(depth);
    bencher
        .counter(BytesCount::new(depth as u64 * u64::from(RECORD_BYTES)))
        .bench_local(|| ends.put_through(depth, &mut slots));
}

/// As above with 1000 slots of slow clients, which are reserved and get no seq.
#[divan::bench]
fn beside_slow_clients(bencher: Bencher<'_, '_>) {
    let mut ends = Ends::new("slow");
    let mut slow: Vec<Slot> = Vec::new();
    let mut slots = Vec::with_capacity(1);
    let mut written = 0;
    bencher.counter(BytesCount::new(RECORD_BYTES)).bench_local(|| {
        if written % (SLOTS / 2) == 0 {
            // What lies behind a slow client's slot is freed only after it, so they are renewed in time.
            slow.clear();
            slow.extend((0..1000).map(|_| ends.producer.reserve(0).expect("a free slot")));
        }
        written += 1;
        ends.put_through(1, &mut slots);
    });
}
