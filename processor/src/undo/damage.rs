//! What is known to be damaged in the undo journal. Nobody reads the whole journal to attach a point, so whoever finds damage
//! (replay's own walk through it, `verify`, a view) leaves a note beside it, and every point behind it is refused from then on.
//!
//! A point with `undo_end` = U needs every batch from U on: damage at D spoils all points with U ≤ D, and none that is newer.

use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::{clock, crashsafe};
use serde::{Deserialize, Serialize};

use super::files;
use crate::error::{GroupError, TargetError};
use crate::target::read_bounded;

/// The version that is written and read.
const FORMAT: u64 = 1;
/// Digits of a journal offset in a file name.
const OFFSET_DIGITS: usize = 20;
const SUFFIX: &str = ".damaged";
/// Largest note that is read, in bytes.
const NOTE_MAX_BYTES: u64 = 64 << 10;

/// Damage in the undo journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Journal offset of the batch that is damaged, or from which on the journal is missing.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    format: u64,
    what: String,
    found: jiff::Timestamp,
}

/// Everything that is known to be damaged in the journal in the folder `undo`, oldest first: what was noted, and where files
/// are missing.
///
/// # Errors
/// [`TargetError::Io`]. A note that cannot be read is damage too.
pub fn known(undo: &Path) -> Result<Vec<Damage>, TargetError> {
    let mut known: Vec<Damage> = Vec::new();
    for hole in files::holes(&files::list(undo)?) {
        let what = format!("the undo journal from {} to {} is missing", hole.start, hole.end);
        known.push(Damage { offset: hole.start, what });
    }
    for (offset, path) in notes(undo)? {
        let what = match read_bounded(&path, NOTE_MAX_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_or_else(
                |e| format!("it was found damaged, and the note of that too ({e})"),
                |note: Note| note.what,
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // found whole again, or pruned
            Err(e) => return Err(TargetError::io("read", &path)(e)),
        };
        known.push(Damage { offset, what });
    }
    known.sort_by_key(|damage| damage.offset);
    Ok(known)
}

/// Of `known`, what spoils a position with this `undo_end`: the oldest damage that lies in its way. Pure.
#[must_use]
pub fn in_the_way(known: &[Damage], undo_end: u64) -> Option<&Damage> {
    known.get(known.partition_point(|damage| damage.offset < undo_end))
}

/// Notes that the batch at the journal offset `offset` is damaged. Whoever cannot note it has said so all the same.
pub fn note(undo: &Path, offset: u64, what: &str) {
    let path = path_of(undo, offset);
    if path.exists() {
        return;
    }
    tracing::error!(undo = %undo.display(), offset, what, "the undo journal is damaged: points behind this cannot be had any more");
    if let Err(e) = note_durably(undo, offset, what) {
        tracing::warn!(error = %GroupError::from(e).full_text(), "the damage cannot be noted");
    }
}

/// As [`note()`], for somebody who cannot go on without.
///
/// # Errors
/// [`TargetError::Io`].
pub fn note_durably(undo: &Path, offset: u64, what: &str) -> Result<(), TargetError> {
    let path = path_of(undo, offset);
    let note = Note { format: FORMAT, what: what.to_owned(), found: clock::wall().timestamp() };
    let bytes = serde_json::to_vec(&note).expect("text, a number and a time can be written as JSON");
    crashsafe::replace(&path, &bytes).map_err(TargetError::io("write", &path))
}

/// The batch at `offset` was found whole: what was noted of it is taken back.
pub fn clear(undo: &Path, offset: u64) {
    let path = path_of(undo, offset);
    if path.exists()
        && let Err(e) = crashsafe::remove(&path)
    {
        tracing::warn!(path = %path.display(), error = %e, "the undo journal is whole there again, and the note cannot be removed");
    }
}

/// Removes the notes below the journal offset `oldest`: what they are about was pruned.
///
/// # Errors
/// [`TargetError::Io`].
pub fn forget_before(undo: &Path, oldest: u64) -> Result<(), TargetError> {
    let old = notes(undo)?.into_iter().filter(|(offset, _)| *offset < oldest);
    old.into_iter().try_for_each(|(_, path)| crashsafe::remove(&path).map_err(TargetError::io("remove", &path)))
}

fn path_of(undo: &Path, offset: u64) -> PathBuf {
    undo.join(format!("{offset:0OFFSET_DIGITS$}{SUFFIX}"))
}

fn notes(undo: &Path) -> Result<Vec<(u64, PathBuf)>, TargetError> {
    let entries = match std::fs::read_dir(undo) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TargetError::io("list", undo)(e)),
    };
    let mut notes = Vec::new();
    for entry in entries {
        let path = entry.map_err(TargetError::io("list", undo))?.path();
        let digits = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        let digits = digits.filter(|d| d.len() == OFFSET_DIGITS && d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(offset) = digits.and_then(|digits| digits.parse().ok()) {
            notes.push((offset, path));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_spoils_what_is_older_and_nothing_newer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(known(dir.path()).unwrap(), []);
        note(dir.path(), 300, "flipped");
        note(dir.path(), 300, "said once");
        note(dir.path(), 100, "cut");
        std::fs::write(path_of(dir.path(), 200), "torn").unwrap();
        std::fs::write(files::path_of(dir.path(), 0), [0; 50]).unwrap();
        std::fs::write(files::path_of(dir.path(), 60), [0; 400]).unwrap();
        let all = known(dir.path()).unwrap();
        assert_eq!(all.iter().map(|d| d.offset).collect::<Vec<_>>(), [50, 100, 200, 300]);
        assert_eq!(all[3].what, "flipped");
        assert!(all[2].what.contains("the note of that too"));
        let way = |undo_end| in_the_way(&all, undo_end).map(|damage| damage.offset);
        assert_eq!([way(0), way(50), way(51), way(300), way(301)], [Some(50), Some(50), Some(100), Some(300), None]);
        clear(dir.path(), 300);
        forget_before(dir.path(), 200).unwrap();
        let left = known(dir.path()).unwrap();
        assert_eq!(left.iter().map(|d| d.offset).collect::<Vec<_>>(), [50, 200]);
    }
}
