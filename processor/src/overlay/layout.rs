//! Overlay file, byte for byte (`docs/format.md`, Overlay). Pure: bytes in, values out.

use farshore_changelog::ids::{DISK_NAME_MAX_BYTES, DiskName, Epoch, GROUP_NAME_MAX_BYTES, GroupName, Position, Seq};
use farshore_changelog::segment::layout::COUNTER_MAX;
use farshore_changelog::units::{SECTOR_BYTES, align_up};

/// First bytes of an overlay file.
pub const MAGIC: [u8; 8] = *b"FARSHCOW";
/// The version this code writes and reads.
pub const VERSION: u32 = 1;
/// Bytes of the header page, of a bitmap page, and the smallest granule.
pub const PAGE_BYTES: u64 = 4096;
/// Granule of disks up to [`SMALL_DISK_BYTES`]: no read of the base for a guest's 4 KiB write.
pub const SMALL_GRANULE_BYTES: u32 = 4096;
/// Granule of larger disks, so that the bitmap stays small.
pub const LARGE_GRANULE_BYTES: u32 = 65536;
/// Largest disk with the small granule: its bitmap takes 256 MiB when every granule was written.
pub const SMALL_DISK_BYTES: u64 = 8 << 40;
/// Largest disk an overlay is made for.
pub const DISK_BYTES_MAX: u64 = 1 << 58;
/// Data begins on a multiple of it.
const DATA_ALIGN_BYTES: u64 = 1 << 20;

const GENERATION_AT: usize = 0;
const PAGE_CRC_AT: usize = GENERATION_AT + 8;
const PAGE_RESERVED_AT: usize = PAGE_CRC_AT + 4;
const BITS_AT: usize = PAGE_RESERVED_AT + 4;
/// Bytes of bits in a bitmap page.
pub const BITS_BYTES: usize = PAGE_BYTES as usize - BITS_AT;
/// Granules of one bitmap page.
pub const GRANULES_PER_PAGE: u64 = BITS_BYTES as u64 * 8;

const VERSION_AT: usize = 8;
const GRANULE_AT: usize = VERSION_AT + 4;
const SIZE_AT: usize = GRANULE_AT + 4;
const GROUP_AT: usize = SIZE_AT + 8;
const DISK_AT: usize = GROUP_AT + GROUP_NAME_MAX_BYTES;
const EPOCH_AT: usize = DISK_AT + DISK_NAME_MAX_BYTES;
const SEQ_AT: usize = EPOCH_AT + 8;
const UNDO_END_AT: usize = SEQ_AT + 8;
const HEADER_CRC_AT: usize = UNDO_END_AT + 8;
const HEADER_END: usize = HEADER_CRC_AT + 4;

/// What an overlay lies over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The group whose point it is.
    pub group: GroupName,
    /// The disk.
    pub disk: DiskName,
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// Bytes that one bit stands for.
    pub granule_bytes: u32,
    /// The point's position.
    pub position: Position,
    /// The point's place in the undo journal.
    pub undo_end: u64,
}

/// Why an overlay file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not an overlay file.
    #[error("not an overlay file (wrong magic)")]
    Magic,
    /// Of another version.
    #[error("overlay version {0}, this program reads version {VERSION}; use the version that wrote it")]
    Version(u32),
    /// It fails its checksum or holds what no writer writes.
    #[error("the overlay is damaged: {0}")]
    Damaged(&'static str),
    /// No overlay can be made for it.
    #[error("no overlay for a disk of {0} bytes: a multiple of 512 up to {DISK_BYTES_MAX} is possible")]
    Size(u64),
}

impl Header {
    /// The granule for a disk of `size_bytes`.
    #[must_use]
    pub fn granule_for(size_bytes: u64) -> u32 {
        if size_bytes <= SMALL_DISK_BYTES { SMALL_GRANULE_BYTES } else { LARGE_GRANULE_BYTES }
    }

    /// Refuses what no file can be laid out for.
    ///
    /// # Errors
    /// [`LayoutError::Size`].
    pub fn check(&self) -> Result<(), LayoutError> {
        let good = self.size_bytes.is_multiple_of(SECTOR_BYTES) && (1..=DISK_BYTES_MAX).contains(&self.size_bytes);
        if good { Ok(()) } else { Err(LayoutError::Size(self.size_bytes)) }
    }

    /// Granules of the disk; the last one may reach past its end.
    #[must_use]
    pub fn granules(&self) -> u64 {
        self.size_bytes.div_ceil(u64::from(self.granule_bytes))
    }

