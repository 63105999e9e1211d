//! A target image: a sparse raw file, or a block device, under `<disk>.raw`.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::Hash;
use farshore_changelog::medium::{self, Create};
use farshore_changelog::units::ByteRange;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::TargetError;
use crate::view::sparse;

/// Most pieces of one vectored write; the kernel's limit is 1024.
const WRITE_PIECES_MAX: usize = 256;
/// Bytes hashed at a time.
const HASH_STEP_BYTES: u64 = 1 << 20;

/// An open image. Whoever has it is the only one who writes.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// Something was written since the last fdatasync.
    dirty: bool,
    /// The first failed fdatasync: what the medium holds is not known any more.
    failed: bool,
}

impl Image {
    /// Creates an empty image of `size_bytes`: a sparse file, or, where a file or block device was put there by hand, that
    /// one. A file must hold no data; a block device is zeroed whole, as the source leaves out what reads as zeroes.
    ///
    /// # Errors
    /// [`TargetError::Refused`] when a file there holds data or a device is too small; [`TargetError::Io`].
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, TargetError> {
        match medium::create(path, Create::New) {
            Ok(file) => {
                let made = medium::set_len(&file, size_bytes).and_then(|()| medium::sync_all(&file));
                made.and_then(|()| crashsafe::sync_parent(path)).map_err(TargetError::io("create", path))?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::empty_existing(path, size_bytes)?,
            Err(e) => return Err(TargetError::io("create", path)(e)),
        }
        Self::open(path, size_bytes)
    }

    fn empty_existing(path: &Path, size_bytes: u64) -> Result<(), TargetError> {
        let file = open_rw(path)?;
        let io = |doing| TargetError::io(doing, path);
        if file.metadata().map_err(io("stat"))?.file_type().is_block_device() {
            let mut image = Self::open(path, size_bytes)?;
            image.zero(ByteRange { start: 0, end: size_bytes })?;
            return image.sync();
        }
        let len = file.metadata().map_err(io("stat"))?.len();
        let mut holds_data = false;
        sparse::walk(&file, ByteRange { start: 0, end: len }, &mut |_, hole| {
            holds_data |= !hole;
            hole
        })
        .map_err(io("look for data in"))?;
        if holds_data {
            let what = "it holds data and no position belongs to it; move it away, or take another target folder";
            return Err(TargetError::refused(path, what));
        }
        medium::set_len(&file, size_bytes).and_then(|()| medium::sync_all(&file)).map_err(io("size"))
    }

    /// Opens the image of a disk of `size_bytes`.
    ///
    /// # Errors
    /// [`TargetError::Refused`] when it is smaller than the disk; [`TargetError::Io`].
    pub fn open(path: &Path, size_bytes: u64) -> Result<Self, TargetError> {
        let file = open_rw(path)?;
        let found = (&file).seek(SeekFrom::End(0)).map_err(TargetError::io("find the end of", path))?;
        if found < size_bytes {
            let what = format!("it has {found} bytes, its disk has {size_bytes}; give it a larger place");
            return Err(TargetError::refused(path, what));
        }
        Ok(Self { path: path.to_path_buf(), file, size_bytes, dirty: false, failed: false })
    }

    /// Grows the image to `size_bytes` where it is smaller, durably.
    ///
    /// # Errors
    /// [`TargetError::Refused`] for a block device that is too small; [`TargetError::Io`].
    pub fn grow(path: &Path, size_bytes: u64) -> Result<(), TargetError> {
        let file = open_rw(path)?;
        let meta = file.metadata().map_err(TargetError::io("stat", path))?;
        if meta.is_file() && meta.len() < size_bytes {
            medium::set_len(&file, size_bytes)
                .and_then(|()| medium::sync_all(&file))
                .map_err(TargetError::io("grow", path))?;
        }
        Self::open(path, size_bytes).map(drop)
    }

    /// Proves that the name still stands for the open file.
    ///
    /// # Errors
    /// [`TargetError::Gone`] when there is nothing, or something else; [`TargetError::Io`].
    pub fn check_there(&self) -> Result<(), TargetError> {
        let open = self.file.metadata().map_err(TargetError::io("stat", &self.path))?;
        match std::fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (open.dev(), open.ino()) => Ok(()),
            Ok(_) => Err(TargetError::Gone { path: self.path.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(TargetError::Gone { path: self.path.clone() }),
            Err(e) => Err(TargetError::io("stat", &self.path)(e)),
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk's size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether something was written that is not durable yet.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes `pieces` one after the other from `offset` on.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn write(&mut self, offset: u64, pieces: &[&[u8]]) -> Result<(), TargetError> {
        self.check()?;
        self.dirty = true;
        let mut at = offset;
        for chunk in pieces.chunks(WRITE_PIECES_MAX) {
            let slices: Vec<IoSlice<'_>> = chunk.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut written = match medium::write_vectored_at(&self.file, &slices, at) {
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) => return Err(TargetError::io("write", &self.path)(e)),
            };
            // What a short write left over goes piece by piece.
            for piece in chunk {
                let done = written.min(piece.len());
                written -= done;
                let rest = &piece[done..];
                medium::write_all_at(&self.file, rest, at + done as u64)
                    .map_err(TargetError::io("write", &self.path))?;
                at += piece.len() as u64;
            }
        }
        Ok(())
    }

    /// Makes `range` read as zeroes, as a hole where that can be.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn zero(&mut self, range: ByteRange) -> Result<(), TargetError> {
        self.check()?;
        self.dirty = true;
        sparse::punch(&self.file, range).map_err(TargetError::io("zero", &self.path))
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        self.file.read_exact_at(buf, offset).map_err(TargetError::io("read", &self.path))
    }

