//! `overlay/<name>/failover.json`: how far a failover has come, and which point a failed-over VM needs. Written before each
//! step that cannot be taken back, so that the same command goes on after a crash.

use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{GroupName, Position, SegmentNo};
use farshore_changelog::units::UnixMicros;
use farshore_vault::EpochObject;
use serde::{Deserialize, Serialize};

use crate::error::TargetError;
use crate::resolve::{PointTag, Resolved};
use crate::target::{GroupDir, read_bounded};

/// The version that is written and read.
pub const FORMAT: u64 = 1;
/// Name of the file in its overlay folder.
pub const FILE: &str = "failover.json";
/// Folder of the overlay folders in a group's target folder.
const OVERLAYS: &str = "overlay";
/// Largest note that is read, in bytes.
const NOTE_MAX_BYTES: u64 = 1 << 20;
/// Most overlay folders that are looked through.
const OVERLAYS_MAX: usize = 1024;

/// How far a failover has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The epoch may have been opened, or not.
    Opening,
    /// The epoch is ours: the source is fenced.
    Opened,
    /// The epoch before is sealed: its end is known.
    Sealed,
    /// The point is chosen, the VM may run on the overlay.
    FailedOver,
}

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// [`FORMAT`].
    pub format: u64,
    /// Whose it is.
    pub group: GroupName,
    /// How far it has come.
    pub stage: Stage,
    /// The epoch object that it opens, noted before it is created: its nonce tells it from another's.
    pub epoch: EpochObject,
    /// The number of the first seal of the epoch before; present from `sealed` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<SegmentNo>,
    /// The point; present once failed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<NotedPoint>,
}

/// The point that a failed-over VM was started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotedPoint {
    /// Everything up to it is in the point.
    pub position: Position,
    /// Source's time.
    pub time: UnixMicros,
    /// Journal offset that the view needs.
    pub undo_end: u64,
    /// The catalogue's id, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// A mark's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// When the failover was done.
    pub done: jiff::Timestamp,
}

impl NotedPoint {
    /// As `--point` would have given it.
    #[must_use]
    pub fn resolved(&self) -> Resolved {
        Resolved {
            position: self.position,
            time: self.time,
            undo_end: self.undo_end,
            point: self.id.map(|id| PointTag { id, mark: self.mark.clone() }),
            rounded_from: None,
        }
    }
}

impl Note {
    /// Reads a note; `None` when there is none.
    ///
    /// # Errors
    /// [`TargetError`] when it cannot be read, is damaged, or has another version.
    pub fn read(path: &Path) -> Result<Option<Self>, TargetError> {
        let bytes = match read_bounded(path, NOTE_MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TargetError::io("read", path)(e)),
        };
        let damaged = |what: String| TargetError::damaged(path, 0, what);
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => {}
            Some(found) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                return Err(TargetError::Version { path: path.to_path_buf(), found, supported: FORMAT as u32 });
            }
            None => return Err(damaged("it says no format".to_owned())),
        }
        let note: Self = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        let whole = (note.stage >= Stage::Sealed) == note.seal.is_some()
            && (note.stage == Stage::FailedOver) == note.point.is_some();
        if whole { Ok(Some(note)) } else { Err(damaged("its stage and its fields contradict each other".to_owned())) }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`TargetError::Io`]; the old note is then untouched.
    pub fn write(&self, path: &Path) -> Result<(), TargetError> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("names and numbers can be written as JSON");
        bytes.push(b'\n');
        crashsafe::replace(path, &bytes).map_err(TargetError::io("write", path))
    }
}

/// Where the note of the overlay `name` lies.
#[must_use]
pub fn path(dir: &GroupDir, name: &str) -> PathBuf {
    dir.overlay(name).join(FILE)
}

/// All notes in a group's folder, with the names of their overlays, in order of the names. `status` says from them that a
/// group was failed over.
///
/// # Errors
/// [`TargetError`].
pub fn list(root: &Path) -> Result<Vec<(String, Note)>, TargetError> {
    let folder = root.join(OVERLAYS);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TargetError::io("list", &folder)(e)),
    };
    let mut notes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TargetError::io("list", &folder))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if let Some(note) = Note::read(&entry.path().join(FILE))? {
            notes.push((name, note));
        }
        if notes.len() > OVERLAYS_MAX {
            return Err(TargetError::refused(&folder, format!("it holds more than {OVERLAYS_MAX} failovers")));
        }
    }
    notes.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(notes)
}

/// The journal offsets that the failovers of the group in the folder `root` need. One that has not chosen its point yet
/// needs everything.
///
/// # Errors
/// When a note cannot be read: what it needs is not known, so nothing may be pruned.
pub fn offsets_needed(root: &Path) -> io::Result<Vec<u64>> {
    let notes = list(root).map_err(crate::view::error::as_io)?;
    Ok(notes.iter().map(|(_, note)| note.point.as_ref().map_or(0, |point| point.undo_end)).collect())
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::{DiskName, Epoch, Seq};
    use farshore_vault::{EpochDisk, Nonce, Reason};

    use super::*;

    fn sample() -> Note {
        let group = GroupName::new("g").unwrap();
        Note {
            format: FORMAT,
            group: group.clone(),
            stage: Stage::Opening,
            epoch: EpochObject {
                group,
                epoch: Epoch(2),
                parent: Some(Epoch(1)),
                reason: Reason::Failover,
                nonce: Nonce([7; 16]),
                created: jiff::Timestamp::UNIX_EPOCH,
                disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 512 }],
            },
            seal: None,
            point: None,
        }
    }

    #[test]
    fn a_note_comes_back_and_says_what_it_needs() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = GroupDir::new(tmp.path(), &GroupName::new("g").unwrap());
        assert!(list(dir.root()).unwrap().is_empty());
        crashsafe::create_dir_all(&dir.overlay("failover")).unwrap();
        let file = path(&dir, "failover");
        let mut note = sample();
        note.write(&file).unwrap();
        assert_eq!(list(dir.root()).unwrap(), vec![("failover".to_owned(), note.clone())]);
        assert_eq!(offsets_needed(dir.root()).unwrap(), [0]);
        note.stage = Stage::FailedOver;
        note.seal = Some(SegmentNo(9));
        note.point = Some(NotedPoint {
            position: Position { epoch: Epoch(1), seq: Seq(5) },
            time: UnixMicros(3),
            undo_end: 4096,
            id: Some(1),
            mark: None,
            done: jiff::Timestamp::UNIX_EPOCH,
        });
        note.write(&file).unwrap();
        assert_eq!(Note::read(&file).unwrap(), Some(note));
        assert_eq!(offsets_needed(dir.root()).unwrap(), [4096]);
        assert_eq!(crate::lease::oldest_needed(dir.root()).unwrap(), Some(4096));
    }

    #[test]
    fn a_note_that_cannot_be_read_stops_retention() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("overlay/x");
        std::fs::create_dir_all(&folder).unwrap();
        for bad in ["", "{}", r#"{"format": 2}"#, r#"{"format": 1, "group": "g"}"#] {
            std::fs::write(folder.join(FILE), bad).unwrap();
            assert!(crate::lease::oldest_needed(tmp.path()).is_err(), "{bad:?}");
        }
    }
}
