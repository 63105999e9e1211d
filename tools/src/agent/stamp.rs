//! Whether somebody wrote a disk while no agent ran: what its file looked like at an orderly stop (`stop.json` in the state
//! folder), held against what it looks like at the next start. Of a block device nothing of the kind is kept by the kernel.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use farshore_capture::disk::{FileStamp, SourceDisk};
use farshore_changelog::crashsafe;
use farshore_changelog::ids::DiskName;
use serde::{Deserialize, Serialize};

/// Largest `stop.json` that is read, in bytes.
const STOP_MAX_BYTES: u64 = 64 << 10;

/// `stop.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    disks: Vec<Stamped>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamped {
    name: DiskName,
    size_bytes: u64,
    inode: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("stop.json")
}

/// Notes what the files look like now. Nobody of ours writes them any more.
///
/// # Errors
/// Of the file system.
pub fn note(state_dir: &Path, disks: &[(DiskName, FileStamp)]) -> Result<()> {
    let stamped = |(name, stamp): &(DiskName, FileStamp)| {
        let FileStamp { size_bytes, inode, mtime_ns, ctime_ns } = *stamp;
        Stamped { name: name.clone(), size_bytes, inode, mtime_ns, ctime_ns }
    };
    let stop = Stop { disks: disks.iter().map(stamped).collect() };
    crashsafe::replace(&path(state_dir), &serde_json::to_vec_pretty(&stop)?).context("the stop cannot be noted")
}

/// Which of the disks were changed since the last orderly stop; without one, none is known to be. A note that cannot be read
/// says that all were.
///
/// # Errors
/// When the note cannot be read for a reason of the file system.
pub fn changed(state_dir: &Path, disks: &[SourceDisk]) -> Result<Vec<bool>> {
    let path = path(state_dir);
    let bytes = match std::fs::metadata(&path).map(|meta| meta.len()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![false; disks.len()]),
        Err(e) => return Err(e).context(format!("{} cannot be looked at", path.display())),
        Ok(len) if len > STOP_MAX_BYTES => Vec::new(),
        Ok(_) => std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let Ok(stop) = serde_json::from_slice::<Stop>(&bytes) else {
        tracing::warn!("{} is damaged: every disk is compared in full", path.display());
        return Ok(vec![true; disks.len()]);
    };
    let changed = |disk: &SourceDisk| {
        let Some(was) = stop.disks.iter().find(|stamped| stamped.name == *disk.name()) else { return false };
        let Some(now) = disk.stamp() else { return true };
        let same = (was.inode, was.mtime_ns, was.ctime_ns) == (now.inode, now.mtime_ns, now.ctime_ns)
            && was.size_bytes == now.size_bytes;
        if !same {
            tracing::warn!(
                "disk {} ({}) was changed while no agent ran: all of it is compared",
                disk.name(),
                disk.path().display()
            );
        }
        !same
    };
    Ok(disks.iter().map(changed).collect())
}

/// Forgets the stop: from here on the disks change.
///
/// # Errors
/// Of the file system.
pub fn forget(state_dir: &Path) -> Result<()> {
    Ok(crashsafe::remove(&path(state_dir))?)
}
