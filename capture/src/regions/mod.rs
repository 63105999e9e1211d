//! The dirty map of a disk (G5): two durable bits a region. *Open*: the region may hold what the vault does not have yet, set
//! before anything in it is changed. *Lost*: the log does not have it, set before whoever changed it is answered. Layout:
//! `docs/format.md`, "Dirty map".
//!
//! In memory it is the truth at once; on disk it is after a [`Commit`]. A commit writes every page that changed since the one
//! before, each to the slot that does not count, so any number of changes share one fdatasync, and one that a power cut tears
//! leaves what was before it.

mod bits;
mod commit;
mod layout;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_changelog::ring::DiskEntry;
use farshore_changelog::units::ByteRange;
use farshore_changelog::{crashsafe, medium};

use bits::Bits;
pub use commit::{Commit, CommitError};
pub use layout::VERSION;
use layout::{Head, HeadError, PAGE_BYTES, Slot, page_of, pages, slot_offset};

/// Region size of a disk that is not very large: one record's payload.
pub const REGION_BYTES_DEFAULT: u64 = 1 << 20;
/// Smallest region size.
pub const REGION_BYTES_MIN: u64 = 64 << 10;
/// Largest region size.
pub const REGION_BYTES_MAX: u64 = 1 << 30;
/// Regions of a map unless its disk is larger than what the largest region size makes of them: so many bits of each kind are
/// 1 MiB on disk and in memory.
const REGIONS_MAX: u64 = 4 << 20;

/// Regions of a map at least, where the smallest region size makes so many of its disk.
const REGIONS_MIN: u64 = 1024;

/// The region size for a disk of so many bytes: 1 MiB; on disks of less than 1 GiB less, so that one write does not stand for all
/// of the disk, and on disks of more than 4 TiB as much more as keeps the map small.
#[must_use]
pub fn region_bytes_for(disk_bytes: u64) -> u64 {
    let mut region_bytes = REGION_BYTES_DEFAULT;
    while region_bytes > REGION_BYTES_MIN && disk_bytes.div_ceil(region_bytes) < REGIONS_MIN {
        region_bytes /= 2;
    }
    while region_bytes < REGION_BYTES_MAX && disk_bytes.div_ceil(region_bytes) > REGIONS_MAX {
        region_bytes *= 2;
    }
    region_bytes
}

