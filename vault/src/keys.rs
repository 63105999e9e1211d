//! The key grammar of the vault (`docs/format.md`, "Vault"), as pure functions both ways.

use std::fmt;

use farshore_changelog::ids::{DiskIndex, Epoch, GroupName, SegmentNo};
use object_store::path::Path;

use crate::objects::Nonce;

/// Digits of an epoch in a key. Epochs above `10^10 - 1` have no key; one a second would last three centuries.
const EPOCH_DIGITS: usize = 10;
/// Digits of the number of a segment, of a request, of a claim, of an announcement.
const NUMBER_DIGITS: usize = 20;
/// Digits of a disk's index and of a chunk's number.
const DISK_DIGITS: usize = 5;
const CHUNK_DIGITS: usize = 10;

const VAULT_OBJECT: &str = "farshore-vault.json";
const GROUPS: &str = "groups";
const PROBES: &str = "probes";
const ANNOUNCED: &str = "announced";

/// The place of one object under the root prefix of the vault.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The vault object itself.
    Vault,
    /// What is put to see what the store does with it, and taken away again.
    Probe(Nonce),
    /// Says that a group was begun: announcement 1, 2, 3 …
    Announced(u64),
    /// An epoch object.
    Epoch(GroupName, Epoch),
    /// What the target asks of the source: request 1, 2, 3 …
    Request(GroupName, u64),
    /// Which hashes of its images the target publishes in an epoch.
    HashPlan(GroupName, Epoch),
    /// A chunk of those hashes: of a disk, chunk 0, 1, 2 …
    HashChunk(GroupName, Epoch, DiskIndex, u32),
    /// Which target follows the group: claim 1, 2, 3 …
    Claim(GroupName, u64),
    /// A segment of kind log, or a seal.
    Segment(GroupName, Epoch, SegmentNo),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str(VAULT_OBJECT),
            Self::Probe(nonce) => write!(f, "{PROBES}/{nonce}"),
            Self::Announced(n) => write!(f, "{ANNOUNCED}/{n:0NUMBER_DIGITS$}"),
            Self::Epoch(group, epoch) => {
                write!(f, "{GROUPS}/{group}/to-source/epochs/{epoch:0EPOCH_DIGITS$}.json")
            }
            Self::Request(group, n) => write!(f, "{GROUPS}/{group}/to-source/requests/{n:0NUMBER_DIGITS$}.json"),
            Self::HashPlan(group, epoch) => {
                write!(f, "{GROUPS}/{group}/to-source/hashes/{epoch:0EPOCH_DIGITS$}/plan.json")
            }
            Self::HashChunk(group, epoch, disk, chunk) => {
                write!(
                    f,
                    "{GROUPS}/{group}/to-source/hashes/{epoch:0EPOCH_DIGITS$}/{disk:0DISK_DIGITS$}-{chunk:0CHUNK_DIGITS$}"
                )
            }
            Self::Claim(group, n) => write!(f, "{GROUPS}/{group}/claims/{n:0NUMBER_DIGITS$}.json"),
            Self::Segment(group, epoch, number) => {
                write!(f, "{GROUPS}/{group}/log/{epoch:0EPOCH_DIGITS$}/{number:0NUMBER_DIGITS$}")
            }
        }
    }
}

impl Key {
    /// The key as the store takes it.
    #[must_use]
    pub fn path(&self) -> Path {
        Path::from(self.to_string())
    }

