//! The kernel below the engines: operations on the source disks take their time, overtake each other, fail, are short, and go on when
//! the process that asked for them has died.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use farshore_capture::engine::{Call, Completion, Engine, Io, Pieces, Token, Wake};
use nix::errno::Errno;

use crate::file_history::{Change, SECTOR};
use crate::medium::{Died, Process, SimMedium};
use crate::rng::Rng;
use crate::time::Clock;
use crate::trace::Trace;

/// How the source's disks behave: of so many operations one; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    pub write_fails_before: u64,
    pub write_fails_after: u64,
    pub write_short: u64,
    pub read_fails: u64,
    pub sync_fails: u64,
    /// Takes seconds.
    pub hangs: u64,
}

/// One operation in flight.
struct Flight {
    life: u64,
    lane: usize,
    token: Token,
    work: Work,
    /// When it is done on the medium, in parts.
    effects: Vec<Duration>,
    /// When its completion is there.
    done: Duration,
    result: Option<io::Result<u64>>,
    pieces: Pieces,
    changes: Vec<Change>,
    order: u64,
}

/// What it does.
enum Work {
    Read {
        file: Arc<File>,
        offset: u64,
        fails: bool,
    },
    Write {
        file: Arc<File>,
        offset: u64,
        upto: usize,
        fails: Fails,
    },
    Sync {
        file: Arc<File>,
        mark: (Change, HashSet<Change>),
        fails: bool,
    },
    Call(Option<Call>),
    /// Of a descriptor that nobody has open.
    Bad,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fails {
    No,
    Before,
    After,
}

/// The kernel of the source host.
pub struct SimKernel {
    clock: Rc<Clock>,
    trace: Trace,
    medium: Rc<SimMedium>,
    rng: RefCell<Rng>,
    faults: Cell<DiskFaults>,
    flights: RefCell<Vec<Flight>>,
    /// The disks of the living process.
    open: RefCell<Vec<Arc<File>>>,
    life: Cell<u64>,
    next: Cell<u64>,
}

impl SimKernel {
    pub fn new(seed: u64, clock: Rc<Clock>, trace: Trace, medium: Rc<SimMedium>) -> Self {
        Self {
            clock,
            trace,
            medium,
            rng: RefCell::new(Rng::new(seed, 3)),
            faults: Cell::new(DiskFaults::default()),
            flights: RefCell::new(Vec::new()),
            open: RefCell::new(Vec::new()),
            life: Cell::new(0),
            next: Cell::new(0),
        }
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.faults.set(faults);
    }

    /// A new process has these disks open.
    pub fn begin(&self, disks: Vec<Arc<File>>) {
        self.life.set(self.life.get() + 1);
        *self.open.borrow_mut() = disks;
    }

    /// The process has died: what its helper threads had not begun is gone, what the kernel had taken may go on.
    pub fn killed(&self) {
        let life = self.life.get();
        self.open.borrow_mut().clear();
        let mut rng = self.rng.borrow_mut();
        let gone: Vec<Flight> = self
            .flights
            .borrow_mut()
            .extract_if(.., |f| f.life == life && (matches!(f.work, Work::Call(_) | Work::Bad) || rng.one_in(3)))
            .collect();
        self.life.set(life + 1);
        self.bury(gone);
    }

    /// Flights that nobody waits for are over: the next process comes after all that they did, and so do its fsyncs.
    fn bury(&self, over: Vec<Flight>) {
        over.iter().flat_map(|flight| &flight.changes).for_each(|change| self.medium.told(*change));
        drop_as_dead(over);
    }

    /// The host loses power: writes in flight may have come to the medium in part.
    pub fn power_lost(&self) {
        self.open.borrow_mut().clear();
        self.life.set(self.life.get() + 1);
        let flights = std::mem::take(&mut *self.flights.borrow_mut());
        for flight in &flights {
            if let Work::Write { file, offset, upto, .. } = &flight.work {
                // A sector is written whole or not at all.
                let len = self.rng.borrow_mut().below(*upto as u64 / SECTOR + 1) as usize * SECTOR as usize;
                if let (Some(piece), true) = (flight.pieces.first(), flight.result.is_none()) {
                    let _torn = self.medium.engine_write(file, &piece.as_slice()[..len], *offset);
                }
            }
        }
        drop_as_dead(flights);
    }

