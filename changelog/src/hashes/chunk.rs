//! A run of hashes of one disk: how it is encoded, and the proof of one that was read.

use crate::ids::{DiskIndex, Epoch, GROUP_NAME_MAX_BYTES, GroupName, Hash, Seq};
use crate::segment::layout::COUNTER_MAX;

const MAGIC: [u8; 8] = *b"FARSHHSH";
/// The version that is written and read.
pub const VERSION: u32 = 1;
/// Smallest unit, in bytes.
pub const UNIT_BYTES_MIN: u32 = 64 << 10;
/// Largest unit, in bytes.
pub const UNIT_BYTES_MAX: u32 = 64 << 20;
/// Most units of one chunk.
pub const CHUNK_UNITS_MAX: u32 = 32_768;
/// Largest chunk, in bytes.
pub const CHUNK_MAX_BYTES: u64 = (HASHES_AT + CHUNK_UNITS_MAX as usize * HASH_BYTES + HASH_BYTES) as u64;

const HASH_BYTES: usize = 32;
// Offsets, each from its neighbour.
const VERSION_AT: usize = MAGIC.len();
const UNIT_BYTES_AT: usize = VERSION_AT + 4;
const GROUP_AT: usize = UNIT_BYTES_AT + 4;
const EPOCH_AT: usize = GROUP_AT + GROUP_NAME_MAX_BYTES;
const SEQ_AT: usize = EPOCH_AT + 8;
const FIRST_UNIT_AT: usize = SEQ_AT + 8;
const CHUNK_UNITS_AT: usize = FIRST_UNIT_AT + 8;
const COUNT_AT: usize = CHUNK_UNITS_AT + 4;
const DISK_AT: usize = COUNT_AT + 4;
const RESERVED_AT: usize = DISK_AT + 2;
const HASHES_AT: usize = 128;
const _: () = assert!(RESERVED_AT < HASHES_AT);

/// Why bytes are no chunk of hashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It does not begin with the magic.
    #[error("it is no chunk of hashes")]
    BadMagic,
    /// A version that this build does not know.
    #[error("it has version {found}, this farshore reads version {VERSION}; use the version that wrote it")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It is not whole, or contradicts itself.
    #[error("it is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: String,
    },
}

/// The hashes of a run of units of one disk. A *unit* is `unit_bytes` of the disk, the last one what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whose images were hashed.
    pub group: GroupName,
    /// The epoch whose resync it serves.
    pub epoch: Epoch,
    /// The images were those at this seq of the epoch.
    pub seq: Seq,
    /// The disk.
    pub disk: DiskIndex,
    /// Bytes of a unit: see [`check_unit_bytes`].
    pub unit_bytes: u32,
    /// Units of every chunk of this plan but the last of a disk; 1 to [`CHUNK_UNITS_MAX`].
    pub chunk_units: u32,
    /// The first unit: a multiple of `chunk_units`.
    pub first_unit: u64,
    /// One hash a unit, 1 to `chunk_units` of them.
    pub hashes: Vec<Hash>,
}

impl Chunk {
    /// Which chunk of its disk it is: 0, 1, 2 …
    #[must_use]
    pub fn number(&self) -> u64 {
        self.first_unit / u64::from(self.chunk_units.max(1))
    }

