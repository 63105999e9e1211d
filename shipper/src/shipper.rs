//! The loop of the main thread: takes from the ring, decides, seals into the spool, releases; and what it does when it is told to
//! stop and when the group is another's.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farshore_changelog::ids::{GroupName, Seq};
use farshore_changelog::ring::{Consumer, Ring, RingSpec, ShipperState};
use farshore_changelog::{clock, crashsafe};
use farshore_vault::Vault;
use farshore_vault::retry::RetryPolicy;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::batch::{Decision, Limits, POLL};
use crate::config::ShipperConfig;
use crate::error::ShipError;
use crate::restart;
use crate::sealer::Sealer;
use crate::spool::{Spool, Spooled};
use crate::state::{SourceEpoch, SourceState};
use crate::uploader::{End, Progress, Queued, Uploader, VaultSource};

/// How long a shipper that was told to stop goes on to empty the ring, and then the spool.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long it waits for a vault that did not answer before.
const UNREACHABLE_MAX: Duration = Duration::from_secs(1);
/// How long it waits, within that, for operations that have their place in the order and are not finished.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks while it ends.
const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two looks at a spool that is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// The shipper's sign of life in the ring is renewed this often.
const SEEN_EVERY: Duration = Duration::from_millis(500);

/// The shipper of one group.
pub struct Shipper {
    ring: Ring,
    spool: Arc<Spool>,
    spool_limit_bytes: u64,
    limits: Limits,
    progress: Arc<Progress>,
    role: Role,
    _lock: File,
}

/// What it has to do.
enum Role {
    /// Ship.
    Ship(Box<(Sealer, UnboundedSender<Queued>, Uploader)>),
    /// The group is fenced: keep what the ring holds, then discard.
    Keep(Box<Sealer>),
    /// The group is fenced, and an earlier shipper began to discard.
    Discard(Consumer),
}

impl Shipper {
    /// Opens ring, notes and spool, and finds out where to go on. The vault need not answer yet.
    ///
    /// # Errors
    /// [`ShipError`]: anything that keeps it from continuing exactly where the last one was. The ring's shipper state says so.
    pub fn open(config: ShipperConfig) -> Result<Self, ShipError> {
        let url = Vault::check_url(&config.vault_url)?;
        Self::open_from(&config, VaultSource::Url(url))
    }

    /// As [`Shipper::open`], with a vault that is open already (one over a store double, say).
    ///
    /// # Errors
    /// As [`Shipper::open`].
    pub fn open_on(config: ShipperConfig, vault: Vault) -> Result<Self, ShipError> {
        Self::open_from(&config, VaultSource::Open(vault.with_retry(RetryPolicy::ONCE)))
    }

    fn open_from(config: &ShipperConfig, vault: VaultSource) -> Result<Self, ShipError> {
        config.check()?;
        let lock = lock(&config.state_dir)?;
        let ring = Ring::open(&config.ring_path)?;
        let opened = Self::continue_on(config, vault, &ring, lock);
        // A fence is for good: were another state said, capture would log again, into a ring that nobody empties.
        if opened.is_err() && ring.shipper_state() != ShipperState::Fenced {
            ring.set_shipper_state(ShipperState::Stopped);
        }
        opened
    }

    fn continue_on(config: &ShipperConfig, vault: VaultSource, ring: &Ring, lock: File) -> Result<Self, ShipError> {
        let state = SourceState::new(&config.state_dir);
        let source = noted_epoch(&state, &config.group, ring.spec())?;
        let watermark = state.watermark()?;
        let fenced = state.fenced()?;
        let (spool, found) = Spool::open(&config.spool_dir, &config.group)?;
        let plan = restart::plan(&source, watermark.as_ref(), found, &config.spool_dir)?;
        for stale in &plan.stale {
            spool.remove(stale)?;
        }
        let spool = Arc::new(spool);
        let spec = ring.spec();
        let limits = Limits::new(
            config.segment_bytes,
            config.max_delay,
            config.heartbeat,
            spec.payload_bytes_per_lane,
            spec.slots_per_lane,
        );
        tracing::info!(
            group = %config.group, epoch = source.epoch.0, sealed = plan.head.number.0, confirmed = plan.confirmed.number.0,
            spooled = plan.queue.len(), fenced = fenced.is_some(), "shipper starts"
        );
        let progress = Arc::new(Progress::new(plan.confirmed.number));
        let discarding = fenced.is_some() && ring.read_seq() > plan.head.last_seq.next();
        let role = if discarding {
            Role::Discard(ring.consumer())
        } else {
            let sealer = Sealer::new(ring, plan.head, Arc::clone(&spool), limits, config.zstd_level)?;
            if fenced.is_some() {
                Role::Keep(Box::new(sealer))
            } else {
                let (queue, segments) = unbounded_channel();
                for segment in plan.queue {
                    // The receiver is in hand, so this cannot fail.
                    let _ = queue.send(Queued { segment, tried: true });
                }
                let uploader = Uploader {
                    vault,
                    source,
                    watermark,
                    state,
                    spool: Arc::clone(&spool),
                    ring: ring.clone(),
                    progress: Arc::clone(&progress),
                    heartbeat: config.heartbeat,
                    queue: segments,
                };
                Role::Ship(Box::new((sealer, queue, uploader)))
            }
        };
        // A crash may have come between noting a confirmation and telling the ring.
        ring.set_confirmed_seq(ring.confirmed_seq().max(plan.confirmed.last_seq));
        ring.set_spool_bytes(spool.bytes());
        ring.set_shipper_state(if fenced.is_some() { ShipperState::Fenced } else { ShipperState::Starting });
        let spool_limit_bytes = config.spool_limit_bytes;
        Ok(Self { ring: ring.clone(), spool, spool_limit_bytes, limits, progress, role, _lock: lock })
    }

