//! The loop of one group: open its target, fetch the next object of its log, prove that it follows, apply it.
//!
//! A group is worked on in *turns* ([`GroupTask::turn`]), so that a few threads serve any number of groups.

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_changelog::segment::{Segment, SegmentError, SegmentHead};
use farshore_changelog::units::UnixMicros;
use farshore_vault::keys::Key;

use crate::apply::apply;
use crate::batch;
use crate::chain::{self, Expected, Next};
use crate::error::{GroupError, TargetError};
use crate::fetch::{Asked, Fetched, Fetcher};
use crate::gap::{GapWatch, Seen};
use crate::processor::ProcessorConfig;
use crate::replay::{FIRST_EPOCH, Replay, VaultName};
use crate::retention::{Policy, prune_target};
use crate::status::{GroupState, GroupStatus, IDLE_AFTER};
use crate::stop::Stop;
use crate::target::GroupDir;
use crate::vault_retention::LogPruner;

/// Longest turn: then other groups come first.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Retention runs this often, and after each new point.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// The vault's log is pruned this often: it takes a listing.
const LOG_RETENTION_EVERY: Duration = Duration::from_secs(600);
/// `status.json` is written no more often than this while replay goes on.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// `status.json` is written this often at least.
const STATUS_AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do at once.
    More,
    /// All that the vault holds is applied.
    CaughtUp,
    /// The next segment is missing and later ones are there: perhaps it is still under way.
    MaybeGap,
    /// The vault does not answer; to be tried again.
    VaultAway,
    /// The group has stopped for good.
    Stopped,
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
    gap: GapWatch,
    /// Where to stop (`--once`).
    goal: Option<(Epoch, SegmentNo)>,
    stopped: Option<GroupError>,
    vault_problem: Option<GroupError>,
    newest_heartbeat: Option<UnixMicros>,
    last_record: Option<Instant>,
    last_retention: Option<Instant>,
    /// Points at the last retention.
    retained: usize,
    /// When the vault was last pruned of all that it could be.
    log_pruned: Option<Instant>,
    last_status: Option<(Instant, GroupStatus)>,
}

