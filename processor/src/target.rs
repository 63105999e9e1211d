//! The folder of a group at the target: where each file lies, the lock, and `origin.json` (`docs/format.md`, "Target").

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{DiskName, Epoch, GroupName};
use serde::{Deserialize, Serialize};

use crate::error::TargetError;

/// Largest `origin.json` that is read, in bytes.
const ORIGIN_MAX_BYTES: u64 = 1 << 20;

/// Where the files of one group lie. It only makes paths; nothing is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDir {
    root: PathBuf,
}

impl GroupDir {
    /// The folder of `group` under the target folder.
    #[must_use]
    pub fn new(target: &Path, group: &GroupName) -> Self {
        Self { root: target.join(group.as_str()) }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `lock`: flocked by the processor.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// `origin.json`: see [`Origin`].
    #[must_use]
    pub fn origin(&self) -> PathBuf {
        self.root.join("origin.json")
    }

    /// `<disk>.raw`: the target image, a file, a block device, or a link to one.
    #[must_use]
    pub fn image(&self, disk: &DiskName) -> PathBuf {
        self.root.join(format!("{disk}.raw"))
    }

    /// `position`: see [`crate::position`].
    #[must_use]
    pub fn position(&self) -> PathBuf {
        self.root.join("position")
    }

    /// `points`: see [`crate::points`].
    #[must_use]
    pub fn points(&self) -> PathBuf {
        self.root.join("points")
    }

    /// `undo`: the folder of the undo journal, see [`crate::undo`].
    #[must_use]
    pub fn undo(&self) -> PathBuf {
        self.root.join("undo")
    }

    /// `undo/published`: see [`crate::undo::published`].
    #[must_use]
    pub fn published(&self) -> PathBuf {
        self.undo().join("published")
    }

    /// `leases`: what views need.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// `overlay`: what VMs wrote over points.
    #[must_use]
    pub fn overlays(&self) -> PathBuf {
        self.root.join("overlay")
    }

    /// `overlay/<name>`: what a failed-over VM wrote.
    #[must_use]
    pub fn overlay(&self, name: &str) -> PathBuf {
        self.overlays().join(name)
    }

    /// `status.json`: what the processor last said about the group, see [`crate::status`].
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("status.json")
    }

    /// `release`: locked while somebody wants the group to be let go (`farshore release`).
    #[must_use]
    pub fn release_wish(&self) -> PathBuf {
        self.root.join("release")
    }

    /// Whether somebody wants the group to be let go. The wish dies with whoever has it: a file that nobody locks says nothing.
    #[must_use]
    pub fn is_to_be_released(&self) -> bool {
        let file = File::open(self.release_wish());
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// `adopted`: there until the processor has noticed that the group is this target's now (`farshore adopt`).
    #[must_use]
    pub fn adopted(&self) -> PathBuf {
        self.root.join("adopted")
    }

    /// `seen.json`: how far the vault was seen to hold the log.
    #[must_use]
    pub fn seen(&self) -> PathBuf {
        self.root.join("seen.json")
    }

    /// `verify.json`: what was compared with the source, see [`crate::compare`].
    #[must_use]
    pub fn comparison(&self) -> PathBuf {
        self.root.join("verify.json")
    }

    /// Takes the processor's lock; it is held as long as the file lives.
    ///
    /// # Errors
    /// [`TargetError::Locked`] when another process holds it.
    pub fn take_lock(&self) -> Result<File, TargetError> {
        let path = self.lock();
        crashsafe::lock_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => TargetError::Locked { path },
            _ => TargetError::Io { doing: "lock", path, source },
        })
    }
}

/// The groups that have a folder under `target`, in order of their names. Folders that cannot be a group's are passed over.
///
/// # Errors
/// [`TargetError::Io`] when the folder cannot be read; an absent folder holds no groups.
pub fn groups(target: &Path) -> Result<Vec<GroupName>, TargetError> {
    let entries = match std::fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TargetError::io("list", target)(e)),
    };
    let mut groups = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TargetError::io("list", target))?;
        if let Some(group) = entry.file_name().to_str().and_then(|name| GroupName::new(name).ok())
            && GroupDir::new(target, &group).origin().is_file()
        {
            groups.push(group);
        }
    }
    groups.sort();
    Ok(groups)
}