    /// What a key names; `None` for one that is not written exactly as this grammar writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [VAULT_OBJECT] => Some(Self::Vault),
            [PROBES, nonce] => nonce.parse().ok().map(Self::Probe),
            [ANNOUNCED, n] => digits(n, NUMBER_DIGITS).map(Self::Announced),
            [GROUPS, group, "to-source", "epochs", file] => {
                let epoch = digits(file.strip_suffix(".json")?, EPOCH_DIGITS)?;
                Some(Self::Epoch(GroupName::new(group).ok()?, Epoch(epoch)))
            }
            [GROUPS, group, "to-source", "requests", file] => {
                let n = digits(file.strip_suffix(".json")?, NUMBER_DIGITS)?;
                Some(Self::Request(GroupName::new(group).ok()?, n))
            }
            [GROUPS, group, "to-source", "hashes", epoch, "plan.json"] => {
                Some(Self::HashPlan(GroupName::new(group).ok()?, Epoch(digits(epoch, EPOCH_DIGITS)?)))
            }
            [GROUPS, group, "to-source", "hashes", epoch, chunk] => {
                let (disk, chunk) = chunk.split_once('-')?;
                let disk = DiskIndex(plain(disk, DISK_DIGITS)?.try_into().ok()?);
                let chunk = plain(chunk, CHUNK_DIGITS)?.try_into().ok()?;
                Some(Self::HashChunk(GroupName::new(group).ok()?, Epoch(digits(epoch, EPOCH_DIGITS)?), disk, chunk))
            }
            [GROUPS, group, "claims", file] => {
                let n = digits(file.strip_suffix(".json")?, NUMBER_DIGITS)?;
                Some(Self::Claim(GroupName::new(group).ok()?, n))
            }
            [GROUPS, group, "log", epoch, number] => {
                let (epoch, number) = (digits(epoch, EPOCH_DIGITS)?, digits(number, NUMBER_DIGITS)?);
                Some(Self::Segment(GroupName::new(group).ok()?, Epoch(epoch), SegmentNo(number)))
            }
            _ => None,
        }
    }
}

/// A number from 1 on, written with exactly `width` digits.
fn digits(text: &str, width: usize) -> Option<u64> {
    plain(text, width).filter(|&n| n > 0)
}

