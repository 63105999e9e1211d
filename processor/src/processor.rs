//! Any number of groups of one vault: a few workers take turns with them ([`GroupTask::turn`]), one thread does the I/O with
//! the vault.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farshore_changelog::ids::GroupName;
use farshore_changelog::segment::PressPool;
use farshore_changelog::{clock, crashsafe};
use farshore_vault::Vault;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};

use crate::board::Board;
use crate::claims::{ASK_EVERY, Claimant, LOOK_EVERY, NOBODYS_EVERY, Owner};
use crate::comeback::Backoff;
use crate::discover::{DISCOVER_EVERY, Discovery};
use crate::error::{GroupError, ProcessorError, TargetError};
use crate::fetch::{FETCHED_MAX, Fetcher, VaultIo};
use crate::gap::GAP_PATIENCE;
use crate::group::{GroupOutcome, GroupTask, Turn, backlog};
use crate::hashes;
use crate::poll;
use crate::replay::VaultName;
use crate::retention;
use crate::stop::Stop;

/// Groups worked on at once. More groups than this take turns.
pub const WORKERS_MAX: usize = 16;
/// Threads that compress the undo journals of all groups.
pub const COMPRESS_THREADS_MAX: usize = 4;
/// Groups of one vault that are followed; what comes beyond is named in the log and left alone.
pub const GROUPS_MAX: usize = 10_000;
/// A periodic point unless the config says otherwise.
pub const POINT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Time between two looks for a new segment unless the config says otherwise.
pub const POLL: Duration = Duration::from_millis(500);
/// Time until a vault that does not answer is asked again.
const VAULT_AWAY_WAIT: Duration = Duration::from_secs(5);

/// What a processor is told.
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    /// The vault.
    pub vault_url: String,
    /// The target folder; it is created.
    pub target_dir: PathBuf,
    /// Time between periodic points.
    pub point_interval: Duration,
    /// How long points are kept.
    pub retention: Duration,
    /// How many periodic points are kept.
    pub max_points: usize,
    /// Time between two looks for a new segment.
    pub poll: Duration,
    /// How long a segment may be missing while a later one is there before the group stops.
    pub gap_patience: Duration,
    /// When a group that stopped is tried again.
    pub retry: Backoff,
    /// Bytes of a unit of the hashes that spare a resync what the target has.
    pub hash_unit_bytes: u32,
    /// Bytes of the log that may wait in the vault, not replayed, before that is an alarm.
    pub backlog_alarm_bytes: u64,
    /// A resync of fewer bytes is not worth hashing the images.
    pub hashes_from_bytes: u64,
    /// Groups that are followed, at most; other processors follow the others.
    pub max_groups: usize,
}

impl ProcessorConfig {
    /// The defaults for a vault and a target folder.
    #[must_use]
    pub fn new(vault_url: impl Into<String>, target_dir: impl Into<PathBuf>) -> Self {
        Self {
            vault_url: vault_url.into(),
            target_dir: target_dir.into(),
            point_interval: POINT_INTERVAL,
            retention: retention::MAX_AGE,
            max_points: retention::MAX_POINTS,
            poll: POLL,
            gap_patience: GAP_PATIENCE,
            retry: Backoff::default(),
            hash_unit_bytes: hashes::UNIT_BYTES,
            backlog_alarm_bytes: backlog::ALARM_BYTES,
            hashes_from_bytes: hashes::PUBLISH_FROM_BYTES,
            max_groups: GROUPS_MAX,
        }
    }
}

/// Follows a vault. Its functions block; call them from a plain thread, not from within an async runtime.
#[derive(Debug)]
pub struct Processor {
    config: ProcessorConfig,
    vault: Vault,
    io: IoThread,
    permits: Arc<Semaphore>,
    pool: Arc<PressPool>,
    claimant: Arc<Claimant>,
}

impl Processor {
    /// Opens the vault and the target folder.
    ///
    /// # Errors
    /// [`ProcessorError`].
    pub fn open(config: ProcessorConfig) -> Result<Self, ProcessorError> {
        let io = IoThread::start()?;
        let vault = io.handle.block_on(Vault::open(&config.vault_url));
        let vault = vault.map_err(|source| ProcessorError::Vault { url: config.vault_url.clone(), source })?;
        Self::with(config, vault, io)
    }

    /// As [`Processor::open`] with a vault that was opened elsewhere.
    ///
    /// # Errors
    /// [`ProcessorError`].
    pub fn open_vault(config: ProcessorConfig, vault: Vault) -> Result<Self, ProcessorError> {
        Self::with(config, vault, IoThread::start()?)
    }

    fn with(config: ProcessorConfig, vault: Vault, io: IoThread) -> Result<Self, ProcessorError> {
        let target = &config.target_dir;
        crashsafe::create_dir_all(target).map_err(TargetError::io("create", target))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = PressPool::start(cores.min(COMPRESS_THREADS_MAX)).map_err(ProcessorError::Thread)?;
        let claimant = Arc::new(Claimant::open(target, config.max_groups)?);
        let permits = Arc::new(Semaphore::new(FETCHED_MAX));
        Ok(Self { config, vault, io, permits, pool: Arc::new(pool), claimant })
    }

