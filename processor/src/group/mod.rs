//! The loop of one group: open its target, fetch the next object of its log, prove that it follows, apply it.
//!
//! A group is worked on in *turns* ([`GroupTask::turn`]), so that a few threads serve any number of groups. A turn that fails
//! drops the target; a later one opens it anew, which proves it and rolls back what was half done.
//!
//! - [`mod@self`]: the turns
//! - `way_out`: from an epoch whose log cannot be followed into a later one that copies everything again
//! - [`backlog`]: how much is not replayed yet
//! - [`history`]: how far the vault was seen to hold the log
//! - `missing`: what it means that the next object is not there
//! - `hashing`: the hashes of the images, at the beginning of a resync
//! - `upkeep`: retention
//! - `report`: what the group says of itself

pub mod backlog;
mod hashing;
mod history;
mod missing;
mod report;
mod upkeep;
mod way_out;

pub use report::GroupOutcome;

use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_changelog::ids::{Epoch, GroupName, Position, SegmentNo};
use farshore_changelog::segment::{PressPool, Segment, SegmentError, SegmentHead};
use farshore_changelog::units::UnixMicros;
use farshore_changelog::{clock, crashsafe};
use farshore_vault::keys::Key;

use crate::apply::apply;
use crate::batch;
use crate::chain::{self, Expected, Next};
use crate::claims::{Claimant, Owner};
use crate::comeback::Stopped;
use crate::error::{GroupError, TargetError};
use crate::fetch::{Asked, Fetched, Fetcher};
use crate::gap::GapWatch;
use crate::hashes::HashJob;
use crate::position::HashesDue;
use crate::processor::ProcessorConfig;
use crate::replay::{FIRST_EPOCH, Replay, VaultName};
use crate::status::{GroupStatus, Unapplied};
use crate::stop::Stop;
use crate::target::GroupDir;
use crate::undo::scrub::Scrub;
use crate::vault_retention::LogPruner;
use history::{Gone, History, look_ahead};

/// Longest turn: then other groups come first.
const TURN_MAX: Duration = Duration::from_secs(5);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do at once.
    More,
    /// All that the vault holds is applied.
    CaughtUp,
    /// What comes next is missing and later ones are there: perhaps it is still under way.
    MaybeGap,
    /// The vault does not answer; to be tried again.
    VaultAway,
    /// The group has stopped; to be tried again.
    Stopped {
        /// After this long.
        again: Duration,
    },
}

/// One group being followed.
#[derive(Debug)]
pub struct GroupTask {
    group: GroupName,
    dir: GroupDir,
    vault: VaultName,
    config: ProcessorConfig,
    fetcher: Fetcher,
    pruner: LogPruner,
    replay: Option<Replay>,
    /// Who compresses the undo journal; `None`: whoever works on the group.
    pool: Option<Arc<PressPool>>,
    /// There is a target: one that is not found is gone, and not to be made.
    was_open: bool,
    gap: GapWatch,
    history: History,
    /// Whose the group is; `None` where there is nobody else.
    claimant: Option<Arc<Claimant>>,
    /// The segment that the source has not put, while later ones are there.
    hole: Option<SegmentNo>,
    /// Where to stop (`--once`).
    goal: Option<(Epoch, SegmentNo)>,
    stopped: Option<Stopped>,
    vault_problem: Option<GroupError>,
    newest_heartbeat: Option<UnixMicros>,
    last_record: Option<Instant>,
    begun: Instant,
    last_retention: Option<Instant>,
    /// Points at the last retention.
    retained: usize,
    /// When the vault was last pruned of all that it could be.
    log_pruned: Option<Instant>,
    scrub: Scrub,
    next_scrub: Option<Instant>,
    unapplied: Option<Unapplied>,
    backlog_measured: Option<Instant>,
    hash_job: Option<HashJob>,
    /// Where the images were found to be others than those that a resync was shortened for.
    hashes_refused: Option<(Position, String)>,
    last_status: Option<(Instant, GroupStatus)>,
}

