use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskIdentity, DiskKind};

use super::*;

fn disk(size_bytes: u64) -> DiskEntry {
    let identity = DiskIdentity { kind: DiskKind::File, device: 7, inode: 9 };
    DiskEntry { name: DiskName::new("vda").unwrap(), size_bytes, identity, block_bytes: 512 }
}

fn lost(map: &RegionMap) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(region) = map.next_lost(found.last().map_or(0, |last| last + 1)) {
        found.push(region);
    }
    assert_eq!(found.len() as u64, map.lost_regions());
    found
}

#[test]
fn what_was_committed_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    // Two pages of bits, and a last region that is cut short.
    let entry = disk((PAGE_BITS + 10) * REGION_BYTES_MIN + 512);
    let mut map = RegionMap::create(&path, &entry, REGION_BYTES_MIN, false).unwrap();
    assert_eq!((map.regions(), map.lost_regions(), map.next_lost(0)), (PAGE_BITS + 11, 0, None));
    assert!(map.commit().is_none());
    let wanted = [0, 8, 4091, PAGE_BITS - 1, PAGE_BITS, PAGE_BITS + 10];
    for region in wanted {
        assert!(map.lose(region));
        assert!(!map.lose(region));
    }
    assert_eq!(map.lost_bytes(), 5 * REGION_BYTES_MIN + 512);
    map.commit().unwrap().run().unwrap();
    map.lose(77);
    drop(map);

    let mut map = RegionMap::open(&path, &entry).unwrap();
    assert_eq!(lost(&map), wanted, "77 was not committed");
    map.repaired(8);
    map.repaired(9);
    map.commit().unwrap().run().unwrap();
    assert!(map.commit().is_none());
    assert_eq!(lost(&RegionMap::open(&path, &entry).unwrap()), [0, 4091, PAGE_BITS - 1, PAGE_BITS, PAGE_BITS + 10]);
}

#[test]
fn all_of_a_disk_can_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let entry = disk((3 << 20) + 512);
    RegionMap::create(&path, &entry, REGION_BYTES_DEFAULT, true).unwrap();
    let map = RegionMap::open(&path, &entry).unwrap();
    assert_eq!(lost(&map), [0, 1, 2, 3]);
    assert_eq!(map.lost_bytes(), entry.size_bytes);
    assert_eq!(map.range(3), ByteRange { start: 3 << 20, end: entry.size_bytes });
    assert_eq!(map.touched(ByteRange { start: (1 << 20) - 1, end: (2 << 20) + 1 }), 0..3);
    assert_eq!(map.touched(ByteRange { start: 1 << 20, end: 2 << 20 }), 1..2);
    assert!(map.touched(ByteRange::default()).is_empty());
}

#[test]
fn maps_of_other_disks_are_refused_and_damaged_ones_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let entry = disk(8 << 20);
    assert!(matches!(RegionMap::open(&path, &entry), Err(MapError::Missing { .. })));
    RegionMap::create(&path, &entry, REGION_BYTES_DEFAULT, true).unwrap();

    let mut others = [entry.clone(), entry.clone(), entry.clone(), entry.clone()];
    others[0].size_bytes += 512;
    others[1].identity.device += 1;
    others[2].identity.inode += 1;
    others[3].name = DiskName::new("vdb").unwrap();
    for other in others {
        assert!(matches!(RegionMap::open(&path, &other), Err(MapError::Refused { .. })), "{other:?}");
    }

    let good = std::fs::read(&path).unwrap();
    for at in [0, REGION_AT, SIZE_AT, NAME_AT, HEADER_CRC_AT, 200, PAGE_BYTES, PAGE_BYTES + 100, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(RegionMap::open(&path, &entry), Err(MapError::Damaged { .. })), "byte {at}");
    }
    for len in [0, 100, PAGE_BYTES, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(RegionMap::open(&path, &entry), Err(MapError::Damaged { .. })), "{len} bytes");
    }
    let mut newer = good.clone();
    newer[VERSION_AT] = 2;
    std::fs::write(&path, &newer).unwrap();
    assert!(RegionMap::open(&path, &entry).unwrap_err().to_string().contains("version 2"));
}
