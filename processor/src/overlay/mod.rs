//! Copy-on-write overlay of one disk over anything that can be read: what is written goes into a sparse file, the base is
//! never changed.
//!
//! - [`layout`]: the file, byte for byte
//! - [`bitmap`]: which granules lie in the file
//!
//! **Durability.** A bitmap page is written only by a flush, after the data it speaks of were fdatasynced, and into the slot
//! that does not hold the durable state. So after a crash a granule is either the base's (its first write was not flushed)
//! or the overlay's, whole; a write over a granule that is in the overlay already goes in place, and until it is flushed
//! each of its sectors may be old or new, as on any disk.
//!
//! **Concurrency.** The bitmap's lock is held shared while data are written in place, so that a granule's state does not
//! change under the writer, and exclusively while granules enter the overlay: what of such a granule is not written is read
//! from the base, and a second writer of the same granule must come before or after that. A reader looks at the bitmap
//! and then reads without the lock: the base never changes, and data are written before the bit is set.

pub mod bitmap;
pub mod layout;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use farshore_changelog::medium::{self, Create};
use farshore_changelog::units::ByteRange;
use farshore_changelog::{clock, crashsafe};

use crate::view::read_disk::{Extent, ExtentList, ReadDisk, on_disk};
use crate::view::sparse;
use bitmap::{Bitmap, Pending};
use layout::{Header, PAGE_BYTES};

/// A disk that can be written, over a base that is only read.
pub struct Overlay<B> {
    base: B,
    header: Header,
    file: File,
    path: PathBuf,
    /// Nothing of it outlives the process: a flush has nothing to do.
    private: bool,
    bitmap: RwLock<Bitmap>,
    /// One flush at a time.
    flushing: Mutex<()>,
    /// The first failed write or fsync: from then on nothing is believed of the file.
    failed: AtomicBool,
}

impl<B: ReadDisk> Overlay<B> {
    /// An overlay for this process alone, in a file of `folder` that has no name any more once this returns, so that it
    /// goes away however the process ends.
    ///
    /// # Errors
    /// Of the file system, with the path; `InvalidInput` when the base's size is not the header's.
    pub fn private(base: B, header: Header, folder: &Path) -> io::Result<Self> {
        check_base(&base, &header, folder)?;
        crashsafe::create_dir_all(folder)?;
        let id: String = clock::nonce().iter().map(|b| format!("{b:02x}")).collect();
        let path = folder.join(format!(".private-{id}.cow"));
        let file = medium::create(&path, Create::NewPrivate);
        let file = file.map_err(|e| at(&path, "cannot create the overlay", &e))?;
        medium::remove(&path).map_err(|e| at(&path, "cannot unlink the overlay", &e))?;
        medium::set_len(&file, header.file_bytes()).map_err(|e| at(&path, "cannot size the overlay", &e))?;
        Ok(Self::over(base, header, file, path, true, Bitmap::default()))
    }

    /// Opens the overlay file at `path`, or creates it when it is absent. The file is held with a flock.
    ///
    /// # Errors
    /// Of the file system, with the path; `WouldBlock` when another process has it open; `InvalidData` when it is damaged
    /// or lies over another group, disk, size or point than `header` says.
    pub fn persistent(base: B, header: Header, path: &Path) -> io::Result<Self> {
        check_base(&base, &header, path)?;
        if !path.try_exists().map_err(|e| at(path, "cannot look for the overlay", &e))? {
            if let Some(folder) = path.parent() {
                crashsafe::create_dir_all(folder)?;
            }
            crashsafe::replace_with(path, |file| {
                medium::set_len(file, header.file_bytes())?;
                medium::write_all_at(file, &header.encode(), 0)
            })?;
        }
        let file = crashsafe::lock_file(path)?;
        let (found, bitmap) = load(&file, path)?;
        if found != header {
            let what = format!(
                "it lies over {} disk {} ({} bytes) at {}, not over {} disk {} ({} bytes) at {}",
                found.group,
                found.disk,
                found.size_bytes,
                found.position,
                header.group,
                header.disk,
                header.size_bytes,
                header.position
            );
            return Err(refused(path, &what));
        }
        Ok(Self::over(base, header, file, path.to_path_buf(), false, bitmap))
    }

    fn over(base: B, header: Header, file: File, path: PathBuf, private: bool, bitmap: Bitmap) -> Self {
        let (bitmap, flushing, failed) = (RwLock::new(bitmap), Mutex::new(()), AtomicBool::new(false));
        Self { base, header, file, path, private, bitmap, flushing, failed }
    }

