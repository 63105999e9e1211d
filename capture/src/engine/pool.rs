//! The engine without io_uring: poll(2) for sockets, a bounded pool of threads for disks.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv, sendmsg};
use nix::sys::time::TimeSpec;
use nix::sys::uio::{pread, pwrite};

use super::fd::borrow;
use super::workers::Workers;
use super::{Call, Completion, Engine, Io, Piece, Pieces, Token, Wake};

/// Threads for disk operations: as many of them run at once, the rest wait in the queue.
pub const DISK_THREADS: usize = 8;

/// poll and threads.
pub struct Pool {
    workers: Workers,
    /// Socket operations that are not through yet, in the order they were pushed.
    sockets: Vec<SocketOp>,
    /// Ended outside [`Engine::wait`].
    ended: Vec<Completion>,
}

struct SocketOp {
    token: Token,
    io: Io,
    /// poll said that it can go on, or it was not tried yet.
    ready: bool,
    /// The listening socket was shut down. A non-blocking accept(2) on a unix socket does not say so, poll does.
    hung_up: bool,
}

impl Pool {
    /// Starts its threads.
    ///
    /// # Errors
    /// When the system has no descriptor or no thread left.
    pub fn open() -> io::Result<Self> {
        Ok(Self { workers: Workers::start(DISK_THREADS)?, sockets: Vec::new(), ended: Vec::new() })
    }

    /// Tries every socket operation that may go on.
    fn run_sockets(&mut self, done: &mut Vec<Completion>) {
        let mut kept = Vec::with_capacity(self.sockets.len());
        for mut op in self.sockets.drain(..) {
            let tried = if op.ready { attempt(&mut op.io) } else { Err(io::ErrorKind::WouldBlock.into()) };
            match tried {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && op.hung_up => {
                    let result = Err(io::Error::from_raw_os_error(libc::EINVAL));
                    done.push(Completion { token: op.token, result, pieces: op.io.into_pieces() });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    op.ready = false;
                    kept.push(op);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => kept.push(op),
                result => done.push(Completion { token: op.token, result, pieces: op.io.into_pieces() }),
            }
        }
        self.sockets = kept;
    }

    /// Waits for the bell or a socket, and notes which sockets can go on.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let bell = Arc::clone(self.workers.bell());
        let mut fds = vec![PollFd::new(std::os::fd::AsFd::as_fd(&*bell), PollFlags::POLLIN)];
        for op in &self.sockets {
            let (fd, events) = interest(&op.io);
            fds.push(PollFd::new(borrow(fd)?, events));
        }
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if fds[0].any().unwrap_or(true) {
            bell.hush();
        }
        for (op, polled) in self.sockets.iter_mut().zip(&fds[1..]) {
            // Errors and hang-ups count: the operation itself then says what it is.
            op.ready |= polled.any().unwrap_or(true);
            let hup = polled.revents().is_some_and(|r| r.contains(PollFlags::POLLHUP));
            op.hung_up |= hup && matches!(op.io, Io::Accept { .. });
        }
        Ok(())
    }
}

impl Engine for Pool {
    fn name(&self) -> &'static str {
        "thread pool"
    }

    fn push(&mut self, token: Token, io: Io) {
        match by_thread(io) {
            Ok(call) => self.workers.push(token, call),
            Err(io) => match prepare(interest(&io).0, &io) {
                Ok(()) => self.sockets.push(SocketOp { token, io, ready: true, hung_up: false }),
                Err(e) => self.ended.push(Completion { token, result: Err(e), pieces: io.into_pieces() }),
            },
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        done.append(&mut self.ended);
        self.run_sockets(done);
        self.workers.take(done);
        let timeout = if done.len() > before { Some(Duration::ZERO) } else { timeout };
        self.poll(timeout)?;
        self.run_sockets(done);
        self.workers.take(done);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(self.workers.bell()) as Arc<dyn Wake>
    }

    fn in_flight(&self) -> usize {
        self.sockets.len() + self.ended.len() + self.workers.outstanding()
    }
}

/// An operation of a disk as a call for a helper thread; an operation of a socket is given back.
pub(super) fn by_thread(io: Io) -> Result<Call, Io> {
    match io {
        Io::Call(call) => Ok(call),
        Io::Read { fd, offset, piece } => Ok(read(fd, offset, piece)),
        Io::Write { fd, offset, piece } => Ok(write(fd, offset, piece)),
        Io::Fdatasync { fd } => Ok(fdatasync(fd)),
        io @ (Io::Accept { .. } | Io::Recv { .. } | Io::Send { .. }) => Err(io),
    }
}

/// What poll must say for `io` to go on.
fn interest(io: &Io) -> (RawFd, PollFlags) {
    match io {
        Io::Accept { fd } | Io::Recv { fd, .. } => (*fd, PollFlags::POLLIN),
        Io::Send { fd, .. } => (*fd, PollFlags::POLLOUT),
        Io::Read { .. } | Io::Write { .. } | Io::Fdatasync { .. } | Io::Call(_) => {
            unreachable!("not a socket operation")
        }
    }
}

/// accept(2) has no flag against blocking, and a connection may vanish between poll and accept: the listening socket itself
/// is put into non-blocking mode.
fn prepare(fd: RawFd, io: &Io) -> io::Result<()> {
    let fd = borrow(fd)?;
    if matches!(io, Io::Accept { .. }) {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Tries a socket operation without blocking.
fn attempt(io: &mut Io) -> io::Result<u64> {
    match io {
        Io::Accept { fd } => {
            let fd = accept4(*fd, SockFlag::SOCK_CLOEXEC)?;
            Ok(u64::try_from(fd).expect("a descriptor is not negative"))
        }
        Io::Recv { fd, piece } => Ok(recv(*fd, piece.as_mut_slice(), MsgFlags::MSG_DONTWAIT)? as u64),
        Io::Send { fd, pieces } => {
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p.as_slice())).collect();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            Ok(sendmsg::<()>(*fd, &slices, &[], flags, None)? as u64)
        }
        Io::Read { .. } | Io::Write { .. } | Io::Fdatasync { .. } | Io::Call(_) => {
            unreachable!("not a socket operation")
        }
    }
}

/// Runs a system call again while a signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A disk offset as the kernel takes it.
fn off(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn read(fd: RawFd, offset: u64, mut piece: Piece) -> Call {
    Box::new(move || {
        let result = borrow(fd)
            .and_then(|fd| Ok((fd, off(offset)?)))
            .and_then(|(fd, at)| uninterrupted(|| pread(fd, piece.as_mut_slice(), at)));
        (result.map(|n| n as u64), [piece].into())
    })
}

fn write(fd: RawFd, offset: u64, piece: Piece) -> Call {
    Box::new(move || {
        let result = borrow(fd)
            .and_then(|fd| Ok((fd, off(offset)?)))
            .and_then(|(fd, at)| uninterrupted(|| pwrite(fd, piece.as_slice(), at)));
        (result.map(|n| n as u64), [piece].into())
    })
}

fn fdatasync(fd: RawFd) -> Call {
    // Not repeated on EINTR or on any other error: after a failed fdatasync the next one may lie.
    Box::new(move || (borrow(fd).and_then(|fd| Ok(nix::unistd::fdatasync(fd)?)).map(|()| 0), Pieces::new()))
}