    /// When the next thing happens.
    pub fn next_due(&self) -> Option<Duration> {
        let due = |f: &Flight| f.effects.first().copied().unwrap_or(f.done);
        self.flights.borrow().iter().map(due).min()
    }

    /// When the next completion of a lane is there.
    pub fn completion_due(&self, lane: usize) -> Option<Duration> {
        let life = self.life.get();
        self.flights.borrow().iter().filter(|f| f.life == life && f.lane == lane).map(|f| f.done).min()
    }

    /// Does what is due by now, in order.
    pub fn go_on(&self) {
        let now = self.clock.now();
        loop {
            let mut flights = self.flights.borrow_mut();
            let due = |f: &Flight| f.effects.first().copied().filter(|at| *at <= now).map(|at| (at, f.order));
            let next = flights.iter().enumerate().filter_map(|(i, f)| Some((due(f)?, i))).min();
            let Some((_, at)) = next else { break };
            let mut flight = flights.swap_remove(at);
            drop(flights);
            flight.effects.remove(0);
            self.effect(&mut flight);
            self.flights.borrow_mut().push(flight);
        }
        let life = self.life.get();
        let over: Vec<Flight> = self.flights.borrow_mut().extract_if(.., |f| f.life != life && f.done <= now).collect();
        self.bury(over);
    }

    /// One part of an operation is done on the medium.
    fn effect(&self, flight: &mut Flight) {
        let last = flight.effects.is_empty();
        let result = match &mut flight.work {
            Work::Read { fails: true, .. } => Err(Errno::EIO.into()),
            Work::Read { file, offset, fails: false } => flight
                .pieces
                .first_mut()
                .map_or(Ok(0), |piece| file.read_at(piece.as_mut_slice(), *offset))
                .map(|n| n as u64),
            Work::Write { fails: Fails::Before, .. } => Err(Errno::EIO.into()),
            Work::Write { file, offset, upto, fails } => {
                let piece = flight.pieces.first().expect("a write has a buffer");
                let half = (*upto / 2).next_multiple_of(512).min(*upto);
                let part = match (last, flight.changes.is_empty()) {
                    (false, _) => 0..half,
                    (true, false) => half..*upto,
                    (true, true) => 0..*upto,
                };
                let written =
                    self.medium.engine_write(file, &piece.as_slice()[part.clone()], *offset + part.start as u64);
                match (written, *fails) {
                    (Ok((_, change)), Fails::After) => {
                        flight.changes.push(change);
                        Err(Errno::EIO.into())
                    }
                    (Ok((_, change)), _) => {
                        flight.changes.push(change);
                        Ok(*upto as u64)
                    }
                    (Err(e), _) => Err(e),
                }
            }
            Work::Sync { file, mark, fails } => self.medium.engine_sync(file, mark, !*fails).map(|()| 0),
            Work::Call(call) => {
                let call = call.take().expect("a call is made once");
                let (result, pieces) = self.medium.run_as(Process::Agent, call);
                flight.pieces = pieces;
                result
            }
            Work::Bad => Err(Errno::EBADF.into()),
        };
        if last {
            flight.result = Some(result);
        }
    }

    /// What has completed for a lane.
    fn take(&self, lane: usize, done: &mut Vec<Completion>) {
        let (now, life) = (self.clock.now(), self.life.get());
        let mut over: Vec<Flight> = self
            .flights
            .borrow_mut()
            .extract_if(.., |f| f.life == life && f.lane == lane && f.done <= now && f.effects.is_empty())
            .collect();
        over.sort_by_key(|f| (f.done, f.order));
        for flight in over {
            let Flight { token, result, pieces, changes, .. } = flight;
            changes.into_iter().for_each(|change| self.medium.told(change));
            let result = result.unwrap_or_else(|| Err(Errno::EIO.into()));
            done.push(Completion { token, result, pieces });
        }
    }

