//! The simulated medium: real files in a folder, of which it knows what a power cut can undo; and the faults of disks and processes
//! that a world asks for.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use farshore_changelog::medium::{Create, Kernel, Medium, Sync};
use farshore_changelog::units::SECTOR_BYTES;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use crate::file_history::{Change, FileHistory, Loss};
use crate::folders::Folders;
use crate::rng::Rng;
use crate::time::Clock;
use crate::trace::Trace;

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// Capture and all that starts it.
    Agent,
    Shipper,
    Processor,
    /// The simulation itself, or a command that looks at a point: nothing happens to it.
    Observer,
}

/// Which machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Source,
    Target,
}

/// How an armed process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is killed.
    Kill,
    /// Its host loses power.
    PowerCut,
}

/// What unwinds out of a process that ends at one of its operations.
pub struct Died {
    pub process: Process,
    pub death: Death,
}

/// Something wrong with part of a host's storage, until it is taken away.
#[derive(Debug, Clone)]
pub struct Bad {
    /// Below this path.
    pub below: PathBuf,
    /// Of so many operations one fails.
    pub one_in: u64,
    pub errno: Errno,
    /// Only fsyncs fail, or only everything else.
    pub syncs: bool,
}

/// The medium of one world.
pub struct SimMedium {
    clock: Rc<Clock>,
    trace: Trace,
    rng: RefCell<Rng>,
    roots: [(Host, PathBuf); 2],
    caller: Cell<Process>,
    /// This process ends when it has done so many operations more.
    armed: RefCell<Option<(Process, u64, Death)>>,
    bad: RefCell<Vec<Bad>>,
    changes: Cell<Change>,
    /// Changes that the kernel has made and that nobody was told of yet: an fsync need not cover them.
    untold: RefCell<HashSet<Change>>,
    files: RefCell<Vec<(Host, FileHistory)>>,
    /// Place in `files` by device and inode.
    known: RefCell<HashMap<(u64, u64), usize>>,
    folders: RefCell<[Folders; 2]>,
    /// Operations of each process, for the report.
    operations: Cell<u64>,
}

impl SimMedium {
    pub fn new(seed: u64, clock: Rc<Clock>, trace: Trace, source: &Path, target: &Path) -> io::Result<Self> {
        let folders = [Folders::new(source.join(".graves"))?, Folders::new(target.join(".graves"))?];
        Ok(Self {
            clock,
            trace,
            rng: RefCell::new(Rng::new(seed, 2)),
            roots: [(Host::Source, source.to_path_buf()), (Host::Target, target.to_path_buf())],
            caller: Cell::new(Process::Observer),
            armed: RefCell::new(None),
            bad: RefCell::new(Vec::new()),
            changes: Cell::new(0),
            untold: RefCell::new(HashSet::new()),
            files: RefCell::new(Vec::new()),
            known: RefCell::new(HashMap::new()),
            folders: RefCell::new(folders),
            operations: Cell::new(0),
        })
    }

