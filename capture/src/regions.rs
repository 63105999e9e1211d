//! The dirty map: which regions of a disk the log does not have (*lost*), durably. Layout: `docs/format.md`, "Dirty map".
//!
//! In memory it is the truth at once; on disk it is after a [`Commit`]. A commit writes every page that changed since the one
//! before, so any number of changes share one fdatasync.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_changelog::crashsafe;
use farshore_changelog::ring::DiskEntry;
use farshore_changelog::units::ByteRange;

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;

/// Region size unless the config says otherwise: one record's payload.
pub const REGION_BYTES_DEFAULT: u64 = 1 << 20;
/// Smallest region size.
pub const REGION_BYTES_MIN: u64 = 64 << 10;
/// Largest region size.
pub const REGION_BYTES_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"FARSHMAP";
const VERSION: u32 = 1;
const PAGE_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;
/// Bytes of bitmap in a page; its CRC follows.
const PAGE_BITMAP_BYTES: usize = PAGE_BYTES - CRC_BYTES;
const PAGE_BITS: u64 = PAGE_BITMAP_BYTES as u64 * 8;

const VERSION_AT: usize = MAGIC.len();
const REGION_AT: usize = VERSION_AT + 4;
const SIZE_AT: usize = REGION_AT + 4;
const DEVICE_AT: usize = SIZE_AT + 8;
const INODE_AT: usize = DEVICE_AT + 8;
const NAME_AT: usize = INODE_AT + 8;
const NAME_BYTES: usize = 32;
const HEADER_CRC_AT: usize = NAME_AT + NAME_BYTES;

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