    /// The vault that is followed.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Follows all groups of the vault, those that come later too, until `stop` is set; a group that stops leaves the others
    /// alone, and is tried again. Gives what became of each.
    pub fn run(&self, stop: &Stop) -> Vec<GroupOutcome> {
        self.work(stop, Mode::Follow)
    }

    /// Applies what the vault holds now, then stops. Gives what became of each group.
    ///
    /// # Errors
    /// [`ProcessorError::Vault`] when the groups cannot be listed.
    pub fn run_once(&self) -> Result<Vec<GroupOutcome>, ProcessorError> {
        // Whether the vault answers at all is said by the first listing.
        let groups = self.groups()?;
        tracing::debug!(groups = groups.len(), "catching up");
        Ok(self.work(&Stop::new(), Mode::Once(groups)))
    }

    /// As [`Processor::run_once`] for one group, which a failover catches up; `stop` ends it early.
    pub fn run_once_for(&self, group: &GroupName, stop: &Stop) -> Option<GroupOutcome> {
        self.work(stop, Mode::One(group.clone())).pop()
    }

    fn groups(&self) -> Result<Vec<GroupName>, ProcessorError> {
        let groups = self.io.handle.block_on(self.vault.groups());
        groups.map_err(|source| ProcessorError::Vault { url: self.config.vault_url.clone(), source })
    }

    pub(crate) fn task(&self, group: GroupName) -> GroupTask {
        let vault = VaultName { url: self.vault.url().to_owned(), id: self.vault.id().to_owned() };
        let fetcher = Fetcher::new(
            self.vault.group(&group),
            VaultIo::Elsewhere(self.io.handle.clone()),
            Arc::clone(&self.permits),
        );
        GroupTask::new(group, vault, self.config.clone(), fetcher)
            .with_pool(Arc::clone(&self.pool))
            .with_claimant(Arc::clone(&self.claimant))
    }

    fn work(&self, stop: &Stop, mode: Mode) -> Vec<GroupOutcome> {
        let now = clock::mono();
        let start = |group| Job::Start(Box::new(self.task(group)));
        let only = matches!(mode, Mode::One(_));
        let (once, first) = match mode {
            Mode::Follow => (false, vec![Job::Discover(Discovery::default())]),
            Mode::Once(groups) => (true, groups.into_iter().map(start).collect()),
            Mode::One(group) => (true, vec![start(group)]),
        };
        let work = Work { board: Board::new(), known: Mutex::default(), outcomes: Mutex::default(), begun: now, only };
        first.into_iter().for_each(|job| work.board.add(now, job));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS_MAX {
                let thread = std::thread::Builder::new().name("replay".to_owned());
                thread.spawn_scoped(scope, || self.worker(&work, stop, once)).expect("the system starts threads");
            }
        });
        let mut outcomes = work.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        for job in work.board.left() {
            if let Job::Turn(task) | Job::Start(task) = job {
                outcomes.push(task.outcome());
            }
        }
        outcomes.sort_by(|a, b| a.group.cmp(&b.group));
        outcomes
    }

    fn worker(&self, work: &Work, stop: &Stop, once: bool) {
        while let Some(mut taken) = work.board.take(stop, once) {
            let Some(job) = taken.job() else { continue };
            let next = match job {
                Job::Discover(discovery) => self.discover(discovery, work),
                Job::Start(task) => start(task, work, stop),
                Job::Claim(task, asked) => claim(task, asked),
                Job::Turn(task) => self.turn(task, work, stop, once),
            };
            if let Some((at, job)) = next {
                work.board.add(at, job);
            }
        }
    }

    fn turn(&self, mut task: Box<GroupTask>, work: &Work, stop: &Stop, once: bool) -> Option<(Instant, Job)> {
        if task.is_to_go() {
            tracing::info!(group = %task.group(), "the group is let go, as somebody asked");
            task.let_go();
            return Some((clock::mono() + LOOK_EVERY, Job::Claim(task, None)));
        }
        let turn = task.turn(stop);
        let wait = match turn {
            Turn::More => Duration::ZERO,
            Turn::CaughtUp => poll::pause(task.quiet(), self.config.poll),
            Turn::MaybeGap => self.config.poll,
            Turn::VaultAway => VAULT_AWAY_WAIT,
            Turn::Stopped { again } => again,
        };
        // In one go, a stop is an outcome, and so is a vault that does not answer: it was tried again below already.
        if once && matches!(turn, Turn::CaughtUp | Turn::VaultAway | Turn::Stopped { .. }) {
            work.finish(task.outcome());
            return None;
        }
        Some((clock::mono() + wait, Job::Turn(task)))
    }

    fn discover(&self, mut discovery: Discovery, work: &Work) -> Option<(Instant, Job)> {
        let now = clock::mono();
        match self.io.handle.block_on(discovery.look(&self.vault)) {
            Ok(groups) => {
                for group in groups.into_iter().flatten() {
                    if work.is_new(&group) {
                        work.board.add(now, Job::Claim(Box::new(self.task(group)), None));
                    }
                }
            }
            Err(e) => tracing::warn!(error = %e, "which groups the vault has cannot be found out, trying again"),
        }
        let none = work.known().is_empty();
        let pause = if none { poll::pause(now - work.begun, self.config.poll) } else { DISCOVER_EVERY };
        Some((clock::mono() + pause, Job::Discover(discovery)))
    }
}