    /// Does `work` as `process`.
    pub fn run_as<T>(&self, process: Process, work: impl FnOnce() -> T) -> T {
        struct Back<'a>(&'a Cell<Process>, Process);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _back = Back(&self.caller, self.caller.replace(process));
        work()
    }

    /// `process` ends in this way after so many operations more.
    pub fn arm(&self, process: Process, operations: u64, death: Death) {
        *self.armed.borrow_mut() = Some((process, operations, death));
    }

    pub fn disarm(&self) {
        *self.armed.borrow_mut() = None;
    }

    pub fn set_bad(&self, bad: Vec<Bad>) {
        *self.bad.borrow_mut() = bad;
    }

    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    fn host(&self, path: &Path) -> Option<Host> {
        self.roots.iter().find(|(_, root)| path.starts_with(root)).map(|(host, _)| *host)
    }

    fn next_change(&self) -> Change {
        self.changes.set(self.changes.get() + 1);
        self.changes.get()
    }

    /// What becomes of an operation on `path`: nothing, an error, or the end of the process before or after it.
    fn fate(&self, what: &str, path: &Path, sync: bool) -> Fate {
        let caller = self.caller.get();
        if std::thread::panicking() {
            // A process that has ended does nothing more, whatever its destructors try.
            return Fate::Fail(Errno::EOWNERDEAD);
        }
        if caller == Process::Observer {
            return Fate::Do;
        }
        self.operations.set(self.operations.get() + 1);
        let base = self.roots[0].1.parent().unwrap_or(Path::new("/"));
        let shown = path.strip_prefix(base).unwrap_or(path);
        self.trace.note(self.clock.now(), format_args!("{caller:?} {what} {}", shown.display()));
        if let Some((armed, left, death)) = &mut *self.armed.borrow_mut()
            && *armed == caller
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                let before = self.rng.borrow_mut().one_in(2);
                return if before { Fate::DieBefore(*death) } else { Fate::DieAfter(*death) };
            }
        }
        for bad in &*self.bad.borrow() {
            if bad.syncs == sync && path.starts_with(&bad.below) && self.rng.borrow_mut().one_in(bad.one_in) {
                self.trace.note(self.clock.now(), format_args!("  fails: {}", bad.errno));
                return Fate::Fail(bad.errno);
            }
        }
        Fate::Do
    }

    fn die(&self, death: Death) -> ! {
        let process = self.caller.get();
        *self.armed.borrow_mut() = None;
        self.trace.note(self.clock.now(), format_args!("  {process:?} ends here: {death:?}"));
        std::panic::resume_unwind(Box::new(Died { process, death }))
    }

    /// Does `work` unless something happens to it.
    fn act<T>(&self, what: &str, path: &Path, sync: bool, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.fate(what, path, sync) {
            Fate::Do => work(),
            Fate::Fail(errno) => Err(errno.into()),
            Fate::DieBefore(death) => self.die(death),
            Fate::DieAfter(death) => {
                let _done = work();
                self.die(death)
            }
        }
    }

    /// The file's place in `files`, `None` when it is on no host (a ring elsewhere, say).
    fn place(&self, file: &File) -> io::Result<Option<usize>> {
        let meta = file.metadata()?;
        let id = (meta.dev(), meta.ino());
        if let Some(place) = self.known.borrow().get(&id) {
            return Ok(Some(*place));
        }
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = std::fs::read_link(&link)?;
        let Some(host) = self.host(&path) else { return Ok(None) };
        let own = File::options().read(true).write(true).open(&link)?;
        let mut files = self.files.borrow_mut();
        files.push((host, FileHistory::new(path, own)?));
        self.known.borrow_mut().insert(id, files.len() - 1);
        Ok(Some(files.len() - 1))
    }

    fn path(&self, file: &File) -> PathBuf {
        match self.place(file) {
            Ok(Some(place)) => self.files.borrow()[place].1.path.clone(),
            Ok(None) | Err(_) => PathBuf::new(),
        }
    }

    /// Changes `len` bytes from `at` on with `work`, remembered as `change`.
    fn changing<T>(
        &self,
        file: &File,
        change: Change,
        at: u64,
        len: u64,
        kept: bool,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self.place(file)? {
            Some(place) => self.files.borrow_mut()[place].1.change(change, at, len, kept, work),
            None => work(),
        }
    }

    /// The kernel writes for whoever asked an engine for it. The change is told once [`SimMedium::told`] is called.
    pub fn engine_write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<(usize, Change)> {
        let change = self.next_change();
        let written = self.changing(file, change, at, bytes.len() as u64, false, || file.write_at(bytes, at))?;
        self.untold.borrow_mut().insert(change);
        Ok((written, change))
    }

    pub fn told(&self, change: Change) {
        self.untold.borrow_mut().remove(&change);
    }

    /// What an fdatasync that begins now covers.
    pub fn sync_mark(&self) -> (Change, HashSet<Change>) {
        (self.changes.get() + 1, self.untold.borrow().clone())
    }

    /// An fdatasync of an engine that began at `mark` ends.
    pub fn engine_sync(&self, file: &File, mark: &(Change, HashSet<Change>), good: bool) -> io::Result<()> {
        if let Some(place) = self.place(file)? {
            self.files.borrow_mut()[place].1.sync(mark.0, &mark.1, good);
        }
        if good { Ok(()) } else { Err(Errno::EIO.into()) }
    }

    /// The host loses power: its files are put into a state that this can leave.
    pub fn cut(&self, host: Host) -> io::Result<()> {
        let mut rng = self.rng.borrow_mut();
        let loss = rng.pick(&[Loss::All, Loss::None, Loss::Sectors, Loss::Sectors, Loss::Changes, Loss::Changes]);
        let (mut sectors, mut files) = (0, 0);
        for (_, file) in self.files.borrow_mut().iter_mut().filter(|(of, file)| *of == host && file.at_risk()) {
            sectors += file.cut(loss, &mut rng)?;
            files += 1;
        }
        self.untold.borrow_mut().clear();
        let place = if host == Host::Source { 0 } else { 1 };
        let names = self.folders.borrow_mut()[place].cut(loss, &mut rng)?;
        // What is gone for good need not be remembered, and inodes may be used again.
        self.trace.note(
            self.clock.now(),
            format_args!("{host:?} loses power ({loss:?}): {sectors} sectors of {files} files, {names} names"),
        );
        Ok(())
    }

    fn folders(&self, path: &Path, work: impl FnOnce(&mut Folders) -> io::Result<()>) -> Option<io::Result<()>> {
        let host = self.host(path)?;
        let place = if host == Host::Source { 0 } else { 1 };
        Some(work(&mut self.folders.borrow_mut()[place]))
    }
}

