//! Where everything of a dirty map lies (`docs/format.md`, "Dirty map"): the header page, and pages of bits in two slots each,
//! so that a write that a power cut tears leaves the page as it was before. Pure.

use farshore_changelog::ids::DISK_NAME_MAX_BYTES;
use farshore_changelog::ring::{DiskEntry, DiskKind};
use farshore_changelog::segment::layout::COUNTER_MAX;

use super::{REGION_BYTES_MAX, REGION_BYTES_MIN};

const MAGIC: &[u8; 8] = b"FARSHMAP";
/// The version that is written and read.
pub const VERSION: u32 = 2;
/// The header, and each slot of a page of bits.
pub(super) const PAGE_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;

// The header's fields, each from its neighbour.
pub(super) const VERSION_AT: usize = MAGIC.len();
pub(super) const REGION_AT: usize = VERSION_AT + 4;
pub(super) const SIZE_AT: usize = REGION_AT + 4;
const KIND_AT: usize = SIZE_AT + 8;
const HEADER_RESERVED_AT: usize = KIND_AT + 4;
const INODE_AT: usize = HEADER_RESERVED_AT + 4;
pub(super) const NAME_AT: usize = INODE_AT + 8;
pub(super) const HEADER_CRC_AT: usize = NAME_AT + DISK_NAME_MAX_BYTES;

// A slot's fields.
pub(super) const GENERATION_AT: usize = 0;
pub(super) const SLOT_CRC_AT: usize = GENERATION_AT + 8;
const SLOT_RESERVED_AT: usize = SLOT_CRC_AT + CRC_BYTES;
const OPEN_AT: usize = SLOT_RESERVED_AT + 4;
/// Bytes of bits of one kind in a page.
pub(super) const BITS_BYTES: usize = (PAGE_BYTES - OPEN_AT) / 2;
const LOST_AT: usize = OPEN_AT + BITS_BYTES;
/// Regions of a page.
pub(super) const PAGE_REGIONS: u64 = BITS_BYTES as u64 * 8;

const _: () = assert!(LOST_AT + BITS_BYTES == PAGE_BYTES && HEADER_CRC_AT == 72);

/// A page of the file's size.
pub(super) type Page = Box<[u8; PAGE_BYTES]>;

/// What a header claims, once its magic, version and checksum are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub region_bytes: u64,
    pub disk_bytes: u64,
}

/// What is wrong with a header.
pub(super) enum HeadError {
    /// Its bytes are not what was written.
    Damaged(&'static str),
    /// It is whole, and of a version that this program does not know.
    Version(u32),
    /// It is whole and another disk's.
    Other(String),
}

/// The header of the map of `disk`. Of a file the inode is noted and not the device: its number may change with a reboot.
pub(super) fn header(disk: &DiskEntry, region_bytes: u64) -> Page {
    let mut head = Box::new([0; PAGE_BYTES]);
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(VERSION_AT, &VERSION.to_le_bytes());
    put(REGION_AT, &(region_bytes as u32).to_le_bytes()); // at most 1 GiB
    put(SIZE_AT, &disk.size_bytes.to_le_bytes());
    put(KIND_AT, &kind(disk).to_le_bytes());
    put(INODE_AT, &inode(disk).to_le_bytes());
    put(NAME_AT, disk.name.as_str().as_bytes());
    let crc = crc32(&head[..HEADER_CRC_AT]);
    head[HEADER_CRC_AT..HEADER_CRC_AT + CRC_BYTES].copy_from_slice(&crc);
    head
}

fn kind(disk: &DiskEntry) -> u32 {
    match disk.identity.kind {
        DiskKind::File => 1,
        DiskKind::BlockDevice => 2,
    }
}

fn inode(disk: &DiskEntry) -> u64 {
    match disk.identity.kind {
        DiskKind::File => disk.identity.inode,
        DiskKind::BlockDevice => disk.identity.device,
    }
}

/// Proves a header, and that it is of `disk`, whose size may differ: the size it was made for is given back.
pub(super) fn prove_header(head: &[u8; PAGE_BYTES], disk: &DiskEntry) -> Result<Head, HeadError> {
    if head[..MAGIC.len()] != MAGIC[..] {
        return Err(HeadError::Damaged("it does not begin with the magic"));
    }
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(VERSION_AT) != VERSION {
        return Err(HeadError::Version(u32_at(VERSION_AT)));
    }
    if head[HEADER_CRC_AT..HEADER_CRC_AT + CRC_BYTES] != crc32(&head[..HEADER_CRC_AT]) {
        return Err(HeadError::Damaged("its header fails its CRC"));
    }
    let region_bytes = u64::from(u32_at(REGION_AT));
    if !region_bytes.is_power_of_two() || !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes) {
        return Err(HeadError::Damaged("its region size is none"));
    }
    if (u32_at(KIND_AT), u64_at(INODE_AT)) != (kind(disk), inode(disk)) {
        let what = format!(
            "it was made for inode or device {} of kind {}, the disk has {} of kind {}",
            u64_at(INODE_AT),
            u32_at(KIND_AT),
            inode(disk),
            kind(disk)
        );
        return Err(HeadError::Other(what));
    }
    let disk_bytes = u64_at(SIZE_AT);
    let expected = header(&DiskEntry { size_bytes: disk_bytes, ..disk.clone() }, region_bytes);
    if head[NAME_AT..HEADER_CRC_AT] != expected[NAME_AT..HEADER_CRC_AT] {
        return Err(HeadError::Other("it was made for a disk of another name".to_owned()));
    }
    if head[..] != expected[..] {
        return Err(HeadError::Damaged("a reserved byte is not zero"));
    }
    Ok(Head { region_bytes, disk_bytes })
}