    /// What it lies over.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The base.
    #[must_use]
    pub fn base(&self) -> &B {
        &self.base
    }

    /// Writes `data` at `offset`; durable once a later [`Overlay::flush`] returned.
    ///
    /// # Errors
    /// `InvalidInput` past the end; of the storage, with the path. After a failed write or flush every further one fails.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let range = on_disk(offset, data.len() as u64, self.header.size_bytes)?;
        self.change(range, &|part| {
            let from = (part.start - range.start) as usize;
            medium::write_all_at(
                &self.file,
                &data[from..from + part.len() as usize],
                self.header.data_offset() + part.start,
            )
        })
    }

    /// Makes `len` bytes at `offset` read as zeroes; durable as a write is.
    ///
    /// # Errors
    /// As [`Overlay::write_at`].
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let range = on_disk(offset, len, self.header.size_bytes)?;
        self.change(range, &|part| {
            let from = self.header.data_offset();
            sparse::punch(&self.file, ByteRange { start: from + part.start, end: from + part.end })
        })
    }

    /// `len` bytes at `offset` are no longer needed; they read as zeroes afterwards.
    ///
    /// # Errors
    /// As [`Overlay::write_at`].
    pub fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len)
    }

    /// Changes `range` with `put`, which gets parts of it.
    fn change(&self, range: ByteRange, put: &dyn Fn(ByteRange) -> io::Result<()>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.usable()?;
        let granule = u64::from(self.header.granule_bytes);
        let granules = range.start / granule..range.end.div_ceil(granule);
        {
            let bitmap = self.bitmap.read().unwrap_or_else(PoisonError::into_inner);
            if bitmap.run(granules.start, granules.end) == (granules.end, true) {
                return self.latch(put(range));
            }
        }
        let mut bitmap = self.bitmap.write().unwrap_or_else(PoisonError::into_inner);
        // Only the first and the last granule can be covered in part.
        for number in [granules.start, granules.end - 1] {
            let whole =
                ByteRange { start: number * granule, end: ((number + 1) * granule).min(self.header.size_bytes) };
            if !bitmap.has(number) && !range.contains(whole) {
                self.copy_up(whole)?;
                bitmap.set(number..number + 1);
            }
        }
        self.latch(put(range))?;
        bitmap.set(granules);
        Ok(())
    }

    /// Brings a granule from the base into the file.
    fn copy_up(&self, whole: ByteRange) -> io::Result<()> {
        let mut old = vec![0; whole.len() as usize];
        self.base.read_at(&mut old, whole.start)?;
        self.latch(medium::write_all_at(&self.file, &old, self.header.data_offset() + whole.start))
    }

    /// Makes everything written before durable: first the data, then the bitmap.
    ///
    /// # Errors
    /// Of the storage, with the path; it latches.
    pub fn flush(&self) -> io::Result<()> {
        self.usable()?;
        if self.private {
            return Ok(());
        }
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the fdatasync: a bit set later speaks of data that it may not cover.
        let pending = self.bitmap.write().unwrap_or_else(PoisonError::into_inner).take_dirty();
        self.latch(medium::sync_data(&self.file))?;
        if pending.is_empty() {
            return Ok(());
        }
        self.latch(self.write_pages(&pending))?;
        self.bitmap.write().unwrap_or_else(PoisonError::into_inner).written(&pending);
        Ok(())
    }

    fn write_pages(&self, pending: &[Pending]) -> io::Result<()> {
        for page in pending {
            let bytes = layout::encode_slot(page.generation, &page.bits);
            medium::write_all_at(&self.file, &bytes, self.header.slot_offset(page.page, page.slot))?;
        }
        medium::sync_data(&self.file)
    }

    fn usable(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let what = "an earlier write or fsync of the overlay failed, nothing more is taken";
            return Err(io::Error::other(format!("{}: {what}", self.path.display())));
        }
        Ok(())
    }

    fn latch(&self, result: io::Result<()>) -> io::Result<()> {
        result.map_err(|e| {
            self.failed.store(true, Ordering::Release);
            at(&self.path, "cannot write the overlay", &e)
        })
    }

    /// The runs of `range` and whether they lie in the overlay, as they are now.
    fn runs(&self, range: ByteRange) -> Vec<(ByteRange, bool)> {
        let granule = u64::from(self.header.granule_bytes);
        let bitmap = self.bitmap.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let (end, here) = bitmap.run(start / granule, range.end.div_ceil(granule));
            let end = (end * granule).min(range.end);
            runs.push((ByteRange { start, end }, here));
            start = end;
        }
        runs
    }
}

