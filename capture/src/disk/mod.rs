//! The source disk: a regular file or a block device, opened for direct I/O where it takes it, held with an exclusive flock.
//!
//! The lock is what recovery relies on (G4): requests of a dead predecessor that the kernel still works on keep its open file,
//! and so its lock, alive; once the lock is ours nobody writes any more.

mod direct;
pub mod space;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind};
use farshore_changelog::units::{ByteRange, SECTOR_BYTES};
use nix::unistd::{Whence, lseek};

/// Longest wait for the flock: time for the kernel to finish what a dead predecessor had in flight.
pub const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Pause between two tries for the flock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a source disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refused something.
    #[error("source disk {}: cannot {what}", path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("source disk {} is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The disk.
        path: PathBuf,
    },
    /// Its size cannot be a disk's.
    #[error("source disk {} has {size_bytes} bytes; a disk has at least one sector of 512 bytes, and whole sectors", path.display())]
    Size {
        /// The disk.
        path: PathBuf,
        /// What was found.
        size_bytes: u64,
    },
    /// Another process holds it.
    #[error("source disk {} is locked by another process (waited {waited:?}); stop what uses it", path.display())]
    Locked {
        /// The disk.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

/// What tells a file that somebody has written from one that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Which file it is.
    pub inode: u64,
    /// When its content was changed last, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// When it was changed in any way, likewise.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// Of an open file; `None` for a block device, whose content the kernel does not watch.
    ///
    /// # Errors
    /// Of fstat(2).
    pub fn of(file: &File) -> io::Result<Option<Self>> {
        let meta = file.metadata()?;
        let nanoseconds = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(meta.is_file().then(|| Self {
            size_bytes: meta.len(),
            inode: meta.ino(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }))
    }
}

/// An open source disk. The flock lives as long as it, its clones of the file, and the operations in flight on it.
#[derive(Debug)]
pub struct SourceDisk {
    name: DiskName,
    path: PathBuf,
    file: Arc<File>,
    identity: DiskIdentity,
    size_bytes: u64,
    block_bytes: u32,
    buffered_because: Option<String>,
    stamp: Option<FileStamp>,
}

impl SourceDisk {
    /// Opens and locks the disk at `path`, waiting up to `lock_wait` (normally [`LOCK_WAIT`]) for the lock.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was changed.
    pub fn open(name: DiskName, path: &Path, lock_wait: Duration) -> Result<Self, DiskError> {
        let io = |what: &'static str| move |source| DiskError::Io { path: path.to_owned(), what, source };
        // Asked before it is opened: opening a pipe would wait for its other end.
        let meta = std::fs::metadata(path).map_err(io("find it"))?;
        let kind = match meta.file_type() {
            t if t.is_file() => DiskKind::File,
            t if t.is_block_device() => DiskKind::BlockDevice,
            _ => return Err(DiskError::NotADisk { path: path.to_owned() }),
        };
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(io("open it for reading and writing"))?;
        lock(&file, path, lock_wait)?;
        let meta = file.metadata().map_err(io("look at it"))?;
        // Before anything is tried on it.
        let stamp = FileStamp::of(&file).map_err(io("look at it"))?;
        let identity = match kind {
            DiskKind::File => DiskIdentity { kind, device: meta.dev(), inode: meta.ino() },
            DiskKind::BlockDevice => DiskIdentity { kind, device: meta.rdev(), inode: 0 },
        };
        let size_bytes = lseek(&file, 0, Whence::SeekEnd).map_err(|e| io("find its size")(e.into()))?;
        let size_bytes = u64::try_from(size_bytes).unwrap_or(0);
        if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::Size { path: path.to_owned(), size_bytes });
        }
        let (block_bytes, buffered_because) = match direct::enable(&file, size_bytes) {
            Ok(block) => (block, None),
            Err(why) => (SECTOR_BYTES as u32, Some(why)),
        };
        let (path, file) = (path.to_owned(), Arc::new(file));
        Ok(Self { name, path, file, identity, size_bytes, block_bytes, buffered_because, stamp })
    }

    /// The same disk as if its direct I/O wanted larger blocks.
    #[cfg(test)]
    pub(crate) fn with_block_bytes(mut self, block_bytes: u32) -> Self {
        self.block_bytes = block_bytes;
        self
    }

    /// Its name in the group.
    #[must_use]
    pub fn name(&self) -> &DiskName {
        &self.name
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file; a clone keeps it open for an operation on a helper thread.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its descriptor, for an engine; open as long as the disk.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What its file looked like when it was opened; `None` for a block device.
    #[must_use]
    pub fn stamp(&self) -> Option<FileStamp> {
        self.stamp
    }

    /// Which file or device it is.
    #[must_use]
    pub fn identity(&self) -> DiskIdentity {
        self.identity
    }

    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The unit of its I/O, in bytes (a power of two from 512 to 4096): requests are grown to whole blocks, and what was not
    /// asked for in them is read first.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Why it goes through the page cache; `None` when it uses direct I/O.
    #[must_use]
    pub fn buffered_because(&self) -> Option<&str> {
        self.buffered_because.as_deref()
    }

    /// Whether a range is zeroed quicker than by writing zeroes. It is tried, which changes a file's times.
    #[must_use]
    pub fn punches_holes(&self) -> bool {
        self.identity.kind == DiskKind::File && space::punches_holes(&self.file, self.size_bytes)
    }

    /// The whole disk.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        ByteRange { start: 0, end: self.size_bytes }
    }

    /// Its entry in a ring's disk table.
    #[must_use]
    pub fn entry(&self) -> DiskEntry {
        DiskEntry {
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            identity: self.identity,
            block_bytes: self.block_bytes,
        }
    }
}

fn lock(file: &File, path: &Path, limit: Duration) -> Result<(), DiskError> {
    let start = clock::mono();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if clock::mono().duration_since(start) >= limit => {
                return Err(DiskError::Locked { path: path.to_owned(), waited: limit });
            }
            Err(TryLockError::WouldBlock) => clock::sleep(LOCK_RETRY),
            Err(TryLockError::Error(source)) => {
                return Err(DiskError::Io { path: path.to_owned(), what: "lock it", source });
            }
        }
    }
}
