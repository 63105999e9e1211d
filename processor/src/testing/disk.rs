//! A medium that fails where it is told to, and forgets what was not made durable when the power is cut.
//!
//! It is as a kernel is after a failed fsync: the pages count as clean, they can be read, and the next fsync succeeds and does
//! not write them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use farshore_changelog::medium::{Create, Kernel, Medium, Sync};
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// Every call that changes something, syncs too.
    Everything,
    /// fsync, fdatasync, of files and folders.
    Syncs,
    /// What takes room: writes, new files.
    Growth,
}

#[derive(Debug)]
struct Fault {
    fails: Fails,
    errno: Errno,
    /// Only below this path.
    under: PathBuf,
    /// Calls that still succeed, and then calls that fail.
    after: u64,
    times: u64,
}

/// What of a file survives a power cut.
#[derive(Debug, Default)]
struct Durable {
    content: Vec<u8>,
    /// Written, and not made durable yet.
    dirty: Vec<Range<u64>>,
    len_dirty: bool,
    /// So that its number is not given to another file.
    _held: Option<File>,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    files: BTreeMap<u64, Durable>,
    /// Durable names.
    names: BTreeMap<PathBuf, u64>,
    /// Names that changed, and whose folder was not made durable yet.
    changed: BTreeSet<PathBuf>,
}

/// The medium; its clones are one.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    state: Rc<RefCell<State>>,
}

impl Disk {
    /// Everything below `root` that is there now is durable.
    pub fn under(root: &Path) -> Self {
        let disk = Self { root: root.to_path_buf(), state: Rc::default() };
        disk.look();
        disk
    }

    fn look(&self) {
        let state = &mut *self.state.borrow_mut();
        (state.files, state.names, state.changed) = Default::default();
        for path in walk(&self.root) {
            let ino = std::fs::metadata(&path).unwrap().ino();
            let (content, _held) = (std::fs::read(&path).unwrap(), File::open(&path).ok());
            state.files.insert(ino, Durable { content, _held, ..Durable::default() });
            state.names.insert(path, ino);
        }
    }

    /// From the `after`-th call on that `fails` names, `times` of them fail, of files below `under`.
    pub fn fail(&self, fails: Fails, errno: Errno, under: &Path, after: u64, times: u64) {
        self.state.borrow_mut().fault = Some(Fault { fails, errno, under: under.to_path_buf(), after, times });
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        self.state.borrow_mut().fault = None;
    }

    /// What was not made durable is gone.
    pub fn cut_power(&self) {
        let state = self.state.take();
        for path in walk(&self.root) {
            if !state.names.contains_key(&path) {
                std::fs::remove_file(&path).unwrap();
            }
        }
        for (path, ino) in &state.names {
            let tmp = path.with_extension("restored");
            std::fs::write(&tmp, &state.files[ino].content).unwrap();
            std::fs::rename(&tmp, path).unwrap();
        }
        self.look();
    }

    fn meets(&self, calls: &[Fails], path: &Path) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let Some(fault) = &mut state.fault else { return Ok(()) };
        if !(fault.fails == Fails::Everything || calls.contains(&fault.fails)) || !path.starts_with(&fault.under) {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.times == 0 {
            return Ok(());
        }
        fault.times -= 1;
        Err(fault.errno.into())
    }

    fn file<T>(&self, file: &File, act: impl FnOnce(&mut Durable) -> T) -> T {
        let ino = file.metadata().unwrap().ino();
        act(self.state.borrow_mut().files.entry(ino).or_default())
    }

    fn changed(&self, path: &Path) {
        self.state.borrow_mut().changed.insert(path.to_path_buf());
    }
}

fn path_of(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

impl Medium for Disk {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.meets(&[Fails::Growth], &path_of(file))?;
        let len = file.metadata()?.len();
        let taken = Kernel.write_at(file, bytes, at)?;
        self.file(file, |durable| {
            durable.dirty.push(at..at + taken as u64);
            durable.len_dirty |= at + taken as u64 > len;
        });
        Ok(taken)
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let first = pieces.iter().find(|piece| !piece.is_empty());
        first.map_or(Ok(0), |piece| self.write_at(file, piece, at))
    }

    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
        self.meets(&[], &path_of(file))?;
        Kernel.fallocate(file, how, start, len)?;
        self.file(file, |durable| durable.dirty.push(start..start + len));
        Ok(())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.meets(&[], &path_of(file))?;
        Kernel.set_len(file, len)?;
        self.file(file, |durable| durable.len_dirty = true);
        Ok(())
    }

    fn sync(&self, file: &File, _: Sync) -> io::Result<()> {
        let met = self.meets(&[Fails::Syncs], &path_of(file));
        let len = file.metadata()?.len();
        self.file(file, |durable| {
            let (dirty, len_dirty) = (std::mem::take(&mut durable.dirty), std::mem::take(&mut durable.len_dirty));
            if met.is_err() {
                return;
            }
            if len_dirty {
                durable.content.resize(len as usize, 0);
            }
            for range in dirty {
                // Data carry the length that they need.
                let end = range.end.min(len);
                if range.start < end {
                    durable.content.resize(durable.content.len().max(end as usize), 0);
                    let range = range.start as usize..end as usize;
                    file.read_exact_at(&mut durable.content[range.clone()], range.start as u64).unwrap();
                }
            }
        });
        met
    }

    fn create(&self, path: &Path, how: Create) -> io::Result<File> {
        self.meets(&[Fails::Growth], path)?;
        let there = path.exists();
        let file = Kernel.create(path, how)?;
        self.file(&file, |durable| {
            if !there {
                // Opened anew: a lock on the file is not ours to hold.
                *durable = Durable { _held: File::open(path).ok(), ..Durable::default() };
            } else if how == Create::Emptied {
                durable.len_dirty = true;
            }
        });
        if !there {
            self.changed(path);
        }
        Ok(file)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.meets(&[Fails::Growth], dir)?;
        Kernel.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.meets(&[], to)?;
        Kernel.rename(from, to)?;
        self.changed(from);
        self.changed(to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.meets(&[], path)?;
        Kernel.remove(path)?;
        self.changed(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let met = self.meets(&[Fails::Syncs], dir);
        let state = &mut *self.state.borrow_mut();
        let (here, elsewhere) = std::mem::take(&mut state.changed).into_iter().partition(|p| p.parent() == Some(dir));
        state.changed = elsewhere;
        let here: BTreeSet<PathBuf> = here;
        if met.is_ok() {
            for path in here {
                match std::fs::metadata(&path) {
                    Ok(meta) => state.names.insert(path, meta.ino()),
                    Err(_) => state.names.remove(&path),
                };
            }
        }
        met
    }
}

/// The kernel without its fsyncs: for tests that ask what is written, not what is durable.
#[derive(Debug)]
pub struct Unsynced;

impl Medium for Unsynced {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        Kernel.write_at(file, bytes, at)
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Kernel.write_vectored_at(file, pieces, at)
    }

    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
        Kernel.fallocate(file, how, start, len)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        Kernel.set_len(file, len)
    }

    fn sync(&self, _: &File, _: Sync) -> io::Result<()> {
        Ok(())
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

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
