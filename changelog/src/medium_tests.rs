use std::cell::Cell;

use super::*;

/// Takes at most 3 bytes at once, and fails every fsync.
struct Bad {
    writes: Cell<u32>,
}

impl Medium for Bad {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.writes.set(self.writes.get() + 1);
        if self.writes.get() == 2 {
            return Err(Errno::EINTR.into());
        }
        Kernel.write_at(file, &bytes[..bytes.len().min(3)], at)
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.write_at(file, &pieces[0], at)
    }

    fn fallocate(&self, _: &File, _: FallocateFlags, _: u64, _: u64) -> io::Result<()> {
        Err(Errno::ENOSPC.into())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        Kernel.set_len(file, len)
    }

    fn sync(&self, _: &File, _: Sync) -> io::Result<()> {
        Err(Errno::EIO.into())
    }

    fn create(&self, path: &Path, how: Create) -> io::Result<File> {
        Kernel.create(path, how)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        Kernel.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Kernel.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Kernel.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Kernel.sync_dir(dir)
    }
}

#[test]
fn a_simulated_medium_is_this_threads_alone_and_ends_with_its_guard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let bad = Rc::new(Bad { writes: Cell::new(0) });
    {
        let _simulation = simulate(Rc::clone(&bad) as Rc<dyn Medium>);
        let file = create(&path, Create::New).unwrap();
        write_all_at(&file, b"0123456789", 5).unwrap();
        assert_eq!(bad.writes.get(), 5, "short writes go on, and an interrupted one is tried again");
        assert_eq!(sync_data(&file).unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
        assert!(crate::crashsafe::replace(&path, b"other").is_err());
        std::thread::scope(|s| s.spawn(|| sync_all(&file).unwrap()).join().unwrap());
    }
    let file = create(&path, Create::OrOpen).unwrap();
    sync_data(&file).unwrap();
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found, b"\0\0\0\0\x000123456789");
}

#[test]
fn what_may_lie_at_a_new_name_is_what_was_said() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let file = create(&path, Create::NewPrivate).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, PRIVATE_MODE);
    write_all_at(&file, b"kept", 0).unwrap();
    for how in [Create::New, Create::NewPrivate] {
        assert_eq!(create(&path, how).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!(create(&path, Create::OrOpen).unwrap().metadata().unwrap().len(), 4);
    assert_eq!(create(&path, Create::Emptied).unwrap().metadata().unwrap().len(), 0);
    let pieces = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
    assert_eq!(write_vectored_at(&file, &pieces, 1).unwrap(), 4);
    fallocate(&file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, 2, 2).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"\0a\0\0d");
    assert_eq!(write_all_at(&file, b"x", u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
