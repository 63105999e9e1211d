//! Names and numbers that several stages must agree on, each a type of its own so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest group name, in bytes: the width of its field in the ring and segment headers.
pub const GROUP_NAME_MAX_BYTES: usize = 64;
/// Longest disk name, in bytes: the width of its field in the ring's disk table.
pub const DISK_NAME_MAX_BYTES: usize = 32;
/// Most disks in one protection group: the rows of the ring's disk table.
pub const DISKS_PER_GROUP_MAX: usize = 32;
/// Longest name of a mark, in bytes.
pub const MARK_NAME_MAX_BYTES: usize = 128;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name {name:?} is refused: use 1 to {max} of a-z A-Z 0-9 . _ -, not starting with a dot or a dash")]
pub struct NameError {
    what: &'static str,
    name: String,
    max: usize,
}

fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = !name.is_empty()
        && name.len() <= max
        && name.bytes().all(plain)
        && !name.starts_with('.')
        && !name.starts_with('-');
    if good { Ok(()) } else { Err(NameError { what, name: name.to_owned(), max }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or holds a character outside `a-z A-Z 0-9 . _ -`.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check_name($what, &name, $max)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The name of a protection group: part of object keys, file names and export names.
    GroupName, "group", GROUP_NAME_MAX_BYTES
);
name_type!(
    /// The name of a disk within its group; also its NBD export name.
    DiskName, "disk", DISK_NAME_MAX_BYTES
);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number after this one.
            ///
            /// # Panics
            /// When the type's range is exhausted, which 2^64 operations never reach.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("number space exhausted"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_type!(
    /// Dense number of a captured operation within its group and epoch. The first is 1; 0 means "before the first".
    Seq(u64)
);
number_type!(
    /// One life of a group's ring: a stretch of the log with one writer. The first is 1.
    Epoch(u64)
);
number_type!(
    /// Number of a segment (or seal) within its epoch. The first is 1; 0 means "before the first".
    SegmentNo(u64)
);
number_type!(
    /// A disk's place in its group's disk table.
    DiskIndex(u16)
);

/// A place in a group's log: everything up to and including `seq` of `epoch`. Ordered by epoch, then seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The epoch the seq belongs to.
    pub epoch: Epoch,
    /// The last operation included.
    pub seq: Seq,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// A BLAKE3-256 hash: of a sealed segment (its name in the chain), of an epoch object, of a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The predecessor of what has none.
    pub const ZERO: Self = Self([0; 32]);

    /// Hashes `bytes` in one go.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        blake3::Hash::from_hex(s).map(|h| Self(*h.as_bytes())).map_err(|e| format!("not a hash: {e}"))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", "..", ".hidden", "a/b", "-rf", "a b", "ü", &"x".repeat(65)] {
            assert!(GroupName::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["web01", "a.b_c-d", "X", &"x".repeat(64)] {
            assert!(GroupName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn positions_order_by_epoch_first() {
        let late_in_old = Position { epoch: Epoch(1), seq: Seq(900) };
        let early_in_new = Position { epoch: Epoch(2), seq: Seq(1) };
        assert!(late_in_old < early_in_new);
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = Hash::of(b"farshore");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
    }
}
