//! Replay with its undo journal, against copying the same bytes with `dd oflag=direct` onto an image of the same kind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_processor::{Processor, ProcessorConfig};
use farshore_vault::{Put, Vault};

use farshore_benches::report::{Report, median};
use farshore_benches::work::{Dice, Log, epoch, group, half_compressible, seconds};

/// The disk, all of which holds data before anything is measured: so its old content has to be saved.
const DISK_BYTES: u64 = 512 << 20;
/// Payload of a segment.
const SEGMENT_BYTES: usize = 8 << 20;
/// Bytes that are replayed and measured, in large records …
const LARGE_BYTES: u64 = 512 << 20;
const LARGE_RECORD: usize = 1 << 20;
/// … and in small ones at random.
const SMALL_BYTES: u64 = 256 << 20;
const SMALL_RECORD: usize = 4096;

pub fn measure(report: &mut Report, dir: &Path, rounds: u32) -> Result<()> {
    let (mut ratios, mut rates, mut cold_rates) = (Vec::new(), Vec::new(), Vec::new());
    let small_records = (SMALL_BYTES / SMALL_RECORD as u64) as f64;
    for round in 1..=rounds {
        let copied = copy(dir)?;
        let large = replayed(dir, LARGE_BYTES, LARGE_RECORD, Cache::Warm)?;
        let small = replayed(dir, SMALL_BYTES, SMALL_RECORD, Cache::Warm)?;
        let cold = replayed(dir, SMALL_BYTES, SMALL_RECORD, Cache::Cold)?;
        let (dd, replay) = (LARGE_BYTES as f64 / copied / 1e6, LARGE_BYTES as f64 / large / 1e6);
        println!("round {round}/{rounds}: dd {dd:.0} MB/s, replay {replay:.0} MB/s");
        ratios.push(copied / large);
        rates.push(small_records / small);
        cold_rates.push(small_records / cold);
    }
    report.add("replay of 1 MiB records with undo, against `dd oflag=direct`", median(ratios), "×", "0.4, aim 0.7");
    report.add("random 4 KiB records replayed with undo", median(rates), "/s", "60,000, aim 150,000");
    report.add("the same, and nothing of the image is in the page cache", median(cold_rates), "/s", "");
    Ok(())
}

/// What of the image, and of the vault, the page cache has when replay begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Warm,
    Cold,
}

/// Seconds of `dd`, onto an image that holds data.
fn copy(dir: &Path) -> Result<f64> {
    let (from, to) = (dir.join("dd.from"), dir.join("dd.to"));
    std::fs::write(&from, half_compressible(LARGE_BYTES as usize))?;
    std::fs::write(&to, half_compressible(DISK_BYTES as usize))?;
    sync()?;
    let (took, _) = seconds(|| {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
        let done = dd.args(["bs=1M", "oflag=direct", "conv=notrunc,fsync", "status=none"]).status()?;
        ensure!(done.success(), "dd failed");
        Ok(())
    })?;
    std::fs::remove_file(from)?;
    std::fs::remove_file(to)?;
    Ok(took)
}

fn sync() -> Result<()> {
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    Ok(())
}

/// Seconds in which `bytes` in records of `record` bytes are replayed onto a disk that is full of other data.
fn replayed(dir: &Path, bytes: u64, record: usize, cache: Cache) -> Result<f64> {
    let (vault_dir, target) = (dir.join("replay.vault"), dir.join("replay.target"));
    for old in [&vault_dir, &target] {
        if old.exists() {
            std::fs::remove_dir_all(old)?;
        }
    }
    let url = format!("file://{}", vault_dir.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let vault = runtime.block_on(Vault::init(&url))?;
    let (object, members) = (epoch(group(), DISK_BYTES), vault.group(&group()));
    runtime.block_on(members.create_epoch(&object))?;
    let mut log = Log::new(&object);
    let mut number = SegmentNo(0);
    let mut put = |log: &mut Log, offsets: &[u64], payload: &[u8]| -> Result<()> {
        number = number.next();
        let sealed = log.seal(offsets, payload)?;
        let put = runtime.block_on(members.put_segment(Epoch(1), number, Bytes::from(sealed.bytes)))?;
        ensure!(put == Put::Created, "the vault is not empty");
        Ok(())
    };
    let payload = half_compressible(SEGMENT_BYTES);
    for first in (0..DISK_BYTES).step_by(SEGMENT_BYTES) {
        let offsets: Vec<u64> = (first..first + SEGMENT_BYTES as u64).step_by(1 << 20).collect();
        put(&mut log, &offsets, &payload)?;
    }
    let mut config = ProcessorConfig::new(&url, &target);
    // No point is cut in between: a whole segment is one batch, as with the default interval.
    config.backlog_alarm_bytes = u64::MAX;
    let processor = Processor::open(config)?;
    processor.run_once()?;
    let (mut dice, per_segment, records) = (Dice(record as u64), SEGMENT_BYTES / record, DISK_BYTES / record as u64);
    let mut next = 0;
    for _ in 0..bytes / SEGMENT_BYTES as u64 {
        let place = |_| {
            next += 1;
            let at = if record == SMALL_RECORD { dice.next() } else { next };
            at % records * record as u64
        };
        let offsets: Vec<u64> = (0..per_segment).map(place).collect();
        put(&mut log, &offsets, &payload)?;
    }
    sync()?;
    if cache == Cache::Cold {
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")?;
    }
    let (took, outcomes) = seconds(|| Ok(processor.run_once()?))?;
    let seq = outcomes.first().and_then(|outcome| outcome.status.position.as_ref());
    let expected = DISK_BYTES / (1 << 20) + bytes / record as u64;
    ensure!(seq.is_some_and(|at| at.position.seq.0 == expected), "not all of it was replayed: {outcomes:?}");
    std::fs::remove_dir_all(vault_dir)?;
    std::fs::remove_dir_all(target)?;
    Ok(took)
}