impl GroupTask {
    /// A task for `group`; nothing is opened yet.
    #[must_use]
    pub fn new(group: GroupName, vault: VaultName, config: ProcessorConfig, fetcher: Fetcher) -> Self {
        let pruner = LogPruner::new(fetcher.vault().clone());
        Self {
            history: History::new(&GroupDir::new(&config.target_dir, &group)),
            claimant: None,
            dir: GroupDir::new(&config.target_dir, &group),
            gap: GapWatch::new(config.gap_patience),
            hole: None,
            group,
            vault,
            config,
            fetcher,
            pruner,
            replay: None,
            pool: None,
            was_open: false,
            goal: None,
            stopped: None,
            vault_problem: None,
            newest_heartbeat: None,
            last_record: None,
            begun: clock::mono(),
            last_retention: None,
            retained: 0,
            log_pruned: None,
            scrub: Scrub::default(),
            next_scrub: None,
            unapplied: None,
            backlog_measured: None,
            hash_job: None,
            hashes_refused: None,
            last_status: None,
        }
    }

    /// Has undo journals compressed by the threads of `pool`.
    #[must_use]
    pub fn with_pool(self, pool: Arc<PressPool>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// Follows the group only as long as it is this target's.
    #[must_use]
    pub fn with_claimant(self, claimant: Arc<Claimant>) -> Self {
        Self { claimant: Some(claimant), ..self }
    }

    /// Whose the group is; takes it when nobody ever followed it and there is room.
    ///
    /// # Errors
    /// Those of the vault.
    pub fn claim(&self) -> Result<Owner, GroupError> {
        let Some(claimant) = &self.claimant else { return Ok(Owner::Ours) };
        let owner = self.fetcher.block_on(claimant.claim(self.fetcher.vault()))?;
        Ok(owner)
    }

    /// Whether somebody wants the group to be let go.
    #[must_use]
    pub fn is_to_go(&self) -> bool {
        self.claimant.is_some() && self.dir.is_to_be_released()
    }

    /// Whether somebody has adopted the group for this target since this was asked last.
    #[must_use]
    pub fn was_adopted(&self) -> bool {
        let note = self.dir.adopted();
        // Where it cannot be removed it is asked for again and again, which costs requests and nothing else.
        note.exists() && crashsafe::remove(&note).is_ok()
    }

    /// Closes the target, so that another process can have it.
    pub fn let_go(&mut self) {
        self.replay = None;
        self.fetcher.clear();
        if let Some(claimant) = &self.claimant {
            claimant.let_go(&self.group);
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// How long nothing was written, as far as it was replayed here: heartbeats are not counted.
    #[must_use]
    pub fn quiet(&self) -> Duration {
        clock::mono().duration_since(self.last_record.unwrap_or(self.begun))
    }

    /// Works until there is nothing more, a few seconds have passed, `stop` is set, or the group stops.
    pub fn turn(&mut self, stop: &Stop) -> Turn {
        let turn = match self.work(stop).or_else(|e| self.second_look(e, stop)) {
            Ok(turn) => {
                self.vault_problem = None;
                if !stop.requested() {
                    self.goes_on();
                }
                turn
            }
            Err(e) if e.is_transient() => {
                if self.vault_problem.is_none() {
                    tracing::warn!(group = %self.group, error = %e.full_text(), "the vault does not answer, trying again");
                }
                self.vault_problem = Some(e);
                Turn::VaultAway
            }
            Err(e) => self.stop(e),
        };
        self.fetcher.clear();
        self.measure_backlog(turn);
        self.report_turn();
        turn
    }

    /// Notes how far the vault is now: [`Turn::CaughtUp`] is said once that is applied, whatever comes after.
    ///
    /// # Errors
    /// [`GroupError`] of vault or target.
    pub fn set_goal(&mut self) -> Result<(), GroupError> {
        let here = match self.open()? {
            Some(replay) => (replay.position().epoch, replay.position().number),
            None => (FIRST_EPOCH, SegmentNo(0)),
        };
        let vault = self.fetcher.vault().clone();
        let Some((newest, _)) = self.fetcher.block_on(vault.newest_epoch(here.0))? else {
            return if self.replay.is_some() { Err(self.went_back(here, Gone::Epoch(here.0))) } else { Ok(()) };
        };
        if here.1 > SegmentNo(0) {
            // What comes after the position may be beyond the goal, and would not be asked for.
            let seen = self.history.seen()?;
            let ahead = self.fetcher.block_on(look_ahead(&vault, (here.0, here.1.next()), seen))?;
            if let Some(gone) = ahead.gone {
                return Err(self.went_back(here, gone));
            }
        }
        self.goal = self.fetcher.block_on(async {
            let mut goal = (newest.epoch, if newest.epoch == here.0 { here.1 } else { SegmentNo(0) });
            // A listing has a limit, so it is asked until nothing comes after.
            while let Some((last, _)) = vault.list_segments(newest.epoch, goal.1.next()).await?.pop() {
                goal.1 = last;
            }
            Ok::<_, GroupError>(Some(goal))
        })?;
        Ok(())
    }

    /// As [`GroupTask::set_goal`] after a turn, which knows ways out.
    ///
    /// # Errors
    /// [`GroupError`], that of the turn where it did not go well.
    pub fn turn_then_set_goal(&mut self, stop: &Stop) -> Result<(), GroupError> {
        match self.turn(stop) {
            Turn::More | Turn::CaughtUp | Turn::MaybeGap => self.set_goal(),
            Turn::VaultAway | Turn::Stopped { .. } => {
                let stopped = self.stopped.take().map(|stopped| stopped.error);
                stopped.or_else(|| self.vault_problem.take()).map_or_else(|| self.set_goal(), Err)
            }
        }
    }

    /// The group stops, until it is tried again: its target is dropped, and opened anew then.
    pub fn stop(&mut self, error: GroupError) -> Turn {
        if error.is_transient() {
            self.vault_problem = Some(error);
            return Turn::VaultAway;
        }
        let (at, reason) = (error.at(), error.full_text());
        if self.stopped.is_none() {
            self.backlog_measured = None;
        }
        let (tries, since) = match &self.stopped {
            Some(before) if before.error.full_text() == reason => {
                tracing::debug!(group = %self.group, %at, %reason, "the group is still stopped");
                (before.tries.saturating_add(1), before.since)
            }
            before => {
                tracing::error!(group = %self.group, %at, %reason, "the group has stopped; it is tried again");
                (before.as_ref().map_or(1, |b| b.tries.saturating_add(1)), clock::wall().timestamp())
            }
        };
        self.stopped = Some(Stopped { error, tries, since });
        self.replay = None;
        // On a full disk retention is what makes room.
        self.last_retention = None;
        Turn::Stopped { again: self.config.retry.after(tries) }
    }

    fn goes_on(&mut self) {
        if let Some(stopped) = self.stopped.take() {
            tracing::info!(group = %self.group, was = %stopped.error.full_text(), since = %stopped.since, "the group goes on");
        }
    }

    fn work(&mut self, stop: &Stop) -> Result<Turn, GroupError> {
        if self.stopped.is_some() {
            self.gap.look_at_once();
        }
        if self.open()?.is_none() {
            return Ok(Turn::CaughtUp);
        }
        self.make_room()?;
        let turn = self.advance(stop);
        // Also before an error of what comes next: what was applied need not be applied again.
        self.settle()?;
        let turn = turn?;
        self.retain()?;
        self.scrub();
        Ok(turn)
    }

    fn advance(&mut self, stop: &Stop) -> Result<Turn, GroupError> {
        let end = clock::mono() + TURN_MAX;
        loop {
            if stop.requested() || clock::mono() >= end {
                return Ok(Turn::More);
            }
            if !self.hash_images(end)? {
                return Ok(Turn::More);
            }
            let Some(replay) = &self.replay else { return Ok(Turn::CaughtUp) };
            let expected = chain::expected(replay.applied());
            if self.goal.is_some_and(|goal| (expected.epoch, expected.number) > goal) {
                return Ok(Turn::CaughtUp);
            }
            if !self.fetcher.has(expected.epoch, expected.number) {
                self.settle()?;
            }
            match self.fetcher.next(expected.epoch, expected.number, stop)? {
                Asked::Here(fetched) => self.take(&expected, fetched)?,
                Asked::Stopping => return Ok(Turn::More),
                Asked::Missing => return self.missing(&expected),
            }
        }
    }

    /// What was applied counts.
    fn settle(&mut self) -> Result<(), GroupError> {
        self.replay.as_mut().map_or(Ok(()), |replay| Ok(replay.settle()?))
    }

    /// The open target; `None` while the group has no epoch yet.
    fn open(&mut self) -> Result<Option<&mut Replay>, GroupError> {
        if self.replay.is_none() {
            self.replay = match Replay::open(&self.dir, &self.group, &self.vault)? {
                Some(replay) => Some(replay),
                // Not every folder that is empty is new: its file system may be unmounted.
                None if self.was_open => return Err(TargetError::Gone { path: self.dir.origin() }.into()),
                None => {
                    let vault = self.fetcher.vault().clone();
                    match self.fetcher.block_on(vault.get_epoch(FIRST_EPOCH))? {
                        Some((epoch, hash)) => Some(Replay::create(&self.dir, &self.group, &self.vault, &epoch, hash)?),
                        None => None,
                    }
                }
            };
        }
        self.was_open |= self.replay.is_some();
        Ok(self.replay.as_mut())
    }

    /// Proves an object of the log and applies it.
    fn take(&mut self, expected: &Expected, fetched: Fetched) -> Result<(), GroupError> {
        let key = self.key(expected.epoch, expected.number);
        let damaged = |what: String| GroupError::Damaged { at: key.clone(), what };
        let segment = Segment::parse(fetched.bytes.clone()).map_err(|e| damaged(text(&e)))?;
        let head = segment.index().head();
        match chain::follows(expected, head, segment.index().hash()).map_err(damaged)? {
            Next::Log => self.apply(&key, &segment)?,
            Next::Seal => self.turn_epoch(&key, head)?,
        }
        self.hole = None;
        self.goes_on();
        self.report_turn();
        Ok(())
    }

    fn apply(&mut self, key: &str, segment: &Segment) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        replay.check_images()?;
        replay.compress_with(self.pool.clone());
        let (head, records) = (segment.index().head(), segment.index().records());
        chain::fits(records, replay.disks()).map_err(|what| GroupError::Damaged { at: key.to_owned(), what })?;
        for batch in batch::cut(head, records, replay.applied(), self.config.point_interval) {
            apply(replay, segment, &batch, key)?;
            if replay.position().hashes != HashesDue::No {
                return Ok(()); // the rest of the segment comes after the images were hashed
            }
        }
        self.newest_heartbeat = Some(head.created);
        if !records.is_empty() {
            self.last_record = Some(clock::mono());
        }
        self.pruner.applied(head);
        Ok(())
    }

    /// The epoch is over: what lies above its first seal is dead, and the next one begins.
    fn turn_epoch(&mut self, key: &str, seal: &SegmentHead) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let vault = self.fetcher.vault().clone();
        let Some((next, hash)) = self.fetcher.block_on(vault.get_epoch(seal.successor))? else {
            let what = format!("it seals the epoch for epoch {}, which was never opened", seal.successor);
            return Err(GroupError::Damaged { at: key.to_owned(), what });
        };
        chain::succeeds(seal, &next).map_err(|what| GroupError::Damaged { at: next.key().to_string(), what })?;
        tracing::info!(group = %self.group, sealed = %seal.epoch, epoch = %next.epoch, reason = ?next.reason, "next epoch");
        replay.turn(&next, hash)?;
        // Nobody reads them any more; the plan stays, and says that they were there.
        let chunks = self.fetcher.block_on(vault.delete_hash_chunks(seal.epoch));
        if let Err(e) = chunks {
            tracing::debug!(group = %self.group, error = %e, "hashes of an epoch that is over stay in the vault");
        }
        Ok(())
    }

    fn key(&self, epoch: Epoch, number: SegmentNo) -> String {
        Key::Segment(self.group.clone(), epoch, number).to_string()
    }
}

/// An error of the codec with what is behind it.
fn text(e: &SegmentError) -> String {
    match e {
        SegmentError::Io(source) => format!("{e}: {source}"),
        e => e.to_string(),
    }
}

#[cfg(test)]
mod tests;
