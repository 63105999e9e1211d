//! How a lane thread talks to the kernel: operations in, completions out.
//!
//! A stage pushes [`Io`] values, each with a [`Token`] of its own choosing, and takes [`Completion`]s back. An operation owns
//! its buffers until its completion, so no buffer the kernel may still touch can be freed or reused. Two engines do the
//! same thing: [`uring`] (io_uring) and [`pool`] (poll and a thread pool, where the kernel refuses io_uring).

pub mod buffer;
#[cfg(test)]
mod conformance;
mod fd;
pub mod pool;
pub mod spare;
pub mod uring;
mod workers;

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use farshore_changelog::ring::PayloadArea;

pub use buffer::{HeapBuf, IoBuf, Piece, Pieces};

/// Names an operation to the one who pushed it; given back with the completion. The engine does not look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Work that no completion interface covers (fallocate modes, ioctls, SEEK_HOLE, a point view's reads): run on a helper
/// thread, answers with its buffer.
pub type Call = Box<dyn FnOnce() -> (io::Result<u64>, Pieces) + Send>;

/// One operation. `fd` must stay open until the completion; whoever pushes it keeps it so. Sockets are in blocking mode (the
/// engines do not block on them all the same). To end a pending operation on a socket, `shutdown(2)` it.
pub enum Io {
    /// Takes a connection from a listening socket; the completion's value is the new fd (close-on-exec).
    Accept {
        /// The listening socket.
        fd: RawFd,
    },
    /// Receives into the piece; the value is the count of bytes, 0 at the end of the stream. May be short.
    Recv {
        /// A stream socket.
        fd: RawFd,
        /// Where to.
        piece: Piece,
    },
    /// Sends the pieces in order; the value is the count of bytes sent. May be short. Never raises SIGPIPE.
    Send {
        /// A stream socket.
        fd: RawFd,
        /// What, at most [`SEND_PIECES_MAX`] pieces.
        pieces: Pieces,
    },
    /// Reads a disk at `offset` into the piece; may be short.
    Read {
        /// The disk.
        fd: RawFd,
        /// Where on the disk, in bytes.
        offset: u64,
        /// Where to.
        piece: Piece,
    },
    /// Writes the piece to a disk at `offset`; may be short.
    Write {
        /// The disk.
        fd: RawFd,
        /// Where on the disk, in bytes.
        offset: u64,
        /// What.
        piece: Piece,
    },
    /// fdatasync of a disk. It covers the writes whose completions were taken before it was pushed.
    Fdatasync {
        /// The disk.
        fd: RawFd,
    },
    /// Anything else, on a helper thread.
    Call(Call),
}

impl Io {
    /// The buffers it holds, in order.
    #[must_use]
    pub fn into_pieces(self) -> Pieces {
        match self {
            Io::Accept { .. } | Io::Fdatasync { .. } | Io::Call(_) => Pieces::new(),
            Io::Recv { piece, .. } | Io::Read { piece, .. } | Io::Write { piece, .. } => [piece].into(),
            Io::Send { pieces, .. } => pieces,
        }
    }
}

/// Most pieces of one [`Io::Send`].
pub const SEND_PIECES_MAX: usize = 64;

/// The end of an operation: its token, what came of it, and its buffers.
pub struct Completion {
    /// The token it was pushed with.
    pub token: Token,
    /// The operation's value, or the kernel's error.
    pub result: io::Result<u64>,
    /// The pieces that went in (or that a [`Call`] gave back).
    pub pieces: Pieces,
}

/// Lets another thread wake an engine that waits.
pub trait Wake: Send + Sync {
    /// Makes the engine's current or next [`Engine::wait`] return.
    fn wake(&self);
}

/// A way to run operations. One thread owns it; it has no lock.
pub trait Engine {
    /// Which engine this is, for the start-up line: `io_uring` or `thread pool`.
    fn name(&self) -> &'static str;

    /// Says from where most writes will come, once and before the first of them, so that the kernel need not look that memory up for
    /// each write. The engine keeps it mapped. One that has no use for it does nothing.
    ///
    /// # Errors
    /// The kernel's (not enough lockable memory, not memory of `/dev/shm`, too much at once): writes from there are served as any
    /// others.
    fn register(&mut self, _memory: PayloadArea) -> io::Result<()> {
        Ok(())
    }

    /// Queues an operation. It starts at the next [`Engine::wait`] at the latest. Never blocks and never fails: what goes
    /// wrong comes with the completion.
    fn push(&mut self, token: Token, io: Io);

    /// Submits what was pushed, waits until something completes, [`Wake::wake`] is called, or `timeout` passes (`None`:
    /// no limit; zero: only looks), and appends the completions to `done`.
    ///
    /// # Errors
    /// Only when the engine itself is broken; the thread that owns it must stop.
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()>;

    /// A handle that wakes this engine from another thread.
    fn waker(&self) -> std::sync::Arc<dyn Wake>;

    /// Operations pushed whose completion was not handed out yet.
    fn in_flight(&self) -> usize;
}

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// io_uring, else the thread pool.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// The thread pool.
    Pool,
}

/// Opens an engine for the calling thread. With [`EngineKind::Auto`] the second value says why io_uring could not be had, when
/// it could not.
///
/// # Errors
/// When the engine asked for cannot be had, or the system has no thread or descriptor left.
pub fn open(kind: EngineKind) -> io::Result<(Box<dyn Engine>, Option<String>)> {
    match kind {
        EngineKind::Uring => Ok((Box::new(uring::Uring::open()?), None)),
        EngineKind::Pool => Ok((Box::new(pool::Pool::open()?), None)),
        EngineKind::Auto => match uring::Uring::open() {
            Ok(uring) => Ok((Box::new(uring), None)),
            Err(e) => Ok((Box::new(pool::Pool::open()?), Some(format!("io_uring is not available: {e}")))),
        },
    }
}