impl GroupTask {
    /// A task for `group`; nothing is opened yet.
    #[must_use]
    pub fn new(group: GroupName, vault: VaultName, config: ProcessorConfig, fetcher: Fetcher) -> Self {
        let pruner = LogPruner::new(fetcher.vault().clone());
        Self {
            dir: GroupDir::new(&config.target_dir, &group),
            gap: GapWatch::new(config.gap_patience),
            group,
            vault,
            config,
            fetcher,
            pruner,
            replay: None,
            goal: None,
            stopped: None,
            vault_problem: None,
            newest_heartbeat: None,
            last_record: None,
            last_retention: None,
            retained: 0,
            log_pruned: None,
            last_status: None,
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Works until there is nothing more, a few seconds have passed, `stop` is set, or the group stops.
    pub fn turn(&mut self, stop: &Stop) -> Turn {
        if self.stopped.is_some() {
            return Turn::Stopped;
        }
        let turn = match self.advance(stop).and_then(|turn| self.retain().map(|()| turn)) {
            Ok(turn) => {
                self.vault_problem = None;
                turn
            }
            Err(e) if e.is_transient() => {
                if self.vault_problem.is_none() {
                    tracing::warn!(group = %self.group, error = %e.full_text(), "the vault does not answer, trying again");
                }
                self.vault_problem = Some(e);
                Turn::VaultAway
            }
            Err(e) => {
                tracing::error!(group = %self.group, at = %e.at(), reason = %e.full_text(), "the group has stopped");
                self.give_up(e);
                Turn::Stopped
            }
        };
        self.fetcher.clear();
        if turn != Turn::Stopped {
            let state = self.state();
            self.report(state, false);
        }
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
        self.goal = self.fetcher.block_on(async {
            let Some((newest, _)) = vault.newest_epoch(here.0).await? else { return Ok(None) };
            let mut goal = (newest.epoch, if newest.epoch == here.0 { here.1 } else { SegmentNo(0) });
            // A listing has a limit, so it is asked until nothing comes after.
            while let Some((last, _)) = vault.list_segments(newest.epoch, goal.1.next()).await?.pop() {
                goal.1 = last;
            }
            Ok::<_, GroupError>(Some(goal))
        })?;
        Ok(())
    }

    /// The status now, which is written, and why the group stopped or waits.
    #[must_use]
    pub fn outcome(mut self) -> GroupOutcome {
        if let Some(error) = self.stopped.take() {
            let state = GroupState::stopped(&error);
            // The position was known while the target was open.
            let said = self.last_status.take().map(|(_, said)| said).filter(|said| said.state == state);
            let status = said.unwrap_or_else(|| self.status(state));
            return GroupOutcome { group: self.group, status, error: Some(error) };
        }
        let state = self.state();
        self.report(state.clone(), true);
        let status = self.status(state);
        GroupOutcome { group: self.group, status, error: self.vault_problem }
    }

    /// The group stops. What is half done is undone when its target is opened the next time.
    pub fn give_up(&mut self, error: GroupError) {
        if error.is_transient() {
            self.vault_problem = Some(error);
            return;
        }
        match error {
            // The status is that of the process which holds the lock.
            GroupError::Target(TargetError::Locked { .. }) => {}
            _ => self.report(GroupState::stopped(&error), true),
        }
        self.replay = None;
        self.stopped = Some(error);
    }

    fn advance(&mut self, stop: &Stop) -> Result<Turn, GroupError> {
        if self.open()?.is_none() {
            return Ok(Turn::CaughtUp);
        }
        let end = clock::mono() + TURN_MAX;
        loop {
            if stop.requested() || clock::mono() >= end {
                return Ok(Turn::More);
            }
            let Some(replay) = &self.replay else { return Ok(Turn::CaughtUp) };
            let expected = chain::expected(replay.position());
            if self.goal.is_some_and(|goal| (expected.epoch, expected.number) > goal) {
                return Ok(Turn::CaughtUp);
            }
            match self.fetcher.next(expected.epoch, expected.number, stop)? {
                Asked::Here(fetched) => self.take(&expected, fetched)?,
                Asked::Stopping => return Ok(Turn::More),
                Asked::Missing => return self.missing(&expected),
            }
        }
    }

    /// The open target; `None` while the group has no epoch yet.
    fn open(&mut self) -> Result<Option<&mut Replay>, GroupError> {
        if self.replay.is_none() {
            self.replay = match Replay::open(&self.dir, &self.group, &self.vault)? {
                Some(replay) => Some(replay),
                None => {
                    let vault = self.fetcher.vault().clone();
                    match self.fetcher.block_on(vault.get_epoch(FIRST_EPOCH))? {
                        Some((epoch, hash)) => Some(Replay::create(&self.dir, &self.group, &self.vault, &epoch, hash)?),
                        None => None,
                    }
                }
            };
        }
        Ok(self.replay.as_mut())
    }

    /// Proves an object of the log and applies it.
    fn take(&mut self, expected: &Expected, fetched: Fetched) -> Result<(), GroupError> {
        let key = self.key(expected.epoch, expected.number);
        let damaged = |what: String| GroupError::Damaged { at: key.clone(), what };
        let segment = Segment::parse(fetched.bytes.clone()).map_err(|e| damaged(text(&e)))?;
        let head = segment.index().head();
        match chain::follows(expected, head, segment.index().hash()).map_err(damaged)? {
            Next::Log => self.apply(&key, &segment),
            Next::Seal => self.turn_epoch(&key, head),
        }
    }

    fn apply(&mut self, key: &str, segment: &Segment) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let (head, records) = (segment.index().head(), segment.index().records());
        chain::fits(records, replay.disks()).map_err(|what| GroupError::Damaged { at: key.to_owned(), what })?;
        for batch in batch::cut(head, records, replay.position(), self.config.point_interval) {
            apply(replay, segment, &batch, key)?;
        }
        self.newest_heartbeat = Some(head.created);
        if !records.is_empty() {
            self.last_record = Some(clock::mono());
        }
        self.pruner.applied(head);
        let state = self.state();
        self.report(state, false);
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
        replay.turn(&next, hash)
    }

    /// The next object is not there.
    fn missing(&mut self, expected: &Expected) -> Result<Turn, GroupError> {
        let (epoch, number) = (expected.epoch, expected.number);
        if !self.gap.wants_look(epoch, number, clock::mono()) && self.goal.is_none() {
            return Ok(Turn::CaughtUp);
        }
        let vault = self.fetcher.vault().clone();
        let later = self.fetcher.block_on(vault.list_segments(epoch, number))?;
        // It may have come between the get and the listing.
        let later = match later.first() {
            Some((first, _)) if *first == number => None,
            first => first.map(|(first, _)| *first),
        };
        match self.gap.saw(epoch, number, later, clock::mono()) {
            Seen::Nothing => Ok(Turn::CaughtUp),
            Seen::Later => Ok(Turn::MaybeGap),
            Seen::Gap { later } => Err(GroupError::Gap { at: self.key(epoch, number), epoch, number, later }),
        }
    }

    /// Retention, when it is due: points first, then what only they needed.
    fn retain(&mut self) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let now = clock::mono();
        let new_point = self.retained < replay.points().len();
        if !new_point && self.last_retention.is_some_and(|last| now - last < RETENTION_EVERY) {
            return Ok(());
        }
        let policy = Policy { max_age: self.config.retention, max_points: self.config.max_points };
        let needed = prune_target(replay, &self.group, &policy, clock::wall())?;
        self.last_retention = Some(now);
        self.retained = replay.points().len();
        if self.log_pruned.is_none_or(|last| now - last >= LOG_RETENTION_EVERY) {
            let current = (replay.position().epoch, replay.position().number);
            let retention = u64::try_from(self.config.retention.as_micros()).unwrap_or(u64::MAX);
            // Neither a dead source's clock nor a target's that jumped makes a young segment old.
            let now_at_most = clock::wall().min(replay.position().time);
            let before = UnixMicros(now_at_most.0.saturating_sub(retention));
            match self.fetcher.block_on(self.pruner.prune(needed, before, current)) {
                Ok(done) => self.log_pruned = done.then_some(now),
                Err(e) => {
                    let error = GroupError::from(e).full_text();
                    tracing::warn!(group = %self.group, error, "segments are not pruned from the vault this time");
                }
            }
        }
        Ok(())
    }