    /// Ships until `stop` is set; then takes what the ring has, seals it, and uploads for a bounded time. What is not in the
    /// vault by then stays in the spool, or in the ring, for the next shipper. A fenced group's shipper stays until `stop` too.
    ///
    /// # Errors
    /// [`ShipError`]: a person is needed. The ring's shipper state says so.
    pub fn run(self, stop: &AtomicBool) -> Result<(), ShipError> {
        let Self { ring, spool, spool_limit_bytes, limits, progress, role, _lock } = self;
        let work = Work { ring, spool, spool_limit_bytes, limits, progress, stop };
        let ended = match role {
            Role::Ship(parts) => {
                let (sealer, queue, uploader) = *parts;
                work.ship(sealer, queue, uploader)
            }
            Role::Keep(sealer) => work.keep(*sealer),
            Role::Discard(consumer) => work.discard(consumer),
        };
        match &ended {
            _ if work.ring.shipper_state() == ShipperState::Fenced => {}
            Err(_) => work.ring.set_shipper_state(ShipperState::Stopped),
            Ok(()) => work.ring.set_shipper_state(ShipperState::Starting),
        }
        ended
    }
}

/// What the loops share.
struct Work<'a> {
    ring: Ring,
    spool: Arc<Spool>,
    spool_limit_bytes: u64,
    limits: Limits,
    progress: Arc<Progress>,
    stop: &'a AtomicBool,
}

impl Work<'_> {
    fn ship(&self, mut sealer: Sealer, queue: UnboundedSender<Queued>, uploader: Uploader) -> Result<(), ShipError> {
        let upload = Upload::start(uploader)?;
        let sealed = self.fill(&mut sealer, &queue, &upload);
        drop(queue);
        if sealed.is_err() {
            upload.abort.notify_one();
        }
        let end = upload.end(&self.ring);
        sealed?;
        match end? {
            End::Drained => Ok(()),
            End::Fenced => self.keep(sealer),
            End::Aborted => {
                tracing::warn!(
                    spool_bytes = self.spool.bytes(),
                    "the vault did not take everything in time; the rest stays in the spool"
                );
                Ok(())
            }
        }
    }

    /// Fills the spool, until it is told to stop and has emptied the ring, or the uploader has ended.
    fn fill(&self, sealer: &mut Sealer, queue: &UnboundedSender<Queued>, upload: &Upload) -> Result<(), ShipError> {
        let mut seen = None;
        let mut drain: Option<Drain> = None;
        while !upload.thread.is_finished() && !self.progress.fenced() {
            self.sign_of_life(&mut seen);
            if drain.is_none() && self.stop.load(Ordering::Acquire) {
                drain = Some(Drain::new(self.ring.next_seq()));
            }
            if drain.as_ref().is_some_and(|drain| drain.is_over(sealer.head().last_seq)) {
                return Ok(());
            }
            let room = self.room();
            let emptied = sealer.take(room)?;
            let standing = sealer.standing(drain.is_some());
            match self.limits.decide(&standing) {
                Decision::Seal => {
                    // It fails only when the uploader has ended, which the next round sees.
                    let _ = queue.send(Queued { segment: self.seal(sealer)?, tried: false });
                    drain.iter_mut().for_each(Drain::moved);
                }
                Decision::Wait(_) if drain.is_some() => clock::sleep(SHORT_PAUSE),
                Decision::Wait(time) if emptied => sealer.wait(time),
                Decision::Wait(_) => clock::sleep(FULL_PAUSE),
            }
        }
        Ok(())
    }

    fn seal(&self, sealer: &mut Sealer) -> Result<Spooled, ShipError> {
        let sealed = sealer.seal(self.progress.watermark())?;
        self.ring.set_spool_bytes(self.spool.bytes());
        tracing::debug!(number = sealed.number.0, last_seq = sealed.last_seq.0, bytes = sealed.bytes, "segment sealed");
        Ok(sealed)
    }

    /// The group was fenced. What the ring holds now is sealed into the spool, for the loss receipt, as far as the spool has room;
    /// what comes later is discarded.
    fn keep(&self, mut sealer: Sealer) -> Result<(), ShipError> {
        let mut seen = None;
        let mut drain = Drain::new(self.ring.next_seq());
        while !drain.is_over(sealer.head().last_seq) && self.room() > 0 {
            self.sign_of_life(&mut seen);
            sealer.take(self.room())?;
            match self.limits.decide(&sealer.standing(true)) {
                Decision::Seal => {
                    self.seal(&mut sealer)?;
                    drain.moved();
                }
                Decision::Wait(_) => sealer.wait(SHORT_PAUSE),
            }
        }
        let (kept, bytes) = (sealer.head().last_seq.0, self.spool.bytes());
        tracing::warn!(kept_up_to = kept, spool_bytes = bytes, "what was not shipped is kept in the spool");
        self.discard(sealer.into_consumer())
    }

    /// Empties the ring without keeping anything, so that nothing waits on it, until told to stop.
    fn discard(&self, mut consumer: Consumer) -> Result<(), ShipError> {
        let mut seen = None;
        while !self.stop.load(Ordering::Acquire) {
            self.sign_of_life(&mut seen);
            while let Some(taken) = consumer.take()? {
                consumer.release(taken.record().seq, vec![taken]);
            }
            consumer.release(consumer.position(), Vec::new());
            consumer.wait(POLL);
        }
        Ok(())
    }

    /// Payload bytes that may be taken: sealed they need about as much of the spool at most.
    fn room(&self) -> u64 {
        self.spool_limit_bytes.saturating_sub(self.spool.bytes())
    }

    fn sign_of_life(&self, seen: &mut Option<Instant>) {
        if seen.is_none_or(|at| at.elapsed() >= SEEN_EVERY) {
            *seen = Some(clock::mono());
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
        sealed >= self.until || self.moved.elapsed() >= SETTLE_MAX || clock::mono() >= self.end
    }
}

