//! Which of the segments that were taken up may be put now: the lowest, as many as [`Width`] says.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_vault::VaultError;
use tokio::sync::Notify;

use super::width::{Began, Width};

/// Lets the lowest through.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    width: Width,
    /// Place of the lowest one that is not confirmed. Places count what was taken up, from 0.
    lowest: u64,
}

impl Gate {
    /// For at most `most` at once.
    pub(crate) fn new(most: usize) -> Self {
        Self { inner: Mutex::new(Inner { width: Width::new(most), lowest: 0 }), changed: Notify::new() }
    }

    /// How many may be under way.
    pub(crate) fn width(&self) -> usize {
        self.inner().width.now()
    }

    /// Waits until the one at `place` may be put.
    pub(crate) async fn turn(&self, place: u64) {
        loop {
            // Before it is asked, so that no change is missed.
            let changed = self.changed.notified();
            let may = {
                let inner = self.inner();
                place < inner.lowest + inner.width.now() as u64
            };
            if may {
                return;
            }
            changed.await;
        }
    }

    /// The lowest one is confirmed.
    pub(crate) fn confirmed(&self) {
        self.inner().lowest += 1;
        self.changed.notify_waiters();
    }

    /// A put begins.
    pub(crate) fn begin(&self) -> Began {
        self.inner().width.begin()
    }

    /// It has ended.
    pub(crate) fn end<T>(&self, began: Began, ended: &Result<T, VaultError>, took: Duration) {
        let mut inner = self.inner();
        let was = inner.width.now();
        match ended {
            Ok(_) => inner.width.went_well(began, took),
            Err(e) => inner.width.failed(began, e),
        }
        let now = inner.width.now();
        drop(inner);
        if now != was {
            tracing::debug!(uploads = now, was, "uploads at once");
            self.changed.notify_waiters();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