/// Looks how far the vault is, once the group is this target's.
fn start(mut task: Box<GroupTask>, work: &Work, stop: &Stop) -> Option<(Instant, Job)> {
    let begun = match task.claim() {
        Ok(Owner::Ours) => task.set_goal().or_else(|_| task.turn_then_set_goal(stop)),
        // Of all groups those of others are not missed.
        Ok(_) if !work.only => return None,
        Ok(owner) => {
            let at = format!("groups/{}/claims", task.group());
            Err(GroupError::Refused { at, what: owner.to_string() })
        }
        Err(e) => Err(e),
    };
    match begun {
        Ok(()) => Some((clock::mono(), Job::Turn(task))),
        // A turn knows ways out of what keeps a target from being opened.
        Err(e) => {
            task.stop(e);
            work.finish(task.outcome());
            None
        }
    }
}

/// Whether the group is this target's. The vault was asked last at `asked`.
fn claim(task: Box<GroupTask>, asked: Option<Instant>) -> Option<(Instant, Job)> {
    let now = clock::mono();
    let due = asked.is_none_or(|asked| now - asked >= ASK_EVERY);
    if !due && !task.was_adopted() {
        return Some((now + LOOK_EVERY, Job::Claim(task, asked)));
    }
    match task.claim() {
        Ok(Owner::Ours) => {
            tracing::info!(group = %task.group(), "following the group");
            Some((now, Job::Turn(task)))
        }
        // Nothing was asked of the vault. Whoever wants it may also fail, and the group is followed on then.
        Ok(Owner::Leaving) => Some((now + LOOK_EVERY, Job::Claim(task, None))),
        Ok(owner @ Owner::Full) => {
            // Nobody's: whoever has room first is to have it.
            tracing::debug!(group = %task.group(), %owner, "the group is not followed here");
            Some((now + NOBODYS_EVERY, Job::Claim(task, None)))
        }
        Ok(owner) => {
            tracing::info!(group = %task.group(), %owner, "the group is not followed here");
            Some((now + LOOK_EVERY, Job::Claim(task, Some(now))))
        }
        Err(e) => {
            tracing::warn!(group = %task.group(), error = %e.full_text(), "whose the group is cannot be found out, trying again");
            Some((now + VAULT_AWAY_WAIT, Job::Claim(task, None)))
        }
    }
}

enum Mode {
    Follow,
    /// All of these that are this target's.
    Once(Vec<GroupName>),
    /// This one, which must be.
    One(GroupName),
}

/// Something for a worker to do.
enum Job {
    /// Look for new groups.
    Discover(Discovery),
    /// See whether a group is this target's; when the vault was asked last.
    Claim(Box<GroupTask>, Option<Instant>),
    /// Look how far the vault is, then go.
    Start(Box<GroupTask>),
    /// Let a group work.
    Turn(Box<GroupTask>),
}

/// What the workers share.
struct Work {
    board: Board<Job>,
    known: Mutex<BTreeSet<GroupName>>,
    outcomes: Mutex<Vec<GroupOutcome>>,
    begun: Instant,
    /// There is one group that matters.
    only: bool,
}

impl Work {
    fn known(&self) -> MutexGuard<'_, BTreeSet<GroupName>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: GroupOutcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }

    /// Whether a group was not seen before.
    fn is_new(&self, group: &GroupName) -> bool {
        let mut known = self.known();
        if known.len() >= GROUPS_MAX && !known.contains(group) {
            tracing::warn!(%group, limit = GROUPS_MAX, "the group is not followed: too many groups in one vault");
            return false;
        }
        known.insert(group.clone())
    }
}

/// The thread on which the vault's sockets and timers live.
#[derive(Debug)]
struct IoThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    fn start() -> Result<Self, ProcessorError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ProcessorError::Thread)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("vault-io".to_owned()).spawn(move || {
            // Ends with the message, or when the sender is gone.
            let _ended = runtime.block_on(stopped);
        });
        let thread = Some(thread.map_err(ProcessorError::Thread)?);
        Ok(Self { handle, stop: Some(stop), thread })
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Whether every group of `outcomes` is caught up: the exit code of `--once`.
#[must_use]
pub fn all_good(outcomes: &[GroupOutcome]) -> bool {
    outcomes.iter().all(GroupOutcome::is_good)
}
