//! The small JSON objects of the vault (`docs/format.md`, "Vault"): the vault object, epoch objects, requests, hash plans.
//!
//! An object is decoded in this order: it is JSON; its format version is known; its keys are exactly those of that version;
//! it is what its key says. So another version is refused by version, not by the first key that is new.

use std::fmt;
use std::str::FromStr;

use farshore_changelog::clock;
use farshore_changelog::hashes::{CHUNK_UNITS_MAX, check_unit_bytes};
use farshore_changelog::ids::{DISKS_PER_GROUP_MAX, DiskIndex, DiskName, Epoch, GroupName, Seq};
use farshore_changelog::units::ByteRange;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::VaultError;
use crate::keys::Key;

/// The format version of all of them.
pub const FORMAT: u64 = 1;
/// Largest of them, in bytes: an epoch object of 32 disks is below 3 KiB.
pub const OBJECT_MAX_BYTES: u64 = 64 << 10;
/// Most ranges of one request: more do not fit into an object. Whoever wants more asks twice, or for a full resync.
pub const RANGES_MAX: usize = 512;

/// The vault itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultObject {
    /// Tells this vault from every other.
    pub id: Nonce,
    /// When `init` made it.
    pub created: jiff::Timestamp,
    /// How everything of its groups is sealed; `None` when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encrypted>,
}

/// How the objects of a vault are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encrypted {
    /// The algorithms.
    pub suite: String,
    /// Fingerprint of the key that the vault was made with.
    pub key: String,
    /// BLAKE3 of this object's other values, keyed: 64 hex digits.
    pub mac: String,
}

/// One epoch: who opened it, after which, and why. Created once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochObject {
    /// Whose it is, again: an object copied to another key is refused.
    pub group: GroupName,
    /// Its number, again.
    pub epoch: Epoch,
    /// The epoch before; `None` in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Epoch>,
    /// Why it was opened.
    pub reason: Reason,
    /// What its opener noted locally first, to know its own object again.
    pub nonce: Nonce,
    /// When it was opened (the opener's clock).
    pub created: jiff::Timestamp,
    /// The group's disks in index order.
    pub disks: Vec<EpochDisk>,
}

/// A disk of a group, as an epoch sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochDisk {
    /// Its name.
    pub name: DiskName,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Why an epoch was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The group's first.
    FirstStart,
    /// The ring of the one before is gone (another boot, a damaged ring).
    RingLost,
    /// Somebody asked for a resync.
    AskedFor,
    /// The target took over.
    Failover,
    /// The group is protected the other way round.
    Reprotect,
}

/// What the target asks of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Copy what may differ.
    Resync {
        /// Everything, in a new epoch; else, within the running one, what is lost and the ranges.
        full: bool,
        /// The whole regions that these touch count as lost. At most [`RANGES_MAX`]; none with `full`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ranges: Vec<DiskRange>,
    },
    /// Ship everything and stop taking writes, for a planned failover.
    Drain,
    /// Log the hash of every region, then a mark `verify-<n>`, n being the request's number.
    Digests,
}

impl Request {
    /// The bytes that are stored, here and in the source's state folder.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        Object::encode(self)
    }

    /// Proves such bytes. A request does not say its number, so nothing depends on where it lies.
    ///
    /// # Errors
    /// [`VaultError::Version`] or [`VaultError::Damaged`].
    pub fn decoded(bytes: &[u8]) -> Result<Self, VaultError> {
        Self::proved("the request", bytes, |request| request.objection_to_itself())
    }

    fn objection_to_itself(&self) -> Option<String> {
        let Self::Resync { full, ranges } = self else { return None };
        if *full && !ranges.is_empty() {
            return Some("it asks for a full resync and for ranges".to_owned());
        }
        if ranges.len() > RANGES_MAX {
            return Some(format!("it has {} ranges, at most {RANGES_MAX} are possible", ranges.len()));
        }
        let strange = ranges.iter().find(|r| r.bytes().is_none_or(ByteRange::is_empty));
        strange.map(|r| format!("it asks for {} bytes at {} of disk {}", r.len, r.offset, r.disk))
    }
}

/// A range of a disk of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRange {
    /// The disk.
    pub disk: DiskIndex,
    /// First byte.
    pub offset: u64,
    /// Bytes, not 0.
    pub len: u64,
}

impl DiskRange {
    /// The bytes; `None` when they would pass the end of the address space.
    #[must_use]
    pub fn bytes(&self) -> Option<ByteRange> {
        ByteRange::at(self.offset, self.len)
    }
}

/// Which hashes of its images the target publishes in an epoch, for the source's resync. It is put after the chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashPlan {
    /// The epoch, again.
    pub epoch: Epoch,
    /// The position of the images: right after the epoch's first `resync begin`.
    pub seq: Seq,
    /// Bytes of one unit.
    pub unit_bytes: u32,
    /// Units of one chunk; the last of a disk may have fewer.
    pub chunk_units: u32,
    /// The group's disks in index order.
    pub disks: Vec<HashedDisk>,
}

/// A disk of a [`HashPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedDisk {
    /// Its name.
    pub name: DiskName,
    /// How many units it has; the last may be shorter.
    pub units: u64,
}

