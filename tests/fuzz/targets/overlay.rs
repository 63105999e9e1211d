//! An overlay file of foreign bytes: refused, or a disk that reads, writes, and says the same after it was opened again.
//!
//! Input: the header page, then bitmap slots. The file gets the length that the header says.
#![no_main]

use std::io;
use std::path::Path;

use farshore_changelog::units::ByteRange;
use farshore_fuzz::{Scratch, put, u32_at, u64_at};
use farshore_processor::overlay::{self, Overlay};
use farshore_processor::view::read_disk::{Extent, ReadDisk};
use libfuzzer_sys::fuzz_target;

const PAGE_BYTES: usize = 4096;
const GRANULE: usize = 12;
const SIZE: usize = 16;
const HEADER_CRC: usize = 144;
const SLOT_CRC: usize = 8;
/// Bits of a bitmap page.
const GRANULES_PER_PAGE: u64 = 32_640;
/// The disk begins on a multiple of it.
const DATA_ALIGN: u64 = 1 << 20;
/// Larger disks are refused here, not by the code: they say nothing new.
const DISK_MAX_BYTES: u64 = 16 << 40;

/// A point that holds ones everywhere.
struct Ones(u64);

impl ReadDisk for Ones {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], _: u64) -> io::Result<()> {
        buf.fill(1);
        Ok(())
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, hole: false }])
    }
}

/// Right checksums, and the length of the file that the header describes.
fn whole(bytes: &mut [u8]) -> u64 {
    let crc = crc32fast::hash(&bytes[..HEADER_CRC]);
    put(bytes, HEADER_CRC, &crc.to_le_bytes());
    for slot in bytes[PAGE_BYTES..].chunks_exact_mut(PAGE_BYTES).filter(|slot| slot.iter().any(|b| *b != 0)) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&slot[..SLOT_CRC]);
        crc.update(&slot[SLOT_CRC + 4..]);
        put(slot, SLOT_CRC, &crc.finalize().to_le_bytes());
    }
    let (granule, size) = (u64::from(u32_at(bytes, GRANULE)).max(1), u64_at(bytes, SIZE));
    let pages = size.div_ceil(granule).div_ceil(GRANULES_PER_PAGE);
    let bitmap_end = pages.saturating_mul(2 * PAGE_BYTES as u64).saturating_add(PAGE_BYTES as u64);
    bitmap_end.checked_next_multiple_of(DATA_ALIGN).and_then(|data| data.checked_add(size)).unwrap_or(u64::MAX)
}

fn read(overlay: &Overlay<Ones>, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512.min(overlay.size_bytes() as usize)];
    overlay.read_at(&mut bytes, offset).expect("what lies on the disk can be read");
    bytes
}

fn open_and_use(path: &Path) {
    let Ok(header) = overlay::check(path) else { return };
    let size = header.size_bytes;
    let open = || Overlay::persistent(Ones(size), header.clone(), path);
    let first = match open() {
        Ok(overlay) => overlay,
        Err(e) => panic!("it was checked and cannot be opened: {e}"),
    };
    let last = size - 512;
    let before = read(&first, last);
    let middle = (size / 2) & !511;
    first.write_at(&[2; 512], middle).expect("it can be written");
    first.zero(0, 512).expect("it can be zeroed");
    first.flush().expect("it can be flushed");
    drop(first);
    let again = open().expect("it opens again");
    if last != middle && last != 0 {
        assert_eq!(read(&again, last), before);
    }
    if middle != 0 {
        assert_eq!(read(&again, middle), [2; 512]);
    }
    assert_eq!(read(&again, 0), [0; 512]);
    let range = ByteRange { start: 0, end: size.min(1 << 20) };
    assert!(!again.extents(range).expect("it has extents").is_empty());
}

fuzz_target!(|data: &[u8]| {
    Scratch::with(data, data.len() as u64, open_and_use);
    if data.len() < PAGE_BYTES {
        return;
    }
    let mut bytes = data.to_vec();
    let len = whole(&mut bytes);
    if u64_at(&bytes, SIZE) <= DISK_MAX_BYTES {
        Scratch::with(&bytes, len.max(bytes.len() as u64), open_and_use);
    }
});
