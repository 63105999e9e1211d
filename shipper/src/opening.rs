//! The first stage of the filling half: proves what the last shipper left in the spool, and finds where to go on.

use tokio::sync::mpsc::UnboundedSender;

use crate::error::{ShipError, chain};
use crate::filler::{Begin, Shared};
use crate::restart;
use crate::sealer::{Sealer, Tools};
use crate::state::{SourceEpoch, Watermark};
use crate::uploader::Queued;

/// What is needed to begin. It can be attempted again as long as the spool cannot be used.
pub(crate) struct Opening {
    pub(crate) source: SourceEpoch,
    pub(crate) watermark: Option<Watermark>,
    /// How it is sealed; taken once it is known where to go on.
    pub(crate) tools: Option<Tools>,
    /// To the uploader; `None` once the group is fenced.
    pub(crate) queue: Option<UnboundedSender<Queued>>,
}

impl Opening {
    /// Tries to begin.
    ///
    /// # Errors
    /// [`ShipError`]; of the spool, as long as it is not what watermark and ring say.
    pub(crate) fn attempt(&mut self, shared: &Shared) -> Result<Begin, ShipError> {
        if self.queue.is_some() && !shared.progress.fenced() {
            return self.plan(shared);
        }
        // Fenced: whatever is wrong with the spool, nobody is to wait for the ring.
        self.queue = None;
        self.plan(shared).or_else(|e| match e {
            ShipError::Ring(_) => Err(e),
            _ => {
                tracing::warn!("nothing more is kept in the spool: {}", chain(&e));
                Ok(Begin::Discard(shared.ring.consumer()))
            }
        })
    }

    fn plan(&mut self, shared: &Shared) -> Result<Begin, ShipError> {
        let plan = restart::plan(&self.source, self.watermark.as_ref(), shared.spool.look_through()?)?;
        let ring = &shared.ring;
        if self.queue.is_none() && ring.read_seq() > plan.head.last_seq.next() {
            return Ok(Begin::Discard(ring.consumer()));
        }
        for file in &plan.aside {
            shared.spool.set_aside(file)?;
        }
        for (epoch, number) in plan.stale {
            // A disk that cannot be written can still be shipped from; the next start removes them.
            let _ = shared.spool.remove(epoch, number).inspect_err(|e| tracing::warn!("{}", chain(e)));
        }
        Sealer::check(ring, &plan.head)?;
        let tools = self.tools.take().expect("what follows does not fail, so there is no further attempt");
        let sealer = Sealer::new(ring, plan.head, tools);
        tracing::info!(
            group = %self.source.group, epoch = self.source.epoch.0, sealed = plan.head.number.0,
            confirmed = plan.confirmed.number.0, spooled = plan.queue.len(), set_aside = plan.aside.len(),
            fenced = self.queue.is_none(), "shipper goes on"
        );
        match self.queue.take() {
            None => Ok(Begin::Keep(sealer)),
            Some(queue) => {
                for segment in plan.queue {
                    // It fails only when the uploader has ended, which whoever drives the two sees.
                    let _ = queue.send(Queued { segment, tried: true });
                }
                Ok(Begin::Ship(sealer, queue))
            }
        }
    }
}
