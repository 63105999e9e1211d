use super::*;

#[test]
fn the_lowest_living_lease_counts_and_goes_with_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(oldest_needed(dir.path()).unwrap(), None);
    let low = Lease::take(dir.path(), 100).unwrap();
    let high = Lease::take(dir.path(), 900).unwrap();
    assert_eq!((low.offset(), high.offset()), (100, 900));
    assert_eq!(oldest_needed(dir.path()).unwrap(), Some(100));
    drop(low);
    assert_eq!(oldest_needed(dir.path()).unwrap(), Some(900));
    drop(high);
    assert_eq!(oldest_needed(dir.path()).unwrap(), None);
}

#[test]
fn dead_leases_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(FOLDER);
    std::fs::create_dir(&folder).unwrap();
    // What a killed process leaves: a file nobody locks, placed or still hidden, whole or not.
    std::fs::write(folder.join("00ff"), 5u64.to_le_bytes()).unwrap();
    std::fs::write(folder.join(".01ff"), b"").unwrap();
    assert_eq!(oldest_needed(dir.path()).unwrap(), None);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn no_lease_is_placed_while_retention_decides() {
    let dir = tempfile::tempdir().unwrap();
    let frozen = freeze(dir.path()).unwrap();
    let path = dir.path().to_path_buf();
    let placing = std::thread::spawn(move || Lease::take(&path, 7).unwrap());
    clock::sleep(Duration::from_millis(100));
    assert!(!placing.is_finished());
    assert_eq!(oldest_needed(dir.path()).unwrap(), None);
    drop(frozen);
    let lease = placing.join().unwrap();
    assert_eq!(oldest_needed(dir.path()).unwrap(), Some(7));
    drop(lease);
}

#[test]
fn sweepers_never_take_a_living_lease() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|s| {
        let sweeping = s.spawn(|| {
            for _ in 0..300 {
                oldest_needed(dir.path()).unwrap();
            }
        });
        for offset in 1..300 {
            let lease = Lease::take(dir.path(), offset).unwrap();
            assert!(lease.path.exists());
            drop(lease);
        }
        sweeping.join().unwrap();
    });
}