/// A disk of a group, in index order within its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetDisk {
    /// Its name; the image is `<name>.raw`.
    pub name: DiskName,
    /// Its size in bytes. The image may be larger where a later epoch grew the disk.
    pub size_bytes: u64,
}

/// The disk table that counts from an epoch on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    /// The first epoch it counts for.
    pub from_epoch: Epoch,
    /// The disks in index order.
    pub disks: Vec<TargetDisk>,
}

/// Where a group comes from (`origin.json`): without this, a wrong vault would be replayed over good images, and on the day
/// of the disaster nobody could tell which image is which disk of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// URL of the vault when it was last opened.
    pub vault_url: String,
    /// Id of the vault: another one is refused, wherever it lies.
    pub vault_id: String,
    /// The disk tables, oldest first; a new one only where the disks changed.
    pub tables: Vec<DiskTable>,
}

impl Origin {
    /// Reads `origin.json`; `None` when the group has no target yet.
    ///
    /// # Errors
    /// [`TargetError::Io`], [`TargetError::Damaged`].
    pub fn read(dir: &GroupDir) -> Result<Option<Self>, TargetError> {
        let path = dir.origin();
        let bytes = match read_bounded(&path, ORIGIN_MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(TargetError::io("read", &path)(e)),
        };
        let origin: Self = serde_json::from_slice(&bytes).map_err(|e| TargetError::damaged(&path, 0, e.to_string()))?;
        let rising = origin.tables.windows(2).all(|w| w[0].from_epoch < w[1].from_epoch);
        if origin.tables.is_empty() || !rising || origin.tables.iter().any(|t| t.disks.is_empty()) {
            return Err(TargetError::damaged(&path, 0, "its disk tables are empty or out of order"));
        }
        Ok(Some(origin))
    }

    /// Replaces `origin.json`.
    ///
    /// # Errors
    /// [`TargetError::Io`]; the old file is then untouched.
    pub fn write(&self, dir: &GroupDir) -> Result<(), TargetError> {
        let path = dir.origin();
        let mut bytes = serde_json::to_vec_pretty(self).expect("names and numbers can be written as JSON");
        bytes.push(b'\n');
        crashsafe::replace(&path, &bytes).map_err(TargetError::io("write", &path))
    }

    /// The disks as they are in `epoch`, in index order.
    #[must_use]
    pub fn disks_at(&self, epoch: Epoch) -> &[TargetDisk] {
        let upto = self.tables.partition_point(|t| t.from_epoch <= epoch);
        self.tables.get(upto.saturating_sub(1)).map_or(&[], |t| &t.disks)
    }
}

/// The whole file, refused when it is longer than `max` bytes.
pub(crate) fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, size_bytes: u64) -> TargetDisk {
        TargetDisk { name: DiskName::new(name).unwrap(), size_bytes }
    }

    #[test]
    fn a_disk_has_the_size_of_the_epoch_asked_for() {
        let origin = Origin {
            vault_url: "file:///v".into(),
            vault_id: "ab".into(),
            tables: vec![
                DiskTable { from_epoch: Epoch(1), disks: vec![disk("a", 512)] },
                DiskTable { from_epoch: Epoch(4), disks: vec![disk("a", 1024), disk("b", 512)] },
            ],
        };
        assert_eq!(origin.disks_at(Epoch(3)), &[disk("a", 512)]);
        assert_eq!(origin.disks_at(Epoch(4)), &[disk("a", 1024), disk("b", 512)]);
        let tmp = tempfile::tempdir().unwrap();
        let dir = GroupDir::new(tmp.path(), &GroupName::new("g").unwrap());
        assert_eq!(Origin::read(&dir).unwrap(), None);
        crashsafe::create_dir_all(dir.root()).unwrap();
        origin.write(&dir).unwrap();
        assert_eq!(Origin::read(&dir).unwrap(), Some(origin));
        assert_eq!(groups(tmp.path()).unwrap(), vec![GroupName::new("g").unwrap()]);
    }

    #[test]
    fn a_second_processor_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = GroupDir::new(tmp.path(), &GroupName::new("g").unwrap());
        crashsafe::create_dir_all(dir.root()).unwrap();
        let held = dir.take_lock().unwrap();
        assert!(matches!(dir.take_lock(), Err(TargetError::Locked { .. })));
        drop(held);
        dir.take_lock().unwrap();
    }
}
