//! The half of a shipper that takes sealed segments out of the spool into the vault, in order, so that a slow vault does not stop
//! sealing.
//!
//! It is one task that ships one segment at a time. What a segment needs before the next may be confirmed (watermark, ring,
//! spool) is in `Uploader::confirm`; uploading several at once only has to keep the order of that call.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{GroupName, SegmentNo};
use farshore_changelog::ring::{Ring, ShipperState};
use farshore_vault::retry::{Backoff, RetryPolicy};
use farshore_vault::{EpochObject, GroupVault, Put, Vault, VaultError};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;

use crate::epoch::{self, Opening};
use crate::error::{ShipError, chain};
use crate::spool::{Spool, Spooled};
use crate::state::{Fenced, SourceEpoch, SourceState, Watermark};

/// First wait after the vault did not answer.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait: how late, at most, the end of an outage is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Blocking threads of the runtime: a folder vault does its I/O there, one operation at a time.
const BLOCKING_THREADS: usize = 2;
/// How long a blocking operation may go on once the thread is told to end.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// Where the vault comes from.
#[derive(Debug, Clone)]
pub enum VaultSource {
    /// Opened when it can be reached.
    Url(String),
    /// Open.
    Open(Vault),
}

/// What the uploader lets the main thread know.
#[derive(Debug, Default)]
pub struct Progress {
    watermark: AtomicU64,
    fenced: AtomicBool,
}

impl Progress {
    /// Starts at a watermark that is noted.
    #[must_use]
    pub fn new(watermark: SegmentNo) -> Self {
        Self { watermark: AtomicU64::new(watermark.0), fenced: AtomicBool::new(false) }
    }

    /// The newest segment of the current epoch whose confirmation is noted durably; 0 when there is none.
    #[must_use]
    pub fn watermark(&self) -> SegmentNo {
        SegmentNo(self.watermark.load(Ordering::Acquire))
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

/// Everything the uploader works with.
pub struct Uploader {
    /// The vault.
    pub vault: VaultSource,
    /// The epoch that is shipped.
    pub source: SourceEpoch,
    /// The newest confirmed segment, of this epoch or the one before.
    pub watermark: Option<Watermark>,
    /// The notes.
    pub state: SourceState,
    /// The spool.
    pub spool: Arc<Spool>,
    /// The ring, for what capture must know.
    pub ring: Ring,
    /// What the main thread must know.
    pub progress: Arc<Progress>,
    /// How often the vault is asked whether the epoch is over, at least.
    pub heartbeat: Duration,
    /// The segments, in order. The spool's limit bounds it.
    pub queue: UnboundedReceiver<Queued>,
}

/// A segment on its way.
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// Which.
    pub segment: Spooled,
    /// A shipper before this one may have uploaded it.
    pub tried: bool,
}

/// What came of one segment, or of looking for a successor.
enum Step {
    Done,
    /// Another writer's epoch ends ours.
    Over(EpochObject),
}

impl Uploader {
    /// Runs on this thread until the queue ends, the group is fenced, an error, or `abort`.
    ///
    /// # Errors
    /// [`ShipError`]: the vault conflicts with us, or the spool or the notes cannot be used.
    pub fn run(self, abort: &Notify) -> Result<End, ShipError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
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

