//! Where replay stands: a file of two slots, of which the one with the higher generation and a right hash counts
//! (`docs/format.md`, "Position").

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GROUP_NAME_MAX_BYTES, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::medium;
use farshore_changelog::units::UnixMicros;

use crate::error::TargetError;

const MAGIC: [u8; 8] = *b"FARSHPOS";
/// The version that is written and read.
pub const VERSION: u32 = 1;
/// Distance of the two slots, in bytes: a sector can be torn, its neighbour's is not.
const SLOT_BYTES: u64 = 4096;

// Offsets within a slot, each from its neighbour.
const VERSION_AT: usize = MAGIC.len();
const FLAGS_AT: usize = VERSION_AT + 4;
const GENERATION_AT: usize = FLAGS_AT + 4;
const GROUP_AT: usize = GENERATION_AT + 8;
const EPOCH_AT: usize = GROUP_AT + GROUP_NAME_MAX_BYTES;
const SEQ_AT: usize = EPOCH_AT + 8;
const NUMBER_AT: usize = SEQ_AT + 8;
const CHAIN_SEQ_AT: usize = NUMBER_AT + 8;
const HASH_AT: usize = CHAIN_SEQ_AT + 8;
const UNDO_END_AT: usize = HASH_AT + 32;
const TIME_AT: usize = UNDO_END_AT + 8;
const CONSISTENT_EPOCH_AT: usize = TIME_AT + 8;
const CONSISTENT_SEQ_AT: usize = CONSISTENT_EPOCH_AT + 8;
const CONSISTENT_UNDO_END_AT: usize = CONSISTENT_SEQ_AT + 8;
const CONSISTENT_TIME_AT: usize = CONSISTENT_UNDO_END_AT + 8;
const RESYNC_ANNOUNCED_AT: usize = CONSISTENT_TIME_AT + 8;
const RESYNC_APPLIED_AT: usize = RESYNC_ANNOUNCED_AT + 8;
const LAST_PERIODIC_AT: usize = RESYNC_APPLIED_AT + 8;
const SUM_AT: usize = LAST_PERIODIC_AT + 8;
/// Bytes of a slot that carry something.
const USED_BYTES: usize = SUM_AT + 32;

const FLAG_RESYNC: u32 = 1;

/// The newest consistent position: a state that a VM may be started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consistent {
    /// Epoch and seq; the epoch is 0 as long as there is none.
    pub position: Position,
    /// Journal offset from which the undo journal leads back to it.
    pub undo_end: u64,
    /// Source's time.
    pub time: UnixMicros,
}

impl Consistent {
    /// Whether there is one.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.position.epoch != Epoch(0)
    }
}

/// Where replay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPosition {
    /// Whose it is.
    pub group: GroupName,
    /// A resync is in progress: the images are not a state of the source.
    pub resync: bool,
    /// Counts the writes of this file.
    pub generation: u64,
    /// The epoch that is replayed.
    pub epoch: Epoch,
    /// Everything up to it is in the images.
    pub seq: Seq,
    /// The newest segment of which anything was applied; 0 before the first of the epoch.
    pub number: SegmentNo,
    /// The last seq of that segment; larger than `seq` while it is applied in parts.
    pub chain_seq: Seq,
    /// Hash of that segment, or of the epoch object when `number` is 0.
    pub hash: Hash,
    /// Journal offset that belongs to this position.
    pub undo_end: u64,
    /// Time of the position (source's clock, made monotonic).
    pub time: UnixMicros,
    /// The newest consistent position.
    pub consistent: Consistent,
    /// Bytes that the resync in progress announced.
    pub resync_announced: u64,
    /// Bytes that it brought so far.
    pub resync_applied: u64,
    /// Record time at which the newest periodic point was cut; 0 before the first.
    pub last_periodic: UnixMicros,
}

impl ReplayPosition {
    /// The position of a target whose images were just created, at the start of `epoch`, whose object has the hash `hash`.
    #[must_use]
    pub fn start(group: GroupName, epoch: Epoch, hash: Hash) -> Self {
        Self {
            group,
            resync: false,
            generation: 0,
            epoch,
            seq: Seq(0),
            number: SegmentNo(0),
            chain_seq: Seq(0),
            hash,
            undo_end: 0,
            time: UnixMicros(0),
            consistent: Consistent::default(),
            resync_announced: 0,
            resync_applied: 0,
            last_periodic: UnixMicros(0),
        }
    }

