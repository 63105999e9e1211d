//! The files of the undo journal: `<offset>.undo`, named after the journal offset of their first byte.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::TargetError;

/// Digits of a journal offset in a file name.
const OFFSET_DIGITS: usize = 20;
const SUFFIX: &str = ".undo";

/// One file of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoFile {
    /// Journal offset of its first byte.
    pub start: u64,
    /// Its length in bytes when it was looked at; the last file grows.
    pub len: u64,
    /// Where it lies.
    pub path: PathBuf,
}

impl UndoFile {
    /// Journal offset after its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// The path of the file that begins at `start`.
#[must_use]
pub fn path_of(undo: &Path, start: u64) -> PathBuf {
    undo.join(format!("{start:0OFFSET_DIGITS$}{SUFFIX}"))
}

/// The files of the folder `undo`, oldest first; other names are passed over. An absent folder holds none. They join, unless one
/// is missing or was cut: see [`holes`].
///
/// # Errors
/// [`TargetError::Io`].
pub fn list(undo: &Path) -> Result<Vec<UndoFile>, TargetError> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(undo) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(e) => return Err(TargetError::io("list", undo)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(TargetError::io("list", undo))?;
        let Some(start) = entry.file_name().to_str().and_then(start_of) else { continue };
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) => files.push(UndoFile { start, len: meta.len(), path }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // pruned meanwhile
            Err(e) => return Err(TargetError::io("stat", &path)(e)),
        }
    }
    files.sort_by_key(|file: &UndoFile| file.start);
    for i in 1..files.len() {
        let next = files[i].start;
        if files[i - 1].end() < next {
            // The listing is no snapshot: the file may have grown after it was looked at, and before the next was made.
            let path = files[i - 1].path.clone();
            files[i - 1].len = match std::fs::metadata(&path) {
                Ok(meta) => meta.len(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => files[i - 1].len,
                Err(e) => return Err(TargetError::io("stat", &path)(e)),
            };
        }
        // Whatever lies beyond the next one's beginning is not the journal's.
        files[i - 1].len = files[i - 1].len.min(next - files[i - 1].start);
    }
    Ok(files)
}

/// The holes between `files`: from where to where the journal is missing.
#[must_use]
pub fn holes(files: &[UndoFile]) -> Vec<Range<u64>> {
    let ends = files.windows(2).map(|w| w[0].end()..w[1].start);
    ends.filter(|hole| !hole.is_empty()).collect()
}

fn start_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() == OFFSET_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let path = path_of(Path::new("undo"), 4096);
        assert_eq!(path.to_str(), Some("undo/00000000000000004096.undo"));
        assert_eq!(start_of("00000000000000004096.undo"), Some(4096));
        for bad in ["4096.undo", "published", "0000000000000000409x.undo", "00000000000000004096.undo.tmp"] {
            assert_eq!(start_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn where_files_do_not_join_is_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let lens = |dir: &Path| list(dir).unwrap().iter().map(|f| (f.start, f.len)).collect::<Vec<_>>();
        std::fs::write(path_of(dir.path(), 0), [0; 100]).unwrap();
        std::fs::write(path_of(dir.path(), 100), [0; 10]).unwrap();
        assert_eq!(holes(&list(dir.path()).unwrap()), []);
        std::fs::write(path_of(dir.path(), 150), [0; 10]).unwrap();
        assert_eq!(holes(&list(dir.path()).unwrap()), vec![110..150]);
        std::fs::write(path_of(dir.path(), 99), [0; 10]).unwrap();
        assert_eq!(lens(dir.path()), [(0, 99), (99, 1), (100, 10), (150, 10)]);
    }
}
