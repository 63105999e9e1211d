//! What can be read like a disk: a point's view of a disk, or any other base of an overlay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::units::ByteRange;

use super::sparse;

/// Most extents of one answer; a longer range is answered in part, from its start.
pub const EXTENTS_MAX: usize = 4096;

/// A stretch of a disk that is all data, or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which bytes.
    pub range: ByteRange,
    /// It holds nothing and reads as zeroes.
    pub hole: bool,
}

/// A disk that can be read from several threads at once. Reads block.
pub trait ReadDisk: Send + Sync {
    /// Size in bytes, a multiple of 512.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` from `offset`. Any alignment will do.
    ///
    /// # Errors
    /// `InvalidInput` past the end of the disk; else of the storage, with the path.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The extents of `range` in order, without a gap, from its start; at most [`EXTENTS_MAX`], so the range may be answered
    /// in part. Neighbours differ in kind. At least one for a range that is not empty.
    ///
    /// # Errors
    /// As [`ReadDisk::read_at`].
    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>>;
}

impl<T: ReadDisk + ?Sized> ReadDisk for std::sync::Arc<T> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        (**self).extents(range)
    }
}

/// Proves that `[offset, offset + len)` lies on a disk of `size_bytes`.
///
/// # Errors
/// `InvalidInput`.
pub(crate) fn on_disk(offset: u64, len: u64, size_bytes: u64) -> io::Result<ByteRange> {
    match ByteRange::at(offset, len) {
        Some(range) if range.end <= size_bytes => Ok(range),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len} bytes at {offset} pass the end of the disk ({size_bytes} bytes)"),
        )),
    }
}

/// Collects extents: joins neighbours of one kind and stops at [`EXTENTS_MAX`].
#[derive(Default)]
pub(crate) struct ExtentList(Vec<Extent>);

impl ExtentList {
    /// Adds the next stretch; `false` when there is no room for it (the answer ends before it).
    pub(crate) fn push(&mut self, range: ByteRange, hole: bool) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(last) = self.0.last_mut().filter(|last| last.hole == hole) {
            last.range.end = range.end;
            return true;
        }
        let room = self.0.len() < EXTENTS_MAX;
        if room {
            self.0.push(Extent { range, hole });
        }
        room
    }

    pub(crate) fn into_vec(self) -> Vec<Extent> {
        self.0
    }
}

/// A raw image: a sparse file or a block device.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl RawDisk {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let at = |e: io::Error| io::Error::new(e.kind(), format!("cannot open the image {}: {e}", path.display()));
        let file = File::open(path).map_err(at)?;
        // The end of a block device is found by seeking, its metadata say 0.
        let size_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(at)?;
        Ok(Self { file, path: path.to_path_buf(), size_bytes })
    }

    /// Calls `each` with the stretches of `range` in order and whether each is a hole, until it answers `false`.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn walk(&self, range: ByteRange, each: &mut dyn FnMut(ByteRange, bool) -> bool) -> io::Result<()> {
        sparse::walk(&self.file, range, each)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot find the holes of {}: {e}", self.path.display())))
    }
}

impl ReadDisk for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        on_disk(offset, buf.len() as u64, self.size_bytes)?;
        self.file.read_exact_at(buf, offset).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot read {} bytes at {offset} of {}: {e}", buf.len(), self.path.display()),
            )
        })
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        on_disk(range.start, range.len(), self.size_bytes)?;
        let mut list = ExtentList::default();
        self.walk(range, &mut |piece, hole| list.push(piece, hole))?;
        Ok(list.into_vec())
    }
}
