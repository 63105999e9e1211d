//! The half of a shipper that fills the spool, one step at a time: takes from the ring, decides, seals into the spool, releases; and
//! what it does when it is told to stop and when the group is another's. A step never waits: it says how long the next one may
//! be put off, so a thread, or a simulator with a clock of its own, can drive it.
//!
//! ```text
//! fill ─told to stop, ring emptied─▶ filled
//!   └──────────── fenced ──────────────┴──▶ keep ─ring emptied, or spool full─▶ discard
//! ```

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_changelog::ring::{Consumer, Ring, ShipperState};
use tokio::sync::mpsc::UnboundedSender;

use crate::batch::{Decision, Limits, POLL};
use crate::error::ShipError;
use crate::sealer::Sealer;
use crate::spool::{Spool, Spooled};
use crate::uploader::{Progress, Queued};

/// How long a shipper that was told to stop goes on to empty the ring, and then the spool.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long it waits, within that, for operations that have their place in the order and are not finished.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks while it ends.
pub(crate) const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two looks at a spool that is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// The shipper's sign of life in the ring is renewed this often.
const SEEN_EVERY: Duration = Duration::from_millis(500);

/// When the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// At once.
    None,
    /// When the ring has something, or after this time.
    Ring(Duration),
    /// After this time, whatever the ring has.
    Time(Duration),
    /// Never: all is done. (Only a fence, which the uploader may meet later, gives it something to do again.)
    Done,
}

/// Fills the spool of one group. At most one of a group lives: it holds the lock.
pub struct Filler {
    shared: Shared,
    stage: Stage,
    _lock: File,
}

/// What every stage works with.
struct Shared {
    ring: Ring,
    spool: Arc<Spool>,
    spool_limit_bytes: u64,
    limits: Limits,
    progress: Arc<Progress>,
    seen: Option<Instant>,
}

/// What it does.
enum Stage {
    /// Seals what the ring holds and hands it to the uploader.
    Fill(Box<Fill>),
    /// It was told to stop and has emptied the ring, as far as that goes. The uploader's queue is closed.
    Filled(Box<Sealer>),
    /// The group is fenced: seals what the ring holds now, for the loss receipt.
    Keep(Box<Keep>),
    /// The group is fenced: empties the ring without keeping anything, so that nothing waits on it.
    Discard(Consumer),
    /// It stopped by an error.
    Over,
}

struct Fill {
    sealer: Sealer,
    queue: UnboundedSender<Queued>,
    drain: Option<Drain>,
}

struct Keep {
    sealer: Sealer,
    drain: Drain,
}

/// Where a filler begins.
pub(crate) enum Begin {
    /// Ship.
    Ship(Sealer, UnboundedSender<Queued>),
    /// The group is fenced: keep what the ring holds, then discard.
    Keep(Sealer),
    /// The group is fenced, and an earlier shipper began to discard.
    Discard(Consumer),
}

impl Filler {
    pub(crate) fn new(
        ring: Ring,
        spool: Arc<Spool>,
        spool_limit_bytes: u64,
        limits: Limits,
        progress: Arc<Progress>,
        begin: Begin,
        lock: File,
    ) -> Self {
        let shared = Shared { ring, spool, spool_limit_bytes, limits, progress, seen: None };
        let stage = match begin {
            Begin::Ship(sealer, queue) => Stage::Fill(Box::new(Fill { sealer, queue, drain: None })),
            Begin::Keep(sealer) => shared.keep(sealer),
            Begin::Discard(consumer) => Stage::Discard(consumer),
        };
        Self { shared, stage, _lock: lock }
    }

    /// Takes, decides, seals and releases once. `stopping`: it was told to stop; it then takes what the ring has and seals it, for
    /// a bounded time, and what is not in the spool by then stays in the ring for the next shipper. A fenced group's goes on
    /// until `stopping` too.
    ///
    /// # Errors
    /// [`ShipError`]: a person is needed. The ring still has what is not in the spool. Further steps do nothing.
    pub fn step(&mut self, stopping: bool) -> Result<Pause, ShipError> {
        self.shared.sign_of_life();
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let (stage, pause) = match stage {
            Stage::Fill(fill) if self.shared.progress.fenced() => (self.shared.keep(fill.sealer), Pause::None),
            Stage::Filled(sealer) if self.shared.progress.fenced() => (self.shared.keep(*sealer), Pause::None),
            Stage::Fill(fill) => self.shared.fill(fill, stopping)?,
            Stage::Filled(sealer) => (Stage::Filled(sealer), Pause::Done),
            Stage::Keep(keep) => self.shared.go_on_keeping(keep)?,
            Stage::Discard(consumer) => self.shared.discard(consumer, stopping)?,
            Stage::Over => (Stage::Over, Pause::Done),
        };
        self.stage = stage;
        Ok(pause)
    }

    /// Blocks this thread for a pause.
    pub fn wait(&self, pause: Pause) {
        match (pause, &self.stage) {
            (Pause::None | Pause::Done, _) => {}
            (Pause::Ring(time), Stage::Fill(fill)) => fill.sealer.wait(time),
            (Pause::Ring(time), Stage::Keep(keep)) => keep.sealer.wait(time),
            (Pause::Ring(time), Stage::Discard(consumer)) => consumer.wait(time),
            (Pause::Ring(time), Stage::Filled(_) | Stage::Over) | (Pause::Time(time), _) => clock::sleep(time),
        }
    }

