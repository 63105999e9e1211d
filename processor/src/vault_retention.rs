//! Removes segments from the vault that no remaining point needs and that are older than the retention: within it any target
//! can be rebuilt from them. Only up to the watermark that the source noted, never
//! epochs nor seals: the walk to an epoch's first seal begins above the watermark.
//!
//! A listing costs ten times a get, so a log is listed at the start, once a day, and before its epoch is done with. In between it is
//! known from what is applied.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Position, SegmentNo, Seq};
use farshore_changelog::segment::{Index, Kind, SegmentHead};
use farshore_changelog::units::UnixMicros;
use farshore_vault::store::LISTED_MAX;
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
/// A log is listed this often, in case another hand has added or taken away. In between, what came is what was applied, number by
/// number, and what went was removed here.
pub const LISTED_AFRESH_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

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

/// What there is of an epoch's log, up to what is applied.
#[derive(Debug)]
struct Log {
    /// In order; those that were removed are not there.
    numbers: Vec<SegmentNo>,
    /// All up to here are known.
    upto: SegmentNo,
    /// Some of them were not listed.
    grown: bool,
    /// When it was listed, or begun with nothing.
    since: Instant,
}

impl Log {
    fn nothing() -> Self {
        Self { numbers: Vec::new(), upto: SegmentNo(0), grown: false, since: clock::mono() }
    }

    /// That of `epoch`, which is being applied up to `end`, or is over. A listing has a limit.
    async fn listed(vault: &GroupVault, epoch: Epoch, end: Option<SegmentNo>) -> Result<Self, VaultError> {
        let mut log = Self::nothing();
        if end == Some(SegmentNo(0)) {
            return Ok(log);
        }
        let listed = vault.list_segments(epoch, SegmentNo(1)).await?;
        log.grown = listed.len() >= LISTED_MAX;
        // What lies above the end may have holes, which are filled later.
        let numbers = listed.into_iter().map(|(number, _)| number);
        log.numbers = numbers.take_while(|number| end.is_none_or(|end| *number <= end)).collect();
        log.upto = log.numbers.last().copied().unwrap_or(log.upto);
        if let Some(end) = end {
            // Above the limit they are there, as they were applied.
            let unlisted = if log.grown { log.upto.0 + 1..end.0 + 1 } else { 0..0 };
            log.numbers.extend(unlisted.map(SegmentNo));
            log.upto = end;
        }
        Ok(log)
    }

    fn is_old(&self) -> bool {
        clock::mono().duration_since(self.since) >= LISTED_AFRESH_EVERY
    }

    /// Takes in one that was applied. Gives whether all up to it are known.
    fn applied(&mut self, number: SegmentNo) -> bool {
        if number == self.upto.next() {
            self.numbers.push(number);
            (self.upto, self.grown) = (number, true);
        }
        number <= self.upto
    }
}

/// What came of pruning an epoch.
enum Pruned {
    /// There is nothing that may be removed, however old it is.
    Empty,
    /// What is due was removed.
    Some,
    /// Of what was thought to be there some is not.
    Stale,
}

/// How far an epoch is to be pruned.
struct Limits {
    /// What ends at or before it …
    seq: Seq,
    /// … and was sealed before this …
    before: UnixMicros,
    /// … before this one, up to which the epoch is applied; `None` when it is over.
    end: Option<SegmentNo>,
    /// So many at most.
    most: usize,
}

/// Prunes one group's log.
#[derive(Debug)]
pub struct LogPruner {
    vault: GroupVault,
    logs: BTreeMap<Epoch, Log>,
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
        Self { vault, logs: BTreeMap::new(), known: BTreeMap::new(), applied: None, oldest: Epoch(1) }
    }

    /// Remembers a log segment that was applied.
    pub fn applied(&mut self, head: &SegmentHead) {
        let (epoch, newest) = (head.epoch, head.number);
        self.remember(head);
        if newest == SegmentNo(1) {
            self.logs.entry(epoch).or_insert_with(Log::nothing);
        }
        if self.logs.get_mut(&epoch).is_some_and(|log| !log.applied(newest)) {
            self.logs.remove(&epoch);
        }
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
            let is_over = epoch < needed.epoch;
            let limits = Limits {
                seq: if is_over { Seq(u64::MAX) } else { needed.seq },
                before,
                end: (epoch == current.0).then_some(current.1),
                most: DELETES_MAX - removed,
            };
            let mut log = match self.logs.remove(&epoch).filter(|log| !log.is_old()) {
                Some(log) => log,
                None => Log::listed(&self.vault, epoch, limits.end).await?,
            };
            // After an error too: what was removed until then is not in it any more.
            let (there, pruned) = (log.numbers.len(), self.prune_log(epoch, &mut log, &limits).await);
            removed += there - log.numbers.len();
            let grown = log.grown;
            if !matches!(pruned, Ok(Pruned::Stale)) {
                self.logs.insert(epoch, log);
            }
            match pruned? {
                // Of an epoch that was left, what was not applied is still there: it is listed the next time.
                Pruned::Empty if is_over && grown => {
                    self.logs.remove(&epoch);
                    epoch = epoch.next();
                }
                Pruned::Empty if is_over => {
                    self.logs.remove(&epoch);
                    epoch = epoch.next();
                    self.oldest = epoch;
                }
                Pruned::Empty | Pruned::Some | Pruned::Stale => epoch = epoch.next(),
            }
        }
        if removed > 0 {
            tracing::info!(group = %self.vault.group(), removed, "segments pruned from the vault");
        }
        Ok(removed < DELETES_MAX)
    }

    /// Removes what it may of one epoch.
    async fn prune_log(&mut self, epoch: Epoch, log: &mut Log, limits: &Limits) -> Result<Pruned, VaultError> {
        let watermark = self.watermark(epoch, &log.numbers).await?;
        let upto = limits.end.map_or(watermark, |end| watermark.min(SegmentNo(end.0.saturating_sub(1))));
        let candidates = &log.numbers[..log.numbers.partition_point(|number| *number <= upto)];
        if candidates.is_empty() {
            return Ok(Pruned::Empty);
        }
        let (ended, all_there) = self.ended_by(epoch, candidates, limits.seq, limits.before).await?;
        let mut gone = 0;
        let mut deleted = Ok(());
        for number in &candidates[..ended.min(limits.most)] {
            deleted = self.vault.delete_segment(epoch, *number).await;
            if deleted.is_err() {
                break;
            }
            self.known.remove(&(epoch, *number));
            gone += 1;
        }
        log.numbers.drain(..gone);
        deleted?;
        Ok(if all_there { Pruned::Some } else { Pruned::Stale })
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