    /// Epoch and seq.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    /// Reads the file without locking or changing it; `None` when there is none (nothing was replayed yet).
    ///
    /// # Errors
    /// [`TargetError::Io`], [`TargetError::Damaged`], [`TargetError::Version`].
    pub fn read(path: &Path) -> Result<Option<Self>, TargetError> {
        match File::open(path) {
            Ok(file) => Ok(Some(newest(path, &file)?.1)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(TargetError::io("open", path)(e)),
        }
    }

    fn encode(&self) -> [u8; USED_BYTES] {
        let mut b = [0; USED_BYTES];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(FLAGS_AT, &(if self.resync { FLAG_RESYNC } else { 0 }).to_le_bytes());
        put(GENERATION_AT, &self.generation.to_le_bytes());
        put(GROUP_AT, self.group.as_str().as_bytes());
        put(HASH_AT, &self.hash.0);
        for (at, value) in [
            (EPOCH_AT, self.epoch.0),
            (SEQ_AT, self.seq.0),
            (NUMBER_AT, self.number.0),
            (CHAIN_SEQ_AT, self.chain_seq.0),
            (UNDO_END_AT, self.undo_end),
            (TIME_AT, self.time.0),
            (CONSISTENT_EPOCH_AT, self.consistent.position.epoch.0),
            (CONSISTENT_SEQ_AT, self.consistent.position.seq.0),
            (CONSISTENT_UNDO_END_AT, self.consistent.undo_end),
            (CONSISTENT_TIME_AT, self.consistent.time.0),
            (RESYNC_ANNOUNCED_AT, self.resync_announced),
            (RESYNC_APPLIED_AT, self.resync_applied),
            (LAST_PERIODIC_AT, self.last_periodic.0),
        ] {
            put(at, &value.to_le_bytes());
        }
        let sum = Hash::of(&b[..SUM_AT]);
        b[SUM_AT..].copy_from_slice(&sum.0);
        b
    }
}

/// What a slot holds.
enum Slot {
    Good(Box<ReplayPosition>),
    /// Of another version; perhaps torn.
    OtherVersion {
        found: u32,
        sound: bool,
    },
    /// Never written, torn, or damaged.
    Bad(&'static str),
}

fn decode(b: &[u8; USED_BYTES]) -> Slot {
    if b[..MAGIC.len()] != MAGIC {
        return Slot::Bad("no magic");
    }
    let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
    // The hash has its place in every version: a torn slot must not pass for one of another version.
    let version = u32_at(VERSION_AT);
    let sound = Hash::of(&b[..SUM_AT]).0 == b[SUM_AT..];
    if version != VERSION {
        return Slot::OtherVersion { found: version, sound };
    }
    if !sound {
        return Slot::Bad("wrong hash");
    }
    let flags = u32_at(FLAGS_AT);
    if flags & !FLAG_RESYNC != 0 {
        return Slot::Bad("unknown flags");
    }
    let name = &b[GROUP_AT..GROUP_AT + GROUP_NAME_MAX_BYTES];
    let len = name.iter().position(|&c| c == 0).unwrap_or(name.len());
    let padded = name[len..].iter().all(|&c| c == 0);
    let name = std::str::from_utf8(&name[..len]).ok().filter(|_| padded);
    let Some(group) = name.and_then(|name| GroupName::new(name).ok()) else {
        return Slot::Bad("no group name");
    };
    let hash: [u8; 32] = b[HASH_AT..HASH_AT + 32].try_into().expect("thirty-two bytes");
    Slot::Good(Box::new(ReplayPosition {
        group,
        resync: flags & FLAG_RESYNC != 0,
        generation: u64_at(GENERATION_AT),
        epoch: Epoch(u64_at(EPOCH_AT)),
        seq: Seq(u64_at(SEQ_AT)),
        number: SegmentNo(u64_at(NUMBER_AT)),
        chain_seq: Seq(u64_at(CHAIN_SEQ_AT)),
        hash: Hash(hash),
        undo_end: u64_at(UNDO_END_AT),
        time: UnixMicros(u64_at(TIME_AT)),
        consistent: Consistent {
            position: Position { epoch: Epoch(u64_at(CONSISTENT_EPOCH_AT)), seq: Seq(u64_at(CONSISTENT_SEQ_AT)) },
            undo_end: u64_at(CONSISTENT_UNDO_END_AT),
            time: UnixMicros(u64_at(CONSISTENT_TIME_AT)),
        },
        resync_announced: u64_at(RESYNC_ANNOUNCED_AT),
        resync_applied: u64_at(RESYNC_APPLIED_AT),
        last_periodic: UnixMicros(u64_at(LAST_PERIODIC_AT)),
    }))
}

/// The slot that counts, and its index.
fn newest(path: &Path, file: &File) -> Result<(u64, ReplayPosition), TargetError> {
    let mut best: Option<(u64, ReplayPosition)> = None;
    let mut bad = "";
    let version = |found| TargetError::Version { path: path.to_path_buf(), found, supported: VERSION };
    let mut other = None;
    for slot in 0..2 {
        let mut bytes = [0; USED_BYTES];
        match file.read_exact_at(&mut bytes, slot * SLOT_BYTES) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                bad = "it is too short";
                continue;
            }
            Err(e) => return Err(TargetError::io("read", path)(e)),
        }
        match decode(&bytes) {
            Slot::Good(position) => {
                if best.as_ref().is_none_or(|(_, b)| b.generation < position.generation) {
                    best = Some((slot, *position));
                }
            }
            Slot::OtherVersion { found, sound: true } => return Err(version(found)),
            Slot::OtherVersion { found, sound: false } => other = Some(found),
            Slot::Bad(what) => bad = what,
        }
    }
    best.ok_or_else(|| match other {
        Some(found) => version(found),
        None => TargetError::damaged(path, 0, format!("neither slot holds a position ({bad})")),
    })
}

