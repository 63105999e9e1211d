//! Fencing the source: the next epoch is opened conditionally, and the epochs before it are sealed. From then on nothing that
//! the source still ships can reach an image.

use farshore_changelog::clock;
use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_vault::{EpochObject, GroupVault, Nonce, Opened, Reason};

use super::FailoverError;
use super::note::{self, FORMAT, Note, Stage};
use crate::position::ReplayPosition;
use crate::target::GroupDir;
use crate::vault_retention::LogPruner;

/// Epochs that others open in between while a failover tries to open its own.
const EPOCH_TRIES_MAX: u32 = 16;

/// Segments from whose newest the watermark is read.
const NEWEST: usize = 1024;

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The last epoch that counts.
    pub epoch: Epoch,
    /// The number of its last segment, 0 when it has none.
    pub number: SegmentNo,
}

impl Cut {
    /// Whether `position` has everything up to the cut.
    #[must_use]
    pub fn reached(self, position: &ReplayPosition) -> bool {
        position.epoch > self.epoch
            || (position.epoch == self.epoch && position.number >= self.number && position.seq >= position.chain_seq)
    }
}

/// Goes on from `note`, or starts anew where there is none, until the epoch of the note is ours. The note is written
/// before each step.
pub(super) async fn open_epoch(
    vault: &GroupVault,
    dir: &GroupDir,
    name: &str,
    from: Epoch,
    note: Option<Note>,
) -> Result<Note, FailoverError> {
    let path = note::path(dir, name);
    let mut note = match note {
        Some(note) => note,
        None => new_note(vault, vault.group(), from, Nonce::random()).await?,
    };
    for _ in 0..EPOCH_TRIES_MAX {
        if note.stage >= Stage::Opened {
            return Ok(note);
        }
        crashsafe::create_dir_all(&dir.overlay(name))?;
        note.write(&path)?;
        match vault.create_epoch(&note.epoch).await? {
            Opened::Mine(_) => {
                note.stage = Stage::Opened;
                note.write(&path)?;
            }
            Opened::Taken(other) => {
                tracing::info!(group = %vault.group(), epoch = %other.epoch, reason = ?other.reason, "another epoch was opened meanwhile, the next one is tried");
                note = new_note(vault, vault.group(), other.epoch, note.epoch.nonce).await?;
            }
        }
    }
    Err(FailoverError::NoEpoch { tries: EPOCH_TRIES_MAX, epoch: note.epoch.epoch })
}

/// The note of an epoch after the newest one.
async fn new_note(vault: &GroupVault, group: &GroupName, from: Epoch, nonce: Nonce) -> Result<Note, FailoverError> {
    let newest = vault.newest_epoch(from).await?;
    let (newest, _) = newest.ok_or_else(|| FailoverError::NotShipped { group: group.clone() })?;
    if newest.reason == Reason::Failover {
        return Err(FailoverError::Elsewhere { group: group.clone(), epoch: newest.epoch });
    }
    let epoch = EpochObject {
        group: group.clone(),
        epoch: newest.epoch.next(),
        parent: Some(newest.epoch),
        reason: Reason::Failover,
        nonce,
        created: clock::wall().timestamp(),
        disks: newest.disks,
    };
    Ok(Note { format: FORMAT, group: group.clone(), stage: Stage::Opening, epoch, seal: None, point: None })
}

/// Seals every epoch from the position's to the one before the note's: an opener that died may have left one open, and
/// anyone may finish that. Gives the cut of the last.
pub(super) async fn seal(
    vault: &GroupVault,
    dir: &GroupDir,
    name: &str,
    position: &ReplayPosition,
    note: &mut Note,
) -> Result<Cut, FailoverError> {
    let last = note.epoch.parent.unwrap_or(Epoch(0));
    if note.seal.is_none() {
        let mut seal = SegmentNo(0);
        // Replay may have passed the seal already, of an attempt whose answer was lost: it is found again.
        let mut epoch = position.epoch.min(last);
        while epoch <= last {
            let applied = if epoch == position.epoch { position.number } else { SegmentNo(0) };
            let above = applied.max(watermark(vault, epoch, applied).await?);
            let by = if epoch == last {
                note.epoch.clone()
            } else {
                let next = epoch.next();
                vault.get_epoch(next).await?.ok_or(FailoverError::NoEpoch { tries: 1, epoch: next })?.0
            };
            seal = vault.seal(epoch, above, &by).await?;
            epoch = epoch.next();
        }
        (note.seal, note.stage) = (Some(seal), Stage::Sealed);
        // The epoch may be that of another overlay's note, and this one's folder not there yet.
        crashsafe::create_dir_all(&dir.overlay(name))?;
        note.write(&note::path(dir, name))?;
    }
    let seal = note.seal.unwrap_or_default();
    Ok(Cut { epoch: last, number: SegmentNo(seal.0.saturating_sub(1)) })
}

/// What the newest segments of `epoch` above `applied` say is confirmed. A number at or below it that is not there is no free
/// number: it was lost or pruned, and a seal in its place would end the log before segments that count, in silence.
async fn watermark(vault: &GroupVault, epoch: Epoch, applied: SegmentNo) -> Result<SegmentNo, FailoverError> {
    let (mut numbers, mut last) = (Vec::new(), applied);
    // A listing has a limit, so it is asked until nothing comes after.
    loop {
        let listed = vault.list_segments(epoch, last.next()).await?;
        let Some((newest, _)) = listed.last() else { break };
        last = *newest;
        numbers.extend(listed.into_iter().map(|(number, _)| number));
        // The newest are enough, and a seal may be alone in a listing.
        let passed = numbers.len().saturating_sub(NEWEST);
        numbers.drain(..passed);
    }
    Ok(LogPruner::new(vault.clone()).watermark(epoch, &numbers).await?)
}