    /// Whether another writer has the group.
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.shared.progress.fenced()
    }

    /// Says in the ring how the shipper ended. A fence is for good: were another state said, capture would log again, into a
    /// ring that nobody empties.
    pub fn leave(self, ended: Result<(), ShipError>) -> Result<(), ShipError> {
        let ring = &self.shared.ring;
        if ring.shipper_state() != ShipperState::Fenced {
            ring.set_shipper_state(if ended.is_err() { ShipperState::Stopped } else { ShipperState::Starting });
        }
        ended
    }

    /// Bytes of sealed segments that are not confirmed.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.shared.spool.bytes()
    }
}

impl Shared {
    /// Fills the spool, until it is told to stop and has emptied the ring.
    fn fill(&self, mut fill: Box<Fill>, stopping: bool) -> Result<(Stage, Pause), ShipError> {
        let Fill { sealer, queue, drain } = &mut *fill;
        if drain.is_none() && stopping {
            *drain = Some(Drain::new(self.ring.next_seq()));
        }
        if drain.as_ref().is_some_and(|drain| drain.is_over(sealer.head().last_seq)) {
            return Ok((Stage::Filled(Box::new(fill.sealer)), Pause::Done));
        }
        let emptied = sealer.take(self.room())?;
        let pause = match self.limits.decide(&sealer.standing(drain.is_some())) {
            Decision::Seal => {
                // It fails only when the uploader has ended, which whoever drives the two sees.
                let _ = queue.send(Queued { segment: self.seal(sealer)?, tried: false });
                drain.iter_mut().for_each(Drain::moved);
                Pause::None
            }
            Decision::Wait(_) if drain.is_some() => Pause::Time(SHORT_PAUSE),
            Decision::Wait(time) if emptied => Pause::Ring(time),
            Decision::Wait(_) => Pause::Time(FULL_PAUSE),
        };
        Ok((Stage::Fill(fill), pause))
    }

    fn seal(&self, sealer: &mut Sealer) -> Result<Spooled, ShipError> {
        let sealed = sealer.seal(self.progress.watermark())?;
        self.ring.set_spool_bytes(self.spool.bytes());
        tracing::debug!(number = sealed.number.0, last_seq = sealed.last_seq.0, bytes = sealed.bytes, "segment sealed");
        Ok(sealed)
    }

    fn keep(&self, sealer: Sealer) -> Stage {
        Stage::Keep(Box::new(Keep { sealer, drain: Drain::new(self.ring.next_seq()) }))
    }

    /// What the ring held when the group was fenced is sealed into the spool, as far as the spool has room; what comes later is
    /// discarded.
    fn go_on_keeping(&self, mut keep: Box<Keep>) -> Result<(Stage, Pause), ShipError> {
        let Keep { sealer, drain } = &mut *keep;
        if drain.is_over(sealer.head().last_seq) || self.room() == 0 {
            let (kept, bytes) = (sealer.head().last_seq.0, self.spool.bytes());
            tracing::warn!(kept_up_to = kept, spool_bytes = bytes, "what was not shipped is kept in the spool");
            return Ok((Stage::Discard(keep.sealer.into_consumer()), Pause::None));
        }
        sealer.take(self.room())?;
        let pause = match self.limits.decide(&sealer.standing(true)) {
            Decision::Seal => {
                self.seal(sealer)?;
                drain.moved();
                Pause::None
            }
            Decision::Wait(_) => Pause::Ring(SHORT_PAUSE),
        };
        Ok((Stage::Keep(keep), pause))
    }

    fn discard(&self, mut consumer: Consumer, stopping: bool) -> Result<(Stage, Pause), ShipError> {
        if stopping {
            return Ok((Stage::Discard(consumer), Pause::Done));
        }
        while let Some(taken) = consumer.take()? {
            consumer.release(taken.record().seq, vec![taken]);
        }
        consumer.release(consumer.position(), Vec::new());
        Ok((Stage::Discard(consumer), Pause::Ring(POLL)))
    }

    /// Payload bytes that may be taken: sealed they need about as much of the spool at most.
    fn room(&self) -> u64 {
        self.spool_limit_bytes.saturating_sub(self.spool.bytes())
    }

    fn sign_of_life(&mut self) {
        let now = clock::mono();
        if self.seen.is_none_or(|at| now.duration_since(at) >= SEEN_EVERY) {
            self.seen = Some(now);
            self.ring.set_shipper_seen(clock::wall());
        }
    }
}

/// How far a shipper goes that is about to end.
struct Drain {
    /// Everything that had its place in the order then.
    until: Seq,
    end: Instant,
    moved: Instant,
}

impl Drain {
    fn new(next_seq: Seq) -> Self {
        let now = clock::mono();
        Self { until: Seq(next_seq.0 - 1), end: now + DRAIN_MAX, moved: now }
    }

    fn moved(&mut self) {
        self.moved = clock::mono();
    }

    fn is_over(&self, sealed: Seq) -> bool {
        let now = clock::mono();
        sealed >= self.until || now.duration_since(self.moved) >= SETTLE_MAX || now >= self.end
    }
}
