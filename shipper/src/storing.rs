//! A sealed segment on its way into the spool: put there by whoever hands it over, or by a thread, while the next one is being filled.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use farshore_changelog::segment::Sealed;

use crate::error::ShipError;
use crate::spool::{Spool, Spooled};

/// What became of a segment.
type Stored = Result<Spooled, ShipError>;

/// One segment at a time goes into the spool.
pub(crate) struct Storing {
    spool: Arc<Spool>,
    thread: Option<Thread>,
    /// Its result, until it is asked for.
    stored: Option<Stored>,
    under_way: bool,
}

struct Thread {
    /// `None` while it is dropped.
    give: Option<Sender<Arc<Sealed>>>,
    told: Receiver<Stored>,
    handle: Option<JoinHandle<()>>,
}

impl Storing {
    /// At once, by whoever calls [`Storing::begin`].
    pub(crate) fn here(spool: Arc<Spool>) -> Self {
        Self { spool, thread: None, stored: None, under_way: false }
    }

    /// By a thread.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub(crate) fn thread(spool: Arc<Spool>) -> Result<Self, ShipError> {
        let (give, todo) = bounded::<Arc<Sealed>>(1);
        let (tell, told) = bounded(1);
        let its_spool = Arc::clone(&spool);
        let put_all = move || {
            for sealed in todo {
                // Whoever asked has ended.
                let _ = tell.send(its_spool.put(&sealed));
            }
        };
        let handle = std::thread::Builder::new().name("spool".into()).spawn(put_all);
        let handle = Some(handle.map_err(ShipError::io("start the thread that writes the spool"))?);
        Ok(Self { thread: Some(Thread { give: Some(give), told, handle }), ..Self::here(spool) })
    }

    /// Begins to put a segment; the one before was [`Storing::take`]n.
    pub(crate) fn begin(&mut self, sealed: &Arc<Sealed>) {
        assert!(!self.under_way, "one segment at a time");
        self.under_way = true;
        match &self.thread {
            None => self.stored = Some(self.spool.put(sealed)),
            Some(thread) => {
                let give = thread.give.as_ref().expect("it is taken only by drop");
                if give.send(Arc::clone(sealed)).is_err() {
                    self.stored = Some(Err(ended()));
                }
            }
        }
    }

    /// Whether a segment was begun and not taken.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// The result of the segment that was begun, once there is one.
    pub(crate) fn take(&mut self) -> Option<Stored> {
        self.look(Duration::ZERO);
        let stored = self.stored.take()?;
        self.under_way = false;
        Some(stored)
    }

    /// Waits for the result, at most `timeout`.
    pub(crate) fn look(&mut self, timeout: Duration) {
        let (true, None, Some(thread)) = (self.under_way, &self.stored, &self.thread) else { return };
        match thread.told.recv_timeout(timeout) {
            Ok(stored) => self.stored = Some(stored),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => self.stored = Some(Err(ended())),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.give = None;
        if let Some(handle) = self.handle.take() {
            // The spool is the next shipper's only once nobody writes into it.
            let _ = handle.join();
        }
    }
}

fn ended() -> ShipError {
    ShipError::Io { what: "write the spool", source: std::io::Error::other("the thread that writes it has ended") }
}
