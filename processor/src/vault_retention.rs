//! Removes segments from the vault that no remaining point needs and that are older than the retention: within it any target
//! can be rebuilt from them. Only up to the watermark that the source noted, never
//! epochs nor seals: the walk to an epoch's first seal begins above the watermark.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Position, SegmentNo, Seq};
use farshore_changelog::segment::{Index, Kind, SegmentHead};
use farshore_changelog::units::UnixMicros;
use farshore_vault::{GroupVault, VaultError};

/// Segments removed in one go, so that a group is not kept from replaying for long.
pub const DELETES_MAX: usize = 1000;
/// Numbers looked at from the end of an epoch for the newest watermark; what lies there are seals and dead segments.
const WATERMARK_LOOKS_MAX: usize = 16;

/// Heads remembered at most; one that was forgotten is read again.
const KNOWN_MAX: usize = 200_000;
/// Of the heads that were applied the newest are all remembered, and of older ones one in so many: a group that is idle has thousands a
/// day. What lies between two of them goes with the later one.
const REMEMBERED_WHOLE: u64 = 1024;
const REMEMBERED_EVERY: u64 = 16;
/// The whole log is listed this often, and else only what came since: it has as many pages as a retention's time has thousands of
/// segments, and nobody else adds or takes away below its end.
const LISTED_AFRESH_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is remembered of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    last_seq: Seq,
    watermark: SegmentNo,
    created: UnixMicros,
}

impl Known {
    fn of(head: &SegmentHead) -> Self {
        Self { last_seq: head.last_seq, watermark: head.watermark, created: head.created }
    }
}

/// What was listed of an epoch's log.
#[derive(Debug)]
struct Listed {
    /// In order; those that were removed are not there.
    numbers: Vec<SegmentNo>,
    /// Up to here.
    upto: SegmentNo,
    /// When it was begun with nothing.
    since: Instant,
}

impl Listed {
    fn nothing() -> Self {
        Self { numbers: Vec::new(), upto: SegmentNo(0), since: clock::mono() }
    }

    fn is_old(&self) -> bool {
        clock::mono().duration_since(self.since) >= LISTED_AFRESH_EVERY
    }
}

/// Prunes one group's log.
#[derive(Debug)]
pub struct LogPruner {
    vault: GroupVault,
    listed: BTreeMap<Epoch, Listed>,
    /// Heads of segments that were applied or looked at; those that were removed are forgotten.
    known: BTreeMap<(Epoch, SegmentNo), Known>,
    /// The first and the newest that were applied of one epoch.
    applied: Option<(Epoch, SegmentNo, SegmentNo)>,
    /// Epochs below hold nothing that may be removed.
    oldest: Epoch,
}

impl LogPruner {
    /// A pruner that knows nothing yet.
    #[must_use]
    pub fn new(vault: GroupVault) -> Self {
        Self { vault, listed: BTreeMap::new(), known: BTreeMap::new(), applied: None, oldest: Epoch(1) }
    }

    /// Remembers a log segment that was applied.
    pub fn applied(&mut self, head: &SegmentHead) {
        let (epoch, newest) = (head.epoch, head.number);
        self.remember(head);
        let first = self.applied.filter(|(of, ..)| *of == epoch).map_or(newest, |(_, first, _)| first);
        self.applied = Some((epoch, first, newest));
        let old = SegmentNo(newest.0.saturating_sub(REMEMBERED_WHOLE));
        if self.is_between(epoch, old) {
            self.known.remove(&(epoch, old));
        }
    }

    /// Whether it was applied, and only its neighbours are remembered.
    fn is_between(&self, epoch: Epoch, number: SegmentNo) -> bool {
        self.applied.is_some_and(|(of, first, newest)| {
            let whole = newest.0.saturating_sub(REMEMBERED_WHOLE);
            of == epoch && first <= number && number.0 <= whole && !number.0.is_multiple_of(REMEMBERED_EVERY)
        })
    }

    fn remember(&mut self, head: &SegmentHead) {
        self.known.insert((head.epoch, head.number), Known::of(head));
        while self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
    }

