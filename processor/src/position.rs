//! Where replay stands: a file of two slots, of which the one with the higher generation and a right hash counts
//! (`docs/format.md`, "Position").

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GROUP_NAME_MAX_BYTES, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::medium;
use farshore_changelog::segment::layout::COUNTER_MAX;
use farshore_changelog::units::UnixMicros;

use crate::error::TargetError;

const MAGIC: [u8; 8] = *b"FARSHPOS";
/// The version that is written.
pub const VERSION: u32 = 2;
/// The oldest version that is read. It has neither overflow nor the last undo batch.
const VERSION_OLDEST: u32 = 1;
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
/// Of all before, in every version.
const SUM_AT: usize = LAST_PERIODIC_AT + 8;
const UNDO_NUMBER_AT: usize = SUM_AT + 32;
const UNDO_HASH_AT: usize = UNDO_NUMBER_AT + 8;
/// Of all before, from version 2 on.
const WHOLE_SUM_AT: usize = UNDO_HASH_AT + 32;
/// Bytes of a slot that carry something.
const USED_BYTES: usize = WHOLE_SUM_AT + 32;

const FLAG_RESYNC: u32 = 1;
const FLAG_OVERFLOW: u32 = 2;
const FLAG_HASHES: u32 = 4;
const FLAG_HASHES_NEEDED: u32 = 8;

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

/// Whether the hashes of the images are to be published before replay goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashesDue {
    /// Nothing is owed.
    #[default]
    No,
    /// If the resync is worth it.
    Useful,
    /// In any case: these images may be other ones than another target's.
    Needed,
}

impl HashesDue {
    fn flags(self) -> u32 {
        match self {
            Self::No => 0,
            Self::Useful => FLAG_HASHES,
            Self::Needed => FLAG_HASHES | FLAG_HASHES_NEEDED,
        }
    }
}

/// An undo batch, as the next one names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUndo {
    /// Its number, 0 when there is none yet.
    pub number: SegmentNo,
    /// Its hash, zero when there is none yet.
    pub hash: Hash,
}

impl LastUndo {
    /// Of a journal that has no batch yet.
    pub const NONE: Self = Self { number: SegmentNo(0), hash: Hash::ZERO };
}

/// Where replay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPosition {
    /// Whose it is.
    pub group: GroupName,
    /// A resync is in progress, or to come: the images are not a state of the source.
    pub resync: bool,
    /// Operations of the guest are missing from the log, and the resync that repairs that has not begun.
    pub overflow: bool,
    /// The epoch's first `resync begin` was just applied, and the images at it are to be hashed.
    pub hashes: HashesDue,
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
    /// The undo batch that ends there; `None` where an older version wrote the position.
    pub last_undo: Option<LastUndo>,
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
            overflow: false,
            hashes: HashesDue::No,
            generation: 0,
            epoch,
            seq: Seq(0),
            number: SegmentNo(0),
            chain_seq: Seq(0),
            hash,
            undo_end: 0,
            last_undo: Some(LastUndo::NONE),
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
            Ok(file) => Ok(Some(newest(path, &file)?.position)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(TargetError::io("open", path)(e)),
        }
    }

    fn encode(&self) -> [u8; USED_BYTES] {
        let mut b = [0; USED_BYTES];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.resync, FLAG_RESYNC) | flag(self.overflow, FLAG_OVERFLOW) | self.hashes.flags();
        put(FLAGS_AT, &flags.to_le_bytes());
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
        b[SUM_AT..UNDO_NUMBER_AT].copy_from_slice(&sum.0);
        let last = self.last_undo.unwrap_or(UNKNOWN_UNDO);
        b[UNDO_NUMBER_AT..UNDO_HASH_AT].copy_from_slice(&last.number.0.to_le_bytes());
        b[UNDO_HASH_AT..WHOLE_SUM_AT].copy_from_slice(&last.hash.0);
        let sum = Hash::of(&b[..WHOLE_SUM_AT]);
        b[WHOLE_SUM_AT..].copy_from_slice(&sum.0);
        b
    }
}