/// The dirty map of one disk.
#[derive(Debug)]
pub struct RegionMap {
    path: PathBuf,
    file: Arc<File>,
    disk_bytes: u64,
    region_bytes: u64,
    bitmap: Vec<u8>,
    lost: u64,
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
        let mut bitmap = vec![0; bitmap_bytes(regions)];
        if all_lost {
            (0..regions).for_each(|region| set(&mut bitmap, region));
        }
        let io = |what: &'static str| move |source| MapError::Io { path: path.to_owned(), what, source };
        crashsafe::replace_with(path, |file| {
            file.write_all_at(&header(disk, region_bytes)[..], 0)?;
            (0..pages(&bitmap)).try_for_each(|n| file.write_all_at(&page(&bitmap, n)[..], page_offset(n)))
        })
        .map_err(io("write it"))?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io("open it"))?;
        Ok(Self::with(path, file, disk, region_bytes, bitmap))
    }

    /// Opens the map of a disk, and proves that it is this disk's and whole.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed.
    pub fn open(path: &Path, disk: &DiskEntry) -> Result<Self, MapError> {
        let io = |what: &'static str| move |source| MapError::Io { path: path.to_owned(), what, source };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MapError::Missing { path: path.to_owned() }),
            Err(e) => return Err(io("open it")(e)),
        };
        let damaged = |what: String| MapError::Damaged { path: path.to_owned(), what };
        let len = file.metadata().map_err(io("look at it"))?.len();
        if len < PAGE_BYTES as u64 {
            return Err(damaged(format!("it has {len} bytes")));
        }
        let mut head = [0; PAGE_BYTES];
        file.read_exact_at(&mut head, 0).map_err(io("read it"))?;
        let region_bytes = prove_header(path, &head, disk)?;
        let regions = disk.size_bytes.div_ceil(region_bytes);
        let mut bitmap = vec![0; bitmap_bytes(regions)];
        let expected = page_offset(pages(&bitmap));
        if len != expected {
            return Err(damaged(format!("it has {len} bytes instead of {expected}")));
        }
        for (n, bits) in bitmap.chunks_exact_mut(PAGE_BITMAP_BYTES).enumerate() {
            let mut stored = [0; PAGE_BYTES];
            file.read_exact_at(&mut stored, page_offset(n)).map_err(io("read it"))?;
            if stored[PAGE_BITMAP_BYTES..] != crc32(&stored[..PAGE_BITMAP_BYTES]) {
                return Err(damaged(format!("page {n} fails its CRC")));
            }
            bits.copy_from_slice(&stored[..PAGE_BITMAP_BYTES]);
        }
        let map = Self::with(path, file, disk, region_bytes, bitmap);
        if (regions..map.bitmap.len() as u64 * 8).any(|beyond| get(&map.bitmap, beyond)) {
            return Err(damaged("a bit beyond the last region is set".to_owned()));
        }
        Ok(map)
    }

    fn with(path: &Path, file: File, disk: &DiskEntry, region_bytes: u64, bitmap: Vec<u8>) -> Self {
        let lost = bitmap.iter().map(|b| u64::from(b.count_ones())).sum();
        let (path, file, disk_bytes) = (path.to_owned(), Arc::new(file), disk.size_bytes);
        Self { path, file, disk_bytes, region_bytes, bitmap, lost, changed: BTreeSet::new() }
    }

    /// Regions of the disk; the last may be cut short by the disk's end.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.disk_bytes.div_ceil(self.region_bytes)
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
        self.lost
    }

    /// Bytes of the regions that are lost.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        let last = self.regions() - 1;
        let missing = self.region_bytes - self.range(last).len();
        self.lost * self.region_bytes - if self.is_lost(last) { missing } else { 0 }
    }

    /// Whether a region is lost.
    #[must_use]
    pub fn is_lost(&self, region: u64) -> bool {
        get(&self.bitmap, region)
    }

    /// The first lost region at or after `from`.
    #[must_use]
    pub fn next_lost(&self, from: u64) -> Option<u64> {
        let first = usize::try_from(from / 8).ok()?;
        let rest = self.bitmap.get(first..)?;
        rest.iter().enumerate().find_map(|(n, byte)| {
            // In the first byte, what lies before `from` does not count.
            let byte = if n == 0 { byte & (0xff << (from % 8)) } else { *byte };
            (byte != 0).then(|| (first + n) as u64 * 8 + u64::from(byte.trailing_zeros()))
        })
    }

    /// Notes a region as lost; `false` when it was already. Durable after the next commit.
    pub fn lose(&mut self, region: u64) -> bool {
        let new = !self.is_lost(region);
        if new {
            set(&mut self.bitmap, region);
            self.lost += 1;
            self.changed.insert(page_of(region));
        }
        new
    }

    /// Notes a region as repaired. Durable after the next commit.
    pub fn repaired(&mut self, region: u64) {
        if self.is_lost(region) {
            self.bitmap[region as usize / 8] &= !(1 << (region % 8));
            self.lost -= 1;
            self.changed.insert(page_of(region));
        }
    }

    /// What has to be written for the map on disk to say what it says in memory now; `None` when it does. Commits of one map
    /// are run one after the other, in the order they were taken.
    #[must_use]
    pub fn commit(&mut self) -> Option<Commit> {
        if self.changed.is_empty() {
            return None;
        }
        let pages = std::mem::take(&mut self.changed);
        let pages = pages.into_iter().map(|n| (page_offset(n), page(&self.bitmap, n))).collect();
        Some(Commit { path: self.path.clone(), file: Arc::clone(&self.file), pages })
    }
}

/// Changed pages on their way to the disk.
pub struct Commit {
    path: PathBuf,
    file: Arc<File>,
    pages: Vec<(u64, Box<[u8; PAGE_BYTES]>)>,
}

impl Commit {
    /// Writes the pages and waits until they are durable. It blocks.
    ///
    /// # Errors
    /// [`MapError::Io`]: from then on the map on disk is not to be trusted to be current.
    pub fn run(self) -> Result<(), MapError> {
        let written = self.pages.iter().try_for_each(|(at, page)| self.file.write_all_at(&page[..], *at));
        written.and_then(|()| self.file.sync_data()).map_err(|source| MapError::Io {
            path: self.path,
            what: "make a change durable",
            source,
        })
    }
}

