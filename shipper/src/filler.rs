//! The half of a shipper that fills the spool, one step at a time: takes from the ring, decides, seals into the spool, releases; and
//! what it does when it is told to stop, when the spool does not take it, and when the group is another's. A step never waits: it
//! says how long the next one may be put off, so a thread, or a simulator with a clock of its own, can drive it.
//!
//! ```text
//! open ─spool proved─▶ fill ─told to stop, ring emptied─▶ filled
//!                        └────────── fenced ──────────────┴──▶ keep ─ring emptied, or spool full─▶ discard
//! ```
//!
//! A spool that has no room, or whose disk has failed, or that lacks a segment, ends nothing: what is not in it stays in the ring,
//! the ring's header says so ([`crate::voice`]), and it is tried again, from 200 ms to 5 s later.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ring::{Consumer, Ring};
use tokio::sync::mpsc::UnboundedSender;

use crate::batch::{Decision, Limits, POLL};
use crate::error::ShipError;
use crate::opening::Opening;
use crate::patience::{Drain, FIRST_RETRY, Retry};
use crate::sealer::Sealer;
use crate::spool::{Spool, Spooled};
use crate::uploader::{Progress, Queued};
use crate::voice::{Half, Trouble, Voice};

/// Pause between two looks while it ends.
pub(crate) const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two looks at a ring into which records come: so long the bell is not armed, and the guest's requests pay for no
/// wake-up. A lane of the smallest ring takes this time to fill at 4 GB/s.
const GATHER: Duration = Duration::from_millis(1);
/// Pause between two looks at a spool that is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// A spool that was at its limit counts as full until this part of the limit is free.
const FREE_AGAIN: u64 = 4;
/// The shipper's sign of life in the ring is renewed this often.
const SEEN_EVERY: Duration = Duration::from_millis(500);

/// When the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// At once.
    None,
    /// When the ring has something, or after this time.
    Ring(Duration),
    /// When the segment on its way is in the spool, or after this time.
    Stored(Duration),
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
pub(crate) struct Shared {
    pub(crate) ring: Ring,
    pub(crate) spool: Arc<Spool>,
    pub(crate) spool_limit_bytes: u64,
    pub(crate) limits: Limits,
    pub(crate) progress: Arc<Progress>,
    pub(crate) voice: Arc<Voice>,
    /// Taking stopped at the spool's limit, and not much is free since.
    pub(crate) at_limit: bool,
    pub(crate) seen: Option<Instant>,
}

/// What it does.
enum Stage {
    /// Proves what the last shipper left.
    Open(Box<Opening>, Retry),
    /// Seals what the ring holds and hands it to the uploader.
    Fill(Box<Fill>),
    /// It was told to stop and has emptied the ring, as far as that goes. The uploader's queue is closed.
    Filled(Box<Sealer>),
    /// The group is fenced: seals what the ring holds now, for the loss receipt.
    Keep(Box<Keep>),
    /// The group is fenced: empties the ring without keeping anything, so that nothing waits on it.
    Discard(Consumer),
    /// It ended before it could begin, or by an error.
    Over,
}

struct Fill {
    sealer: Sealer,
    queue: UnboundedSender<Queued>,
    retry: Retry,
    drain: Option<Drain>,
}

struct Keep {
    sealer: Sealer,
    drain: Drain,
}

/// What an opening gives.
pub(crate) enum Begin {
    /// Ship.
    Ship(Sealer, UnboundedSender<Queued>),
    /// The group is fenced: keep what the ring holds, then discard.
    Keep(Sealer),
    /// The group is fenced, and an earlier shipper began to discard, or the spool cannot be continued.
    Discard(Consumer),
}

impl Filler {
    pub(crate) fn new(shared: Shared, opening: Opening, lock: File) -> Self {
        Self { shared, stage: Stage::Open(Box::new(opening), Retry::new()), _lock: lock }
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
            Stage::Open(opening, retry) => self.shared.open(opening, retry, stopping)?,
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
    pub fn wait(&mut self, pause: Pause) {
        match (pause, &mut self.stage) {
            (Pause::None | Pause::Done, _) => {}
            (Pause::Ring(time), Stage::Fill(fill)) => fill.sealer.wait(time),
            (Pause::Ring(time), Stage::Keep(keep)) => keep.sealer.wait(time),
            (Pause::Stored(time), Stage::Fill(fill)) => fill.sealer.wait_stored(time),
            (Pause::Stored(time), Stage::Keep(keep)) => keep.sealer.wait_stored(time),
            (Pause::Ring(time), Stage::Discard(consumer)) => consumer.wait(time),
            (Pause::Ring(time), Stage::Open(..) | Stage::Filled(_) | Stage::Over)
            | (Pause::Stored(time), Stage::Open(..) | Stage::Filled(_) | Stage::Discard(_) | Stage::Over)
            | (Pause::Time(time), _) => clock::sleep(time),
        }
    }

    /// Whether another writer has the group.
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.shared.progress.fenced()
    }

