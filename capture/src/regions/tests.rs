use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskIdentity, DiskKind};

use super::layout::{HEADER_CRC_AT, NAME_AT, PAGE_REGIONS, REGION_AT, SIZE_AT, VERSION_AT};
use super::*;

fn disk(size_bytes: u64) -> DiskEntry {
    let identity = DiskIdentity { kind: DiskKind::File, device: 7, inode: 9 };
    DiskEntry { name: DiskName::new("vda").unwrap(), size_bytes, identity, block_bytes: 512 }
}

fn lost(map: &RegionMap) -> Vec<u64> {
    let found: Vec<u64> = std::iter::successors(map.next_lost(0), |last| map.next_lost(last + 1)).collect();
    assert_eq!(found.len() as u64, map.lost_regions());
    found
}

fn open(map: &RegionMap) -> Vec<u64> {
    let found: Vec<u64> = std::iter::successors(map.next_open(0), |last| map.next_open(last + 1)).collect();
    assert_eq!(found.len() as u64, map.open_regions());
    found
}

#[test]
fn what_was_committed_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    // Two pages of bits, and a last region that is cut short.
    let entry = disk((PAGE_REGIONS + 10) * REGION_BYTES_MIN + 512);
    let mut map = RegionMap::create(&path, &entry, REGION_BYTES_MIN, false).unwrap();
    assert_eq!((map.regions(), map.lost_regions(), map.next_lost(0)), (PAGE_REGIONS + 11, 0, None));
    assert!(map.commit().is_none());
    let wanted = [0, 8, 2040, PAGE_REGIONS - 1, PAGE_REGIONS, PAGE_REGIONS + 10];
    for region in wanted {
        assert!(map.lose(region) && map.open_up(region + 1 - u64::from(region == PAGE_REGIONS + 10)));
        assert!(!map.lose(region));
    }
    assert_eq!(map.lost_bytes(), 5 * REGION_BYTES_MIN + 512);
    map.commit().unwrap().run().unwrap();
    map.lose(77);
    map.close(1);
    drop(map);

    let mut map = RegionMap::open(&path, &entry).unwrap();
    assert_eq!(lost(&map), wanted, "77 was not committed");
    assert_eq!(open(&map), [1, 9, 2041, PAGE_REGIONS, PAGE_REGIONS + 1, PAGE_REGIONS + 10]);
    map.repaired(8);
    map.repaired(9);
    map.close(9);
    map.commit().unwrap().run().unwrap();
    assert!(map.commit().is_none());
    let map = RegionMap::open(&path, &entry).unwrap();
    assert_eq!(lost(&map), [0, 2040, PAGE_REGIONS - 1, PAGE_REGIONS, PAGE_REGIONS + 10]);
    assert_eq!(open(&map), [1, 2041, PAGE_REGIONS, PAGE_REGIONS + 1, PAGE_REGIONS + 10]);
}

#[test]
fn what_was_open_is_lost_once_the_ring_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let mut map = RegionMap::create(&path, &disk(8 << 20), REGION_BYTES_DEFAULT, false).unwrap();
    map.lose(2);
    for region in [1, 2, 5] {
        assert!(map.open_up(region));
    }
    assert_eq!(map.lose_open(), 2);
    map.commit().unwrap().run().unwrap();
    let map = RegionMap::open(&path, &disk(8 << 20)).unwrap();
    assert_eq!((lost(&map), open(&map)), (vec![1, 2, 5], vec![]));
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
fn a_grown_disk_keeps_its_bits_and_what_is_new_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let old = disk((2 << 20) + 512);
    let mut map = RegionMap::create(&path, &old, REGION_BYTES_DEFAULT, false).unwrap();
    map.lose(0);
    map.open_up(1);
    map.commit().unwrap().run().unwrap();
    let new = disk(5 << 20);
    assert!(matches!(RegionMap::open(&path, &new), Err(MapError::Refused { .. })));
    RegionMap::grow(&path, &new).unwrap();
    let map = RegionMap::open(&path, &new).unwrap();
    assert_eq!((lost(&map), open(&map)), (vec![0, 2, 3, 4], vec![1]));
    assert!(matches!(RegionMap::grow(&path, &old), Err(MapError::Refused { .. })), "it does not shrink");
}

