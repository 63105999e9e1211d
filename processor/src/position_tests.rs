use std::rc::Rc;

use nix::errno::Errno;

use super::*;
use crate::testing::disk::{Disk, Fails};

fn sample() -> ReplayPosition {
    let mut p = ReplayPosition::start(GroupName::new("web01").unwrap(), Epoch(3), Hash::of(b"x"));
    (p.resync, p.seq, p.number, p.chain_seq, p.undo_end) = (true, Seq(7), SegmentNo(2), Seq(9), 4096);
    (p.overflow, p.hashes) = (true, HashesDue::Needed);
    (p.overflow, p.last_undo) = (true, Some(LastUndo { number: SegmentNo(5), hash: Hash::of(b"undo") }));
    p.consistent =
        Consistent { position: Position { epoch: Epoch(2), seq: Seq(44) }, undo_end: 1024, time: UnixMicros(5) };
    (p.time, p.resync_announced, p.resync_applied, p.last_periodic) = (UnixMicros(6), 10, 11, UnixMicros(12));
    p
}

#[test]
fn the_layout_is_the_documented_one() {
    assert_eq!((SUM_AT, UNDO_NUMBER_AT, UNDO_HASH_AT, WHOLE_SUM_AT, USED_BYTES), (224, 256, 264, 296, 328));
    assert_eq!((UNDO_END_AT, CONSISTENT_EPOCH_AT, LAST_PERIODIC_AT), (152, 168, 216));
}

#[test]
fn the_newer_slot_counts_and_a_torn_one_falls_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("position");
    assert_eq!(ReplayPosition::read(&path).unwrap(), None);
    let mut file = PositionFile::create(&path, sample()).unwrap();
    for seq in 8..12 {
        let next = ReplayPosition { seq: Seq(seq), ..sample() };
        file.advance(next).unwrap();
        assert_eq!(ReplayPosition::read(&path).unwrap().unwrap().seq, Seq(seq));
    }
    let torn = file.slot * SLOT_BYTES;
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(&[0xff], torn + SEQ_AT as u64).unwrap();
    let back = ReplayPosition::read(&path).unwrap().unwrap();
    assert_eq!(back, ReplayPosition { seq: Seq(10), generation: 3, ..sample() });
    writer.write_all_at(&[0xff], (SLOT_BYTES - torn) + SEQ_AT as u64).unwrap();
    assert!(matches!(ReplayPosition::read(&path), Err(TargetError::Damaged { .. })));
}

#[test]
fn what_an_opening_gives_is_durable_also_after_an_fdatasync_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("position");
    let mut file = PositionFile::create(&path, sample()).unwrap();
    file.advance(sample()).unwrap();
    let disk = Disk::under(dir.path());
    let _simulated = medium::simulate(Rc::new(disk.clone()));
    disk.fail(Fails::Syncs, Errno::EIO, &path, 0, 1);
    file.advance(sample()).unwrap_err();
    assert!(file.advance(sample()).is_err(), "the first failure latches");
    let opened = PositionFile::open(&path).unwrap();
    disk.cut_power();
    assert_eq!(ReplayPosition::read(&path).unwrap().as_ref(), Some(opened.current()));
}

#[test]
fn version_1_is_read_and_the_next_write_is_version_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("position");
    let old = ReplayPosition { overflow: false, hashes: HashesDue::No, last_undo: None, ..sample() };
    let mut slot = old.encode();
    slot[VERSION_AT] = 1;
    let sum = Hash::of(&slot[..SUM_AT]);
    slot[SUM_AT..UNDO_NUMBER_AT].copy_from_slice(&sum.0);
    slot[UNDO_NUMBER_AT..].fill(0);
    let mut bytes = vec![0; 2 * SLOT_BYTES as usize];
    bytes[..USED_BYTES].copy_from_slice(&slot);
    std::fs::write(&path, bytes).unwrap();
    let mut file = PositionFile::open(&path).unwrap();
    assert_eq!(file.current(), &old);
    file.advance(sample()).unwrap();
    assert_eq!(ReplayPosition::read(&path).unwrap(), Some(ReplayPosition { generation: 1, ..sample() }));
}

#[test]
fn another_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("position");
    PositionFile::create(&path, sample()).unwrap();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(&[9], VERSION_AT as u64).unwrap();
    assert!(matches!(ReplayPosition::read(&path), Err(TargetError::Version { found: 9, .. })));
    // Beside a good slot a torn one is only torn, and a sound one of a newer program still counts.
    let mut file = PositionFile::create(&path, sample()).unwrap();
    file.advance(sample()).unwrap();
    writer_of(&path).write_all_at(&[9], VERSION_AT as u64).unwrap();
    assert_eq!(ReplayPosition::read(&path).unwrap().unwrap().generation, 1);
    let mut newer = sample().encode();
    newer[VERSION_AT] = 3;
    let sum = Hash::of(&newer[..SUM_AT]);
    newer[SUM_AT..UNDO_NUMBER_AT].copy_from_slice(&sum.0);
    writer_of(&path).write_all_at(&newer, 0).unwrap();
    assert!(matches!(ReplayPosition::read(&path), Err(TargetError::Version { found: 3, .. })));
}

fn writer_of(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}
