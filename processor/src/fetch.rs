//! Brings a group's segments from the vault, in order and ahead of replay. The gets run on the processor's I/O thread; how many
//! segments wait in memory is limited over all groups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::{GroupVault, VaultError};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::stop::Stop;

/// Segments fetched ahead for one group, at most. A group that follows its source asks for one at a time: what is asked for and is
/// not there is paid for too.
pub const AHEAD_MAX: usize = 8;
/// So many that were there, one after the other, are what a source writes between two looks; after more of them there is a backlog.
const FOLLOWS: u32 = 4;
/// Segments fetched and not yet applied over all groups, each at most 64 MiB and usually at most 8 MiB.
pub const FETCHED_MAX: usize = 32;
/// How long a wait for the vault goes on before the stop flag is looked at.
const STOP_LOOK: Duration = Duration::from_millis(200);

/// Where the I/O with the vault runs.
#[derive(Debug, Clone)]
pub enum VaultIo {
    /// On a runtime that another thread drives.
    Elsewhere(Handle),
    /// On the thread that waits for it, and only while it waits: in a simulation there is no other.
    Here(Arc<Runtime>),
}

impl VaultIo {
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        match self {
            Self::Elsewhere(handle) => handle.block_on(work),
            Self::Here(runtime) => runtime.block_on(work),
        }
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        match self {
            Self::Elsewhere(handle) => handle.spawn(work),
            Self::Here(runtime) => runtime.spawn(work),
        }
    }
}

/// A segment in memory. It counts against [`FETCHED_MAX`] until it is dropped.
#[derive(Debug)]
pub struct Fetched {
    /// The object, not proved in any way.
    pub bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// What came of asking for a segment.
#[derive(Debug)]
pub enum Asked {
    /// It is there.
    Here(Fetched),
    /// It is not there (yet).
    Missing,
    /// The processor stops.
    Stopping,
}

#[derive(Debug)]
struct Flight {
    epoch: Epoch,
    number: SegmentNo,
    task: JoinHandle<Result<Option<Fetched>, VaultError>>,
}

/// Fetches one group's segments.
#[derive(Debug)]
pub struct Fetcher {
    vault: GroupVault,
    io: VaultIo,
    permits: Arc<Semaphore>,
    flights: VecDeque<Flight>,
    /// Segments that were there since one was missing.
    here: u32,
}

impl Fetcher {
    /// A fetcher whose gets run on `io`; `permits` is shared by all groups.
    #[must_use]
    pub fn new(vault: GroupVault, io: VaultIo, permits: Arc<Semaphore>) -> Self {
        Self { vault, io, permits, flights: VecDeque::new(), here: 0 }
    }

    /// The group's part of the vault.
    #[must_use]
    pub fn vault(&self) -> &GroupVault {
        &self.vault
    }

    /// Runs something against the vault, and waits for it.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.io.block_on(work)
    }

    /// Whether [`Fetcher::next`] would give segment `number` of `epoch`, or an error, at once.
    #[must_use]
    pub fn has(&self, epoch: Epoch, number: SegmentNo) -> bool {
        let wanted = self.flights.iter().find(|flight| (flight.epoch, flight.number) == (epoch, number));
        wanted.is_some_and(|flight| flight.task.is_finished())
    }

    /// Segment `number` of `epoch`, which usually is under way already; the ones after it are asked for.
    ///
    /// # Errors
    /// That of the vault.
    pub fn next(&mut self, epoch: Epoch, number: SegmentNo, stop: &Stop) -> Result<Asked, VaultError> {
        while self.flights.front().is_some_and(|flight| (flight.epoch, flight.number) != (epoch, number)) {
            self.drop_first();
        }
        let mut next = self.flights.back().map_or(number, |flight| flight.number.next());
        while self.flights.len() < ahead(self.here) {
            self.ask(epoch, next);
            next = next.next();
        }
        let Some(mut flight) = self.flights.pop_front() else { return Ok(Asked::Missing) };
        let fetched = loop {
            match self.io.block_on(async { tokio::time::timeout(STOP_LOOK, &mut flight.task).await }) {
                Ok(Ok(fetched)) => break fetched,
                Ok(Err(e)) => std::panic::resume_unwind(e.into_panic()),
                Err(_) if stop.requested() => {
                    flight.task.abort();
                    return Ok(Asked::Stopping);
                }
                Err(_) => {}
            }
        };
        match fetched {
            Ok(Some(fetched)) => {
                self.here = self.here.saturating_add(1);
                Ok(Asked::Here(fetched))
            }
            Ok(None) => {
                self.clear();
                self.here = 0;
                Ok(Asked::Missing)
            }
            Err(e) => {
                self.clear();
                self.here = 0;
                Err(e)
            }
        }
    }

    /// Gives up what is under way. Called whenever the group pauses: what it holds would keep other groups waiting.
    pub fn clear(&mut self) {
        while !self.flights.is_empty() {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(flight) = self.flights.pop_front() {
            flight.task.abort();
        }
    }

    /// Starts a get. The tasks of a group queue for permits in their order, so the first one wanted gets one first.
    fn ask(&mut self, epoch: Epoch, number: SegmentNo) {
        let (vault, permits) = (self.vault.clone(), Arc::clone(&self.permits));
        let task = self.io.spawn(async move {
            let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
            let bytes = vault.get_segment(epoch, number).await?;
            Ok(bytes.map(|bytes| Fetched { bytes, _permit: permit }))
        });
        self.flights.push_back(Flight { epoch, number, task });
    }
}

/// How many are asked for at once after `here` were there, one after the other. Pure.
fn ahead(here: u32) -> usize {
    here.checked_sub(FOLLOWS).map_or(1, |more| 2_usize.saturating_pow(more.saturating_add(1)).min(AHEAD_MAX))
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_asks_for_one_and_who_catches_up_for_several() {
        let asked: Vec<usize> = (0..8).map(ahead).collect();
        assert_eq!(asked, [1, 1, 1, 1, 2, 4, 8, 8]);
        assert_eq!(ahead(u32::MAX), AHEAD_MAX);
    }
}
