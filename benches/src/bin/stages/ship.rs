//! Shipping by one core: fold, compress, hash, seal, against zstd alone on the same data. Ring and spool lie in memory, so no
//! disk is measured.

use anyhow::{Result, ensure};
use farshore_benches::report::{Report, median};
use farshore_benches::shipping::{put, segments, shipped};
use farshore_benches::work::{half_compressible, seconds};
use farshore_changelog::segment::BlockPress;

/// Bytes of a pass.
const PASS_BYTES: usize = 96 << 20;
const BLOCK: usize = 256 << 10;

pub fn measure(report: &mut Report, rounds: u32) -> Result<()> {
    let data = half_compressible(PASS_BYTES);
    let segments = segments(&data)?;
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    let (mut sealed_rates, mut sealed_ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let alone = compressed(&data)?;
        let shipped = shipped(&data)?;
        rates.push(PASS_BYTES as f64 / shipped.seconds / 1e6);
        ratios.push(alone / shipped.seconds);
        let [plain, sealed] = [put(&segments, false)?, put(&segments, true)?];
        let bytes: usize = segments.iter().map(bytes::Bytes::len).sum();
        sealed_rates.push(bytes as f64 / (sealed - plain) / 1e6);
        sealed_ratios.push((shipped.seconds + plain) / (shipped.seconds + sealed));
    }
    report.add("shipping by one core, 4 KiB records, half-compressible", median(rates), "MB/s", "450");
    report.add("the same, against zstd level 1 alone", median(ratios), "×", "aim 1.0");
    report.add("what encryption adds to it: bytes of segments by one core", median(sealed_rates), "MB/s", "");
    report.add("shipping by one core, encrypted, against not", median(sealed_ratios), "×", "0.85");
    Ok(())
}

/// Seconds of zstd level 1 alone, over the blocks of a segment, which it hashes too where a segment does.
fn compressed(data: &[u8]) -> Result<f64> {
    let mut press = zstd::bulk::Compressor::new(1)?;
    let mut room = Vec::with_capacity(2 * BLOCK);
    let (took, stored) = seconds(|| {
        let mut stored = 0;
        for block in data.chunks(BLOCK) {
            room.clear();
            stored += press.compress_to_buffer(block, &mut room)?;
        }
        Ok(stored)
    })?;
    let same = BlockPress::new(Some(1)).press(&data[..BLOCK])?;
    ensure!(stored * 10 < data.len() * 7 && same.stored.len() < BLOCK, "the data is not half-compressible");
    Ok(took)
}