    /// Removes what lies wholly at or before `needed` and was sealed before `before`, up to the watermark, and before segment
    /// `current` of its epoch. Gives whether all of it is gone: how much is removed at once is limited.
    ///
    /// # Errors
    /// That of the vault: nothing is lost by trying again later.
    pub async fn prune(
        &mut self,
        needed: Position,
        before: UnixMicros,
        current: (Epoch, SegmentNo),
    ) -> Result<bool, VaultError> {
        let mut removed = 0;
        let mut epoch = self.oldest;
        while epoch <= needed.epoch && removed < DELETES_MAX {
            // After an error it is not put back, and the log is listed afresh.
            let mut listed = self.listed.remove(&epoch).filter(|l| !l.is_old()).unwrap_or_else(Listed::nothing);
            let came = self.vault.list_segments(epoch, listed.upto.next()).await?;
            listed.upto = came.last().map_or(listed.upto, |(number, _)| *number);
            listed.numbers.extend(came.into_iter().map(|(number, _)| number));
            let numbers = &listed.numbers;
            let mut upto = self.watermark(epoch, numbers).await?;
            if epoch == current.0 {
                upto = upto.min(SegmentNo(current.1.0.saturating_sub(1)));
            }
            let mut candidates = &numbers[..numbers.partition_point(|number| *number <= upto)];
            if candidates.is_empty() && epoch < needed.epoch {
                self.oldest = epoch.next();
            }
            let seq = if epoch == needed.epoch { needed.seq } else { Seq(u64::MAX) };
            let (ended, all_there) = self.ended_by(epoch, candidates, seq, before).await?;
            candidates = &candidates[..ended.min(DELETES_MAX - removed)];
            for number in candidates {
                self.vault.delete_segment(epoch, *number).await?;
                self.known.remove(&(epoch, *number));
            }
            let gone = candidates.len();
            removed += gone;
            if all_there && epoch >= self.oldest {
                listed.numbers.drain(..gone);
                self.listed.insert(epoch, listed);
            }
            epoch = epoch.next();
        }
        if removed > 0 {
            tracing::info!(group = %self.vault.group(), removed, "segments pruned from the vault");
        }
        Ok(removed < DELETES_MAX)
    }

    /// The newest watermark of an epoch: its segments bear it, so the newest log segment that can be read has it.
    pub(crate) async fn watermark(&mut self, epoch: Epoch, numbers: &[SegmentNo]) -> Result<SegmentNo, VaultError> {
        for number in numbers.iter().rev().take(WATERMARK_LOOKS_MAX) {
            if let Some(known) = self.head(epoch, *number).await? {
                return Ok(known.watermark);
            }
        }
        Ok(SegmentNo(0))
    }

    /// When the log segment was sealed; `None` for a seal, or for what cannot be read.
    pub(crate) async fn created(&mut self, epoch: Epoch, number: SegmentNo) -> Result<Option<UnixMicros>, VaultError> {
        Ok(self.head(epoch, number).await?.map(|known| known.created))
    }

    /// How many of `numbers`, which are in order, end at or before `seq` and were sealed before `before`; and whether all that were
    /// asked for are there.
    async fn ended_by(
        &mut self,
        epoch: Epoch,
        numbers: &[SegmentNo],
        seq: Seq,
        before: UnixMicros,
    ) -> Result<(usize, bool), VaultError> {
        let (mut low, mut high, mut all_there) = (0, numbers.len(), true);
        while low < high {
            let middle = low + (high - low) / 2;
            let stands = |at: &usize| !self.is_between(epoch, numbers[*at]);
            let Some(middle) = (low..=middle).rev().find(stands).or_else(|| (middle + 1..high).find(stands)) else {
                break;
            };
            match self.head(epoch, numbers[middle]).await? {
                Some(known) if known.last_seq <= seq && known.created < before => low = middle + 1,
                found => {
                    all_there &= found.is_some();
                    high = middle;
                }
            }
        }
        Ok((low, all_there))
    }

    /// What the head of a log segment says; `None` for a seal, or for what cannot be read.
    async fn head(&mut self, epoch: Epoch, number: SegmentNo) -> Result<Option<Known>, VaultError> {
        if let Some(known) = self.known.get(&(epoch, number)) {
            return Ok(Some(*known));
        }
        let bytes: Option<Bytes> = self.vault.get_segment(epoch, number).await?;
        let index = bytes.and_then(|bytes| Index::read(&mut &bytes[..], 0, Some(bytes.len() as u64)).ok());
        let known = index.map(|index| index.head().clone()).filter(|head| {
            head.kind == Kind::Log && head.group == *self.vault.group() && (head.epoch, head.number) == (epoch, number)
        });
        if let Some(head) = &known {
            self.remember(head);
        }
        Ok(known.as_ref().map(Known::of))
    }
}

#[cfg(test)]
#[path = "vault_retention_tests.rs"]
mod tests;
