use std::path::PathBuf;

use farshore_changelog::ids::{DiskIndex, Epoch, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, SegmentWriter};
use farshore_changelog::units::UnixMicros;

use super::*;
use crate::undo::files;
use crate::undo::journal::Journal;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

/// A journal of `batches` batches in files of two; gives where each begins, and the end.
fn journal(undo: &Path, batches: u64) -> Vec<u64> {
    let mut journal = Journal::open(undo, &group(), 0, None).unwrap().journal;
    let mut starts = Vec::new();
    for seq in 1..=batches {
        let mut writer = SegmentWriter::new(Kind::Undo, None);
        let (disk, time, flags) = (DiskIndex(0), UnixMicros(seq), RecordFlags::NONE);
        let record = Record { seq: Seq(seq), time, disk, op: Op::Write, flags, offset: seq * 4096, len: 4096 };
        writer.push(&record, &[seq as u8; 4096]).unwrap();
        starts.push(journal.end());
        journal.append(writer, Epoch(1), Seq(seq), Seq(seq), true).unwrap();
        journal.sync().unwrap();
        if seq % 2 == 0 {
            journal.rotate();
        }
    }
    starts.push(journal.end());
    starts
}

fn flip(undo: &Path, at: u64) -> PathBuf {
    let file = files::list(undo).unwrap().into_iter().rev().find(|file| file.start <= at).unwrap();
    let mut bytes = std::fs::read(&file.path).unwrap();
    bytes[(at - file.start) as usize] ^= 4;
    std::fs::write(&file.path, bytes).unwrap();
    file.path
}

fn pass(undo: &Path, upto: u64, budget: u64) -> (u64, Vec<u64>) {
    let (mut scrub, mut steps) = (Scrub::default(), 1);
    while !scrub.step(undo, &group(), upto, budget).unwrap() {
        steps += 1;
    }
    (steps, damage::known(undo).unwrap().iter().map(|d| d.offset).collect())
}

#[test]
fn every_flipped_byte_is_found_and_a_whole_batch_is_not_blamed() {
    let dir = tempfile::tempdir().unwrap();
    let starts = journal(dir.path(), 6);
    let end = starts[6];
    assert_eq!(pass(dir.path(), end, u64::MAX), (1, vec![]));
    assert!(pass(dir.path(), end, 1).0 >= 6, "a little at a time");
    for (batch, start) in starts[..6].iter().enumerate() {
        let len = starts[batch + 1] - start;
        // In the header, in the block, in the index, in the footer.
        for at in [20, len / 2, len - 120, len - 4] {
            flip(dir.path(), start + at);
            assert_eq!(pass(dir.path(), end, u64::MAX).1, [*start], "batch {batch} at {at}");
            flip(dir.path(), start + at);
            // Whole again, and said so.
            assert_eq!(pass(dir.path(), end, u64::MAX).1, [] as [u64; 0]);
        }
    }
}

#[test]
fn missing_cut_and_exchanged_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let starts = journal(dir.path(), 6);
    let path = files::path_of(dir.path(), starts[2]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(pass(dir.path(), starts[6], u64::MAX).1.contains(&starts[2]));
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    assert!(pass(dir.path(), starts[6], u64::MAX).1.contains(&starts[3]));
    // Sound in itself, and of another history.
    let other = tempfile::tempdir().unwrap();
    journal(other.path(), 6);
    std::fs::write(&path, std::fs::read(files::path_of(other.path(), starts[4])).unwrap()).unwrap();
    assert!(pass(dir.path(), starts[6], u64::MAX).1.contains(&starts[2]));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(pass(dir.path(), starts[6], u64::MAX).1, [] as [u64; 0]);
}