#[test]
fn regions_are_sized_to_the_disk() {
    assert_eq!(region_bytes_for(512), REGION_BYTES_MIN);
    assert_eq!(region_bytes_for(512 << 20), 512 << 10);
    assert_eq!(region_bytes_for(1 << 30), 1 << 20);
    assert_eq!(region_bytes_for(4 << 40), 1 << 20);
    assert_eq!(region_bytes_for(16 << 40), 4 << 20);
    assert!((16_u64 << 40).div_ceil(region_bytes_for(16 << 40)) <= REGIONS_MAX);
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
    others[1].identity.kind = DiskKind::BlockDevice;
    others[2].identity.inode += 1;
    others[3].name = DiskName::new("vdb").unwrap();
    for other in others {
        assert!(matches!(RegionMap::open(&path, &other), Err(MapError::Refused { .. })), "{other:?}");
    }
    let mut moved = entry.clone();
    moved.identity.device += 1;
    RegionMap::open(&path, &moved).expect("after a reboot a disk may have another number");

    let good = std::fs::read(&path).unwrap();
    for at in [0, REGION_AT, SIZE_AT, NAME_AT, HEADER_CRC_AT, 200, PAGE_BYTES, PAGE_BYTES + 100] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(RegionMap::open(&path, &entry), Err(MapError::Damaged { .. })), "byte {at}");
    }
    for len in [0, 100, PAGE_BYTES, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(RegionMap::open(&path, &entry), Err(MapError::Damaged { .. })), "{len} bytes");
    }
    let mut older = good.clone();
    older[VERSION_AT] = 1;
    std::fs::write(&path, &older).unwrap();
    let error = RegionMap::open(&path, &entry).unwrap_err();
    assert!(
        matches!(error, MapError::Version { found: 1, .. })
            && error.to_string().contains("use the version that wrote it"),
        "{error}"
    );
}

/// Every way in which the sectors of one commit can have reached the disk or not: before it is acknowledged the old page may
/// count as well as the new one, and never anything else.
#[test]
fn a_torn_commit_leaves_the_page_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let entry = disk(64 << 20);
    let mut map = RegionMap::create(&path, &entry, REGION_BYTES_MIN, false).unwrap();
    map.open_up(3);
    map.commit().unwrap().run().unwrap();
    let before = std::fs::read(&path).unwrap();
    map.open_up(4);
    map.lose(1000);
    map.commit().unwrap().run().unwrap();
    let after = std::fs::read(&path).unwrap();
    let sectors = before.len() / 512;
    let differ: Vec<usize> = (0..sectors).filter(|n| before[n * 512..][..512] != after[n * 512..][..512]).collect();
    assert!((2..8).contains(&differ.len()));
    for kept in 0..1_u32 << differ.len() {
        let mut mixed = before.clone();
        for (bit, sector) in differ.iter().enumerate().filter(|(bit, _)| kept & (1 << bit) != 0) {
            let _ = bit;
            mixed[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
        }
        std::fs::write(&path, &mixed).unwrap();
        let map = RegionMap::open(&path, &entry).unwrap();
        let (all, none) = ((vec![3, 4], vec![1000]), (vec![3], vec![]));
        let found = (open(&map), lost(&map));
        let whole = kept + 1 == 1 << differ.len();
        assert_eq!(found, if whole { all } else { none }, "sectors {kept:b}");
    }
}

#[test]
fn a_map_that_cannot_be_written_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vda.map");
    let entry = disk(8 << 20);
    let mut map = RegionMap::create(&path, &entry, REGION_BYTES_DEFAULT, false).unwrap();
    map.open_up(3);
    map.spoil();
    let error = map.commit().unwrap().run().unwrap_err();
    assert!(error.removed && !path.exists());
}