    /// Does the uploads of [`Uploader::run`], on whatever runtime polls it; its time is that of tokio's clock. It can be dropped at
    /// any await, as when its process dies: the next shipper goes on from the notes and the spool.
    ///
    /// # Errors
    /// As [`Uploader::run`].
    pub async fn work(mut self) -> Result<End, ShipError> {
        let mut look = tokio::time::interval(self.heartbeat);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                biased;
                _ = look.tick() => self.look_for_successor().await?,
                queued = self.queue.recv() => match queued {
                    Some(queued) => self.ship(queued).await?,
                    None => return Ok(End::Drained),
                },
            };
            if let Step::Over(by) = step {
                self.fence(by)?;
                return Ok(End::Fenced);
            }
        }
    }

    /// Asks once whether our epoch is over: once a heartbeat, so that a source with nothing to ship learns it too.
    async fn look_for_successor(&mut self) -> Result<Step, ShipError> {
        let next = self.source.epoch.next();
        let found = match self.group_vault().await {
            Ok(vault) => vault.get_epoch(next).await,
            Err(e) => Err(e),
        };
        match found {
            Ok(found) => {
                self.reached();
                Ok(found.map_or(Step::Done, |(by, _)| Step::Over(by)))
            }
            Err(e) if self.may_pass(&e) => {
                self.unreachable(&e);
                Ok(Step::Done)
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn ship(&mut self, queued: Queued) -> Result<Step, ShipError> {
        let Queued { segment, tried } = &queued;
        let tried = Cell::new(*tried);
        if segment.epoch == self.source.epoch
            && !self.source.opened
            && let Step::Over(by) = self.open_epoch().await?
        {
            return Ok(Step::Over(by));
        }
        let bytes = self.spool.read(segment)?;
        let verdict = self.patiently(async |vault, _| upload(vault, segment, &bytes, &tried).await).await?;
        match verdict {
            Verdict::Stored => self.confirm(segment).map(|()| Step::Done),
            Verdict::Over(by) if by.nonce != self.source.nonce => Ok(Step::Over(by)),
            Verdict::Over(_) => {
                Err(conflict(segment, "the epoch after it is our own and was opened before it".to_owned()))
            }
            Verdict::Foreign => {
                Err(conflict(segment, "another object lies under its key, and the epoch is not over".to_owned()))
            }
        }
    }

    async fn open_epoch(&mut self) -> Result<Step, ShipError> {
        let opening =
            self.patiently(async |vault, this| epoch::open(vault, &this.source, this.watermark.as_ref()).await);
        let hash = match opening.await? {
            Opening::Open(hash) => hash,
            Opening::Taken(by) => return Ok(Step::Over(by)),
        };
        if hash != self.source.object_hash() {
            let what = format!(
                "the vault holds this epoch's object with the hash {hash}, which is not what our segments name"
            );
            return Err(ShipError::State { path: self.state.path("epoch.json"), what });
        }
        self.source = self.state.update_epoch(|noted| noted.opened = true)?;
        tracing::info!(epoch = self.source.epoch.0, reason = ?self.source.reason, "epoch opened");
        Ok(Step::Done)
    }

    /// Notes a segment that is in the vault, in the order that a restart counts on: watermark, ring, spool.
    fn confirm(&mut self, segment: &Spooled) -> Result<(), ShipError> {
        let Spooled { epoch, number, hash, last_seq, .. } = *segment;
        let watermark = Watermark { epoch, number, hash, last_seq };
        self.state.set_watermark(&watermark)?;
        self.watermark = Some(watermark);
        if epoch == self.source.epoch {
            self.progress.watermark.store(number.0, Ordering::Release);
            self.ring.set_confirmed_seq(last_seq);
        }
        self.spool.remove(segment)?;
        self.ring.set_spool_bytes(self.spool.bytes());
        tracing::debug!(
            epoch = epoch.0,
            number = number.0,
            last_seq = last_seq.0,
            bytes = segment.bytes,
            "segment confirmed"
        );
        Ok(())
    }

    /// Notes that the group is another's, for good.
    fn fence(&mut self, by: EpochObject) -> Result<(), ShipError> {
        tracing::error!(
            epoch = self.source.epoch.0,
            by = by.epoch.0,
            reason = ?by.reason,
            "fenced: another site has this group. The disks are served on, nothing more is shipped, and what was not shipped stays in the spool"
        );
        self.state.set_fenced(&Fenced { epoch: self.source.epoch, by })?;
        self.ring.set_shipper_state(ShipperState::Fenced);
        self.progress.fenced.store(true, Ordering::Release);
        Ok(())
    }

    /// Does `work` until it gives something, with waits between, for as long as the vault does not answer.
    async fn patiently<T>(
        &mut self,
        work: impl AsyncFn(&GroupVault, &Self) -> Result<T, VaultError>,
    ) -> Result<T, ShipError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let tried = match self.group_vault().await {
                Ok(vault) => work(&vault, self).await,
                Err(e) => Err(e),
            };
            match tried {
                Ok(done) => {
                    self.reached();
                    return Ok(done);
                }
                Err(e) if self.may_pass(&e) => {
                    self.unreachable(&e);
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether an error is waited out. Missing rights are: whoever gives them back need not restart anything. A folder that is
    /// no vault is one whose mount is missing, once this group has shipped to it.
    fn may_pass(&self, error: &VaultError) -> bool {
        match error {
            VaultError::Unreachable { .. } | VaultError::Refused { .. } => true,
            VaultError::NotAVault { .. } => self.source.opened,
            VaultError::AlreadyAVault { .. }
            | VaultError::Version { .. }
            | VaultError::Damaged { .. }
            | VaultError::BadUrl { .. } => false,
        }
    }

    /// The group's part of the vault, opened at first use. Its operations are tried once: the waits are ours.
    async fn group_vault(&mut self) -> Result<GroupVault, VaultError> {
        let group: &GroupName = &self.source.group;
        match &self.vault {
            VaultSource::Open(vault) => Ok(vault.group(group)),
            VaultSource::Url(url) => {
                let vault = Vault::open_with(url, RetryPolicy::ONCE).await?;
                tracing::info!(vault = vault.url(), id = vault.id(), "vault opened");
                let part = vault.group(group);
                self.vault = VaultSource::Open(vault);
                Ok(part)
            }
        }
    }

    fn reached(&self) {
        if self.ring.shipper_state() != ShipperState::Shipping {
            tracing::info!("the vault answers");
            self.ring.set_shipper_state(ShipperState::Shipping);
        }
    }

    fn unreachable(&self, error: &VaultError) {
        if self.ring.shipper_state() == ShipperState::VaultUnreachable {
            tracing::debug!("{}", chain(error));
        } else {
            tracing::warn!("{}; segments stay in the spool until it answers", chain(error));
            self.ring.set_shipper_state(ShipperState::VaultUnreachable);
        }
    }
}

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is in the vault.
    Stored,
    /// The epoch was over.
    Over(EpochObject),
    /// Something else is in its place.
    Foreign,
}

/// One attempt to store a segment, and what a refusal means (DESIGN, "Epochs"): a first refusal is undecided and asked again;
/// then the next epoch decides. Where there is none, nobody can have sealed, so what lies there is either ours, of an
/// attempt whose answer was lost, or another source's. `tried`: there was an attempt before, whose end is not known.
async fn upload(
    vault: &GroupVault,
    segment: &Spooled,
    bytes: &Bytes,
    tried: &Cell<bool>,
) -> Result<Verdict, VaultError> {
    let Spooled { epoch, number, .. } = *segment;
    for _ in 0..2 {
        let put = vault.put_segment(epoch, number, bytes.clone()).await;
        if put.inspect_err(|_| tried.set(true))? == Put::Created {
            return Ok(Verdict::Stored);
        }
    }
    if let Some((by, _)) = vault.get_epoch(epoch.next()).await? {
        return Ok(Verdict::Over(by));
    }
    match vault.get_segment(epoch, number).await {
        Ok(Some(stored)) if stored == bytes => Ok(Verdict::Stored),
        Ok(Some(_)) => Ok(Verdict::Foreign),
        Ok(None) => Err(VaultError::Unreachable {
            what: format!("store segment {number} of epoch {epoch}"),
            source: "the store says that it exists and that it does not".into(),
        }),
        // A source need not be allowed to read its own log.
        Err(VaultError::Refused { .. }) if tried.get() => Ok(Verdict::Stored),
        Err(VaultError::Refused { .. }) => Ok(Verdict::Foreign),
        Err(e) => Err(e),
    }
}

fn conflict(segment: &Spooled, what: String) -> ShipError {
    ShipError::Conflict { epoch: segment.epoch, number: segment.number, what }
}
