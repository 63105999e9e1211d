//! Content that compresses less and more: how fast one core ships it in order, and what of it the vault has to keep.

use anyhow::Result;
use farshore_benches::report::median;
use farshore_benches::shipping::shipped;
use farshore_benches::work::compressible;

use crate::report::Part;

/// How much of the content can be compressed away, in percent.
const PERCENT: [u64; 3] = [0, 50, 90];
/// Bytes of a pass.
const PASS_BYTES: usize = 96 << 20;

pub fn measure(rounds: u32) -> Result<Part> {
    let mut part = Part::new(
        "percent that compress away",
        "fold, zstd 1, hash and seal by one core, 4 KiB records; ring and spool in memory",
    );
    let contents = PERCENT.map(|percent| compressible(PASS_BYTES, usize::try_from(percent).unwrap_or(0)));
    let mut rows = Vec::new();
    for _ in 0..rounds {
        for (percent, content) in PERCENT.iter().zip(&contents) {
            rows.push((*percent, shipped(content)?));
        }
    }
    for percent in PERCENT {
        let of = || rows.iter().filter(|(p, _)| *p == percent).map(|(_, shipped)| *shipped);
        let rate = median(of().map(|shipped| PASS_BYTES as f64 / shipped.seconds / 1e6).collect());
        part.add("shipped by one core", "MB/s", percent, rate);
        part.add("bytes in the vault of each byte written", "", percent, median(of().map(|s| s.stored).collect()));
    }
    part.draw(&["shipped by one core", "bytes in the vault of each byte written"]);
    Ok(part)
}
