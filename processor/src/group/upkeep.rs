//! What a group does beside replay: retention.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::units::UnixMicros;

use super::GroupTask;
use crate::claims::Owner;
use crate::error::GroupError;
use crate::processor::ProcessorConfig;
use crate::retention::{Policy, prune_target};

/// Retention runs this often, and after each new point.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// The vault's log is pruned this often.
const LOG_RETENTION_EVERY: Duration = Duration::from_secs(600);
/// How much of the undo journal is read again at a time, in bytes.
const SCRUB_BYTES: u64 = 8 << 20;
/// Time between two such reads.
const SCRUB_EVERY: Duration = Duration::from_secs(1);
/// Time after the end of the journal was reached until it is begun anew.
const SCRUB_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

fn policy(config: &ProcessorConfig) -> Policy {
    Policy { max_age: config.retention, max_points: config.max_points }
}

impl GroupTask {
    /// Retention of the target before anything is applied, at the start and while the group is stopped: on a full disk nothing
    /// else makes room.
    pub(super) fn make_room(&mut self) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        if self.last_retention.is_none() {
            prune_target(replay, &self.group, &policy(&self.config), clock::wall())?;
        }
        Ok(())
    }

    /// Retention, when it is due: points first, then what only they needed.
    pub(super) fn retain(&mut self) -> Result<(), GroupError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let now = clock::mono();
        let new_point = self.retained < replay.points().len();
        if !new_point && self.last_retention.is_some_and(|last| now - last < RETENTION_EVERY) {
            return Ok(());
        }
        let needed = prune_target(replay, &self.group, &policy(&self.config), clock::wall())?;
        self.last_retention = Some(now);
        self.retained = replay.points().len();
        if self.log_pruned.is_none_or(|last| now - last >= LOG_RETENTION_EVERY) {
            // Nobody prunes for another's points. A target that was asleep while its group was given to another learns of it here at the latest.
            if let Some(claimant) = &self.claimant {
                let owner = self.fetcher.block_on(claimant.claim(self.fetcher.vault()))?;
                if !matches!(owner, Owner::Ours | Owner::Leaving) {
                    let at = format!("groups/{}/claims", self.group);
                    return Err(GroupError::Refused { at, what: owner.to_string() });
                }
            }
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

    /// Reads a little of the undo journal again. Damage there stops nothing: it is noted, and points behind it are refused.
    pub(super) fn scrub(&mut self) {
        let Some(replay) = &self.replay else { return };
        let now = clock::mono();
        if self.goal.is_some() || self.next_scrub.is_some_and(|next| now < next) {
            return;
        }
        let (undo, upto) = (self.dir.undo(), replay.position().undo_end);
        let pause = match self.scrub.step(&undo, &self.group, upto, SCRUB_BYTES) {
            Ok(ended) => {
                if ended {
                    SCRUB_PAUSE
                } else {
                    SCRUB_EVERY
                }
            }
            Err(e) => {
                tracing::warn!(group = %self.group, error = %GroupError::from(e).full_text(), "the undo journal cannot be read again now");
                SCRUB_PAUSE
            }
        };
        self.next_scrub = Some(now + pause);
    }
}
