//! The committed bytes of what a target keeps, in `tests/golden/`: every version must be read as it was meant, and the newest
//! one still be written byte for byte. Files of version 1 were written by the program of that version.
//!
//! A version that has been released is never regenerated. `FARSHORE_REGENERATE_GOLDEN=1` writes the newest anew while it is in
//! the making.

use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::units::UnixMicros;
use farshore_processor::points::{self, Point, PointKind};
use farshore_processor::position::{Consistent, LastUndo, PositionFile, ReplayPosition};

/// 2025-01-01T00:00:00Z.
const START: u64 = 1_735_689_600_000_000;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// What is written now is what was committed.
fn is_still_written(name: &str, write: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let now = dir.path().join(name);
    write(&now);
    if std::env::var_os("FARSHORE_REGENERATE_GOLDEN").is_some_and(|v| v == "1") {
        std::fs::copy(&now, path(name)).unwrap();
    }
    assert!(
        std::fs::read(now).unwrap() == std::fs::read(path(name)).unwrap(),
        "{name}: other bytes than the committed"
    );
}

fn position() -> ReplayPosition {
    let start = ReplayPosition::start(GroupName::new("web01").unwrap(), Epoch(3), Hash::of(b"the segment"));
    ReplayPosition {
        resync: true,
        seq: Seq(13),
        number: SegmentNo(2),
        chain_seq: Seq(20),
        undo_end: 4096,
        time: UnixMicros(START + 13_000),
        consistent: Consistent {
            position: Position { epoch: Epoch(2), seq: Seq(44) },
            undo_end: 1024,
            time: UnixMicros(START),
        },
        resync_announced: 3 << 20,
        resync_applied: 1 << 20,
        last_periodic: UnixMicros(START + 5000),
        ..start
    }
}

#[test]
fn position_of_version_1() {
    let expected = ReplayPosition { last_undo: None, ..position() };
    assert_eq!(ReplayPosition::read(&path("position-v1")).unwrap(), Some(expected));
}

#[test]
fn position_of_version_2() {
    let last_undo = Some(LastUndo { number: SegmentNo(6), hash: Hash::of(b"the undo batch") });
    let now = ReplayPosition { overflow: true, last_undo, ..position() };
    is_still_written("position-v2", |path| drop(PositionFile::create(path, now.clone()).unwrap()));
    assert_eq!(ReplayPosition::read(&path("position-v2")).unwrap(), Some(now));
    // The offsets of `docs/format.md`, written out by hand.
    let bytes = std::fs::read(path("position-v2")).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((&bytes[..8], bytes.len()), (&b"FARSHPOS"[..], 8192));
    assert_eq!((bytes[8], bytes[12]), (2, 3));
    assert_eq!([u64_at(88), u64_at(96), u64_at(104), u64_at(112), u64_at(152)], [3, 13, 2, 20, 4096]);
    assert_eq!(bytes[224..256], Hash::of(&bytes[..224]).0);
    assert_eq!(u64_at(256), 6);
    assert_eq!(bytes[264..296], Hash::of(b"the undo batch").0);
    assert_eq!(bytes[296..328], Hash::of(&bytes[..296]).0);
    assert!(bytes[328..].iter().all(|b| *b == 0));
}

fn catalogue(clock_behind: u64) -> Vec<Point> {
    let point = |id: u64, epoch, seq, kind| {
        let time = UnixMicros(START + id * 1000);
        let clock = UnixMicros(time.0 - clock_behind);
        let position = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        Point { id, position, time, clock, undo_end: id * 100, kind }
    };
    vec![point(1, 2, 44, PointKind::Periodic), point(7, 3, 13, PointKind::Mark("before the upgrade".into()))]
}

#[test]
fn points_of_version_1() {
    assert_eq!(
        points::read(&path("points-v1")).unwrap(),
        catalogue(0),
        "the clock is not known, and said to be the time"
    );
}

#[test]
fn points_of_version_2() {
    let now = catalogue(500);
    is_still_written("points-v2", |path| points::write(path, &now).unwrap());
    assert_eq!(points::read(&path("points-v2")).unwrap(), now);
}