/// Pages of the map of so many regions.
pub(super) fn pages(regions: u64) -> usize {
    usize::try_from(regions.div_ceil(PAGE_REGIONS)).expect("a map fits in memory")
}

/// The page that holds a region.
pub(super) fn page_of(region: u64) -> usize {
    (region / PAGE_REGIONS) as usize
}

/// Where slot 0 or 1 of a page lies in the file.
pub(super) fn slot_offset(page: usize, slot: usize) -> u64 {
    (PAGE_BYTES * (1 + 2 * page + slot)) as u64
}

/// Length of the file.
pub(super) fn file_bytes(pages: usize) -> u64 {
    slot_offset(pages, 0)
}

/// A slot with these bits.
pub(super) fn encode_slot(generation: u64, open: &[u8], lost: &[u8]) -> Page {
    let mut slot = Box::new([0; PAGE_BYTES]);
    slot[GENERATION_AT..SLOT_CRC_AT].copy_from_slice(&generation.to_le_bytes());
    slot[OPEN_AT..LOST_AT].copy_from_slice(open);
    slot[LOST_AT..].copy_from_slice(lost);
    let crc = slot_crc(&slot);
    slot[SLOT_CRC_AT..SLOT_RESERVED_AT].copy_from_slice(&crc);
    slot
}

/// What a slot holds.
pub(super) enum Slot<'a> {
    /// It was never written.
    Blank,
    /// Bits.
    Whole { generation: u64, open: &'a [u8], lost: &'a [u8] },
    /// A write that was torn, or rot.
    Torn,
}

/// Proves a slot.
pub(super) fn decode_slot(slot: &[u8; PAGE_BYTES]) -> Slot<'_> {
    let generation = u64::from_le_bytes(slot[GENERATION_AT..SLOT_CRC_AT].try_into().expect("eight bytes"));
    if slot.iter().all(|byte| *byte == 0) {
        Slot::Blank
    } else if !(1..COUNTER_MAX).contains(&generation)
        || slot[SLOT_CRC_AT..SLOT_RESERVED_AT] != slot_crc(slot)
        || slot[SLOT_RESERVED_AT..OPEN_AT] != [0; 4]
    {
        Slot::Torn
    } else {
        Slot::Whole { generation, open: &slot[OPEN_AT..LOST_AT], lost: &slot[LOST_AT..] }
    }
}

/// The CRC of all of a slot but the CRC itself.
fn slot_crc(slot: &[u8; PAGE_BYTES]) -> [u8; CRC_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..SLOT_CRC_AT]);
    hasher.update(&slot[SLOT_RESERVED_AT..]);
    hasher.finalize().to_le_bytes()
}

fn crc32(bytes: &[u8]) -> [u8; CRC_BYTES] {
    crc32fast::hash(bytes).to_le_bytes()
}
