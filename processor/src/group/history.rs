//! How far the vault was seen to hold the log: a vault that goes back in time (an old copy of the bucket in its place, a log whose end
//! somebody has deleted) looks like a source that has not written yet, to whoever does not remember.
//!
//! What was applied is known by the position. What was only seen is noted in `seen.json`, while there is more of it than was applied.

use std::io;
use std::path::PathBuf;

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::store::LISTED_MAX;
use farshore_vault::{GroupVault, VaultError};
use serde::{Deserialize, Serialize};

use crate::error::TargetError;
use crate::target::{GroupDir, read_bounded};

/// Format of `seen.json`.
const FORMAT: u32 = 1;
/// Largest `seen.json` that is read, in bytes.
const SEEN_MAX_BYTES: u64 = 4096;

/// The newest object of a log.
pub type Place = (Epoch, SegmentNo);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    format: u32,
    epoch: Epoch,
    number: SegmentNo,
}

/// What was seen of a group's log.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    /// The newest, once the note was read.
    seen: Option<Option<Place>>,
}

/// What of the past is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// This, which was applied.
    Applied(Place),
    /// Everything after `last`, up to this, which was seen.
    Seen {
        /// What was seen.
        seen: Place,
        /// What is left.
        last: SegmentNo,
    },
    /// An epoch that had begun.
    Epoch(Epoch),
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Applied((epoch, number)) => {
                write!(f, "segment {number} of epoch {epoch}, which was applied here, is not there any more")
            }
            Self::Seen { seen: (epoch, number), last } => {
                write!(f, "epoch {epoch} ends with segment {last}, and segment {number} was seen there before")
            }
            Self::Epoch(epoch) => write!(f, "epoch {epoch}, which had begun, is not there any more"),
        }
    }
}

impl History {
    /// Of the group in `dir`.
    pub fn new(dir: &GroupDir) -> Self {
        Self { path: dir.seen(), seen: None }
    }

    /// The newest that was seen, of what is noted.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn seen(&mut self) -> Result<Option<Place>, TargetError> {
        if let Some(seen) = self.seen {
            return Ok(seen);
        }
        let damaged = |what: String| TargetError::damaged(&self.path, 0, what);
        let seen = match read_bounded(&self.path, SEEN_MAX_BYTES) {
            Ok(bytes) => {
                let note: Note = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
                if note.format != FORMAT {
                    return Err(TargetError::Version {
                        path: self.path.clone(),
                        found: note.format,
                        supported: FORMAT,
                    });
                }
                Some((note.epoch, note.number))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(TargetError::io("read", &self.path)(e)),
        };
        self.seen = Some(seen);
        Ok(seen)
    }

    /// Notes what was seen beyond what is applied.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn saw(&mut self, (epoch, number): Place) -> Result<(), TargetError> {
        if self.seen()?.is_some_and(|seen| seen >= (epoch, number)) {
            return Ok(());
        }
        let note = Note { format: FORMAT, epoch, number };
        let bytes = serde_json::to_vec(&note).expect("a note of numbers can be written");
        crashsafe::replace(&self.path, &bytes).map_err(TargetError::io("write", &self.path))?;
        self.seen = Some(Some((epoch, number)));
        Ok(())
    }

    /// Forgets what was seen: the log is left for a later epoch, and what lies in it does not matter any more.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn forget(&mut self) -> Result<(), TargetError> {
        crashsafe::remove(&self.path).map_err(TargetError::io("remove", &self.path))?;
        self.seen = Some(None);
        Ok(())
    }
}

/// What lies in the vault from `missing` on, which is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// The objects from it on.
    pub numbers: Vec<SegmentNo>,
    /// What of the past is gone.
    pub gone: Option<Gone>,
}

/// Lists what lies after the missing object, from the one before it on: that was applied, and must be there.
///
/// # Errors
/// Those of the vault.
pub async fn look_ahead(vault: &GroupVault, missing: Place, seen: Option<Place>) -> Result<Ahead, VaultError> {
    let (epoch, number) = missing;
    let applied = number.0.checked_sub(1).filter(|&n| n > 0).map(SegmentNo);
    let listed = vault.list_segments(epoch, applied.unwrap_or(number)).await?;
    let whole = listed.len() < LISTED_MAX;
    let numbers: Vec<SegmentNo> = listed.into_iter().map(|(number, _)| number).collect();
    let mut gone = in_list(missing, applied, &numbers, whole, seen);
    if let (None, Some((later, _))) = (gone, seen)
        && later > epoch
        && vault.get_epoch(later).await?.is_none()
    {
        gone = Some(Gone::Epoch(later));
    }
    let numbers = numbers.into_iter().filter(|&listed| listed >= number).collect();
    Ok(Ahead { numbers, gone })
}

