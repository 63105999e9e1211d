//! Durability in one audited place: what must survive a power cut goes to disk through these functions.
//!
//! The rule (ext4, xfs and btrfs alike): a new or renamed file is there after a crash only once its folder was fsynced.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::medium::{self, Create};

/// An error of one of these functions, with the path it happened at.
fn at(path: &Path, what: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

/// Creates `dir` and its parents, and makes the new entries durable.
///
/// # Errors
/// Of the file system, with the path.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut here = dir;
    while !here.exists() {
        missing.push(here.to_path_buf());
        match here.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => here = parent,
            _ => break,
        }
    }
    for dir in missing.iter().rev() {
        match medium::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at(dir, "cannot create the folder", &e)),
        }
        sync_parent(dir)?;
    }
    Ok(())
}

/// Makes the entries of `dir` durable.
///
/// # Errors
/// Of the file system, with the path.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    medium::sync_dir(dir).map_err(|e| at(dir, "cannot fsync the folder", &e))
}

/// Makes the entry of `path` in its folder durable.
///
/// # Errors
/// Of the file system, with the path.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Puts `bytes` at `path` so that after a crash either the old file or the new one is there, whole.
///
/// # Errors
/// Of the file system, with the path; the old file is then untouched.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, |file| medium::write_all_at(file, bytes, 0))
}

/// As [`replace`], readable by its owner alone: for what is secret.
///
/// # Errors
/// As [`replace`].
pub fn replace_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, |file| {
        // Before there is anything in it to read.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        medium::write_all_at(file, bytes, 0)
    })
}

/// As [`replace`], with the content written by `fill` through [`medium`].
///
/// # Errors
/// Of the file system or of `fill`, with the path; the old file is then untouched.
pub fn replace_with(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let written = medium::create(&tmp, Create::Emptied).and_then(|file| {
        fill(&file)?;
        medium::sync_all(&file)
    });
    if let Err(e) = written {
        // Best effort, and only for the room: half a file may hold what the disk has left, and is emptied by the next attempt.
        let _ = medium::remove(&tmp);
        return Err(at(&tmp, "cannot write", &e));
    }
    medium::rename(&tmp, path).map_err(|e| at(path, "cannot put in place", &e))?;
    sync_parent(path)
}

/// Gives `from` the name `to` in the same folder, in place of whatever has it, and makes that durable.
///
/// # Errors
/// Of the file system, with the path.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    medium::rename(from, to).map_err(|e| at(from, "cannot rename", &e))?;
    sync_parent(to)
}

/// Removes `path` and makes that durable; an absent file is no error.
///
/// # Errors
/// Of the file system, with the path.
pub fn remove(path: &Path) -> io::Result<()> {
    match medium::remove(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(path, "cannot remove", &e)),
    }
}

/// Opens `path` for reading and writing, creates it when it is absent, and takes an exclusive flock without waiting.
/// The lock lives as long as the returned file.
///
/// # Errors
/// `WouldBlock` when another process holds the lock; else of the file system, with the path.
pub fn lock_file(path: &Path) -> io::Result<File> {
    let file = medium::create(path, Create::OrOpen).map_err(|e| at(path, "cannot open the lock file", &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked by another process", path.display())))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(at(path, "cannot lock", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"old").unwrap();
        let failed = replace_with(&path, |f| {
            medium::write_all_at(f, b"half", 0)?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("state.tmp"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the half is left");
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock_file(&path).unwrap();
        assert_eq!(lock_file(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        lock_file(&path).unwrap();
    }

    #[test]
    fn folders_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
    }
}
