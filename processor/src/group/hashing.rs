//! At the beginning of a resync replay stands still until the hashes of the images are published, or held against those that were.

use std::time::Instant;

use bytes::Bytes;
use farshore_changelog::hashes::Chunk;
use farshore_vault::keys::Key;
use farshore_vault::{HashPlan, Put, VaultError};

use super::GroupTask;
use crate::error::GroupError;
use crate::hashes::{HashJob, Known, Wanted, decide, first_difference, needed, plan_of};
use crate::position::{HashesDue, ReplayPosition};

impl GroupTask {
    /// Goes on with the hashes that the position owes; `true` once nothing is owed any more.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when the resync was shortened for other images than these.
    pub(super) fn hash_images(&mut self, until: Instant) -> Result<bool, GroupError> {
        let Some(replay) = &self.replay else { return Ok(true) };
        let (position, epoch) = (replay.position().clone(), replay.position().epoch);
        if position.hashes == HashesDue::No {
            return Ok(true);
        }
        if let Some((refused, what)) = &self.hashes_refused
            && *refused == position.position()
        {
            // It takes long, and these images do not become others.
            return Err(self.refused(epoch, what.clone()));
        }
        let mut job = match self.hash_job.take().filter(|job| job.epoch() == epoch) {
            Some(job) => job,
            None => self.begin_hashing(&position)?,
        };
        if job.wanted != Wanted::Nothing {
            while let Some(replay) = &self.replay
                && let Some((number, chunk)) = job.next_chunk(replay.images(), until)?
            {
                let differs = match job.wanted {
                    Wanted::Publish => self.publish(number, &chunk)?,
                    Wanted::Compare | Wanted::Nothing => self.compare(number, &chunk)?,
                };
                if let Some(what) = differs {
                    if !job.needed {
                        tracing::warn!(group = %self.group, what, "other hashes lie in the vault: these are not published");
                        (job.wanted, self.hash_job) = (Wanted::Nothing, None);
                        break;
                    }
                    self.hashes_refused = Some((position.position(), what.clone()));
                    return Err(self.refused(epoch, what));
                }
            }
            if job.wanted != Wanted::Nothing && !job.is_done() {
                self.hash_job = Some(job);
                return Ok(false);
            }
        }
        if job.wanted == Wanted::Publish {
            self.publish_plan(job.plan())?;
        }
        if let Some(replay) = &mut self.replay {
            replay.hashes_are_done()?;
        }
        Ok(true)
    }

    fn refused(&self, epoch: farshore_changelog::ids::Epoch, what: String) -> GroupError {
        let at = Key::HashPlan(self.group.clone(), epoch).to_string();
        let what = format!(
            "the resync of epoch {epoch} leaves out what another target has, and this one has not ({what}); ask the source for everything again: farshore resync {} --full",
            self.group
        );
        GroupError::Refused { at, what }
    }

    fn begin_hashing(&mut self, position: &ReplayPosition) -> Result<HashJob, GroupError> {
        let vault = self.fetcher.vault().clone();
        let epoch = position.epoch;
        let (object, plan, over) = self.fetcher.block_on(async {
            let object = vault.get_epoch(epoch).await?;
            let over = match vault.get_epoch(epoch.next()).await {
                Err(VaultError::Damaged { .. } | VaultError::Version { .. }) => true,
                next => next?.is_some(),
            };
            let plan = match vault.get_hash_plan(epoch).await {
                Err(e @ (VaultError::Damaged { .. } | VaultError::Version { .. })) => {
                    tracing::warn!(group = %vault.group(), error = %e, "a plan of hashes cannot be read, neither by the source");
                    None
                }
                plan => plan?,
            };
            Ok::<_, VaultError>((object, plan, over))
        })?;
        let Some(replay) = &self.replay else { return Ok(nothing(self, position)) };
        let Some((object, _)) = object else { return Ok(nothing(self, position)) };
        let empty = replay.images().iter().map(|image| image.is_empty()).collect::<Result<Vec<_>, _>>()?;
        let known = Known { published: plan.is_some(), over, empty: empty.into_iter().all(|empty| empty) };
        let wanted = decide(position, &object, known, self.config.hashes_from_bytes);
        let own = plan_of(replay.disks(), position, self.config.hash_unit_bytes);
        let plan = match (wanted, plan) {
            (Wanted::Compare, Some(theirs)) if fits(&theirs, &plan_of(replay.disks(), position, theirs.unit_bytes)) => {
                theirs
            }
            (Wanted::Compare, _) => {
                return Err(self.refused(epoch, "it is of other disks, or of another seq".to_owned()));
            }
            (Wanted::Publish | Wanted::Nothing, _) => own,
        };
        if wanted != Wanted::Nothing {
            tracing::info!(group = %self.group, position = %position.position(), ?wanted, "the images are hashed for the resync");
        }
        Ok(HashJob::new(self.group.clone(), plan, wanted, needed(position, &object)))
    }

    /// Publishes a chunk; what differs where another one lies in its place.
    fn publish(&self, number: u32, chunk: &Chunk) -> Result<Option<String>, GroupError> {
        let vault = self.fetcher.vault().clone();
        let bytes = Bytes::from(chunk.encode());
        let put = self.fetcher.block_on(vault.put_hash_chunk(chunk.epoch, chunk.disk, number, bytes));
        match put {
            Ok(Put::Created) => Ok(None),
            // An attempt before a crash, of the same images; or another target's.
            Ok(Put::Exists) => self.compare(number, chunk),
            Err(e @ VaultError::Refused { .. }) => {
                tracing::warn!(group = %self.group, error = %e, "the hashes cannot be published: everything is shipped");
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn publish_plan(&self, plan: &HashPlan) -> Result<(), GroupError> {
        let vault = self.fetcher.vault().clone();
        match self.fetcher.block_on(vault.put_hash_plan(plan)) {
            // Its chunks are those that were just found equal.
            Ok(Put::Created | Put::Exists) | Err(VaultError::Refused { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What differs from the chunk in the vault.
    fn compare(&self, number: u32, ours: &Chunk) -> Result<Option<String>, GroupError> {
        let vault = self.fetcher.vault().clone();
        let bytes = self.fetcher.block_on(vault.get_hash_chunk(ours.epoch, ours.disk, number))?;
        let theirs = bytes.map(|bytes| Chunk::parse(&bytes));
        let disk = ours.disk;
        Ok(match theirs {
            None => Some(format!("chunk {number} of disk {disk} is not there any more")),
            Some(Err(e)) => Some(format!("chunk {number} of disk {disk}: {e}")),
            Some(Ok(theirs)) if (theirs.unit_bytes, theirs.first_unit) != (ours.unit_bytes, ours.first_unit) => {
                Some(format!("chunk {number} of disk {disk} is of other units"))
            }
            Some(Ok(theirs)) => {
                let unit = u64::from(ours.unit_bytes);
                first_difference(ours, &theirs).map(|at| format!("disk {disk} differs at byte {}", at * unit))
            }
        })
    }
}

fn nothing(task: &GroupTask, position: &ReplayPosition) -> HashJob {
    let plan = HashPlan {
        epoch: position.epoch,
        seq: position.seq,
        unit_bytes: task.config.hash_unit_bytes,
        chunk_units: 1,
        disks: Vec::new(),
    };
    HashJob::new(task.group.clone(), plan, Wanted::Nothing, false)
}

/// Whether the plan is one of our disks at our position.
fn fits(theirs: &HashPlan, ours: &HashPlan) -> bool {
    (theirs.epoch, theirs.seq, &theirs.disks) == (ours.epoch, ours.seq, &ours.disks)
}