/// The uploader's thread.
struct Upload {
    abort: Arc<Notify>,
    thread: JoinHandle<Result<End, ShipError>>,
}

impl Upload {
    fn start(uploader: Uploader) -> Result<Self, ShipError> {
        let abort = Arc::new(Notify::new());
        let told = Arc::clone(&abort);
        let thread = std::thread::Builder::new().name("uploader".into()).spawn(move || uploader.run(&told));
        Ok(Self { abort, thread: thread.map_err(ShipError::io("start the uploader"))? })
    }

    /// Lets its queue, which is closed, run empty for a bounded time, then ends the thread.
    fn end(self, ring: &Ring) -> Result<End, ShipError> {
        let since = clock::mono();
        let patience = || match ring.shipper_state() {
            ShipperState::VaultUnreachable => UNREACHABLE_MAX,
            ShipperState::Starting | ShipperState::Shipping | ShipperState::Fenced | ShipperState::Stopped => DRAIN_MAX,
        };
        while !self.thread.is_finished() && since.elapsed() < patience() {
            clock::sleep(SHORT_PAUSE);
        }
        self.abort.notify_one();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn noted_epoch(state: &SourceState, group: &GroupName, spec: &RingSpec) -> Result<SourceEpoch, ShipError> {
    let refused = |what: String| ShipError::State { path: state.path("epoch.json"), what };
    let source = state.epoch()?;
    let source = source.ok_or_else(|| refused("no epoch is noted; start the group with `farshore run`".to_owned()))?;
    if (&source.group, source.epoch) != (&spec.group, spec.epoch) || source.group != *group {
        return Err(refused(format!(
            "epoch {} of group {} is noted, the ring is of epoch {} of group {}, and group {group} is to be shipped; start \
             the group with `farshore run`",
            source.epoch, source.group, spec.epoch, spec.group
        )));
    }
    Ok(source)
}

/// Whether a shipper works on the group whose state folder this is.
///
/// # Errors
/// [`ShipError::Io`].
pub fn is_running(state_dir: &Path) -> Result<bool, ShipError> {
    match lock(state_dir) {
        Ok(_free) => Ok(false),
        Err(ShipError::Locked { .. }) => Ok(true),
        Err(e) => Err(e),
    }
}

fn lock(state_dir: &Path) -> Result<File, ShipError> {
    let path = state_dir.join("ship.lock");
    crashsafe::lock_file(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => ShipError::Locked { path },
        _ => ShipError::Io { what: "take the shipper's lock", source: e },
    })
}
