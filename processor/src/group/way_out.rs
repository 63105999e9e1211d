//! The way out of an epoch whose log cannot be followed: an epoch that was asked for begins with every region lost, so all is
//! copied again, and nothing before it is needed (`docs/format.md`, "Leaving an epoch").

use farshore_changelog::ids::{Epoch, Hash};
use farshore_vault::{EpochObject, Reason, VaultError};

use super::{GroupTask, Turn};
use crate::error::GroupError;
use crate::position::ReplayPosition;
use crate::replay::Replay;
use crate::stop::Stop;

impl GroupTask {
    /// After `first` the same is tried once more, with the target and the objects read anew: what a store or a network garbled
    /// once must not cost a part of the log. What cannot be followed twice is left, where there is an epoch to go on with.
    pub(super) fn second_look(&mut self, first: GroupError, stop: &Stop) -> Result<Turn, GroupError> {
        let has_way_out = |e: &GroupError| e.is_in_the_log() || e.no_way_back().is_some();
        if !has_way_out(&first) {
            return Err(first);
        }
        self.fetcher.clear();
        self.gap.look_at_once();
        self.replay = None;
        match self.work(stop) {
            Err(stuck) if has_way_out(&stuck) => self.leave(stuck),
            other => other,
        }
    }

    fn leave(&mut self, stuck: GroupError) -> Result<Turn, GroupError> {
        self.replay = None;
        let Some(from) = ReplayPosition::read(&self.dir.position())?.map(|at| at.epoch) else { return Err(stuck) };
        let found = match self.asked_for_after(from) {
            // The reason why it stopped is the better story.
            Err(e) if e.is_transient() => return Err(stuck),
            found => found?,
        };
        let Some((next, hash)) = found else { return Err(stuck) };
        let (dir, group, vault) = (&self.dir, &self.group, &self.vault);
        self.replay = match stuck.no_way_back() {
            Some(damaged) => Replay::open_spoilt(dir, group, vault, damaged, &stuck.full_text())?,
            None => Replay::open(dir, group, vault)?,
        };
        let Some(replay) = &mut self.replay else { return Err(stuck) };
        tracing::warn!(
            group = %self.group, reason = %stuck.full_text(), left = %replay.position().position(), epoch = %next.epoch,
            "the rest of an epoch that cannot be followed is left: everything was asked for again"
        );
        let left = replay.leave(&next, hash);
        if left.is_err() {
            self.replay = None;
        }
        left?;
        self.history.forget()?;
        Ok(Turn::More)
    }

    /// The first epoch after `from` that copies everything again. An epoch object on the way that cannot be read is passed.
    fn asked_for_after(&self, from: Epoch) -> Result<Option<(EpochObject, Hash)>, GroupError> {
        let vault = self.fetcher.vault().clone();
        self.fetcher.block_on(async {
            let mut epoch = from;
            loop {
                epoch = epoch.next();
                match vault.get_epoch(epoch).await {
                    Ok(Some(found)) if found.0.reason == Reason::AskedFor => return Ok(Some(found)),
                    Ok(Some(_)) | Err(VaultError::Damaged { .. }) => {}
                    Ok(None) => return Ok(None),
                    Err(e) => return Err(e.into()),
                }
            }
        })
    }
}