/// Why a dirty map cannot be used. What it would have said is then unknown: every region of the disk has to count as lost.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// There is none.
    #[error("there is no dirty map at {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is whole and belongs to something else.
    #[error("dirty map {} is not this disk's: {what}", path.display())]
    Refused {
        /// The map.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// It has a version that this program does not know.
    #[error("dirty map {} has version {found}, this farshore reads version {VERSION}; use the version that wrote it", path.display())]
    Version {
        /// The map.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its bytes are not what was written.
    #[error("dirty map {} is damaged: {what}", path.display())]
    Damaged {
        /// The map.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system refused something.
    #[error("dirty map {}: cannot {what}", path.display())]
    Io {
        /// The map.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Which of the two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bit {
    Open,
    Lost,
}

/// The dirty map of one disk.
#[derive(Debug)]
pub struct RegionMap {
    path: PathBuf,
    file: Arc<File>,
    disk_bytes: u64,
    region_bytes: u64,
    open: Bits,
    lost: Bits,
    /// The slot of each page that counts, and its generation.
    current: Vec<(usize, u64)>,
    changed: BTreeSet<usize>,
}

impl RegionMap {
    /// Makes the map of a disk at `path`, durably, in place of what was there; with every region lost or none.
    ///
    /// # Errors
    /// [`MapError::Io`]; the old map is then untouched.
    ///
    /// # Panics
    /// When `region_bytes` is not a power of two from [`REGION_BYTES_MIN`] to [`REGION_BYTES_MAX`].
    pub fn create(path: &Path, disk: &DiskEntry, region_bytes: u64, all_lost: bool) -> Result<Self, MapError> {
        assert!(region_bytes.is_power_of_two() && (REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes));
        let regions = disk.size_bytes.div_ceil(region_bytes);
        let (open, mut lost) = (Bits::new(regions), Bits::new(regions));
        if all_lost {
            (0..regions).for_each(|region| _ = lost.set(region));
        }
        Self::write_new(path, disk, region_bytes, open, lost)
    }

    /// Makes the map of a disk that has grown out of the one that is there: the bits stay, and what is new is lost.
    ///
    /// # Errors
    /// [`MapError`] of the map that is there; nothing was changed.
    pub fn grow(path: &Path, disk: &DiskEntry) -> Result<Self, MapError> {
        let old = Self::read(path, disk)?;
        if old.disk_bytes > disk.size_bytes {
            let what = format!("it was made for {} bytes, the disk has {}", old.disk_bytes, disk.size_bytes);
            return Err(MapError::Refused { path: path.to_owned(), what });
        }
        let regions = disk.size_bytes.div_ceil(old.region_bytes);
        let (mut open, mut lost) = (Bits::new(regions), Bits::new(regions));
        std::iter::successors(old.open.next(0), |last| old.open.next(last + 1)).for_each(|region| _ = open.set(region));
        std::iter::successors(old.lost.next(0), |last| old.lost.next(last + 1)).for_each(|region| _ = lost.set(region));
        // The last region too, where the disk's end lay inside of it.
        (old.disk_bytes / old.region_bytes..regions).for_each(|region| _ = lost.set(region));
        Self::write_new(path, disk, old.region_bytes, open, lost)
    }

    fn write_new(path: &Path, disk: &DiskEntry, region_bytes: u64, open: Bits, lost: Bits) -> Result<Self, MapError> {
        let io = |what: &'static str| move |source| MapError::Io { path: path.to_owned(), what, source };
        let count = pages(disk.size_bytes.div_ceil(region_bytes));
        crashsafe::replace_with(path, |file| {
            medium::write_all_at(file, &layout::header(disk, region_bytes)[..], 0)?;
            (0..count).try_for_each(|n| {
                let slot = layout::encode_slot(1, open.page(n), lost.page(n));
                medium::write_all_at(file, &slot[..], slot_offset(n, 0))?;
                // Written, not left a hole: a commit then never needs room on a full disk.
                medium::write_all_at(file, &[0; PAGE_BYTES], slot_offset(n, 1))
            })
        })
        .map_err(io("write it"))?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io("open it"))?;
        let (path, file, current) = (path.to_owned(), Arc::new(file), vec![(0, 1); count]);
        Ok(Self {
            path,
            file,
            disk_bytes: disk.size_bytes,
            region_bytes,
            open,
            lost,
            current,
            changed: BTreeSet::new(),
        })
    }

    /// Opens the map of a disk, and proves that it is this disk's and whole.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed. [`MapError::Refused`] also when the disk has another size than it was made for
    /// ([`RegionMap::grow`]).
    pub fn open(path: &Path, disk: &DiskEntry) -> Result<Self, MapError> {
        let map = Self::read(path, disk)?;
        if map.disk_bytes == disk.size_bytes {
            return Ok(map);
        }
        let what = format!("it was made for size {}, the disk has {}", map.disk_bytes, disk.size_bytes);
        Err(MapError::Refused { path: path.to_owned(), what })
    }

    fn read(path: &Path, disk: &DiskEntry) -> Result<Self, MapError> {
        let io = |what: &'static str| move |source| MapError::Io { path: path.to_owned(), what, source };
        let damaged = |what: String| MapError::Damaged { path: path.to_owned(), what };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MapError::Missing { path: path.to_owned() }),
            Err(e) => return Err(io("open it")(e)),
        };
        // A process that was killed before its fdatasync may have left a page in memory only.
        medium::sync_data(&file).map_err(io("make it durable"))?;
        let len = file.metadata().map_err(io("look at it"))?.len();
        if len < PAGE_BYTES as u64 {
            return Err(damaged(format!("it has {len} bytes")));
        }
        let mut head = [0; PAGE_BYTES];
        file.read_exact_at(&mut head, 0).map_err(io("read it"))?;
        let Head { region_bytes, disk_bytes } = layout::prove_header(&head, disk).map_err(|e| match e {
            HeadError::Damaged(what) => damaged(what.to_owned()),
            HeadError::Version(found) => MapError::Version { path: path.to_owned(), found },
            HeadError::Other(what) => MapError::Refused { path: path.to_owned(), what },
        })?;
        // The length is proved before anything of that size is allocated.
        let regions = disk_bytes.div_ceil(region_bytes);
        let count = pages(regions);
        if regions == 0 || len != layout::file_bytes(count) {
            return Err(damaged(format!("it has {len} bytes, which is not what {regions} regions take")));
        }
        let (mut open, mut lost, mut current) = (Bits::new(regions), Bits::new(regions), Vec::with_capacity(count));
        for n in 0..count {
            let mut slots = [[0; PAGE_BYTES]; 2];
            for (slot, bytes) in slots.iter_mut().enumerate() {
                file.read_exact_at(bytes, slot_offset(n, slot)).map_err(io("read it"))?;
            }
            let (slot, generation) = newest(&slots).ok_or_else(|| damaged(format!("no slot of page {n} is whole")))?;
            if let Slot::Whole { open: opened, lost: missing, .. } = layout::decode_slot(&slots[slot]) {
                open.set_page(n, opened);
                lost.set_page(n, missing);
            }
            current.push((slot, generation));
        }
        if !open.end_is_clear() || !lost.end_is_clear() {
            return Err(damaged("a bit beyond the last region is set".to_owned()));
        }
        let (path, file) = (path.to_owned(), Arc::new(file));
        Ok(Self { path, file, disk_bytes, region_bytes, open, lost, current, changed: BTreeSet::new() })
    }

    /// Regions of the disk; the last may be cut short by the disk's end.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.disk_bytes.div_ceil(self.region_bytes)
    }

    /// Bytes of a region.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// The bytes of a region.
    #[must_use]
    pub fn range(&self, region: u64) -> ByteRange {
        let start = region * self.region_bytes;
        ByteRange { start, end: (start + self.region_bytes).min(self.disk_bytes) }
    }

    /// The regions that `range` touches.
    #[must_use]
    pub fn touched(&self, range: ByteRange) -> std::ops::Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        range.start / self.region_bytes..range.end.min(self.disk_bytes).div_ceil(self.region_bytes)
    }

    /// Regions that are lost.
    #[must_use]
    pub fn lost_regions(&self) -> u64 {
        self.lost.count
    }

    /// Bytes of the regions that are lost.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        let last = self.regions() - 1;
        let missing = self.region_bytes - self.range(last).len();
        self.lost.count * self.region_bytes - if self.is_lost(last) { missing } else { 0 }
    }

    /// Whether a region is lost.
    #[must_use]
    pub fn is_lost(&self, region: u64) -> bool {
        self.lost.get(region)
    }

    /// The first lost region at or after `from`.
    #[must_use]
    pub fn next_lost(&self, from: u64) -> Option<u64> {
        self.lost.next(from)
    }

    /// Regions that are open.
    #[must_use]
    pub fn open_regions(&self) -> u64 {
        self.open.count
    }

    /// Whether a region is open.
    #[must_use]
    pub fn is_open(&self, region: u64) -> bool {
        self.open.get(region)
    }

    /// The first open region at or after `from`.
    #[must_use]
    pub fn next_open(&self, from: u64) -> Option<u64> {
        self.open.next(from)
    }

    /// Notes a region as lost; `false` when it was already. Durable after the next commit.
    pub fn lose(&mut self, region: u64) -> bool {
        self.set(Bit::Lost, region)
    }

    /// Notes a region as repaired. Durable after the next commit.
    pub fn repaired(&mut self, region: u64) {
        self.clear(Bit::Lost, region);
    }

    /// Notes a region as open; `false` when it was already. Durable after the next commit.
    pub fn open_up(&mut self, region: u64) -> bool {
        self.set(Bit::Open, region)
    }

    /// Notes that the vault has all of a region. Durable after the next commit.
    pub fn close(&mut self, region: u64) {
        self.clear(Bit::Open, region);
    }

    /// The ring or the power is gone: what was open is lost, and nothing is open. Durable after the next commit. Gives how many
    /// regions that are.
    pub fn lose_open(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(region) = self.open.next(0) {
            lost += u64::from(self.lose(region));
            self.close(region);
        }
        lost
    }

    fn bits(&mut self, bit: Bit) -> &mut Bits {
        match bit {
            Bit::Open => &mut self.open,
            Bit::Lost => &mut self.lost,
        }
    }

    fn set(&mut self, bit: Bit, region: u64) -> bool {
        let new = self.bits(bit).set(region);
        if new {
            self.changed.insert(page_of(region));
        }
        new
    }

    fn clear(&mut self, bit: Bit, region: u64) {
        if self.bits(bit).clear(region) {
            self.changed.insert(page_of(region));
        }
    }

    /// No write to it succeeds from now on.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self) {
        self.file = Arc::new(File::open(&self.path).expect("it is there"));
    }

    /// Whether a change waits for a commit.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What has to be written for the map on disk to say what it says in memory now; `None` when it does. Commits of one map
    /// are run one after the other, in the order they were taken.
    #[must_use]
    pub fn commit(&mut self) -> Option<Commit> {
        if self.changed.is_empty() {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let mut written = Vec::with_capacity(changed.len());
        for n in changed {
            let (slot, generation) = &mut self.current[n];
            (*slot, *generation) = (1 - *slot, *generation + 1);
            let page = layout::encode_slot(*generation, self.open.page(n), self.lost.page(n));
            written.push((slot_offset(n, *slot), page));
        }
        Some(Commit { path: self.path.clone(), file: Arc::clone(&self.file), pages: written })
    }
}

/// The slot of a page that counts, with its generation.
fn newest(slots: &[[u8; PAGE_BYTES]; 2]) -> Option<(usize, u64)> {
    let generation = |(slot, bytes): (usize, &[u8; PAGE_BYTES])| match layout::decode_slot(bytes) {
        Slot::Whole { generation, .. } => Some((slot, generation)),
        Slot::Blank | Slot::Torn => None,
    };
    slots.iter().enumerate().filter_map(generation).max_by_key(|(_, generation)| *generation)
}