    fn file(&self, fd: RawFd) -> Option<Arc<File>> {
        self.open.borrow().iter().find(|file| file.as_raw_fd() == fd).cloned()
    }

    fn push(&self, lane: usize, token: Token, io: Io) {
        let (now, mut rng, faults) = (self.clock.now(), self.rng.borrow_mut(), self.faults.get());
        let mut once_in = |n: u64| n > 0 && rng.one_in(n);
        let (shown, work, pieces) = match io {
            Io::Read { fd, offset, piece } => match self.file(fd) {
                Some(file) => {
                    let work = Work::Read { file, offset, fails: once_in(faults.read_fails) };
                    (format!("read {} at {offset}", piece.len()), work, [piece].into())
                }
                None => ("read".to_owned(), Work::Bad, [piece].into()),
            },
            Io::Write { fd, offset, piece } => match self.file(fd) {
                Some(file) => {
                    let fails = match (once_in(faults.write_fails_before), once_in(faults.write_fails_after)) {
                        (true, _) => Fails::Before,
                        (false, true) => Fails::After,
                        (false, false) => Fails::No,
                    };
                    let upto =
                        if once_in(faults.write_short) { (piece.len() / 2).next_multiple_of(512) } else { piece.len() };
                    let upto = upto.min(piece.len());
                    (
                        format!("write {} at {offset}", piece.len()),
                        Work::Write { file, offset, upto, fails },
                        [piece].into(),
                    )
                }
                None => ("write".to_owned(), Work::Bad, [piece].into()),
            },
            Io::Fdatasync { fd } => match self.file(fd) {
                Some(file) => {
                    let work = Work::Sync { file, mark: self.medium.sync_mark(), fails: once_in(faults.sync_fails) };
                    ("fdatasync".to_owned(), work, Pieces::new())
                }
                None => ("fdatasync".to_owned(), Work::Bad, Pieces::new()),
            },
            Io::Call(call) => ("call".to_owned(), Work::Call(Some(call)), Pieces::new()),
            other @ (Io::Accept { .. } | Io::Recv { .. } | Io::Send { .. }) => {
                ("socket".to_owned(), Work::Bad, other.into_pieces())
            }
        };
        let hangs = once_in(faults.hangs);
        let slow = rng.one_in(30);
        let effect = now + if slow { rng.micros(1_000, 40_000) } else { rng.micros(5, 400) };
        let mut effects = vec![effect];
        if matches!(work, Work::Write { upto, .. } if upto > 512) && rng.one_in(3) {
            effects.push(effect + rng.micros(5, 600));
        }
        let mut done = *effects.last().expect("there is one") + rng.micros(0, 300);
        if hangs {
            done += rng.micros(1_000_000, 8_000_000);
        }
        let flight = Flight {
            life: self.life.get(),
            lane,
            token,
            work,
            effects,
            done,
            result: None,
            pieces,
            changes: Vec::new(),
            order: self.next.replace(self.next.get() + 1),
        };
        self.trace.note(now, format_args!("engine {lane}: {shown}"));
        self.flights.borrow_mut().push(flight);
    }

    fn in_flight(&self, lane: usize) -> usize {
        let life = self.life.get();
        self.flights.borrow().iter().filter(|f| f.life == life && f.lane == lane).count()
    }
}

/// Drops what a dead process had: nothing of it is settled or removed, as nobody lives to do so.
pub fn drop_as_dead<T>(dead: T) {
    let mut dead = Some(dead);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _dead = dead.take();
        std::panic::resume_unwind(Box::new(Died { process: Process::Observer, death: crate::medium::Death::Kill }));
    }));
    assert!(unwound.is_err());
}

/// One lane's way to the kernel.
pub struct SimEngine {
    pub kernel: Rc<SimKernel>,
    pub lane: usize,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

impl Engine for SimEngine {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn push(&mut self, token: Token, io: Io) {
        self.kernel.push(self.lane, token, io);
    }

    fn wait(&mut self, _: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.kernel.take(self.lane, done);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }

    fn in_flight(&self) -> usize {
        self.kernel.in_flight(self.lane)
    }
}
