//! A bounded pool of threads for work that has no completion interface, and the bell it rings at the engine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Call, Completion, Pieces, Token, Wake};

/// An eventfd: rung by workers and by [`Wake::wake`], waited for by the engine.
pub(super) struct Bell(EventFd);

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes it silent again.
    pub(super) fn hush(&self) {
        // EAGAIN: it had not been rung, or another look took it already.
        let _ = self.0.read();
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for Bell {
    fn wake(&self) {
        // EAGAIN: the counter is full, so it rings already.
        let _ = self.0.write(1);
    }
}

/// The threads. Their queue is bounded by those who push: each device and connection bounds its own requests in flight.
pub(super) struct Workers {
    jobs: Sender<(Token, Call)>,
    ends: Receiver<Completion>,
    bell: Arc<Bell>,
    outstanding: usize,
}

impl Workers {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system has no descriptor or no thread left.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let (jobs, to_do) = unbounded::<(Token, Call)>();
        let (report, ends) = unbounded();
        for n in 0..threads {
            let (to_do, report, bell) = (to_do.clone(), report.clone(), Arc::clone(&bell));
            std::thread::Builder::new().name(format!("farshore-io-{n}")).spawn(move || work(&to_do, &report, &bell))?;
        }
        Ok(Self { jobs, ends, bell, outstanding: 0 })
    }

    pub(super) fn push(&mut self, token: Token, call: Call) {
        self.outstanding += 1;
        self.jobs.send((token, call)).expect("workers live as long as their queue");
    }

    /// Appends what has ended to `done`.
    pub(super) fn take(&mut self, done: &mut Vec<Completion>) {
        for end in self.ends.try_iter() {
            self.outstanding -= 1;
            done.push(end);
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

/// One thread: ends when the queue's sender is dropped and the queue is empty.
fn work(to_do: &Receiver<(Token, Call)>, report: &Sender<Completion>, bell: &Bell) {
    for (token, call) in to_do {
        // A panic must not lose the completion: someone waits for it.
        let (result, pieces) = catch_unwind(AssertUnwindSafe(call))
            .unwrap_or_else(|_| (Err(io::Error::other("a helper thread panicked in this operation")), Pieces::new()));
        if report.send(Completion { token, result, pieces }).is_err() {
            return; // the engine is gone
        }
        bell.wake();
    }
}