/// A number written with exactly `width` digits.
fn plain(text: &str, width: usize) -> Option<u64> {
    let plain = text.len() == width && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// The prefix of all segments of an epoch.
#[must_use]
pub fn log_prefix(group: &GroupName, epoch: Epoch) -> Path {
    Path::from(format!("{GROUPS}/{group}/log/{epoch:0EPOCH_DIGITS$}"))
}

/// The key of a segment under the prefix of its epoch.
#[must_use]
pub fn segment_path(log: &Path, number: SegmentNo) -> Path {
    log.clone().join(format!("{number:0NUMBER_DIGITS$}"))
}

/// The prefix of everything that the target publishes of its hashes in an epoch.
#[must_use]
pub fn hashes_prefix(group: &GroupName, epoch: Epoch) -> Path {
    Path::from(format!("{GROUPS}/{group}/to-source/hashes/{epoch:0EPOCH_DIGITS$}"))
}

/// The prefix of all groups.
#[must_use]
pub fn groups_prefix() -> Path {
    Path::from(GROUPS)
}

/// The group whose prefix this is (`groups/<group>`); `None` for anything else.
#[must_use]
pub fn group_of_prefix(prefix: &Path) -> Option<GroupName> {
    let name = prefix.as_ref().strip_prefix(GROUPS)?.strip_prefix('/')?;
    GroupName::new(name.trim_end_matches('/')).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> impl Strategy<Value = GroupName> {
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}".prop_map(|name| GroupName::new(name).unwrap())
    }

    fn key() -> impl Strategy<Value = Key> {
        let epoch = (1..10_000_000_000_u64).prop_map(Epoch);
        prop_oneof![
            Just(Key::Vault),
            any::<[u8; 16]>().prop_map(|nonce| Key::Probe(Nonce(nonce))),
            (1..=u64::MAX).prop_map(Key::Announced),
            (group(), epoch.clone()).prop_map(|(g, e)| Key::Epoch(g, e)),
            (group(), 1..=u64::MAX).prop_map(|(g, n)| Key::Request(g, n)),
            (group(), 1..=u64::MAX).prop_map(|(g, n)| Key::Claim(g, n)),
            (group(), epoch.clone()).prop_map(|(g, e)| Key::HashPlan(g, e)),
            (group(), epoch.clone(), any::<u16>(), any::<u32>()).prop_map(|(g, e, d, c)| Key::HashChunk(
                g,
                e,
                DiskIndex(d),
                c
            )),
            (group(), epoch, 1..=u64::MAX).prop_map(|(g, e, n)| Key::Segment(g, e, SegmentNo(n))),
        ]
    }

    proptest! {
        #[test]
        fn a_key_survives_its_text(key in key()) {
            let text = key.to_string();
            prop_assert_eq!(Key::parse(&text), Some(key.clone()));
            let path = key.path();
            prop_assert_eq!(path.as_ref(), text, "the store must not escape anything");
        }

        #[test]
        fn what_parses_is_written_the_same_way(text in "(announced/[0-9]{19,21}|groups/[a-z.]{1,3}/(log|to-source)(/epochs|/requests|/hashes)?(/[0-9]{9,21}){1,2}(.json|/plan.json|/[0-9]{5}-[0-9]{10})?)|.{0,40}") {
            if let Some(key) = Key::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn a_listing_is_in_order(group in group(), a in 1..=u64::MAX, b in 1..=u64::MAX) {
            let key = |n| Key::Segment(group.clone(), Epoch(7), SegmentNo(n)).to_string();
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
        }
    }

    #[test]
    fn keys_are_as_the_format_says() {
        let group = GroupName::new("web01").unwrap();
        assert_eq!(Key::Epoch(group.clone(), Epoch(3)).to_string(), "groups/web01/to-source/epochs/0000000003.json");
        assert_eq!(
            Key::Request(group.clone(), 9).to_string(),
            "groups/web01/to-source/requests/00000000000000000009.json"
        );
        assert_eq!(
            Key::Segment(group.clone(), Epoch(3), SegmentNo(12)).to_string(),
            "groups/web01/log/0000000003/00000000000000000012"
        );
        assert_eq!(
            Key::HashChunk(group.clone(), Epoch(3), DiskIndex(1), 7).to_string(),
            "groups/web01/to-source/hashes/0000000003/00001-0000000007"
        );
        assert_eq!(
            Key::HashPlan(group.clone(), Epoch(3)).to_string(),
            "groups/web01/to-source/hashes/0000000003/plan.json"
        );
        assert_eq!(Key::Announced(7).to_string(), "announced/00000000000000000007");
        let segment = Key::Segment(group.clone(), Epoch(3), SegmentNo(12));
        assert_eq!(segment_path(&log_prefix(&group, Epoch(3)), SegmentNo(12)), segment.path());
        assert_eq!(group_of_prefix(&Path::from("groups/web01")), Some(group));
        assert_eq!(group_of_prefix(&Path::from("groups")), None);
    }

    #[test]
    fn foreign_keys_are_not_taken() {
        for bad in [
            "",
            "groups/web01/log/0000000003/12",
            "groups/web01/log/0000000003/00000000000000000000",
            "groups/web01/log/0000000000/00000000000000000001",
            "groups/web01/log/0000000003/00000000000000000012#1",
            "groups/web01/log/0000000003/99999999999999999999",
            "groups/../log/0000000003/00000000000000000012",
            "groups/web01/to-source/epochs/0000000003",
            "groups/web01/to-source/epochs/+000000003.json",
            "farshore-vault.json/",
            "announced/00000000000000000000",
            "announced/7",
            "announced/00000000000000000007.json",
            "groups/web01/to-source/hashes/0000000003/65536-0000000000",
            "groups/web01/to-source/hashes/0000000003/00000-9999999999",
            "groups/web01/to-source/hashes/0000000003/00000",
        ] {
            assert_eq!(Key::parse(bad), None, "{bad:?} was taken");
        }
    }
}
