//! What a folder needs beyond `object_store` to be a durable store.
//!
//! `LocalFileSystem` with `with_fsync(true)` writes a staging file, fsyncs it, hard-links it to its name (which fails when the
//! name is taken: the put-if-absent is atomic) and fsyncs the folder. Two holes are left when a process dies in between: a
//! name that exists and whose folder was never fsynced (the next put finds "exists already"), and folders that another
//! process made and did not fsync. Both are closed here, before anybody believes the object.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use farshore_changelog::crashsafe;

use crate::keys::Key;

/// Most folders that are remembered as durable; an epoch of a group has one for its log. Beyond it they are fsynced again.
const REMEMBERED_MAX: usize = 4096;

/// The root folder of a vault, and which folders below it are known to have durable entries in their parents.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    /// Of the vault at `root`, an absolute path.
    pub fn new(root: PathBuf) -> Self {
        Self { root, durable: Mutex::new(HashSet::new()) }
    }

    /// Whether the vault is there at all: the folder of a mount that is gone is empty, and nothing may be created in it.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn check_present(&self) -> std::io::Result<()> {
        let object = self.root.join(Key::Vault.to_string());
        std::fs::metadata(&object).map(drop).map_err(|e| {
            std::io::Error::new(
                e.kind(),
                format!("{} cannot be seen ({e}); is the vault's folder mounted?", object.display()),
            )
        })
    }

    /// Makes the object at `key` durable, whoever created it. `existed`: it was there before our put, so its own entry may
    /// not be durable either.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn settle(&self, key: &str, existed: bool) -> std::io::Result<()> {
        let object = self.root.join(key);
        let folder = object.parent().unwrap_or(&self.root);
        if existed {
            crashsafe::sync_dir(folder)?;
        }
        if self.is_durable(folder) {
            return Ok(());
        }
        for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            crashsafe::sync_dir(above)?;
        }
        self.remember(folder);
        Ok(())
    }

    fn is_durable(&self, folder: &Path) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn remember(&self, folder: &Path) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() < REMEMBERED_MAX {
            durable.insert(folder.to_path_buf());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_above_are_settled_once_and_the_vault_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("vault");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let folder = Folder::new(root.clone());
        folder.settle("a/b/object", false).unwrap();
        assert!(folder.is_durable(&root.join("a/b")));
        folder.settle("object", true).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        folder.settle("a/b/other", false).unwrap();
        assert!(folder.check_present().unwrap_err().to_string().contains("mounted"));
        assert!(folder.settle("a/b/other", true).is_err(), "a folder that is gone was called durable");
    }
}