/// Stands for `None`: of a batch that was not looked at since an older version wrote the position.
const UNKNOWN_UNDO: LastUndo = LastUndo { number: SegmentNo(u64::MAX), hash: Hash::ZERO };

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
    let sound = Hash::of(&b[..SUM_AT]).0 == b[SUM_AT..UNDO_NUMBER_AT];
    if !(VERSION_OLDEST..=VERSION).contains(&version) {
        return Slot::OtherVersion { found: version, sound };
    }
    let newer = version > VERSION_OLDEST;
    if !sound || (newer && Hash::of(&b[..WHOLE_SUM_AT]).0 != b[WHOLE_SUM_AT..]) {
        return Slot::Bad("wrong hash");
    }
    let flags = u32_at(FLAGS_AT);
    let newer_flags = FLAG_OVERFLOW | FLAG_HASHES | FLAG_HASHES_NEEDED;
    if flags & !(FLAG_RESYNC | if newer { newer_flags } else { 0 }) != 0 {
        return Slot::Bad("unknown flags");
    }
    let hashes = [HashesDue::No, HashesDue::Useful, HashesDue::Needed];
    let Some(hashes) = hashes.into_iter().find(|due| due.flags() == flags & (FLAG_HASHES | FLAG_HASHES_NEEDED)) else {
        return Slot::Bad("flags that contradict each other");
    };
    let hash_at = |at: usize| Hash(b[at..at + 32].try_into().expect("thirty-two bytes"));
    let last_undo = LastUndo { number: SegmentNo(u64_at(UNDO_NUMBER_AT)), hash: hash_at(UNDO_HASH_AT) };
    let name = &b[GROUP_AT..GROUP_AT + GROUP_NAME_MAX_BYTES];
    let len = name.iter().position(|&c| c == 0).unwrap_or(name.len());
    let padded = name[len..].iter().all(|&c| c == 0);
    let name = std::str::from_utf8(&name[..len]).ok().filter(|_| padded);
    let Some(group) = name.and_then(|name| GroupName::new(name).ok()) else {
        return Slot::Bad("no group name");
    };
    let counters = [
        GENERATION_AT,
        EPOCH_AT,
        SEQ_AT,
        NUMBER_AT,
        CHAIN_SEQ_AT,
        UNDO_END_AT,
        CONSISTENT_EPOCH_AT,
        CONSISTENT_SEQ_AT,
        CONSISTENT_UNDO_END_AT,
    ];
    let last_number = if newer && last_undo != UNKNOWN_UNDO { last_undo.number.0 } else { 0 };
    if counters.into_iter().map(u64_at).chain([last_number]).any(|counter| counter >= COUNTER_MAX) {
        return Slot::Bad("a number beyond its limit");
    }
    Slot::Good(Box::new(ReplayPosition {
        group,
        resync: flags & FLAG_RESYNC != 0,
        overflow: flags & FLAG_OVERFLOW != 0,
        hashes,
        generation: u64_at(GENERATION_AT),
        epoch: Epoch(u64_at(EPOCH_AT)),
        seq: Seq(u64_at(SEQ_AT)),
        number: SegmentNo(u64_at(NUMBER_AT)),
        chain_seq: Seq(u64_at(CHAIN_SEQ_AT)),
        hash: hash_at(HASH_AT),
        undo_end: u64_at(UNDO_END_AT),
        last_undo: Some(last_undo).filter(|last| newer && *last != UNKNOWN_UNDO),
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

/// The slot that counts.
struct Counts {
    slot: u64,
    bytes: [u8; USED_BYTES],
    position: ReplayPosition,
}

fn newest(path: &Path, file: &File) -> Result<Counts, TargetError> {
    let mut best: Option<Counts> = None;
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
                if best.as_ref().is_none_or(|best| best.position.generation < position.generation) {
                    best = Some(Counts { slot, bytes, position: *position });
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
        let Counts { slot, bytes, position } = newest(path, &file)?;
        // The next write goes over the other slot, and this one may be in memory only: its writer was killed before its
        // fdatasync, or that failed. After a failure the kernel takes the page for clean, and an fdatasync alone would succeed
        // and prove nothing; so the same bytes are written once more.
        medium::write_all_at(&file, &bytes, slot * SLOT_BYTES)
            .and_then(|()| medium::sync_data(&file))
            .map_err(TargetError::io("write", path))?;
        Ok(Self { path: path.to_path_buf(), file, slot, current: position, failed: false })
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
#[path = "position_tests.rs"]
mod tests;
