//! What lies in files, read at the offsets that `docs/format.md` gives: the ring's header, a target's position, the flushes
//! in a vault's segments.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, Seq};
use farshore_changelog::ids::{Hash, Position};
use farshore_changelog::op::Op;
use farshore_changelog::segment::{Index, Kind};

use crate::sealed;

/// Ring header: next_seq, the seq that the next operation takes.
const RING_NEXT_SEQ: u64 = 256;
/// Ring header: confirmed_seq, every seq up to it is confirmed in the vault.
const RING_CONFIRMED_SEQ: u64 = 448;
/// Ring header: epoch.
const RING_EPOCH: u64 = 80;
/// Ring header: lane_count, slots_per_lane and payload_bytes_per_lane.
const RING_LANE_COUNT: u64 = 12;
const RING_SLOTS_PER_LANE: u64 = 88;
const RING_PAYLOAD_BYTES: u64 = 96;
/// Bytes of the ring's header page, and of a lane's before its slots.
const RING_PAGE: u64 = 4096;
/// Bytes of a slot.
const RING_SLOT: u64 = 64;

/// Bytes of one slot of a position file, and of what its hash covers.
const POSITION_SLOT: usize = 4096;
const POSITION_HASHED: usize = 224;

fn u64_at(path: &Path, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    let read = File::open(path).and_then(|f| f.read_exact_at(&mut bytes, offset));
    read.unwrap_or_else(|e| panic!("cannot read {} at {offset}: {e}", path.display()));
    u64::from_le_bytes(bytes)
}

/// The newest position that a ring has given out: its epoch and the seq below `next_seq`.
///
/// # Panics
/// When the ring cannot be read.
#[must_use]
pub fn ring_newest(ring: &Path) -> Position {
    Position { epoch: Epoch(u64_at(ring, RING_EPOCH)), seq: Seq(u64_at(ring, RING_NEXT_SEQ) - 1) }
}

/// Up to where the vault has confirmed a ring's operations.
///
/// # Panics
/// When the ring cannot be read.
#[must_use]
pub fn ring_confirmed(ring: &Path) -> Position {
    Position { epoch: Epoch(u64_at(ring, RING_EPOCH)), seq: Seq(u64_at(ring, RING_CONFIRMED_SEQ)) }
}

/// How many lanes a ring has.
///
/// # Panics
/// When the ring cannot be read.
#[must_use]
pub fn ring_lanes(ring: &Path) -> u64 {
    u64_at(ring, RING_LANE_COUNT) & u64::from(u32::MAX)
}

/// Payload bytes of each lane of a ring.
///
/// # Panics
/// When the ring cannot be read.
#[must_use]
pub fn ring_payload_bytes(ring: &Path) -> u64 {
    u64_at(ring, RING_PAYLOAD_BYTES)
}

/// Slots of a lane that are reserved and not freed (head less tail).
///
/// # Panics
/// When the ring cannot be read.
#[must_use]
pub fn ring_slots_in_use(ring: &Path, lane: u64) -> u64 {
    let slots = u64_at(ring, RING_SLOTS_PER_LANE) & u64::from(u32::MAX);
    let lane_bytes = RING_PAGE + slots * RING_SLOT + u64_at(ring, RING_PAYLOAD_BYTES);
    let at = RING_PAGE + lane * lane_bytes;
    // The tail first: read the other way round, it could pass the head.
    let tail = u64_at(ring, at + 64);
    u64_at(ring, at) - tail
}

/// Where replay stands, as a target's position file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Everything up to it is in the images.
    pub position: Position,
    /// Number of the newest segment of which anything was applied.
    pub segment: u64,
    /// Whether a resync is in progress.
    pub resync: bool,
}

/// Reads a target's position file; `None` when there is none yet.
///
/// # Panics
/// When neither slot is whole, which no crash may bring about.
#[must_use]
pub fn standing(path: &Path) -> Option<Standing> {
    let bytes = std::fs::read(path).ok()?;
    let number = |slot: &[u8], at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    let whole = |slot: &&[u8]| {
        slot.starts_with(b"FARSHPOS")
            && Hash::of(&slot[..POSITION_HASHED]).0 == slot[POSITION_HASHED..POSITION_HASHED + 32]
    };
    let newest = bytes.chunks_exact(POSITION_SLOT).filter(whole).max_by_key(|slot| number(slot, 16));
    let slot = newest.unwrap_or_else(|| panic!("{} has no whole slot", path.display()));
    Some(Standing {
        position: Position { epoch: Epoch(number(slot, 88)), seq: Seq(number(slot, 96)) },
        segment: number(slot, 104),
        resync: slot[12] & 1 == 1,
    })
}

/// The objects of one epoch's log in a folder vault, in the order of their numbers.
///
/// # Panics
/// When the folder cannot be listed.
#[must_use]
pub fn segment_files(vault: &Path, group: &str, epoch: u64) -> Vec<PathBuf> {
    let dir = vault.join(format!("groups/{group}/log/{epoch:010}"));
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()));
    let named_by_number = |p: &PathBuf| p.file_name().is_some_and(|n| n.len() == 20);
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).filter(named_by_number).collect();
    files.sort();
    files
}

/// Reads a segment's index, which proves header, index and footer.
///
/// # Panics
/// When it is not whole.
#[must_use]
pub fn index(path: &Path) -> Index {
    let content = sealed::content(path);
    Index::read(&mut &content[..], 0, None).unwrap_or_else(|e| panic!("{} is not whole: {e}", path.display()))
}

/// The seqs of all flushes of one epoch that a folder vault holds, rising.
///
/// # Panics
/// When a segment is not whole.
#[must_use]
pub fn flushes(vault: &Path, group: &str, epoch: u64) -> Vec<Seq> {
    let indexes = segment_files(vault, group, epoch).into_iter().map(|path| index(&path));
    let logs = indexes.filter(|i| i.head().kind == Kind::Log);
    logs.flat_map(|i| i.records().iter().filter(|r| r.record.op == Op::Flush).map(|r| r.record.seq).collect::<Vec<_>>())
        .collect()
}

/// BLAKE3 of a file's content.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn digest(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
    hasher.update_reader(file).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    hasher.finalize()
}

/// Where two files differ first: the offset, or `None` when they are the same.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn first_difference(a: &Path, b: &Path) -> Option<u64> {
    use std::io::Read;
    const STEP: usize = 1 << 20;
    let mut files = [a, b].map(|p| File::open(p).unwrap_or_else(|e| panic!("cannot open {}: {e}", p.display())));
    let mut offset = 0;
    loop {
        let [left, right] = files.each_mut().map(|f| {
            let mut bytes = Vec::new();
            f.take(STEP as u64).read_to_end(&mut bytes).expect("a file can be read");
            bytes
        });
        if left != right {
            let same = left.iter().zip(&right).take_while(|(l, r)| l == r).count();
            return Some(offset + same as u64);
        }
        if left.is_empty() {
            return None;
        }
        offset += left.len() as u64;
    }
}