fn header(disk: &DiskEntry, region_bytes: u64) -> Box<[u8; PAGE_BYTES]> {
    let mut head = Box::new([0; PAGE_BYTES]);
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(VERSION_AT, &VERSION.to_le_bytes());
    put(REGION_AT, &(region_bytes as u32).to_le_bytes());
    put(SIZE_AT, &disk.size_bytes.to_le_bytes());
    put(DEVICE_AT, &disk.identity.device.to_le_bytes());
    put(INODE_AT, &disk.identity.inode.to_le_bytes());
    put(NAME_AT, disk.name.as_str().as_bytes());
    let crc = crc32(&head[..HEADER_CRC_AT]);
    head[HEADER_CRC_AT..HEADER_CRC_AT + CRC_BYTES].copy_from_slice(&crc);
    head
}

/// Proves a header and gives the region size.
fn prove_header(path: &Path, head: &[u8; PAGE_BYTES], disk: &DiskEntry) -> Result<u64, MapError> {
    let damaged = |what: &str| MapError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let refused = |what: String| MapError::Refused { path: path.to_owned(), what };
    if head[..MAGIC.len()] != MAGIC[..] {
        return Err(damaged("it does not begin with the magic"));
    }
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(VERSION_AT) != VERSION {
        return Err(refused(format!(
            "it has version {}, and this program knows version {VERSION}",
            u32_at(VERSION_AT)
        )));
    }
    if head[HEADER_CRC_AT..HEADER_CRC_AT + CRC_BYTES] != crc32(&head[..HEADER_CRC_AT]) {
        return Err(damaged("its header fails its CRC"));
    }
    let region_bytes = u64::from(u32_at(REGION_AT));
    if !region_bytes.is_power_of_two() || !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes) {
        return Err(damaged("its region size is none"));
    }
    let expected = header(disk, region_bytes);
    let identity = disk.identity;
    let fields = [
        ("size", SIZE_AT, disk.size_bytes),
        ("device", DEVICE_AT, identity.device),
        ("inode", INODE_AT, identity.inode),
    ];
    for (what, at, wanted) in fields {
        if u64_at(at) != wanted {
            return Err(refused(format!("it was made for {what} {}, the disk has {wanted}", u64_at(at))));
        }
    }
    if head[NAME_AT..HEADER_CRC_AT] != expected[NAME_AT..HEADER_CRC_AT] {
        return Err(refused("it was made for a disk of another name".to_owned()));
    }
    if head[HEADER_CRC_AT..] != expected[HEADER_CRC_AT..] {
        return Err(damaged("a reserved byte is not zero"));
    }
    Ok(region_bytes)
}

fn bitmap_bytes(regions: u64) -> usize {
    usize::try_from(regions.div_ceil(PAGE_BITS)).expect("a bitmap fits in memory") * PAGE_BITMAP_BYTES
}

fn pages(bitmap: &[u8]) -> usize {
    bitmap.len() / PAGE_BITMAP_BYTES
}

fn page_of(region: u64) -> usize {
    (region / PAGE_BITS) as usize
}

fn page_offset(page: usize) -> u64 {
    (PAGE_BYTES + page * PAGE_BYTES) as u64
}

fn page(bitmap: &[u8], n: usize) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page[..PAGE_BITMAP_BYTES].copy_from_slice(&bitmap[n * PAGE_BITMAP_BYTES..(n + 1) * PAGE_BITMAP_BYTES]);
    let crc = crc32(&page[..PAGE_BITMAP_BYTES]);
    page[PAGE_BITMAP_BYTES..].copy_from_slice(&crc);
    page
}

fn crc32(bytes: &[u8]) -> [u8; CRC_BYTES] {
    crc32fast::hash(bytes).to_le_bytes()
}

fn get(bitmap: &[u8], region: u64) -> bool {
    bitmap.get((region / 8) as usize).is_some_and(|byte| byte & (1 << (region % 8)) != 0)
}

fn set(bitmap: &mut [u8], region: u64) {
    bitmap[(region / 8) as usize] |= 1 << (region % 8);
}