    fn key(&self, epoch: Epoch, number: SegmentNo) -> String {
        Key::Segment(self.group.clone(), epoch, number).to_string()
    }

    fn state(&self) -> GroupState {
        let active = self.last_record.is_some_and(|last| clock::mono() - last < IDLE_AFTER);
        GroupState::going(self.replay.as_ref().map(Replay::position), active)
    }

    fn status(&self, state: GroupState) -> GroupStatus {
        let mut status = GroupStatus::new(&self.group, state, self.replay.as_ref().map(Replay::position));
        status.points = self.replay.as_ref().map_or(0, |replay| replay.points().len());
        status.newest_heartbeat = self.newest_heartbeat.map(UnixMicros::timestamp);
        status.vault_problem = self.vault_problem.as_ref().map(GroupError::full_text);
        status
    }

    /// Writes `status.json` when it says something new, or nothing was said for a while.
    fn report(&mut self, state: GroupState, at_once: bool) {
        let now = clock::mono();
        let last = self.last_status.as_ref();
        if !at_once && last.is_some_and(|(then, said)| now - *then < STATUS_EVERY && said.state == state) {
            return;
        }
        let mut status = self.status(state);
        if let Some((then, said)) = last {
            status.newest_heartbeat = status.newest_heartbeat.or(said.newest_heartbeat);
            let same = GroupStatus { updated: said.updated, lag_ms: said.lag_ms, ..status.clone() } == *said;
            if !at_once && same && now - *then < STATUS_AT_LEAST_EVERY {
                return;
            }
        }
        if !self.dir.root().is_dir() {
            return; // nothing was replayed yet, there is no folder to say it in
        }
        if let Err(e) = status.write(&self.dir) {
            tracing::warn!(group = %self.group, error = %GroupError::from(e).full_text(), "the status cannot be written");
        }
        self.last_status = Some((now, status));
    }
}

/// What became of a group.
#[derive(Debug)]
pub struct GroupOutcome {
    /// Which one.
    pub group: GroupName,
    /// Its status at the end.
    pub status: GroupStatus,
    /// Why it is not caught up; `None` when it is.
    pub error: Option<GroupError>,
}

impl GroupOutcome {
    /// Whether everything that the vault held is applied.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.error.is_none()
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
#[path = "group_tests.rs"]
mod tests;
