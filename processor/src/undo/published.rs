//! The journal offset up to which undo batches are complete, in 8 bytes that all processes map (`undo/published`).
//!
//! Replay moves it after a batch is durable and before it changes an image; a view reads the image first and this
//! afterwards. So a view that read changed bytes sees the offset moved, and looks into the journal. The fences pair up:
//! the writer's stands between its store and its `pwrite`, the reader's between its `pread` and its load.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use farshore_changelog::crashsafe;
use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::error::TargetError;

const LEN: usize = 8;

/// The reader's side.
#[derive(Debug)]
pub struct Published {
    map: Mmap,
}

impl Published {
    /// Maps the file of a group.
    ///
    /// # Errors
    /// [`TargetError::Io`], [`TargetError::Damaged`] when it has not 8 bytes.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let file = OpenOptions::new().read(true).open(path).map_err(TargetError::io("open", path))?;
        check_len(path, &file)?;
        // SAFETY: the file has 8 bytes and no process of ours ever shortens it; the bytes change under the map and are only
        // read through an atomic.
        let map = unsafe { MmapOptions::new().len(LEN).map(&file) }.map_err(TargetError::io("map", path))?;
        Ok(Self { map })
    }

    /// The offset now. What was read from an image before this call holds nothing newer than what the journal says below it.
    #[must_use]
    pub fn load(&self) -> u64 {
        fence(Ordering::SeqCst);
        // SAFETY: a mapping begins on a page, so the pointer is aligned, and it is valid as long as `self`; every process uses
        // it as an atomic. A relaxed load of a word may be made on read-only memory.
        u64::from_le(unsafe { AtomicU64::from_ptr(self.map.as_ptr().cast_mut().cast()) }.load(Ordering::Relaxed))
    }
}

/// The side of the one process that replays.
#[derive(Debug)]
pub struct Publisher {
    map: MmapMut,
}

impl Publisher {
    /// Maps the file, which is created when it is absent, and sets it to `offset`.
    ///
    /// # Errors
    /// [`TargetError::Io`], [`TargetError::Damaged`] when it has not 8 bytes.
    pub fn open(path: &Path, offset: u64) -> Result<Self, TargetError> {
        if !path.exists() {
            crashsafe::replace(path, &offset.to_le_bytes()).map_err(TargetError::io("create", path))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(TargetError::io("open", path))?;
        check_len(path, &file)?;
        // SAFETY: as in `Published::open`; the bytes are only written through an atomic.
        let map = unsafe { MmapOptions::new().len(LEN).map_mut(&file) }.map_err(TargetError::io("map", path))?;
        let mut publisher = Self { map };
        publisher.store(offset);
        Ok(publisher)
    }

    /// Moves the offset; images may be changed after this call.
    pub fn store(&mut self, offset: u64) {
        // SAFETY: as in `Published::load`, on writable memory.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast()) }.store(offset.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// What the file says, without keeping it mapped; `None` when it is absent.
pub(crate) fn read(path: &Path) -> Result<Option<u64>, TargetError> {
    match std::fs::read(path) {
        Ok(bytes) => match <[u8; LEN]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(Some(u64::from_le_bytes(bytes))),
            Err(_) => Err(wrong_len(path)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TargetError::io("read", path)(e)),
    }
}

fn check_len(path: &Path, file: &std::fs::File) -> Result<(), TargetError> {
    match file.metadata() {
        Ok(meta) if meta.len() == LEN as u64 => Ok(()),
        Ok(_) => Err(wrong_len(path)),
        Err(e) => Err(TargetError::io("stat", path)(e)),
    }
}

fn wrong_len(path: &Path) -> TargetError {
    TargetError::damaged(path, 0, "it has not 8 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_mapping_sees_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("published");
        assert_eq!(read(&path).unwrap(), None);
        let mut publisher = Publisher::open(&path, 7).unwrap();
        let reader = Published::open(&path).unwrap();
        assert_eq!(reader.load(), 7);
        publisher.store(1 << 40);
        assert_eq!(reader.load(), 1 << 40);
        assert_eq!(read(&path).unwrap(), Some(1 << 40));
    }
}
