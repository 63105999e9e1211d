//! What other threads may ask of a lane, and the way to ask it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::listener::{Listener, Permit};
use crate::device::Finished;
use crate::engine::{Engine, Wake};
use crate::nbd::request::Agreed;

/// Most commands that wait for a lane.
pub const COMMANDS_MAX: usize = 256;

/// A lane's devices, for a closure that runs on its thread.
pub struct LaneAccess<'a, D> {
    /// The devices, in the order in which they were made.
    pub devices: &'a mut [D],
    /// The lane's engine, for devices that must push operations.
    pub engine: &'a mut dyn Engine,
    /// Where devices put the requests that they finish meanwhile.
    pub finished: &'a mut Vec<Finished>,
}

/// Something to do on a lane's thread.
pub(crate) type Task<D> = Box<dyn FnOnce(&mut LaneAccess<'_, D>) + Send>;

/// A connection whose negotiation another lane has done.
pub(crate) struct Arrival {
    pub fd: OwnedFd,
    pub permit: Permit,
    pub device: usize,
    pub agreed: Agreed,
}

pub(crate) enum Command<D> {
    Run(Task<D>),
    Listen(Box<Listener<D>>),
    Adopt(Arrival),
    Stop,
}

/// Why a lane did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the I/O thread has stopped; its end is reported by the server's stop")]
pub struct LaneGone;

/// A way to a lane's thread. Cheap to clone; does not keep the lane running.
pub struct LaneHandle<D> {
    commands: Sender<Command<D>>,
    waker: Arc<dyn Wake>,
}

impl<D> Clone for LaneHandle<D> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), waker: Arc::clone(&self.waker) }
    }
}

impl<D> LaneHandle<D> {
    /// A channel to the lane that `waker` wakes.
    pub(crate) fn new(waker: Arc<dyn Wake>) -> (Self, Receiver<Command<D>>) {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        (Self { commands, waker }, receiver)
    }

    /// Runs `task` on the lane's thread between two rounds of its loop, and waits for what it gives. It must not block: the
    /// lane's disks stand still meanwhile. Must not be called on a lane's thread.
    ///
    /// # Errors
    /// [`LaneGone`] when the lane stopped before it ran.
    pub fn run<R, F>(&self, task: F) -> Result<R, LaneGone>
    where
        R: Send + 'static,
        F: FnOnce(&mut LaneAccess<'_, D>) -> R + Send + 'static,
    {
        let (report, result) = bounded(1);
        self.send(Command::Run(Box::new(move |access| {
            // The asker waits; should it have been dropped, nobody wants the result.
            let _ = report.send(task(access));
        })))?;
        result.recv().map_err(|_| LaneGone)
    }

    /// Sends a command; waits while [`COMMANDS_MAX`] others are before it.
    pub(crate) fn send(&self, command: Command<D>) -> Result<(), LaneGone> {
        self.commands.send(command).map_err(|_| LaneGone)?;
        self.waker.wake();
        Ok(())
    }

    /// Hands a connection over without waiting: two lanes that waited for each other would never wake.
    pub(crate) fn hand_over(&self, arrival: Arrival) {
        match self.commands.try_send(Command::Adopt(arrival)) {
            Ok(()) => self.waker.wake(),
            Err(TrySendError::Full(_)) => tracing::warn!("a connection was closed: its lane has too many commands"),
            Err(TrySendError::Disconnected(_)) => tracing::debug!("a connection was closed: its lane has stopped"),
        }
    }
}
