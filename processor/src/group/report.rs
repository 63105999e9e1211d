//! What a group says of itself: `status.json` while it works, and its outcome at the end.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_changelog::units::UnixMicros;

use super::GroupTask;
use crate::error::GroupError;
use crate::points;
use crate::position::ReplayPosition;
use crate::replay::Replay;
use crate::status::{GroupState, GroupStatus, IDLE_AFTER};

/// `status.json` is written no more often than this while replay goes on.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// `status.json` is written this often at least.
const STATUS_AT_LEAST_EVERY: Duration = Duration::from_secs(10);

impl GroupTask {
    /// The status now, which is written, and why the group stopped or waits.
    #[must_use]
    pub fn outcome(mut self) -> GroupOutcome {
        if let Some(stopped) = self.stopped.take() {
            let status = self.status(GroupState::stopped(&stopped));
            if !stopped.error.is_locked() {
                self.stopped = Some(stopped);
                self.report_turn();
                let error = self.stopped.take().map(|stopped| stopped.error);
                return GroupOutcome { group: self.group, status, error };
            }
            return GroupOutcome { group: self.group, status, error: Some(stopped.error) };
        }
        let state = self.state();
        self.report(state.clone(), true);
        let status = self.status(state);
        GroupOutcome { group: self.group, status, error: self.vault_problem }
    }

    pub(super) fn state(&self) -> GroupState {
        let active = self.last_record.is_some_and(|last| clock::mono() - last < IDLE_AFTER);
        GroupState::going(self.replay.as_ref().map(Replay::position), active)
    }

    fn status(&self, state: GroupState) -> GroupStatus {
        // A stopped group has its target closed, and may not even be able to open it.
        let read = || ReplayPosition::read(&self.dir.position()).ok().flatten();
        let position = self.replay.as_ref().map(|replay| replay.position().clone()).or_else(read);
        let mut status = GroupStatus::new(&self.group, state, position.as_ref());
        status.points = match (&self.replay, &position) {
            (Some(replay), _) => replay.points().len(),
            (None, Some(at)) => points::counting(&self.dir.points(), at).map_or(0, |points| points.len()),
            (None, None) => 0,
        };
        status.newest_heartbeat = self.newest_heartbeat.map(UnixMicros::timestamp);
        status.unapplied = self.unapplied;
        status.hole = self.hole;
        status.vault_problem = self.vault_problem.as_ref().map(GroupError::full_text);
        status
    }

    /// Says how it stands. Of a group in other hands the status is theirs.
    pub(super) fn report_turn(&mut self) {
        match &self.stopped {
            Some(stopped) if stopped.error.is_locked() => {}
            Some(stopped) => {
                let state = GroupState::stopped(stopped);
                self.report(state, true);
            }
            None => {
                let state = self.state();
                self.report(state, false);
            }
        }
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