/// What becomes of an operation.
enum Fate {
    Do,
    Fail(Errno),
    DieBefore(Death),
    DieAfter(Death),
}

impl Medium for SimMedium {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        let path = self.path(file);
        // Now and then a part: a write may always be short, and a process may end in the middle of one.
        let short = bytes.len() > 1 && self.caller.get() != Process::Observer && self.rng.borrow_mut().one_in(40);
        let part = if short { 1 + self.rng.borrow_mut().below(bytes.len() as u64 - 1) as usize } else { bytes.len() };
        // Of a disk in whole sectors: the kernel copies a page before it is written back, and a guest counts on its sectors.
        let sectors = part - part % SECTOR_BYTES as usize;
        let is_disk = path.extension().is_some_and(|ending| ending == "raw");
        let bytes = match (is_disk, sectors) {
            (true, 0) => bytes,
            (true, sectors) => &bytes[..sectors],
            (false, _) => &bytes[..part],
        };
        self.act(&format!("writes {} at {at} of", bytes.len()), &path, false, || {
            self.changing(file, self.next_change(), at, bytes.len() as u64, false, || Kernel.write_at(file, bytes, at))
        })
    }

    fn write_vectored_at(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.write_at(file, &bytes, at)
    }

    fn fallocate(&self, file: &File, how: FallocateFlags, start: u64, len: u64) -> io::Result<()> {
        let path = self.path(file);
        let end = file.metadata()?.len().clamp(start, start + len);
        if start == end {
            return Kernel.fallocate(file, how, start, len); // a question, beyond the end
        }
        self.act(&format!("zeroes {len} at {start} of"), &path, false, || {
            self.changing(file, self.next_change(), start, end - start, true, || {
                Kernel.fallocate(file, how, start, len)
            })
        })
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let path = self.path(file);
        let (low, high) = {
            let now = file.metadata()?.len();
            (now.min(len), now.max(len))
        };
        self.act(&format!("sizes to {len}"), &path, false, || {
            // What is cut off reads as zeroes should the file grow again; what is new has nothing to lose.
            let cut_off = if len == low { high - low } else { 0 };
            self.changing(file, self.next_change(), low, cut_off, true, || Kernel.set_len(file, len))
        })
    }

    fn sync(&self, file: &File, what: Sync) -> io::Result<()> {
        let path = self.path(file);
        let place = self.place(file)?;
        let mark = self.sync_mark();
        let ended = |good: bool| {
            if let Some(place) = place {
                self.files.borrow_mut()[place].1.sync(mark.0, &mark.1, good);
            }
        };
        let synced = self.act(&format!("fsyncs ({what:?})"), &path, true, || {
            ended(true);
            Ok(())
        });
        if synced.is_err() && !std::thread::panicking() {
            ended(false);
        }
        synced
    }

    fn create(&self, path: &Path, how: Create) -> io::Result<File> {
        self.act(&format!("opens ({how:?})"), path, false, || {
            let there = path.exists();
            if !there || matches!(how, Create::New | Create::NewPrivate) {
                let file = Kernel.create(path, how)?;
                if let Some(noted) = self.folders(path, |folders| {
                    folders.made(path);
                    Ok(())
                }) {
                    noted?;
                }
                return Ok(file);
            }
            let file = Kernel.create(path, Create::OrOpen)?;
            if how == Create::Emptied {
                let len = file.metadata()?.len();
                self.changing(&file, self.next_change(), 0, len, true, || Kernel.set_len(&file, 0))?;
            }
            Ok(file)
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.act("makes the folder", dir, false, || {
            Kernel.create_dir(dir)?;
            self.folders(dir, |folders| {
                folders.made_folder(dir);
                Ok(())
            })
            .unwrap_or(Ok(()))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act("renames to", to, false, || {
            self.folders(to, |folders| folders.rename(from, to)).unwrap_or_else(|| Kernel.rename(from, to))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.act("removes", path, false, || {
            self.folders(path, |folders| folders.remove(path)).unwrap_or_else(|| Kernel.remove(path))
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.act("fsyncs the folder", dir, true, || {
            self.folders(dir, |folders| folders.sync(dir)).unwrap_or_else(|| Kernel.sync_dir(dir))
        })
    }
}