impl HashPlan {
    /// The bytes that are stored, here and in the source's state folder.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        Object::encode(self)
    }

    /// Disk, chunk and number of units of every chunk, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (DiskIndex, u32, u32)> {
        let size = u64::from(self.chunk_units);
        self.disks.iter().zip(0..).flat_map(move |(disk, index)| {
            // Proved by `objection`: below 2^32 chunks, and no more units in one than its type holds.
            (0..disk.units.div_ceil(size)).map(move |chunk| {
                let count = size.min(disk.units - chunk * size);
                (DiskIndex(index), u32::try_from(chunk).unwrap_or(u32::MAX), u32::try_from(count).unwrap_or(u32::MAX))
            })
        })
    }
}

/// Sixteen random bytes as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(clock::nonce())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.to_string()
    }
}

/// The text is not 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 lower-case hex digits")]
pub struct NotANonce;

impl FromStr for Nonce {
    type Err = NotANonce;
    fn from_str(text: &str) -> Result<Self, NotANonce> {
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NotANonce);
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| NotANonce)
    }
}

impl TryFrom<String> for Nonce {
    type Error = NotANonce;
    fn try_from(text: String) -> Result<Self, NotANonce> {
        text.parse()
    }
}

/// An object with a format version of its own that lies under a key.
pub(crate) trait Object: Serialize + DeserializeOwned {
    /// What is wrong with it as the object of `key`, `None` when nothing is.
    fn objection(&self, key: &Key) -> Option<String>;

    /// The bytes to store: the same for equal objects.
    fn encode(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).expect("these objects have string keys only");
        value["format"] = FORMAT.into();
        serde_json::to_vec(&value).expect("a JSON value can be written")
    }

    /// Proves `bytes`, found under `key`.
    fn decode(key: &Key, bytes: &[u8]) -> Result<Self, VaultError> {
        Self::proved(&key.to_string(), bytes, |object| object.objection(key))
    }

    /// Proves `bytes`, found at `place`.
    fn proved(place: &str, bytes: &[u8], objection: impl Fn(&Self) -> Option<String>) -> Result<Self, VaultError> {
        let damaged = |what: String| VaultError::Damaged { key: place.to_owned(), what };
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not JSON ({e})")))?;
        let format = value.as_object_mut().and_then(|map| map.remove("format")).and_then(|v| v.as_u64());
        match format {
            Some(FORMAT) => {}
            Some(found) => return Err(VaultError::Version { key: place.to_owned(), found, supported: FORMAT }),
            None => return Err(damaged("it says no format version".to_owned())),
        }
        let object: Self = serde_json::from_value(value.clone()).map_err(|e| damaged(e.to_string()))?;
        // serde lets unknown keys pass beside a tag without fields; nothing that we did not write may pass here.
        let again = serde_json::to_value(&object).expect("these objects have string keys only");
        if again != value {
            return Err(damaged("it holds keys or values that this format does not have".to_owned()));
        }
        match objection(&object) {
            Some(what) => Err(damaged(what)),
            None => Ok(object),
        }
    }
}

impl Object for VaultObject {
    fn objection(&self, _: &Key) -> Option<String> {
        None
    }
}

impl Object for Request {
    fn objection(&self, _: &Key) -> Option<String> {
        self.objection_to_itself()
    }
}

impl Object for HashPlan {
    fn objection(&self, key: &Key) -> Option<String> {
        let size = self.chunk_units;
        if !matches!(key, Key::HashPlan(_, epoch) if *epoch == self.epoch) {
            Some(format!("it is of epoch {}", self.epoch))
        } else if let Err(what) = check_unit_bytes(self.unit_bytes) {
            Some(what)
        } else if !(1..=CHUNK_UNITS_MAX).contains(&size) {
            Some(format!("its chunks have {size} units, 1 to {CHUNK_UNITS_MAX} are possible"))
        } else if self.disks.is_empty() || self.disks.len() > DISKS_PER_GROUP_MAX {
            Some(format!("it has {} disks", self.disks.len()))
        } else {
            let strange = |d: &&HashedDisk| d.units == 0 || d.units.div_ceil(u64::from(size)) > u64::from(u32::MAX);
            self.disks.iter().find(strange).map(|d| format!("disk {} has {} units", d.name, d.units))
        }
    }
}

impl Object for EpochObject {
    fn objection(&self, key: &Key) -> Option<String> {
        let parent = self.epoch.0.checked_sub(1).filter(|&e| e > 0).map(Epoch);
        if *key != self.key() {
            Some(format!("it is epoch {} of group {}", self.epoch, self.group))
        } else if self.epoch == Epoch(0) || self.parent != parent {
            Some(format!("epoch {} cannot have the parent {:?}", self.epoch, self.parent.map(|e| e.0)))
        } else if self.disks.is_empty() || self.disks.len() > DISKS_PER_GROUP_MAX {
            Some(format!("it has {} disks", self.disks.len()))
        } else {
            None
        }
    }
}

impl EpochObject {
    /// Where it belongs.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::Epoch(self.group.clone(), self.epoch)
    }

    /// The bytes that are stored; their hash is the predecessor of the epoch's first segment.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        Object::encode(self)
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
