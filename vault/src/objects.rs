//! The small JSON objects of the vault (`docs/format.md`, "Vault"): the vault object, epoch objects, requests.
//!
//! An object is decoded in this order: it is JSON; its format version is known; its keys are exactly those of that version;
//! it is what its key says. So another version is refused by version, not by the first key that is new.

use std::fmt;
use std::str::FromStr;

use farshore_changelog::clock;
use farshore_changelog::ids::{DISKS_PER_GROUP_MAX, DiskName, Epoch, GroupName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::VaultError;
use crate::keys::Key;

/// The format version of all of them.
pub const FORMAT: u64 = 1;
/// Largest of them, in bytes: an epoch object of 32 disks is below 3 KiB.
pub const OBJECT_MAX_BYTES: u64 = 64 << 10;

/// The vault itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultObject {
    /// Tells this vault from every other.
    pub id: Nonce,
    /// When `init` made it.
    pub created: jiff::Timestamp,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Open a new epoch with regions lost.
    Resync {
        /// All regions, not only those that are known to differ.
        full: bool,
    },
    /// Ship everything and stop taking writes, for a planned failover.
    Drain,
    /// Say the hashes of the regions.
    Digests,
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
        let damaged = |what: String| VaultError::Damaged { key: key.to_string(), what };
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is not JSON ({e})")))?;
        let format = value.as_object_mut().and_then(|map| map.remove("format")).and_then(|v| v.as_u64());
        match format {
            Some(FORMAT) => {}
            Some(found) => return Err(VaultError::Version { key: key.to_string(), found, supported: FORMAT }),
            None => return Err(damaged("it says no format version".to_owned())),
        }
        let object: Self = serde_json::from_value(value.clone()).map_err(|e| damaged(e.to_string()))?;
        // serde lets unknown keys pass beside a tag without fields; nothing that we did not write may pass here.
        let again = serde_json::to_value(&object).expect("these objects have string keys only");
        if again != value {
            return Err(damaged("it holds keys or values that this format does not have".to_owned()));
        }
        match object.objection(key) {
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
        None
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
