//! How long it takes to open a view of a point from 24 hours ago: the journal's indexes since then are read, not its content. Its
//! 288 points and 50 GB of old content are simulated: zeroes, which take no room, in records of the real sizes and count.

use std::path::Path;

use anyhow::{Context, Result};
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, Epoch, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, SegmentWriter};
use farshore_processor::undo::UndoIndex;
use farshore_processor::undo::journal::Journal;
use farshore_processor::undo::published::Publisher;

use farshore_benches::report::Report;
use farshore_benches::work::{Dice, group, seconds};

const CHURN_BYTES: u64 = 50_000_000_000;
const POINTS: u64 = 288;
const DISK_BYTES: u64 = 256 << 30;
/// Bytes of a batch: a segment of the source.
const BATCH_BYTES: u64 = 8 << 20;

pub fn measure(report: &mut Report, dir: &Path) -> Result<()> {
    for (record, name) in [(64 << 10, "64 KiB"), (16 << 10, "16 KiB")] {
        let took = opened(&dir.join("view.undo"), record)?;
        report.add(
            format!("view of a point 24 h back, 50 GB of churn in records of {name}"),
            took,
            "s",
            "3 s, aim 1 s",
        );
    }
    Ok(())
}

fn opened(undo: &Path, record_bytes: u64) -> Result<f64> {
    if undo.exists() {
        std::fs::remove_dir_all(undo)?;
    }
    let mut journal = Journal::open(undo, &group(), 0, None)?.journal;
    let (mut dice, old, batches) = (Dice(record_bytes), vec![0; record_bytes as usize], CHURN_BYTES / BATCH_BYTES);
    for batch in 0..batches {
        let mut offsets: Vec<u64> =
            (0..BATCH_BYTES / record_bytes).map(|_| dice.next() % (DISK_BYTES / record_bytes) * record_bytes).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let mut writer = SegmentWriter::new(Kind::Undo, Some(1));
        let (seq, time) = (Seq(batch + 1), clock::wall());
        for offset in offsets {
            let (disk, op, flags) = (DiskIndex(0), Op::Write, RecordFlags::NONE);
            writer.push(&Record { seq, time, disk, op, flags, offset, len: record_bytes }, &old)?;
        }
        journal.append(writer, Epoch(1), seq, seq, true)?;
        if batch % (batches / POINTS) == 0 {
            journal.sync()?;
            journal.rotate();
        }
    }
    journal.sync()?;
    let end = journal.end();
    Publisher::open(&undo.join("published"), end)?;
    // As after a restart of the machine: none of it is in memory.
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")?;
    let (took, index) = seconds(|| Ok(UndoIndex::open(undo, group(), 0)?))?;
    anyhow::ensure!(index.scanned() == end && index.ranges() > 0, "it did not read the whole journal");
    std::fs::remove_dir_all(undo)?;
    Ok(took)
}
