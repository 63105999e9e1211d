//! A dirty map of foreign bytes: refused, or a map whose numbers agree and which survives a change.
#![no_main]

use std::path::Path;

use farshore_capture::regions::RegionMap;
use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind};
use farshore_fuzz::{Scratch, put};
use libfuzzer_sys::fuzz_target;

const PAGE_BYTES: usize = 4096;
const HEADER_CRC: usize = 72;
const SLOT_CRC: usize = 8;

/// The disk of the seeds: 50,000 regions of 64 KiB, two pages of bits, and one region cut short.
fn disk() -> DiskEntry {
    DiskEntry {
        name: DiskName::new("vda").expect("a valid name"),
        size_bytes: 50_000 * 65_536 - 512,
        identity: DiskIdentity { kind: DiskKind::File, device: 2049, inode: 4711 },
        block_bytes: 512,
    }
}

fn open_and_use(path: &Path) {
    let disk = disk();
    let Ok(mut map) = RegionMap::open(path, &disk) else { return };
    let mut lost = 0;
    let mut from = 0;
    while let Some(region) = map.next_lost(from) {
        assert!(region >= from && region < map.regions() && map.is_lost(region));
        lost += 1;
        from = region + 1;
    }
    assert_eq!(lost, map.lost_regions());
    assert!(map.lost_bytes() <= disk.size_bytes);
    let changed = lost % map.regions();
    if !map.lose(changed) {
        map.repaired(changed);
    }
    let open = map.next_open(0).unwrap_or(changed);
    map.close(open);
    let commit = map.commit().expect("a bit was changed");
    commit.run().expect("the temporary file can be written");
    let again = RegionMap::open(path, &disk).expect("what was written is whole");
    assert_eq!((again.lost_regions(), again.is_lost(changed)), (map.lost_regions(), map.is_lost(changed)));
    assert_eq!((again.open_regions(), again.next_open(0)), (map.open_regions(), map.next_open(0)));
}

fuzz_target!(|data: &[u8]| {
    Scratch::with(data, data.len() as u64, open_and_use);
    let mut whole = data.to_vec();
    let mut pages = whole.chunks_exact_mut(PAGE_BYTES);
    if let Some(header) = pages.next() {
        let crc = crc32fast::hash(&header[..HEADER_CRC]);
        put(header, HEADER_CRC, &crc.to_le_bytes());
    }
    // A slot of nothing but zero bytes was never written.
    for slot in pages.filter(|slot| slot.iter().any(|byte| *byte != 0)) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&slot[..SLOT_CRC]);
        crc.update(&slot[SLOT_CRC + 4..]);
        put(slot, SLOT_CRC, &crc.finalize().to_le_bytes());
    }
    Scratch::with(&whole, whole.len() as u64, open_and_use);
});