    /// Bitmap pages of the file, each with two slots.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.granules().div_ceil(GRANULES_PER_PAGE)
    }

    /// Where in the file slot 0 or 1 of bitmap page `page` lies.
    #[must_use]
    pub fn slot_offset(&self, page: u64, slot: u64) -> u64 {
        PAGE_BYTES * (1 + page * 2 + slot)
    }

    /// Where in the file byte 0 of the disk lies.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        align_up(self.slot_offset(self.pages(), 0), DATA_ALIGN_BYTES)
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.data_offset() + self.size_bytes
    }

    /// The header page.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES as usize];
        page[..VERSION_AT].copy_from_slice(&MAGIC);
        page[VERSION_AT..GRANULE_AT].copy_from_slice(&VERSION.to_le_bytes());
        page[GRANULE_AT..SIZE_AT].copy_from_slice(&self.granule_bytes.to_le_bytes());
        page[SIZE_AT..GROUP_AT].copy_from_slice(&self.size_bytes.to_le_bytes());
        let group = self.group.as_str().as_bytes();
        page[GROUP_AT..GROUP_AT + group.len()].copy_from_slice(group);
        let disk = self.disk.as_str().as_bytes();
        page[DISK_AT..DISK_AT + disk.len()].copy_from_slice(disk);
        page[EPOCH_AT..SEQ_AT].copy_from_slice(&self.position.epoch.0.to_le_bytes());
        page[SEQ_AT..UNDO_END_AT].copy_from_slice(&self.position.seq.0.to_le_bytes());
        page[UNDO_END_AT..HEADER_CRC_AT].copy_from_slice(&self.undo_end.to_le_bytes());
        let crc = crc32fast::hash(&page[..HEADER_CRC_AT]);
        page[HEADER_CRC_AT..HEADER_END].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Proves a header page and reads it.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn decode(page: &[u8; PAGE_BYTES as usize]) -> Result<Self, LayoutError> {
        if page[..VERSION_AT] != MAGIC {
            return Err(LayoutError::Magic);
        }
        let version = u32_at(page, VERSION_AT);
        if version != VERSION {
            return Err(LayoutError::Version(version));
        }
        if u32_at(page, HEADER_CRC_AT) != crc32fast::hash(&page[..HEADER_CRC_AT]) {
            return Err(LayoutError::Damaged("the header's checksum is wrong"));
        }
        if page[HEADER_END..].iter().any(|b| *b != 0) {
            return Err(LayoutError::Damaged("a reserved byte is not zero"));
        }
        let granule_bytes = u32_at(page, GRANULE_AT);
        if granule_bytes != SMALL_GRANULE_BYTES && granule_bytes != LARGE_GRANULE_BYTES {
            return Err(LayoutError::Damaged("the granule is neither 4 KiB nor 64 KiB"));
        }
        let name = |from: usize, to: usize| {
            let field = &page[from..to];
            let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
            let padded = field[len..].iter().all(|b| *b == 0);
            std::str::from_utf8(&field[..len]).ok().filter(|_| padded)
        };
        let group = name(GROUP_AT, DISK_AT).and_then(|n| GroupName::new(n).ok());
        let disk = name(DISK_AT, EPOCH_AT).and_then(|n| DiskName::new(n).ok());
        let header = Self {
            group: group.ok_or(LayoutError::Damaged("the group's name is malformed"))?,
            disk: disk.ok_or(LayoutError::Damaged("the disk's name is malformed"))?,
            size_bytes: u64_at(page, SIZE_AT),
            granule_bytes,
            position: Position { epoch: Epoch(u64_at(page, EPOCH_AT)), seq: Seq(u64_at(page, SEQ_AT)) },
            undo_end: u64_at(page, UNDO_END_AT),
        };
        header.check()?;
        Ok(header)
    }
}

/// One slot of a bitmap page, as read.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot {
    /// Never written.
    Blank,
    /// Written whole.
    Good {
        /// The slot with the higher one counts.
        generation: u64,
        /// One bit a granule, bit i of byte i/8.
        bits: Box<[u8; BITS_BYTES]>,
    },
    /// Torn by a crash while it was written: the other slot counts.
    Torn,
}

/// Reads a slot.
#[must_use]
pub fn decode_slot(page: &[u8; PAGE_BYTES as usize]) -> Slot {
    if page.iter().all(|b| *b == 0) {
        return Slot::Blank;
    }
    let generation = u64_at(page, GENERATION_AT);
    let reserved = u32_at(page, PAGE_RESERVED_AT);
    if !(1..COUNTER_MAX).contains(&generation) || reserved != 0 || u32_at(page, PAGE_CRC_AT) != slot_crc(page) {
        return Slot::Torn;
    }
    let mut bits = Box::new([0; BITS_BYTES]);
    bits.copy_from_slice(&page[BITS_AT..]);
    Slot::Good { generation, bits }
}

/// A slot's bytes.
#[must_use]
pub fn encode_slot(generation: u64, bits: &[u8; BITS_BYTES]) -> [u8; PAGE_BYTES as usize] {
    let mut page = [0; PAGE_BYTES as usize];
    page[GENERATION_AT..PAGE_CRC_AT].copy_from_slice(&generation.to_le_bytes());
    page[BITS_AT..].copy_from_slice(bits);
    let crc = slot_crc(&page);
    page[PAGE_CRC_AT..PAGE_RESERVED_AT].copy_from_slice(&crc.to_le_bytes());
    page
}

