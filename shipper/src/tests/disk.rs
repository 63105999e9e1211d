//! A disk that fails when it is told to, under the thread of a test.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use farshore_changelog::medium::{self, Create, Kernel, Medium, Sync};
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

/// Decides over a change of the file at a path that brings this many bytes (0 when it brings none).
type Rule = dyn Fn(&Path, usize) -> Option<Errno>;

/// The real disk, but for the changes that its rule refuses.
pub struct BadDisk {
    rule: RefCell<Box<Rule>>,
}

impl BadDisk {
    /// Under this thread, as long as the second part lives; nothing fails yet.
    pub fn here() -> (Rc<Self>, medium::Simulation) {
        let disk = Rc::new(Self { rule: RefCell::new(Box::new(|_, _| None)) });
        let under = medium::simulate(disk.clone());
        (disk, under)
    }

    /// Every change of a path that contains `part` fails with `errno`.
    pub fn fail(&self, part: &'static str, errno: Errno) {
        self.rule(move |path, _| path.to_str().unwrap().contains(part).then_some(errno));
    }

    pub fn rule(&self, rule: impl Fn(&Path, usize) -> Option<Errno> + 'static) {
        *self.rule.borrow_mut() = Box::new(rule);
    }

    pub fn heal(&self) {
        self.rule(|_, _| None);
    }

    fn ask(&self, path: &Path, bytes: usize) -> io::Result<()> {
        self.rule.borrow()(path, bytes).map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn ask_file(&self, file: &File, bytes: usize) -> io::Result<()> {
        self.ask(&path_of(file), bytes)
    }
}

fn path_of(file: &File) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

impl Medium for BadDisk {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.ask_file(file, bytes.len()).and_then(|()| Kernel.write_at(file, bytes, at))
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.ask_file(file, bytes).and_then(|()| Kernel.write_vectored_at(file, pieces, at))
    }

    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
        self.ask_file(file, len as usize).and_then(|()| Kernel.fallocate(file, how, start, len))
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.ask_file(file, 0).and_then(|()| Kernel.set_len(file, len))
    }

    fn sync(&self, file: &File, what: Sync) -> io::Result<()> {
        self.ask_file(file, 0).and_then(|()| Kernel.sync(file, what))
    }

    fn create(&self, path: &Path, how: Create) -> io::Result<File> {
        self.ask(path, 0).and_then(|()| Kernel.create(path, how))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.ask(dir, 0).and_then(|()| Kernel.create_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(to, 0).and_then(|()| Kernel.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(path, 0).and_then(|()| Kernel.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.ask(dir, 0).and_then(|()| Kernel.sync_dir(dir))
    }
}
