use std::os::unix::fs::FileExt;

use super::*;
use crate::device::Extent;

fn name() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn make(path: &Path, size: u64) -> SourceDisk {
    File::create(path).unwrap().set_len(size).unwrap();
    SourceDisk::open(name(), path, Duration::ZERO).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}

#[test]
fn a_disk_is_described_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let disk = make(&path, 1 << 20);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(disk.identity(), DiskIdentity { kind: DiskKind::File, device: meta.dev(), inode: meta.ino() });
    assert_eq!((disk.size_bytes(), disk.entry().size_bytes), (1 << 20, 1 << 20));
    assert!([512, 4096].contains(&disk.block_bytes()));
}

#[test]
fn sizes_that_no_disk_has_are_refused_and_odd_ones_go_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    for size in [0, 1000] {
        File::create(&path).unwrap().set_len(size).unwrap();
        let refused = SourceDisk::open(name(), &path, Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains(&format!("{size} bytes")), "{refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    }
    let disk = make(&path, 512 * 3);
    let mut buf = crate::engine::HeapBuf::new(512);
    space::read_full(disk.file(), 1024, buf.as_mut_slice()).unwrap();
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(SourceDisk::open(name(), dir.path(), Duration::ZERO), Err(DiskError::NotADisk { .. })));
    let missing = SourceDisk::open(name(), &dir.path().join("no"), Duration::ZERO).unwrap_err();
    assert!(matches!(missing, DiskError::Io { what: "find it", .. }), "{missing}");
}

#[test]
fn the_lock_is_waited_for_and_then_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let first = make(&path, 4096);
    let second = SourceDisk::open(name(), &path, Duration::from_millis(50)).unwrap_err();
    assert!(second.to_string().contains("locked by another process"), "{second}");
    let waits = std::thread::spawn({
        let path = path.clone();
        move || SourceDisk::open(name(), &path, LOCK_WAIT).map(|_| ())
    });
    clock::sleep(Duration::from_millis(60));
    drop(first);
    waits.join().unwrap().unwrap();
}

#[test]
fn zeroing_frees_or_keeps_and_reads_as_zeroes() {
    // Also on tmpfs, which lacks ZERO_RANGE: there zeroes are written.
    for base in [std::env::temp_dir(), "/dev/shm".into()] {
        let dir = tempfile::tempdir_in(&base).unwrap();
        let base = base.display();
        let disk = make(&dir.path().join("d"), 8 << 20);
        let fill = crate::engine::HeapBuf::from(&[7; 4 << 20][..]);
        disk.file().write_all_at(fill.as_slice(), 0).unwrap();
        assert!(disk.punches_holes());
        for keep in [false, true] {
            space::zero(disk.file(), range(4096, 3 << 20), keep).unwrap();
            assert!(space::reads_as_zeroes(disk.file(), range(4096, 3 << 20)).unwrap());
        }
        assert!(!space::reads_as_zeroes(disk.file(), range(0, 4 << 20)).unwrap());
        // Not by SEEK_DATA: ext4's allocated zeroes are a hole to it.
        let allocated = || disk.file().metadata().unwrap().blocks() * 512;
        assert!(allocated() >= 4 << 20, "kept allocated on {base}");
        space::zero(disk.file(), range(4096, 3 << 20), false).unwrap();
        assert!(space::is_hole(disk.file(), range(4096, 3 << 20)).unwrap());
        assert!(allocated() < 2 << 20, "given up on {base}");
    }
}

#[test]
fn extents_cover_the_range_and_their_count_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let disk = make(&dir.path().join("d"), 1 << 20);
    let fill = crate::engine::HeapBuf::from(&[7; 65536][..]);
    for at in [128 << 10, 512 << 10] {
        disk.file().write_all_at(fill.as_slice(), at).unwrap();
    }
    let hole = |kib: u64| Extent { len: kib << 10, hole: true, zero: true };
    let data = |kib: u64| Extent { len: kib << 10, hole: false, zero: false };
    let all = space::extents(disk.file(), disk.range(), space::EXTENTS_MAX).unwrap();
    assert_eq!(all, [hole(128), data(64), hole(320), data(64), hole(448)]);
    assert_eq!(space::extents(disk.file(), disk.range(), 2).unwrap(), [hole(128), data(64)]);
    assert_eq!(space::extents(disk.file(), range(150 << 10, 160 << 10), 9).unwrap(), [data(10)]);
}

/// A loop device on a file; needs root, as the agent does for a block device.
struct Loop(String);

impl Loop {
    fn on(file: &Path) -> Self {
        let made = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let freed = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(freed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_block_device_is_a_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backing");
    std::fs::write(&path, vec![7; 4 << 20]).unwrap();
    let device = Loop::on(&path);
    let disk = SourceDisk::open(name(), Path::new(&device.0), Duration::ZERO).unwrap();
    assert_eq!((disk.identity().kind, disk.identity().inode), (DiskKind::BlockDevice, 0));
    assert_eq!((disk.size_bytes(), disk.punches_holes()), (4 << 20, false));
    for (keep, at) in [(false, 0), (true, 1 << 20)] {
        space::zero(disk.file(), range(at, at + (1 << 20)), keep).unwrap();
        assert!(space::reads_as_zeroes(disk.file(), range(at, at + (1 << 20))).unwrap());
    }
    assert!(!space::reads_as_zeroes(disk.file(), range(2 << 20, 3 << 20)).unwrap());
    let all = Extent { len: 4 << 20, hole: false, zero: false };
    assert_eq!(space::extents(disk.file(), disk.range(), 9).unwrap(), [all], "it cannot say");
}
