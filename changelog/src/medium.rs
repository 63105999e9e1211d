//! The disk as the stages change it: every write, fsync, hole, new name and removal goes through these functions. They are the
//! plain system calls ([`Kernel`]), unless a simulation has put another [`Medium`] under this thread.
//!
//! Reading needs no seam: a simulated medium works on real files, and only decides what becomes of each change (done, done in
//! part, failed, undone by a power cut).

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

/// Permissions of a file that only its owner may read.
const PRIVATE_MODE: u32 = 0o600;

/// What a new file may meet at its name. Each is opened for reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Nothing, else `AlreadyExists`.
    New,
    /// As `New`; only its owner may read it.
    NewPrivate,
    /// A file, which is emptied.
    Emptied,
    /// A file, which is opened as it is.
    OrOpen,
}

/// What an fsync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The data, and what is needed to read them (fdatasync).
    Data,
    /// All of the file (fsync).
    All,
}

/// Everything that can be done to a file system. Each method is one system call; its errors are that call's.
#[allow(clippy::missing_errors_doc)]
pub trait Medium {
    /// pwrite(2): how many bytes were taken.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// pwritev(2): how many bytes were taken.
    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// fallocate(2): `len` bytes from `start`.
    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()>;
    /// ftruncate(2).
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;
    /// fdatasync(2) or fsync(2).
    fn sync(&self, file: &File, what: Sync) -> io::Result<()>;
    /// open(2) with `O_CREAT`.
    fn create(&self, path: &Path, how: Create) -> io::Result<File>;
    /// mkdir(2).
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// rename(2).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// fsync(2) of a folder: its entries are durable afterwards.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The running kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

impl Medium for Kernel {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        file.write_at(bytes, at)
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(nix::sys::uio::pwritev(file, pieces, offset(at)?)?)
    }

    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
        Ok(nix::fcntl::fallocate(file, how, offset(start)?, offset(len)?)?)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &File, what: Sync) -> io::Result<()> {
        match what {
            Sync::Data => file.sync_data(),
            Sync::All => file.sync_all(),
        }
    }

    fn create(&self, path: &Path, how: Create) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match how {
            Create::New => options.create_new(true),
            Create::NewPrivate => options.create_new(true).mode(PRIVATE_MODE),
            Create::Emptied => options.create(true).truncate(true),
            Create::OrOpen => options.create(true).truncate(false),
        };
        options.open(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

fn offset(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| Errno::EFBIG.into())
}

thread_local! {
    static SIMULATED: RefCell<Option<Rc<dyn Medium>>> = const { RefCell::new(None) };
}

/// While this lives, every change that this thread makes goes to a simulated medium.
#[must_use]
pub struct Simulation {
    /// It must be dropped where it was made.
    _thread: PhantomData<Rc<()>>,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        SIMULATED.with_borrow_mut(|medium| *medium = None);
    }
}

/// Puts `medium` under this thread, and under no other. Only tests do this, and `house_rule.rs` of the tests holds them to it.
///
/// # Panics
/// When this thread has a simulated medium already.
pub fn simulate(medium: Rc<dyn Medium>) -> Simulation {
    SIMULATED.with_borrow_mut(|here| {
        assert!(here.is_none(), "this thread has a simulated medium already");
        *here = Some(medium);
    });
    Simulation { _thread: PhantomData }
}

/// Whether this thread has a simulated medium. What other threads do would pass it by, so nothing is handed to them then.
#[must_use]
pub fn is_simulated() -> bool {
    SIMULATED.with_borrow(Option::is_some)
}

fn with<T>(act: impl FnOnce(&dyn Medium) -> T) -> T {
    // Cloned, so that a simulated medium may unwind, or do real work itself.
    match SIMULATED.with_borrow(Clone::clone) {
        None => act(&Kernel),
        Some(medium) => act(&*medium),
    }
}

/// Writes all of `bytes` at `at`.
///
/// # Errors
/// Of the medium; a part may then be written. `WriteZero` when it takes nothing more.
pub fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match with(|medium| medium.write_at(file, bytes, at)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                bytes = &bytes[taken..];
                at += taken as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes `pieces`, at most 1024, one after the other from `at` on, and gives how many bytes were taken.
///
/// # Errors
/// Of the medium.
pub fn write_vectored_at(file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
    with(|medium| medium.write_vectored_at(file, pieces, at))
}

/// Makes `len` bytes from `start` a hole, or zeroes, or allocates them, as `how` says.
///
/// # Errors
/// Of the medium.
pub fn fallocate(file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
    with(|medium| medium.fallocate(file, how, start, len))
}

/// Cuts or grows the file to `len` bytes.
///
/// # Errors
/// Of the medium.
pub fn set_len(file: &File, len: u64) -> io::Result<()> {
    with(|medium| medium.set_len(file, len))
}

/// Makes the file's data durable.
///
/// # Errors
/// Of the medium: what of the file is durable is not known then.
pub fn sync_data(file: &File) -> io::Result<()> {
    with(|medium| medium.sync(file, Sync::Data))
}

/// Makes the file durable, but not its name: see [`sync_dir`].
///
/// # Errors
/// As [`sync_data`].
pub fn sync_all(file: &File) -> io::Result<()> {
    with(|medium| medium.sync(file, Sync::All))
}

/// Opens a file that may be new.
///
/// # Errors
/// Of the medium.
pub fn create(path: &Path, how: Create) -> io::Result<File> {
    with(|medium| medium.create(path, how))
}

/// Makes a folder.
///
/// # Errors
/// Of the medium.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    with(|medium| medium.create_dir(dir))
}

/// Gives a file another name, in place of whatever has it.
///
/// # Errors
/// Of the medium.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    with(|medium| medium.rename(from, to))
}

/// Takes a name away.
///
/// # Errors
/// Of the medium.
pub fn remove(path: &Path) -> io::Result<()> {
    with(|medium| medium.remove(path))
}

/// Makes the entries of `dir` durable.
///
/// # Errors
/// Of the medium.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    with(|medium| medium.sync_dir(dir))
}

#[cfg(test)]
#[path = "medium_tests.rs"]
mod tests;