/// Over everything but the checksum itself.
fn slot_crc(page: &[u8; PAGE_BYTES as usize]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..PAGE_CRC_AT]);
    crc.update(&page[PAGE_RESERVED_AT..]);
    crc.finalize()
}

/// The state of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its bits.
    pub bits: Box<[u8; BITS_BYTES]>,
    /// The generation that counts.
    pub generation: u64,
    /// The slot, 0 or 1, that it lies in.
    pub slot: u64,
}

/// The state of a page out of its two slots; `None` when no bit was ever durable.
///
/// | slots | meaning |
/// |---|---|
/// | blank, blank | nothing was written there |
/// | good, blank or torn | the good one |
/// | good, good | the one with the higher generation |
/// | torn, blank | its first write was torn: nothing was flushed there |
/// | torn, torn; good, good of one generation | damaged |
///
/// # Errors
/// [`LayoutError::Damaged`].
pub fn choose(slots: [Slot; 2]) -> Result<Option<Chosen>, LayoutError> {
    let chosen = |bits, generation, slot| Ok(Some(Chosen { bits, generation, slot }));
    use Slot::{Blank, Good, Torn};
    match slots {
        [Blank | Torn, Blank] | [Blank, Torn] => Ok(None),
        [Good { generation, bits }, Blank | Torn] => chosen(bits, generation, 0),
        [Blank | Torn, Good { generation, bits }] => chosen(bits, generation, 1),
        [Good { generation: a, bits }, Good { generation: b, .. }] if a > b => chosen(bits, a, 0),
        [Good { generation: a, .. }, Good { generation: b, bits }] if b > a => chosen(bits, b, 1),
        [Good { .. }, Good { .. }] => Err(LayoutError::Damaged("both slots of a bitmap page have one generation")),
        [Torn, Torn] => Err(LayoutError::Damaged("both slots of a bitmap page fail their checksum")),
    }
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&page[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            group: GroupName::new("web01").unwrap(),
            disk: DiskName::new("vda").unwrap(),
            size_bytes: 10 << 20,
            granule_bytes: SMALL_GRANULE_BYTES,
            position: Position { epoch: Epoch(2), seq: Seq(77) },
            undo_end: 123_456,
        }
    }

    fn page(bytes: &[u8]) -> [u8; PAGE_BYTES as usize] {
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_is_noticed() {
        let good = page(&header().encode());
        assert_eq!(Header::decode(&good).unwrap(), header());
        for bit in 0..HEADER_END * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        let mut bad = good;
        bad[4000] = 1;
        assert!(Header::decode(&bad).is_err());
    }

    #[test]
    fn nothing_overlaps_in_the_file() {
        for size in [512, 4096, 10 << 20, SMALL_DISK_BYTES, SMALL_DISK_BYTES + 512, DISK_BYTES_MAX] {
            let h = Header { size_bytes: size, granule_bytes: Header::granule_for(size), ..header() };
            h.check().unwrap();
            assert!(h.slot_offset(0, 0) >= PAGE_BYTES);
            assert!(h.slot_offset(h.pages() - 1, 1) + PAGE_BYTES <= h.data_offset());
            assert!(h.granules() <= h.pages() * GRANULES_PER_PAGE);
            assert!(i64::try_from(h.file_bytes()).is_ok());
        }
    }

    #[test]
    fn every_pair_of_slots_meets_its_row() {
        let bits = |b: u8| Box::new([b; BITS_BYTES]);
        let good = |generation, b| decode_slot(&encode_slot(generation, &bits(b)));
        let chosen = |b, generation, slot| Ok(Some(Chosen { bits: bits(b), generation, slot }));
        let torn = || {
            let mut page = encode_slot(9, &bits(9));
            page[2000] ^= 1;
            decode_slot(&page)
        };
        let blank = || decode_slot(&[0; PAGE_BYTES as usize]);
        assert_eq!(choose([blank(), blank()]), Ok(None));
        assert_eq!(choose([torn(), blank()]), Ok(None));
        assert_eq!(choose([blank(), torn()]), Ok(None));
        assert_eq!(choose([good(1, 1), blank()]), chosen(1, 1, 0));
        assert_eq!(choose([blank(), good(1, 1)]), chosen(1, 1, 1));
        assert_eq!(choose([good(3, 1), torn()]), chosen(1, 3, 0));
        assert_eq!(choose([torn(), good(3, 1)]), chosen(1, 3, 1));
        assert_eq!(choose([good(3, 1), good(2, 2)]), chosen(1, 3, 0));
        assert_eq!(choose([good(3, 1), good(4, 2)]), chosen(2, 4, 1));
        assert!(choose([good(3, 1), good(3, 2)]).is_err());
        assert!(choose([torn(), torn()]).is_err());
    }
}
