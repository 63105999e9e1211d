use farshore_changelog::ids::DiskIndex;
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::Kind;
use farshore_changelog::units::{ByteRange, UnixMicros};

use super::*;
use crate::undo::{Saved, UndoIndex};

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

/// A batch that saves one sector, and a hole after it.
fn batch(seq: u64, sector: u64, byte: u8) -> SegmentWriter {
    let mut writer = SegmentWriter::new(Kind::Undo, None);
    let time = UnixMicros(seq);
    let (disk, flags) = (DiskIndex(0), RecordFlags::NONE);
    let offset = sector * 512;
    let old = Record { seq: Seq(seq), time, disk, op: Op::Write, flags, offset, len: 512 };
    writer.push(&old, &[byte; 512]).unwrap();
    let hole = Record { op: Op::WriteZeroes, offset: offset + 512, ..old };
    writer.push(&hole, &[]).unwrap();
    writer
}

fn append(journal: &mut Journal, seq: u64, sector: u64, byte: u8) -> u64 {
    journal.append(batch(seq, sector, byte), Epoch(1), Seq(seq), Seq(seq), true).unwrap();
    journal.sync().unwrap();
    journal.end()
}

fn open(undo: &Path, undo_end: u64) -> Result<Opened, TargetError> {
    Journal::open(undo, &group(), undo_end, None)
}

#[test]
fn the_first_batch_that_holds_a_block_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0).unwrap().journal;
    let first = append(&mut journal, 1, 0, 1);
    journal.rotate();
    append(&mut journal, 2, 0, 2);
    append(&mut journal, 3, 1, 3);
    let range = ByteRange { start: 0, end: 4 * 512 };
    let mut index = UndoIndex::open(dir.path(), group(), 0).unwrap();
    let pieces = index.lookup(DiskIndex(0), range);
    assert_eq!(pieces.len(), 4);
    let mut read = |saved: &Saved| {
        let mut buf = [0xff; 512];
        index.read(saved, &mut buf).unwrap();
        buf[0]
    };
    let found: Vec<Option<u8>> = pieces.iter().map(|(_, saved)| saved.as_ref().map(&mut read)).collect();
    assert_eq!(found, [Some(1), Some(0), Some(0), None]);

    let mut index = UndoIndex::open(dir.path(), group(), first).unwrap();
    let (_, saved) = index.lookup(DiskIndex(0), range)[0];
    let mut buf = [0; 512];
    index.read(&saved.unwrap(), &mut buf).unwrap();
    assert_eq!(buf[0], 2);
    // What comes later is taken in when it was published.
    let end = append(&mut journal, 4, 3, 4);
    assert_eq!(index.lookup(DiskIndex(0), range).last().unwrap().1, None);
    index.refresh(end).unwrap();
    assert_eq!(index.scanned(), end);
    assert!(index.lookup(DiskIndex(0), range).iter().all(|(_, saved)| saved.is_some()));
}

#[test]
fn complete_batches_beyond_the_position_are_found_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0).unwrap().journal;
    let one = append(&mut journal, 1, 0, 1);
    let two = append(&mut journal, 2, 0, 2);
    drop(journal);
    let opened = open(dir.path(), one).unwrap();
    assert_eq!(opened.beyond.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [one]);
    assert_eq!(opened.journal.end(), two);
    let mut journal = opened.journal;
    let three = append(&mut journal, 2, 0, 2);
    let opened = open(dir.path(), three).unwrap();
    assert!(opened.beyond.is_empty());
    assert!(matches!(open(dir.path(), two + 1), Err(TargetError::Damaged { .. })), "inside a batch");
    assert!(matches!(open(dir.path(), three + 1), Err(TargetError::NoWayBack { .. })), "beyond the end");
}

#[test]
fn an_unfinished_batch_is_cut_off_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0).unwrap().journal;
    let one = append(&mut journal, 1, 0, 1);
    let two = append(&mut journal, 2, 0, 2);
    let path = files::path_of(dir.path(), 0);
    let whole = std::fs::read(&path).unwrap();
    for cut in (one..two).step_by(7) {
        std::fs::write(&path, &whole[..cut as usize]).unwrap();
        let opened = open(dir.path(), one).unwrap();
        assert_eq!((opened.journal.end(), opened.beyond.len()), (one, 0));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), one);
    }
    // A hole where bytes did not reach the medium.
    for hole in (one..two).step_by(64) {
        let mut bytes = whole.clone();
        let end = (hole as usize + 64).min(bytes.len());
        bytes[hole as usize..end].fill(0xaa);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open(dir.path(), one).unwrap().journal.end(), one, "at {hole}");
    }
    // The same below the position is damage, and so it is when the batch was published.
    std::fs::write(&path, &whole[..two as usize - 1]).unwrap();
    assert!(matches!(open(dir.path(), two), Err(TargetError::NoWayBack { .. })));
    std::fs::write(dir.path().join("published"), two.to_le_bytes()).unwrap();
    assert!(matches!(open(dir.path(), one), Err(TargetError::NoWayBack { .. })));
}

#[test]
fn files_that_nobody_needs_are_removed_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 0).unwrap().journal;
    let mut ends = Vec::new();
    for seq in 1..=6 {
        ends.push(append(&mut journal, seq, 0, 1));
        journal.rotate();
    }
    let left = || files::list(dir.path()).unwrap().iter().map(|file| file.start).collect::<Vec<_>>();
    let remove_before = |needed| remove(&not_needed(dir.path(), needed).unwrap()).unwrap();
    remove_before(ends[1] - 1);
    assert_eq!(left()[0], ends[0]);
    remove_before(ends[5]);
    assert_eq!(left(), [ends[3], ends[4]], "the last two stay");
    let opened = open(dir.path(), ends[5]).unwrap();
    assert_eq!(opened.journal.end(), ends[5]);
    assert!(matches!(UndoIndex::open(dir.path(), group(), 0), Err(TargetError::Refused { .. })));
}
