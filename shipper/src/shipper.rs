//! A shipper as a whole: opened on what the last one left, then driven by two threads until it is told to stop.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_changelog::ids::GroupName;
use farshore_changelog::ring::{Ring, RingSpec, ShipperState};
use farshore_changelog::segment::PressPool;
use farshore_changelog::{clock, crashsafe};
use farshore_vault::Vault;
use farshore_vault::retry::RetryPolicy;
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;

use crate::batch::Limits;
use crate::config::ShipperConfig;
use crate::data_keys::DataKeys;
use crate::door::{Door, VaultSource};
use crate::error::ShipError;
use crate::filler::{Filler, Pause, SHORT_PAUSE, Shared};
use crate::looks::Looks;
use crate::opening::Opening;
use crate::patience::DRAIN_MAX;
use crate::restart;
use crate::sealer::Tools;
use crate::spool::{Reserve, Spool};
use crate::state::{SourceEpoch, SourceState};
use crate::storing::Storing;
use crate::uploader::{End, Progress, Uploader};
use crate::uploads::{Line, Uploads};
use crate::voice::Voice;

/// How long a shipper that was told to stop waits for a vault that did not answer before.
const UNREACHABLE_MAX: Duration = Duration::from_secs(1);

/// Sealed segments that stay in memory until they are uploaded, in bytes; what waits beyond that is read from the spool.
const MEMORY_MAX_BYTES: u64 = 24 << 20;

/// The shipper of one group, opened. [`Shipper::run`] drives its two halves with two threads; [`Shipper::split`] gives them to whoever
/// drives them otherwise.
pub struct Shipper {
    voice: Arc<Voice>,
    filler: Filler,
    /// None once the group is fenced.
    uploader: Option<Uploader>,
}

impl Shipper {
    /// Opens ring and notes. The vault need not answer yet, and the spool is looked through by the first steps: what is wrong with
    /// it may pass.
    ///
    /// # Errors
    /// [`ShipError`]: what is noted cannot be used, does not belong to the ring, or another shipper runs. The ring's shipper
    /// state says so.
    pub fn open(config: ShipperConfig) -> Result<Self, ShipError> {
        let url = Vault::check_url(&config.vault_url)?;
        let access = config.access.clone();
        Self::open_from(&config, VaultSource::Url(url, access))
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
        let fenced = state.fenced()?.is_some();
        let confirmed = restart::confirmed(&source, watermark.as_ref());
        tracing::info!(group = %config.group, epoch = source.epoch.0, fenced, "shipper starts");
        let spec = ring.spec();
        let limits = Limits::new(
            config.segment_bytes,
            config.max_delay,
            config.heartbeat,
            spec.payload_bytes_per_lane,
            spec.slots_per_lane,
        );
        // One thread stands for little memory too, and reads everything back.
        let memory = if config.threads == 0 { 0 } else { MEMORY_MAX_BYTES };
        let reserve = Reserve::in_folder(&config.state_dir);
        let spool = Arc::new(Spool::new(&config.spool_dir, &config.group, reserve, memory));
        let progress = Arc::new(Progress::new(confirmed.number, fenced));
        let voice = Arc::new(Voice::new(ring.clone(), fenced));
        // A crash may have come between noting a confirmation and telling the ring.
        ring.set_confirmed_seq(ring.confirmed_seq().max(confirmed.last_seq));
        let (mut queue, mut uploader) = (None, None);
        if !fenced {
            let (sender, segments) = unbounded_channel();
            queue = Some(sender);
            let door = Arc::new(Door::new(vault, &source));
            let looks = Looks::new(
                Arc::clone(&door),
                Arc::clone(&voice),
                ring.clone(),
                source.epoch,
                config.state_dir.clone(),
                config.heartbeat,
            );
            let (in_spool, says) = (Arc::clone(&spool), Arc::clone(&voice));
            let uploads = Uploads {
                line: Arc::new(Line::new(door, in_spool, says, config.uploads, config.bandwidth.clone())),
                source: source.clone(),
                watermark,
                data_keys: DataKeys::new(&state),
                keyed: None,
                forgotten_before: None,
                state,
                ring: ring.clone(),
                progress: Arc::clone(&progress),
                queue: segments,
            };
            uploader = Some(Uploader::new(uploads, looks));
        }
        let (pool, storing) = match config.threads {
            0 => (None, Storing::here(Arc::clone(&spool))),
            threads => (
                Some(PressPool::start(threads).map_err(ShipError::io("start threads that compress"))?),
                Storing::thread(Arc::clone(&spool))?,
            ),
        };
        let tools = Tools { spool: Arc::clone(&spool), limits, compression: config.compression, pool, storing };
        let opening = Opening { source, watermark, tools: Some(tools), queue };
        let shared = Shared {
            ring: ring.clone(),
            spool,
            spool_limit_bytes: config.spool_limit_bytes,
            limits,
            progress,
            voice: Arc::clone(&voice),
            at_limit: false,
            seen: None,
        };
        Ok(Self { voice, filler: Filler::new(shared, opening, lock), uploader })
    }

    /// Its halves: the one that fills the spool, and, unless the group is fenced, the one that empties it into the vault.
    #[must_use]
    pub fn split(self) -> (Filler, Option<Uploader>) {
        (self.filler, self.uploader)
    }

    /// Ships until `stop` is set; then takes what the ring has, seals it, and uploads for a bounded time. What is not in the
    /// vault by then stays in the spool, or in the ring, for the next shipper. A fenced group's shipper stays until `stop` too.
    ///
    /// # Errors
    /// [`ShipError`]: a person is needed. The ring's shipper state says so.
    pub fn run(self, stop: &AtomicBool) -> Result<(), ShipError> {
        let Self { voice, mut filler, uploader } = self;
        let ended = match uploader {
            Some(uploader) => ship(&voice, &mut filler, uploader, stop),
            None => drive(&mut filler, stop, || false),
        };
        filler.leave(ended)
    }
}

/// Drives both halves: the uploader on a thread of its own.
fn ship(voice: &Voice, filler: &mut Filler, uploader: Uploader, stop: &AtomicBool) -> Result<(), ShipError> {
    let upload = Upload::start(uploader)?;
    let filled = drive(filler, stop, || upload.thread.is_finished());
    if filled.is_err() {
        upload.abort.notify_one();
    }
    let end = upload.end(voice);
    filled?;
    match end? {
        End::Drained => Ok(()),
        // Its other half learned of it, perhaps only while it waited for the last uploads.
        End::Fenced => drive(filler, stop, || false),
        End::Aborted => {
            tracing::warn!(
                spool_bytes = filler.spool_bytes(),
                "the vault did not take everything in time; the rest stays in the spool"
            );
            Ok(())
        }
    }
}

/// Steps until all is done, or the uploader has ended otherwise than by a fence.
fn drive(filler: &mut Filler, stop: &AtomicBool, uploader_ended: impl Fn() -> bool) -> Result<(), ShipError> {
    loop {
        // In this order: an uploader that is fenced says so before it ends.
        if uploader_ended() && !filler.fenced() {
            return Ok(());
        }
        match filler.step(stop.load(Ordering::Acquire))? {
            Pause::Done => return Ok(()),
            pause => filler.wait(pause),
        }
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
    fn end(self, voice: &Voice) -> Result<End, ShipError> {
        let since = clock::mono();
        let patience = || if voice.is_unreachable() { UNREACHABLE_MAX } else { DRAIN_MAX };
        while !self.thread.is_finished() && clock::mono().duration_since(since) < patience() {
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
