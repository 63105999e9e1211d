//! A batch that is in the images and does not count yet: its images become durable while the next batch is prepared, that is, its
//! blocks are opened, and the old content is read and compressed. Nothing that stays is changed in between, so what a crash may
//! find is what it may find without this.

use std::io;
use std::thread::JoinHandle;

use farshore_changelog::medium;

use crate::error::TargetError;
use crate::image::Image;
use crate::position::ReplayPosition;
use crate::replay::Replay;

/// A thread that makes images durable: what became of each, by its index.
type Syncing = JoinHandle<Vec<(usize, io::Result<()>)>>;

/// What is left to do for such a batch.
#[derive(Debug)]
pub struct Unsettled {
    after: ReplayPosition,
    /// `None`: nobody does it yet.
    syncing: Option<Syncing>,
}

impl Replay {
    /// Leaves the batch that was just written to the images, with `after` as its position. With threads its images are made durable
    /// by one of them; it ends with the fdatasync, and [`Replay::settle`] waits for it.
    pub(crate) fn leave_unsettled(&mut self, after: ReplayPosition) {
        debug_assert!(self.unsettled.is_none(), "one batch at a time");
        let elsewhere = self.pool.is_some() && !medium::is_simulated();
        let syncing = if elsewhere { sync_elsewhere(&self.images) } else { None };
        self.unsettled = Some(Unsettled { after, syncing });
    }

    /// Where replay stands once what was left is settled: what comes next is prepared for this.
    #[must_use]
    pub fn applied(&self) -> &ReplayPosition {
        self.unsettled.as_ref().map_or(self.position.current(), |unsettled| &unsettled.after)
    }

    /// Whether a batch is left that does not count yet.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// Makes the batch count that was left.
    ///
    /// # Errors
    /// [`TargetError`]: the target must be dropped and opened again, which writes the batch back.
    pub fn settle(&mut self) -> Result<(), TargetError> {
        let Some(Unsettled { after, syncing }) = self.unsettled.take() else { return Ok(()) };
        if let Some(syncing) = syncing {
            for (at, synced) in syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                self.images[at].synced(synced)?;
            }
        }
        self.images.iter_mut().try_for_each(Image::sync)?;
        self.position.advance(after)?;
        if self.journal.is_large() {
            self.journal.rotate();
        }
        Ok(())
    }
}

/// Has a thread make the dirty ones durable. `None` where that cannot be.
fn sync_elsewhere(images: &[Image]) -> Option<Syncing> {
    let dirty = images.iter().enumerate().filter(|(_, image)| image.is_dirty());
    let files = dirty.map(|(at, image)| Some((at, image.another_handle().ok()?))).collect::<Option<Vec<_>>>()?;
    let sync = move || files.iter().map(|(at, file)| (*at, medium::sync_data(file))).collect();
    std::thread::Builder::new().name("image-sync".to_owned()).spawn(sync).ok()
}
