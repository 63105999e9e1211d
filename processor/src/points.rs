//! The catalogue of recovery points (`docs/format.md`, "Points catalogue"): replaced as a whole, never changed in place.

use std::io;
use std::path::Path;

use bincode::{Decode, Encode};
use farshore_changelog::ids::{Epoch, Hash, MARK_NAME_MAX_BYTES, Position, Seq};
use farshore_changelog::segment::layout::COUNTER_MAX;
use farshore_changelog::units::UnixMicros;
use farshore_changelog::{crashsafe, message};

use crate::error::TargetError;
use crate::position::ReplayPosition;
use crate::target::read_bounded;

const MAGIC: [u8; 8] = *b"FARSHPTS";
/// The version that is written.
pub const VERSION: u32 = 2;
/// The oldest version that is read. Its points have no clock of their own.
const VERSION_OLDEST: u32 = 1;
/// Most points in a catalogue; retention keeps far fewer.
pub const POINTS_MAX: usize = 65_536;
/// Bytes before the first entry: magic, version, count.
const HEAD_BYTES: usize = MAGIC.len() + 4 + 4;
const HASH_BYTES: usize = 32;
/// Most bytes of one encoded point: its integers, the mark's name, and bincode's lengths and tags.
const ENTRY_MAX_BYTES: usize = 72 + MARK_NAME_MAX_BYTES;
/// Largest catalogue that is read, in bytes.
const FILE_MAX_BYTES: usize = HEAD_BYTES + POINTS_MAX * (4 + ENTRY_MAX_BYTES) + HASH_BYTES;

/// Why a point was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointKind {
    /// The interval was over, or a resync ended.
    Periodic,
    /// The log bears a mark of this name.
    Mark(String),
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its id within the group: rises, and is never used again.
    pub id: u64,
    /// Everything up to it is in the point.
    pub position: Position,
    /// Source's time, made monotonic.
    pub time: UnixMicros,
    /// What the source's clock said; below `time` where it had been set back.
    pub clock: UnixMicros,
    /// Journal offset from which the undo journal leads back to it.
    pub undo_end: u64,
    /// Why it was cut.
    pub kind: PointKind,
}

/// The entry as it is encoded; version 1 ends before the clock.
#[derive(Encode, Decode)]
struct Entry {
    before: EntryV1,
    clock: u64,
}

#[derive(Encode, Decode)]
struct EntryV1 {
    id: u64,
    epoch: u64,
    seq: u64,
    time: u64,
    undo_end: u64,
    kind: u8,
    name: Option<String>,
}

const KIND_PERIODIC: u8 = 1;
const KIND_MARK: u8 = 2;

impl Point {
    fn encode(&self) -> Vec<u8> {
        let (kind, name) = match &self.kind {
            PointKind::Periodic => (KIND_PERIODIC, None),
            PointKind::Mark(name) => (KIND_MARK, Some(name.clone())),
        };
        let Position { epoch, seq } = self.position;
        let (time, undo_end) = (self.time.0, self.undo_end);
        let before = EntryV1 { id: self.id, epoch: epoch.0, seq: seq.0, time, undo_end, kind, name };
        message::encode(&Entry { before, clock: self.clock.0 }).expect("a point is far below the message limit")
    }

    fn decode(version: u32, bytes: &[u8]) -> Result<Self, String> {
        let (entry, clock) = if version == VERSION_OLDEST {
            let entry: EntryV1 = message::decode(bytes).map_err(|e| e.to_string())?;
            let time = entry.time;
            (entry, time)
        } else {
            let Entry { before, clock } = message::decode(bytes).map_err(|e| e.to_string())?;
            (before, clock)
        };
        let kind = match (entry.kind, entry.name) {
            (KIND_PERIODIC, None) => PointKind::Periodic,
            (KIND_MARK, Some(name)) => PointKind::Mark(name),
            (kind, _) => return Err(format!("unknown kind {kind}, or a name where none belongs")),
        };
        Ok(Self {
            id: entry.id,
            position: Position { epoch: Epoch(entry.epoch), seq: Seq(entry.seq) },
            time: UnixMicros(entry.time),
            clock: UnixMicros(clock),
            undo_end: entry.undo_end,
            kind,
        })
    }
}