    /// Says in the ring how the shipper ended.
    ///
    /// # Errors
    /// The one that it is given.
    pub fn leave(self, ended: Result<(), ShipError>) -> Result<(), ShipError> {
        self.shared.voice.leave(ended.is_err());
        ended
    }

    /// Bytes of sealed segments that are not confirmed.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.shared.spool.bytes()
    }
}

impl Shared {
    fn open(&self, mut opening: Box<Opening>, mut retry: Retry, stopping: bool) -> Result<(Stage, Pause), ShipError> {
        if let Some(left) = retry.left().filter(|_| !stopping) {
            return Ok((Stage::Open(opening, retry), Pause::Time(left.min(POLL))));
        }
        let begin = match opening.attempt(self) {
            Ok(begin) => begin,
            Err(e) => {
                let Some(trouble) = Trouble::of(&e) else { return Err(e) };
                self.voice.trouble(Half::Filler, trouble, &e);
                if stopping {
                    return Ok((Stage::Over, Pause::Done));
                }
                let left = retry.failed();
                return Ok((Stage::Open(opening, retry), Pause::Time(left.min(POLL))));
            }
        };
        self.voice.well(Half::Filler);
        self.ring.set_spool_bytes(self.spool.bytes());
        let stage = match begin {
            Begin::Ship(sealer, queue) => {
                Stage::Fill(Box::new(Fill { sealer, queue, retry: Retry::new(), drain: None }))
            }
            Begin::Keep(sealer) => self.keep(sealer),
            Begin::Discard(consumer) => Stage::Discard(consumer),
        };
        Ok((stage, Pause::None))
    }

    /// Fills the spool, until it is told to stop and has emptied the ring.
    fn fill(&mut self, mut fill: Box<Fill>, stopping: bool) -> Result<(Stage, Pause), ShipError> {
        let Fill { sealer, queue, retry, drain } = &mut *fill;
        if drain.is_none() && stopping {
            *drain = Some(Drain::new(self.ring.next_seq()));
        }
        if drain.as_ref().is_some_and(|drain| drain.is_over(sealer.stored())) {
            return Ok((Stage::Filled(Box::new(fill.sealer)), Pause::Done));
        }
        if let Some(left) = retry.left().filter(|_| sealer.is_closed()) {
            let longest = if drain.is_some() { SHORT_PAUSE } else { POLL };
            return Ok((Stage::Fill(fill), Pause::Time(left.min(longest))));
        }
        let had = sealer.at_hand().records;
        let room = self.room(sealer);
        let emptied = sealer.take(room, self.spool_percent(room))?;
        let comes = sealer.at_hand().records > had;
        let decision = self.limits.decide(&sealer.standing(drain.is_some()));
        if decision == Decision::Seal && !sealer.is_closed() {
            sealer.seal(self.progress.watermark())?;
        } else if decision != Decision::Seal {
            self.say_room(sealer, emptied);
        }
        match self.store(sealer) {
            Ok(Some(segment)) => {
                // It fails only when the uploader has ended, which whoever drives the two sees.
                let _ = queue.send(Queued { segment, tried: false });
                drain.iter_mut().for_each(Drain::moved);
                retry.worked();
                return Ok((Stage::Fill(fill), Pause::None));
            }
            Ok(None) => {}
            Err(e) => {
                let Some(trouble) = Trouble::of(&e) else { return Err(e) };
                self.voice.trouble(Half::Filler, trouble, &e);
                let pause = Pause::Time(retry.failed().min(POLL));
                return Ok((Stage::Fill(fill), pause));
            }
        }
        let pause = match decision {
            // The segment before it is on its way.
            Decision::Seal => Pause::Stored(POLL),
            Decision::Wait(_) if sealer.is_closed() && comes => Pause::Stored(GATHER),
            Decision::Wait(_) if sealer.is_closed() => Pause::Stored(SHORT_PAUSE),
            Decision::Wait(_) if drain.is_some() => Pause::Time(SHORT_PAUSE),
            Decision::Wait(time) if emptied && comes => Pause::Time(time.min(GATHER)),
            Decision::Wait(time) if emptied => Pause::Ring(time),
            Decision::Wait(_) => Pause::Time(FULL_PAUSE),
        };
        Ok((Stage::Fill(fill), pause))
    }