impl<B: ReadDisk> ReadDisk for Overlay<B> {
    fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = on_disk(offset, buf.len() as u64, self.header.size_bytes)?;
        for (run, here) in self.runs(range) {
            let part = &mut buf[(run.start - range.start) as usize..(run.end - range.start) as usize];
            if here {
                let read = self.file.read_exact_at(part, self.header.data_offset() + run.start);
                read.map_err(|e| at(&self.path, "cannot read the overlay", &e))?;
            } else {
                self.base.read_at(part, run.start)?;
            }
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        on_disk(range.start, range.len(), self.header.size_bytes)?;
        let mut list = ExtentList::default();
        let data = self.header.data_offset();
        for (run, here) in self.runs(range) {
            let mut room = true;
            if here {
                let in_file = ByteRange { start: data + run.start, end: data + run.end };
                sparse::walk(&self.file, in_file, &mut |part, hole| {
                    room = list.push(ByteRange { start: part.start - data, end: part.end - data }, hole);
                    room
                })?;
            } else {
                let mut at = run.start;
                while at < run.end && room {
                    for extent in self.base.extents(ByteRange { start: at, end: run.end })? {
                        room = room && list.push(extent.range, extent.hole);
                        at = extent.range.end;
                    }
                }
            }
            if !room {
                break;
            }
        }
        Ok(list.into_vec())
    }
}

/// Proves an overlay file without changing or locking it, and gives what it lies over.
///
/// # Errors
/// `InvalidData` when it is damaged; else of the file system, with the path.
pub fn check(path: &Path) -> io::Result<Header> {
    let file = File::open(path).map_err(|e| at(path, "cannot open the overlay", &e))?;
    Ok(load(&file, path)?.0)
}

fn load(file: &File, path: &Path) -> io::Result<(Header, Bitmap)> {
    let mut page = [0; PAGE_BYTES as usize];
    file.read_exact_at(&mut page, 0).map_err(|e| at(path, "cannot read the overlay's header", &e))?;
    let header = Header::decode(&page).map_err(|e| refused(path, &e.to_string()))?;
    if file.metadata()?.len() != header.file_bytes() {
        return Err(refused(path, "its length is not what its header says"));
    }
    let bitmap = read_bitmap(file, &header, path)?;
    Ok((header, bitmap))
}

fn check_base<B: ReadDisk>(base: &B, header: &Header, path: &Path) -> io::Result<()> {
    header.check().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    if base.size_bytes() != header.size_bytes {
        let what = format!("the base has {} bytes, the overlay is for {}", base.size_bytes(), header.size_bytes);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {what}", path.display())));
    }
    Ok(())
}

fn read_bitmap(file: &File, header: &Header, path: &Path) -> io::Result<Bitmap> {
    let mut bitmap = Bitmap::default();
    let area = ByteRange { start: header.slot_offset(0, 0), end: header.slot_offset(header.pages(), 0) };
    let mut touched: Vec<ByteRange> = Vec::new();
    // Only what was written: the bitmap of a large disk is mostly hole.
    sparse::walk(file, area, &mut |piece, hole| {
        if !hole {
            touched.push(piece);
        }
        true
    })?;
    let mut next = 0;
    for piece in touched {
        let page_of = |at: u64| (at - area.start) / (2 * PAGE_BYTES);
        for number in page_of(piece.start).max(next)..=page_of(piece.end - 1) {
            let mut slots = [layout::Slot::Blank, layout::Slot::Blank];
            for (slot, found) in slots.iter_mut().enumerate() {
                let mut page = [0; PAGE_BYTES as usize];
                file.read_exact_at(&mut page, header.slot_offset(number, slot as u64))
                    .map_err(|e| at(path, "cannot read the overlay's bitmap", &e))?;
                *found = layout::decode_slot(&page);
            }
            if let Some(page) = layout::choose(slots).map_err(|e| refused(path, &e.to_string()))? {
                bitmap.load(number, page.bits, page.generation, page.slot);
            }
            next = number + 1;
        }
    }
    Ok(bitmap)
}

fn refused(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the overlay {} is refused: {what}", path.display()))
}

fn at(path: &Path, what: &str, e: &io::Error) -> io::Error {
    // The OS error's kind is kept; a full disk stays recognisable to the front end.
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests;
