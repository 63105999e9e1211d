use super::*;

const CHUNK_UNITS: u32 = 4;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn hash(disk: u16, unit: u64) -> Hash {
    Hash::of(&[u64::from(disk).to_le_bytes(), unit.to_le_bytes()].concat())
}

fn chunk(disk: u16, number: u32, units: u64) -> Chunk {
    let first_unit = u64::from(number) * u64::from(CHUNK_UNITS);
    Chunk {
        group: group(),
        epoch: Epoch(2),
        seq: Seq(1),
        disk: DiskIndex(disk),
        unit_bytes: 1 << 20,
        chunk_units: CHUNK_UNITS,
        first_unit,
        hashes: (first_unit..first_unit + units).map(|unit| hash(disk, unit)).collect(),
    }
}

fn put(dir: &Path, chunk: &Chunk) -> PathBuf {
    let folder = folder(dir, Epoch(2));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(chunk_file_name(chunk.disk, u32::try_from(chunk.number()).unwrap()));
    std::fs::write(&path, chunk.encode()).unwrap();
    path
}

/// Disk 0 with ten units, disk 1 with one, and the plan.
fn fetched() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for chunk in [chunk(0, 0, 4), chunk(0, 1, 4), chunk(0, 2, 2), chunk(1, 0, 1)] {
        put(dir.path(), &chunk);
    }
    std::fs::write(folder(dir.path(), Epoch(2)).join(PLAN_FILE), "{}").unwrap();
    dir
}

#[test]
fn every_unit_has_its_hash_in_any_order_and_others_have_none() {
    let dir = fetched();
    let mut hashes = Hashes::open(dir.path(), &group(), Epoch(2)).unwrap();
    assert_eq!((hashes.seq(), hashes.unit_bytes()), (Seq(1), 1 << 20));
    for unit in (0..10).chain((0..10).rev()) {
        assert_eq!(hashes.unit(DiskIndex(0), unit), Some(hash(0, unit)));
    }
    assert_eq!(hashes.unit(DiskIndex(1), 0), Some(hash(1, 0)));
    for (disk, unit) in [(0, 10), (0, 400), (0, u64::MAX), (1, 1), (2, 0)] {
        assert_eq!(hashes.unit(DiskIndex(disk), unit), None);
    }
}

#[test]
fn without_the_plan_nothing_is_there_and_another_groups_hashes_are_not_ours() {
    let dir = fetched();
    assert!(Hashes::open(dir.path(), &GroupName::new("db01").unwrap(), Epoch(2)).is_none());
    assert!(Hashes::open(dir.path(), &group(), Epoch(3)).is_none());
    std::fs::remove_file(folder(dir.path(), Epoch(2)).join(PLAN_FILE)).unwrap();
    assert!(Hashes::open(dir.path(), &group(), Epoch(2)).is_none());
}

#[test]
fn a_damaged_or_strange_chunk_has_no_hashes_and_the_others_have() {
    let dir = fetched();
    let second = put(dir.path(), &chunk(0, 1, 4));
    let whole = std::fs::read(&second).unwrap();
    let mut flipped = whole.clone();
    flipped[200] ^= 1;
    let of_another_seq = Chunk { seq: Seq(9), ..chunk(0, 1, 4) }.encode();
    for bad in [flipped, whole[..100].to_vec(), chunk(0, 0, 4).encode(), of_another_seq] {
        std::fs::write(&second, bad).unwrap();
        let mut hashes = Hashes::open(dir.path(), &group(), Epoch(2)).unwrap();
        assert_eq!(hashes.unit(DiskIndex(0), 5), None);
        assert_eq!(hashes.unit(DiskIndex(0), 9), Some(hash(0, 9)));
        assert_eq!(hashes.unit(DiskIndex(0), 3), Some(hash(0, 3)));
    }
}
