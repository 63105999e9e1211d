//! Leases: what a view still needs of the undo journal is not pruned under it.
//!
//! `leases/<offset>-<id>` bears a journal offset in its name and an exclusive flock of the process that needs it: when the
//! process dies the kernel drops the lock, and whoever looks next sweeps the file. It is empty, so that a point can be attached
//! on a full disk. A failed-over VM needs its point with or without
//! a process, so `overlay/<name>/failover.json` counts as a lease that does not die.
//!
//! The `leases` folder itself is flocked, shared while a lease is placed and exclusively while retention decides and
//! deletes ([`freeze`]), so that no lease can be placed between the look and the deletion.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::medium::{self, Create};
use farshore_changelog::{clock, crashsafe};

use crate::failover::note;

/// Folder of the leases in a group's target folder.
pub const FOLDER: &str = "leases";
/// Longest wait for the folder's lock: retention deletes files while it holds it.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);
/// Time between two tries for the folder's lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Tries to place a lease while sweepers take it for a dead one before it is locked.
const PLACE_TRIES_MAX: u32 = 16;

/// A lease that is held; dropped, it is given back.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    offset: u64,
    /// The flock lives as long as this.
    _locked: File,
}

impl Lease {
    /// Takes a lease on the undo journal from `offset` on, in the group's target folder `dir`.
    ///
    /// # Errors
    /// Of the file system, with the path; `TimedOut` when retention holds the folder for [`LOCK_WAIT_MAX`].
    pub fn take(dir: &Path, offset: u64) -> io::Result<Self> {
        let folder = dir.join(FOLDER);
        crashsafe::create_dir_all(&folder)?;
        let _placing = lock_folder(&folder, Hold::Shared)?;
        for _ in 0..PLACE_TRIES_MAX {
            if let Some(lease) = place(&folder, offset)? {
                return Ok(lease);
            }
        }
        Err(io::Error::other(format!("{}: another process keeps removing new leases", folder.display())))
    }

    /// The journal offset that it keeps.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // When it cannot be removed the next sweep does it: the lock goes with the process at the latest.
        if let Err(e) = medium::remove(&self.path) {
            tracing::warn!(lease = %self.path.display(), error = %e, "a lease could not be removed, it will be swept");
        }
    }
}

/// Locks the file under a hidden name first, so that a lease never stands there unlocked.
fn place(folder: &Path, offset: u64) -> io::Result<Option<Lease>> {
    let id: String = clock::nonce().iter().map(|b| format!("{b:02x}")).collect();
    let hidden = folder.join(format!(".{id}"));
    let path = folder.join(format!("{offset:020}-{id}"));
    let file = medium::create(&hidden, Create::NewPrivate).map_err(|e| at(&hidden, "cannot create the lease", &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None), // a sweeper came in between and removes it
        Err(TryLockError::Error(e)) => return Err(at(&hidden, "cannot lock the lease", &e)),
    }
    match medium::rename(&hidden, &path) {
        Ok(()) => Ok(Some(Lease { path, offset, _locked: file })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None), // swept before the lock
        Err(e) => Err(at(&path, "cannot place the lease", &e)),
    }
}

/// The lowest journal offset that a living view or a failover of the group needs, `None` when nothing is needed. Leases
/// of dead processes are removed.
///
/// # Errors
/// Of the file system, with the path; `InvalidData` for a lease or failover note that cannot be read: retention must not
/// go on then, as it would delete what that one needs.
pub fn oldest_needed(dir: &Path) -> io::Result<Option<u64>> {
    let mut oldest: Option<u64> = None;
    let mut need = |offset: u64| oldest = Some(oldest.map_or(offset, |o| o.min(offset)));
    for offset in note::offsets_needed(dir)? {
        need(offset);
    }
    let folder = dir.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(oldest),
        Err(e) => return Err(at(&folder, "cannot list the leases", &e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| at(&folder, "cannot list the leases", &e))?.path();
        if let Some(offset) = look(&path)? {
            need(offset);
        }
    }
    Ok(oldest)
}

/// One lease: its offset while its process lives; a dead one is removed.
fn look(path: &Path) -> io::Result<Option<u64>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None), // given back meanwhile
        Err(e) => return Err(at(path, "cannot open the lease", &e)),
    };
    match file.try_lock() {
        Ok(()) => {
            // Ours now, so its process is gone; unless the name already stands for another file.
            let same = std::fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|m| m.ino() == there.ino()));
            if same {
                crashsafe::remove(path)?;
            }
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with('.') {
                return Ok(None); // being placed: whoever holds the folder exclusively never sees one
            }
            let offset = name.split_once('-').and_then(|(offset, _)| offset.parse().ok());
            let nameless = || io::Error::new(io::ErrorKind::InvalidData, "its name bears no journal offset");
            offset.map(Some).ok_or_else(|| at(path, "cannot read the lease", &nameless()))
        }
        Err(TryLockError::Error(e)) => Err(at(path, "cannot lock the lease", &e)),
    }
}

/// Keeps new leases from being placed until the returned guard is dropped: retention takes it, asks [`oldest_needed`],
/// deletes, and drops it.
///
/// # Errors
/// Of the file system, with the path; `TimedOut` after [`LOCK_WAIT_MAX`].
pub fn freeze(dir: &Path) -> io::Result<File> {
    let folder = dir.join(FOLDER);
    crashsafe::create_dir_all(&folder)?;
    lock_folder(&folder, Hold::Exclusive)
}

#[derive(Clone, Copy)]
enum Hold {
    Shared,
    Exclusive,
}

fn lock_folder(folder: &Path, hold: Hold) -> io::Result<File> {
    let file = File::open(folder).map_err(|e| at(folder, "cannot open", &e))?;
    let deadline = clock::mono() + LOCK_WAIT_MAX;
    loop {
        let tried = match hold {
            Hold::Shared => file.try_lock_shared(),
            Hold::Exclusive => file.try_lock(),
        };
        match tried {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(at(folder, "cannot lock", &e)),
            Err(TryLockError::WouldBlock) if clock::mono() >= deadline => {
                let what = format!("{} is locked by another process for more than {LOCK_WAIT_MAX:?}", folder.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            Err(TryLockError::WouldBlock) => clock::sleep(LOCK_RETRY),
        }
    }
}

fn at(path: &Path, what: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