/// What a listing from `applied` on lacks; `whole` when it had no limit.
fn in_list(
    (epoch, number): Place,
    applied: Option<SegmentNo>,
    listed: &[SegmentNo],
    whole: bool,
    seen: Option<Place>,
) -> Option<Gone> {
    if let Some(applied) = applied
        && listed.first() != Some(&applied)
    {
        return Some(Gone::Applied((epoch, applied)));
    }
    let seen = seen.filter(|&(of, seen)| of == epoch && seen >= number && whole)?;
    let last = listed.last().copied().unwrap_or(SegmentNo(0));
    (last < seen.1).then_some(Gone::Seen { seen, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(of: &[u64]) -> Vec<SegmentNo> {
        of.iter().map(|&n| SegmentNo(n)).collect()
    }

    fn seen(epoch: u64, number: u64) -> Option<Place> {
        Some((Epoch(epoch), SegmentNo(number)))
    }

    #[test]
    fn a_log_that_ends_before_what_was_applied_or_seen_has_gone_back() {
        let missing = (Epoch(2), SegmentNo(5));
        let (applied, told) = (Some(SegmentNo(4)), |listed: &[u64], whole, was| {
            in_list(missing, Some(SegmentNo(4)), &numbers(listed), whole, was)
        });
        assert_eq!(told(&[4], true, None), None);
        assert_eq!(told(&[4, 6, 7], true, None), None, "a hole that is being filled");
        assert_eq!(told(&[], true, None), Some(Gone::Applied((Epoch(2), SegmentNo(4)))));
        assert_eq!(told(&[6, 7], true, None), Some(Gone::Applied((Epoch(2), SegmentNo(4)))));
        assert_eq!(told(&[4, 6, 7], true, seen(2, 7)), None);
        let back = Gone::Seen { seen: (Epoch(2), SegmentNo(8)), last: SegmentNo(7) };
        assert_eq!(told(&[4, 6, 7], true, seen(2, 8)), Some(back));
        assert_eq!(told(&[4, 6, 7], false, seen(2, 8)), None, "the listing had a limit");
        assert_eq!(told(&[4], true, seen(2, 4)), None, "that was applied since");
        assert_eq!(told(&[4], true, seen(1, 9)), None, "of an epoch before");
        assert_eq!(told(&[4], true, seen(3, 1)), None, "the epoch is asked for by itself");
        assert_eq!(in_list((Epoch(2), SegmentNo(1)), None, &[], true, None), None);
        assert_eq!(applied, Some(SegmentNo(4)));
    }

    #[test]
    fn what_was_seen_is_remembered_and_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupDir::new(dir.path(), &farshore_changelog::ids::GroupName::new("g").unwrap());
        std::fs::create_dir_all(group.root()).unwrap();
        let mut history = History::new(&group);
        assert_eq!(history.seen().unwrap(), None);
        history.saw((Epoch(1), SegmentNo(9))).unwrap();
        history.saw((Epoch(1), SegmentNo(3))).unwrap();
        assert_eq!(History::new(&group).seen().unwrap(), seen(1, 9));
        history.saw((Epoch(2), SegmentNo(1))).unwrap();
        assert_eq!(History::new(&group).seen().unwrap(), seen(2, 1));
        history.forget().unwrap();
        assert_eq!((history.seen().unwrap(), History::new(&group).seen().unwrap()), (None, None));
        std::fs::write(group.seen(), "{\"format\":2,\"epoch\":1,\"number\":1}").unwrap();
        assert!(History::new(&group).seen().unwrap_err().to_string().contains("version 2"));
        std::fs::write(group.seen(), "{").unwrap();
        assert!(History::new(&group).seen().unwrap_err().to_string().contains("damaged"));
    }
}