/// All entries of a catalogue, oldest first. An absent file holds none.
///
/// # Errors
/// [`TargetError::Io`], [`TargetError::Damaged`], [`TargetError::Version`].
pub fn read(path: &Path) -> Result<Vec<Point>, TargetError> {
    match read_bounded(path, FILE_MAX_BYTES as u64) {
        Ok(bytes) => decode(path, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(TargetError::io("read", path)(e)),
    }
}

/// The points of a catalogue where replay stands at `at`: an entry beyond it is one whose batch did not come to count.
///
/// # Errors
/// As [`read`].
pub fn counting(path: &Path, at: &ReplayPosition) -> Result<Vec<Point>, TargetError> {
    let mut points = read(path)?;
    // A heartbeat's point has the seq of the position before it; what tells that its batch did not count is the time.
    points.retain(|p| p.position < at.position() || (p.position == at.position() && p.time <= at.time));
    Ok(points)
}

/// Replaces the catalogue.
///
/// # Errors
/// [`TargetError::Io`]; the old catalogue is then untouched.
pub fn write(path: &Path, points: &[Point]) -> Result<(), TargetError> {
    crashsafe::replace(path, &encode(points)).map_err(TargetError::io("write", path))
}

fn encode(points: &[Point]) -> Vec<u8> {
    let count = u32::try_from(points.len()).expect("POINTS_MAX is far below 2^32");
    let mut bytes = Vec::from(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    for point in points {
        let entry = point.encode();
        bytes.extend(u32::try_from(entry.len()).expect("an entry is short").to_le_bytes());
        bytes.extend(entry);
    }
    let hash = Hash::of(&bytes);
    bytes.extend(hash.0);
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Vec<Point>, TargetError> {
    let hint = "(moved away, its points lose their ids and names, and can be had by time and seq)";
    let damaged = |at: usize, what: &str| TargetError::damaged(path, at as u64, format!("{what} {hint}"));
    if bytes.len() < HEAD_BYTES + HASH_BYTES {
        return Err(damaged(bytes.len(), "it is too short"));
    }
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(damaged(0, "no magic"));
    }
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let found = u32_at(MAGIC.len());
    if !(VERSION_OLDEST..=VERSION).contains(&found) {
        return Err(TargetError::Version { path: path.to_path_buf(), found, supported: VERSION });
    }
    let end = bytes.len() - HASH_BYTES;
    if Hash::of(&bytes[..end]).0 != bytes[end..] {
        return Err(damaged(end, "wrong hash"));
    }
    let count = u32_at(MAGIC.len() + 4) as usize;
    if count > POINTS_MAX {
        return Err(damaged(MAGIC.len() + 4, "more points than a catalogue may have"));
    }
    let mut points: Vec<Point> = Vec::with_capacity(count);
    let mut at = HEAD_BYTES;
    for _ in 0..count {
        if end - at < 4 {
            return Err(damaged(at, "fewer points than it says"));
        }
        let len = u32_at(at) as usize;
        at += 4;
        if end - at < len {
            return Err(damaged(at, "a point passes the end"));
        }
        let point = Point::decode(found, &bytes[at..at + len]).map_err(|what| damaged(at, &what))?;
        if points.last().is_some_and(|last| last.id >= point.id || last.position > point.position) {
            return Err(damaged(at, "points are out of order"));
        }
        let Position { epoch, seq } = point.position;
        if [point.id, epoch.0, seq.0, point.undo_end].iter().any(|counter| *counter >= COUNTER_MAX) {
            return Err(damaged(at, "a number of a point is beyond its limit"));
        }
        points.push(point);
        at += len;
    }
    if at == end { Ok(points) } else { Err(damaged(at, "more bytes than points")) }
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::GroupName;

    use super::*;

    fn point(id: u64, epoch: u64, seq: u64, kind: PointKind) -> Point {
        let position = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        let (time, clock) = (UnixMicros(id * 10), UnixMicros(id * 9));
        Point { id, position, time, clock, undo_end: id * 100, kind }
    }

    fn some() -> Vec<Point> {
        vec![
            point(1, 1, 5, PointKind::Periodic),
            point(2, 1, 5, PointKind::Mark("before the upgrade".into())),
            point(9, 2, 1, PointKind::Periodic),
        ]
    }

    #[test]
    fn points_survive_their_file_and_those_beyond_the_position_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("points");
        assert_eq!(read(&path).unwrap(), vec![]);
        write(&path, &some()).unwrap();
        assert_eq!(read(&path).unwrap(), some());
        let start = ReplayPosition::start(GroupName::new("g").unwrap(), Epoch(1), Hash::ZERO);
        let at = |seq, time| ReplayPosition { seq: Seq(seq), time: UnixMicros(time), ..start.clone() };
        assert_eq!(counting(&path, &at(900, 0)).unwrap(), some()[..2]);
        assert_eq!(counting(&path, &at(5, 10)).unwrap(), some()[..1], "of a heartbeat that did not come to count");
        assert_eq!(counting(&path, &at(4, 90)).unwrap(), []);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let path = Path::new("points");
        let good = encode(&some());
        assert!(decode(path, &good).is_ok());
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 4;
            assert!(decode(path, &bad).is_err(), "byte {i}");
            assert!(decode(path, &good[..i]).is_err(), "cut at {i}");
        }
    }
}