    /// The bytes of `docs/format.md`.
    ///
    /// # Panics
    /// When a field is out of its range: whoever fills a chunk knows its limits.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if let Err(what) = self.check(self.hashes.len()) {
            panic!("this chunk of hashes cannot be: {what}");
        }
        let mut bytes = vec![0; HASHES_AT];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(UNIT_BYTES_AT, &self.unit_bytes.to_le_bytes());
        put(GROUP_AT, self.group.as_str().as_bytes());
        put(EPOCH_AT, &self.epoch.0.to_le_bytes());
        put(SEQ_AT, &self.seq.0.to_le_bytes());
        put(FIRST_UNIT_AT, &self.first_unit.to_le_bytes());
        put(CHUNK_UNITS_AT, &self.chunk_units.to_le_bytes());
        // At most CHUNK_UNITS_MAX, checked.
        put(COUNT_AT, &(self.hashes.len() as u32).to_le_bytes());
        put(DISK_AT, &self.disk.0.to_le_bytes());
        bytes.extend(self.hashes.iter().flat_map(|hash| hash.0));
        let sum = Hash::of(&bytes);
        bytes.extend(sum.0);
        bytes
    }

    /// Proves bytes and takes them apart.
    ///
    /// # Errors
    /// [`ChunkError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ChunkError> {
        let damaged = |what: &str| ChunkError::Damaged { what: what.to_owned() };
        if bytes.len() < HASHES_AT + HASH_BYTES {
            return Err(damaged("it is shorter than a header and a hash"));
        }
        if bytes[..VERSION_AT] != MAGIC {
            return Err(ChunkError::BadMagic);
        }
        let version = u32_at(bytes, VERSION_AT);
        if version != VERSION {
            return Err(ChunkError::Version { found: version });
        }
        let count = u32_at(bytes, COUNT_AT);
        let body = HASHES_AT as u64 + u64::from(count) * HASH_BYTES as u64;
        if bytes.len() as u64 != body + HASH_BYTES as u64 {
            return Err(damaged("its length is not that of its hashes"));
        }
        let (content, sum) = bytes.split_at(bytes.len() - HASH_BYTES);
        if Hash::of(content).0 != sum {
            return Err(damaged("its hash is wrong"));
        }
        if content[RESERVED_AT..HASHES_AT].iter().any(|b| *b != 0) {
            return Err(damaged("a reserved byte is not zero"));
        }
        let chunk = Self {
            group: group_at(content).ok_or_else(|| damaged("the group is not a valid name"))?,
            epoch: Epoch(u64_at(content, EPOCH_AT)),
            seq: Seq(u64_at(content, SEQ_AT)),
            disk: DiskIndex(u16::from_le_bytes([content[DISK_AT], content[DISK_AT + 1]])),
            unit_bytes: u32_at(content, UNIT_BYTES_AT),
            chunk_units: u32_at(content, CHUNK_UNITS_AT),
            first_unit: u64_at(content, FIRST_UNIT_AT),
            hashes: content[HASHES_AT..].chunks_exact(HASH_BYTES).map(|h| Hash(array(h))).collect(),
        };
        chunk.check(chunk.hashes.len()).map_err(|what| ChunkError::Damaged { what })?;
        Ok(chunk)
    }

    fn check(&self, count: usize) -> Result<(), String> {
        check_unit_bytes(self.unit_bytes)?;
        let size = self.chunk_units;
        if !(1..=CHUNK_UNITS_MAX).contains(&size) {
            return Err(format!("chunks of {size} units, 1 to {CHUNK_UNITS_MAX} are possible"));
        }
        if count == 0 || count > size as usize {
            return Err(format!("{count} hashes in a chunk of {size} units"));
        }
        if !self.first_unit.is_multiple_of(u64::from(size)) {
            return Err(format!("its first unit, {}, does not begin a chunk", self.first_unit));
        }
        let end = self.first_unit.checked_add(u64::from(size)).and_then(|end| end.checked_mul(self.unit_bytes.into()));
        if end.is_none() {
            return Err("it passes the end of the address space".to_owned());
        }
        if self.epoch.0 == 0 || self.epoch.0 > COUNTER_MAX || self.seq.0 > COUNTER_MAX {
            return Err(format!("epoch {} and seq {}", self.epoch, self.seq));
        }
        Ok(())
    }
}

/// Refuses a unit that is not a power of two from [`UNIT_BYTES_MIN`] to [`UNIT_BYTES_MAX`].
///
/// # Errors
/// What it is and what it may be.
pub fn check_unit_bytes(bytes: u32) -> Result<(), String> {
    if bytes.is_power_of_two() && (UNIT_BYTES_MIN..=UNIT_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    Err(format!("a unit of {bytes} bytes; a power of two from {UNIT_BYTES_MIN} to {UNIT_BYTES_MAX} is possible"))
}

fn group_at(content: &[u8]) -> Option<GroupName> {
    let field = &content[GROUP_AT..EPOCH_AT];
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at(len);
    let name = std::str::from_utf8(name).ok().filter(|_| padding.iter().all(|b| *b == 0))?;
    GroupName::new(name).ok()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the length was proved")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(&bytes[at..at + 4]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..at + 8]))
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
