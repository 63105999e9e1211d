//! The half of a shipper that takes sealed segments out of the spool into the vault, so that a slow vault does not stop sealing; and
//! that looks, once a heartbeat, at what the target has put for this source.
//!
//! It is one future, [`Uploader::work`]: the uploads and the looks side by side, so that a put that takes its time, or a spool that
//! cannot be read, keeps nobody from learning of a fence or of a request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use farshore_changelog::ids::SegmentNo;
use farshore_vault::EpochObject;
use farshore_vault::retry::Backoff;
use tokio::sync::Notify;

use crate::error::ShipError;
use crate::looks::Looks;
use crate::patience::{FIRST_RETRY, LONGEST_RETRY};
use crate::spool::Spooled;
use crate::state::Fenced;
use crate::uploads::{Uploaded, Uploads};
use crate::voice::{Half, Trouble};

/// Blocking threads of the runtime: a folder vault does its I/O there, one operation at a time.
const BLOCKING_THREADS: usize = 2;
/// How long a blocking operation may go on once the thread is told to end.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// What the uploader lets the other half know.
#[derive(Debug, Default)]
pub struct Progress {
    watermark: AtomicU64,
    fenced: AtomicBool,
}

impl Progress {
    /// Starts at a watermark that is noted.
    #[must_use]
    pub fn new(watermark: SegmentNo, fenced: bool) -> Self {
        Self { watermark: AtomicU64::new(watermark.0), fenced: AtomicBool::new(fenced) }
    }

    /// The newest segment of the current epoch whose confirmation is noted durably; 0 when there is none.
    #[must_use]
    pub fn watermark(&self) -> SegmentNo {
        SegmentNo(self.watermark.load(Ordering::Acquire))
    }

    pub(crate) fn confirmed(&self, number: SegmentNo) {
        self.watermark.store(number.0, Ordering::Release);
    }

    /// Whether another writer has the group.
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }
}

/// How the uploader ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The queue was closed and everything in it is confirmed.
    Drained,
    /// The group is another's.
    Fenced,
    /// It was told to stop at once.
    Aborted,
}

/// A segment on its way.
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// Which.
    pub segment: Spooled,
    /// A shipper before this one may have uploaded it.
    pub tried: bool,
}

/// Empties the spool of one group into the vault.
pub struct Uploader {
    uploads: Uploads,
    looks: Looks,
}

impl Uploader {
    pub(crate) fn new(uploads: Uploads, looks: Looks) -> Self {
        Self { uploads, looks }
    }

    /// Runs on this thread until the queue ends, the group is fenced, an error, or `abort`.
    ///
    /// # Errors
    /// [`ShipError`]: the vault conflicts with us, or cannot be used.
    pub fn run(self, abort: &Notify) -> Result<End, ShipError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()
            .map_err(ShipError::io("start the uploader"))?;
        let end = runtime.block_on(async {
            tokio::select! {
                end = self.work() => end,
                () = abort.notified() => Ok(End::Aborted),
            }
        });
        runtime.shutdown_timeout(SHUTDOWN_WAIT);
        end
    }

    /// Does the work of [`Uploader::run`], on whatever runtime polls it; its time is that of tokio's clock. It can be dropped at
    /// any await, as when its process dies: the next shipper goes on from the notes and the spool.
    ///
    /// # Errors
    /// As [`Uploader::run`].
    pub async fn work(mut self) -> Result<End, ShipError> {
        let by = tokio::select! {
            biased;
            by = self.looks.run() => by?,
            uploaded = self.uploads.run() => match uploaded? {
                Uploaded::All => return Ok(End::Drained),
                Uploaded::Over(by) => by,
            },
        };
        self.fence(by).await?;
        Ok(End::Fenced)
    }

    /// Notes that the group is another's, for good.
    async fn fence(&self, by: EpochObject) -> Result<(), ShipError> {
        let Uploads { line, source, state, progress, .. } = &self.uploads;
        let (spool, voice) = (&line.spool, &line.voice);
        tracing::error!(
            epoch = source.epoch.0,
            by = by.epoch.0,
            reason = ?by.reason,
            "fenced: another site has this group. The disks are served on, nothing more is shipped, and what was not shipped stays in the spool"
        );
        let fenced = Fenced { epoch: source.epoch, by };
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        while let Err(e) = spool.note(|| state.set_fenced(&fenced)) {
            let Some(trouble) = Trouble::of(&e) else { return Err(e) };
            voice.trouble(Half::Uploader, trouble, &e);
            tokio::time::sleep(backoff.next_wait()).await;
        }
        voice.fenced();
        progress.fenced.store(true, Ordering::Release);
        Ok(())
    }
}