    /// Has the kernel begin to read what is not cached of `range`. Nothing depends on it, so an error is none.
    pub fn will_read(&self, range: ByteRange) {
        if let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.len())) {
            let _ = posix_fadvise(&self.file, start, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    /// The first stretch of `range`, which is not empty, and whether it is a hole. Where nobody can say it is data.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn first_extent(&self, range: ByteRange) -> Result<(ByteRange, bool), TargetError> {
        let mut first = (range, false);
        sparse::walk(&self.file, range, &mut |stretch, hole| {
            first = (stretch, hole);
            false
        })
        .map_err(TargetError::io("look for holes in", &self.path))?;
        Ok(first)
    }

    /// The hash of `range`, as the medium has it: what the page cache holds of it is dropped first, as far as the kernel does
    /// that. Nothing may be dirty.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn hash(&self, range: ByteRange) -> Result<Hash, TargetError> {
        let io = |doing| TargetError::io(doing, &self.path);
        if let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.len())) {
            let dropped = posix_fadvise(&self.file, start, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            dropped.map_err(|e| io("drop the cache of")(e.into()))?;
        }
        let mut stretches = Vec::new();
        sparse::walk(&self.file, range, &mut |stretch, hole| {
            stretches.push((stretch, hole));
            true
        })
        .map_err(io("look for holes in"))?;
        let (mut hasher, mut buf) = (blake3::Hasher::new(), Vec::new());
        for (stretch, hole) in stretches {
            let mut at = stretch.start;
            while at < stretch.end {
                let step = HASH_STEP_BYTES.min(stretch.end - at);
                buf.resize(step as usize, 0);
                if hole {
                    buf.fill(0);
                } else {
                    self.read(&mut buf, at)?;
                }
                hasher.update(&buf);
                at += step;
            }
        }
        Ok(Hash(*hasher.finalize().as_bytes()))
    }

    /// Whether `range` is one hole, as far as the file system says.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn is_hole(&self, range: ByteRange) -> Result<bool, TargetError> {
        let (first, hole) = self.first_extent(range)?;
        Ok(hole && first == range)
    }

    /// Whether it holds nothing, as far as the file system says.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn is_empty(&self) -> Result<bool, TargetError> {
        self.is_hole(ByteRange { start: 0, end: self.size_bytes })
    }

    /// fdatasync, when something was written.
    ///
    /// # Errors
    /// [`TargetError::Io`]; after the first one every further write and fsync fails.
    pub fn sync(&mut self) -> Result<(), TargetError> {
        self.check()?;
        if !self.dirty {
            return Ok(());
        }
        self.synced(medium::sync_data(&self.file))
    }

    /// The open file, for whoever makes it durable meanwhile; what came of that is for [`Image::synced`]. Nothing may be written
    /// before.
    ///
    /// # Errors
    /// Of the system.
    pub(crate) fn another_handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// What an fdatasync of all that was written has given.
    ///
    /// # Errors
    /// As [`Image::sync`].
    pub(crate) fn synced(&mut self, done: io::Result<()>) -> Result<(), TargetError> {
        done.map_err(|e| {
            self.failed = true;
            TargetError::io("fdatasync", &self.path)(e)
        })?;
        self.dirty = false;
        Ok(())
    }

    fn check(&self) -> Result<(), TargetError> {
        if self.failed {
            return Err(TargetError::io("write", &self.path)(io::Error::other("an earlier fdatasync of it failed")));
        }
        Ok(())
    }
}

fn open_rw(path: &Path) -> Result<File, TargetError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => TargetError::Gone { path: path.to_path_buf() },
        _ => TargetError::io("open", path)(e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_land_one_after_the_other_and_zeroes_between() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let mut image = Image::create(&path, 1 << 20).unwrap();
        let piece = [7_u8; 512];
        let pieces: Vec<&[u8]> = std::iter::repeat_n(&piece[..], 600).collect();
        image.write(512, &pieces).unwrap();
        image.zero(ByteRange { start: 1024, end: 1536 }).unwrap();
        assert!(image.is_dirty());
        image.sync().unwrap();
        let mut back = vec![1; 1 << 20];
        image.read(&mut back, 0).unwrap();
        let expected: Vec<u8> = (0..1_usize << 20)
            .map(|at| u8::from((512..601 * 512).contains(&at) && !(1024..1536).contains(&at)) * 7)
            .collect();
        assert!(back == expected);
        assert!(image.first_extent(ByteRange { start: 512 << 10, end: 1 << 20 }).unwrap().1);
    }

    #[test]
    fn an_image_with_data_is_not_taken_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        std::fs::write(&path, [1; 4096]).unwrap();
        assert!(matches!(Image::create(&path, 8192), Err(TargetError::Refused { .. })));
        std::fs::write(&path, []).unwrap();
        assert_eq!(Image::create(&path, 8192).unwrap().size_bytes(), 8192);
        assert!(matches!(Image::open(&path, 16384), Err(TargetError::Refused { .. })));
        Image::grow(&path, 16384).unwrap();
        Image::open(&path, 16384).unwrap();
        Image::grow(&path, 512).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 16384);
    }
}