    /// Says whether the spool is at its limit, once it is known whether taking stopped there.
    fn say_room(&mut self, sealer: &Sealer, emptied: bool) {
        let free = self.room(sealer) >= self.spool_limit_bytes / FREE_AGAIN;
        if !emptied && !free {
            self.at_limit = true;
            let error = AtLimit { bytes: self.spool.bytes(), limit: self.spool_limit_bytes };
            self.voice.trouble(Half::Filler, Trouble::Full, &error);
        } else if free && self.at_limit {
            self.at_limit = false;
            self.voice.well(Half::Filler);
        }
    }

    /// Goes on with putting what is sealed into the spool.
    fn store(&self, sealer: &mut Sealer) -> Result<Option<Spooled>, ShipError> {
        let stored = sealer.store()?;
        if let Some(segment) = &stored {
            if !self.at_limit {
                self.voice.well(Half::Filler);
            }
            self.ring.set_spool_bytes(self.spool.bytes());
            let (number, last_seq) = (segment.number.0, segment.last_seq.0);
            tracing::debug!(number, last_seq, bytes = segment.bytes, "segment sealed");
        }
        Ok(stored)
    }

    fn keep(&self, sealer: Sealer) -> Stage {
        Stage::Keep(Box::new(Keep { sealer, drain: Drain::new(self.ring.next_seq()) }))
    }

    /// What the ring held when the group was fenced is sealed into the spool, as far as the spool takes it; what comes later is
    /// discarded.
    fn go_on_keeping(&self, mut keep: Box<Keep>) -> Result<(Stage, Pause), ShipError> {
        let Keep { sealer, drain } = &mut *keep;
        let room = self.room(sealer);
        if drain.is_over(sealer.stored()) || (room == 0 && !sealer.is_closed()) {
            let (kept, bytes) = (sealer.stored().0, self.spool.bytes());
            tracing::warn!(kept_up_to = kept, spool_bytes = bytes, "what was not shipped is kept in the spool");
            return Ok((Stage::Discard(keep.sealer.into_consumer()), Pause::None));
        }
        sealer.take(room, self.spool_percent(room))?;
        if !sealer.is_closed() && self.limits.decide(&sealer.standing(true)) == Decision::Seal {
            sealer.seal(self.progress.watermark())?;
        }
        let pause = match self.store(sealer) {
            Ok(Some(_)) => {
                drain.moved();
                Pause::None
            }
            Ok(None) if sealer.is_closed() => Pause::Stored(SHORT_PAUSE),
            Ok(None) => Pause::Ring(SHORT_PAUSE),
            Err(e) => {
                let Some(trouble) = Trouble::of(&e) else { return Err(e) };
                self.voice.trouble(Half::Filler, trouble, &e);
                Pause::Time(FIRST_RETRY)
            }
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
    fn room(&self, sealer: &Sealer) -> u64 {
        self.spool_limit_bytes.saturating_sub(self.spool.bytes() + sealer.closed_bytes())
    }

    /// How full the spool is, in percent.
    fn spool_percent(&self, room: u64) -> u32 {
        let used = self.spool_limit_bytes.saturating_sub(room);
        u32::try_from(used.saturating_mul(100) / self.spool_limit_bytes.max(1)).unwrap_or(100)
    }

    fn sign_of_life(&mut self) {
        let now = clock::mono();
        if self.seen.is_none_or(|at| now.duration_since(at) >= SEEN_EVERY) {
            self.seen = Some(now);
            self.ring.set_shipper_seen(clock::wall());
        }
    }
}

/// The spool holds what it may.
#[derive(Debug, thiserror::Error)]
#[error("the spool holds {bytes} of {limit} bytes: what comes stays in the ring until the vault has taken some of it")]
struct AtLimit {
    bytes: u64,
    limit: u64,
}