/// The position file of the one process that replays.
#[derive(Debug)]
pub struct PositionFile {
    path: PathBuf,
    file: File,
    slot: u64,
    current: ReplayPosition,
    /// Set by the first failed write or fsync: what the medium holds is not known any more.
    failed: bool,
}

impl PositionFile {
    /// Creates the file with `first` in it; a file that is there is replaced.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn create(path: &Path, first: ReplayPosition) -> Result<Self, TargetError> {
        let mut bytes = vec![0; 2 * SLOT_BYTES as usize];
        bytes[..USED_BYTES].copy_from_slice(&first.encode());
        crashsafe::replace(path, &bytes).map_err(TargetError::io("create", path))?;
        Self::open(path)
    }

    /// Opens the file that is there.
    ///
    /// # Errors
    /// [`TargetError::Io`], [`TargetError::Damaged`], [`TargetError::Version`].
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(TargetError::io("open", path))?;
        // A process that was killed may have left the newest slot in memory only, and the next write goes over the other one.
        medium::sync_data(&file).map_err(TargetError::io("fdatasync", path))?;
        let (slot, current) = newest(path, &file)?;
        Ok(Self { path: path.to_path_buf(), file, slot, current, failed: false })
    }

    /// The position that counts.
    #[must_use]
    pub fn current(&self) -> &ReplayPosition {
        &self.current
    }

    /// Writes `next` durably; its generation is set here.
    ///
    /// # Errors
    /// [`TargetError::Io`]; after the first one every further call fails.
    pub fn advance(&mut self, mut next: ReplayPosition) -> Result<(), TargetError> {
        if self.failed {
            return Err(TargetError::io("write", &self.path)(io::Error::other("an earlier write of it failed")));
        }
        next.generation = self.current.generation + 1;
        let slot = 1 - self.slot;
        let written = medium::write_all_at(&self.file, &next.encode(), slot * SLOT_BYTES)
            .and_then(|()| medium::sync_data(&self.file));
        if let Err(e) = written {
            self.failed = true;
            return Err(TargetError::io("write", &self.path)(e));
        }
        self.slot = slot;
        self.current = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ReplayPosition {
        let mut p = ReplayPosition::start(GroupName::new("web01").unwrap(), Epoch(3), Hash::of(b"x"));
        (p.resync, p.seq, p.number, p.chain_seq, p.undo_end) = (true, Seq(7), SegmentNo(2), Seq(9), 4096);
        p.consistent =
            Consistent { position: Position { epoch: Epoch(2), seq: Seq(44) }, undo_end: 1024, time: UnixMicros(5) };
        (p.time, p.resync_announced, p.resync_applied, p.last_periodic) = (UnixMicros(6), 10, 11, UnixMicros(12));
        p
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!((SUM_AT, USED_BYTES), (224, 256));
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
        newer[VERSION_AT] = 2;
        let sum = Hash::of(&newer[..SUM_AT]);
        newer[SUM_AT..].copy_from_slice(&sum.0);
        writer_of(&path).write_all_at(&newer, 0).unwrap();
        assert!(matches!(ReplayPosition::read(&path), Err(TargetError::Version { found: 2, .. })));
    }

    fn writer_of(path: &Path) -> File {
        OpenOptions::new().write(true).open(path).unwrap()
    }
}
