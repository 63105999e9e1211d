//! Ranges that the log may not have, by the dirty map (`dirty.rs`): open before they are changed, lost before anyone is answered
//! whose change the log does not have, and repaired by resync (`copy.rs`).

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_changelog::units::ByteRange;
use slab::Slab;

use crate::device::{Finished, TICK};
use crate::engine::{Engine, Io, Pieces};
use crate::regions::{CommitError, RegionMap};
use crate::resync::ResyncProgress;

use super::copy::{COPY_RETRY, CopyMode, Copying};
use super::dirty::{Dirty, Entered, Reached, Waiter};
use super::known::Known;
use super::{Cx, Pending, ROOM_RETRY, Tap, os_error};

/// Shortest time between two rounds that clear bits.
const CLEAR_EVERY: Duration = Duration::from_secs(1);

/// A disk's dirty map and what is done about it.
pub struct Repair {
    pub(super) dirty: Dirty,
    pub(super) progress: Arc<ResyncProgress>,
    pub(super) mode: CopyMode,
    /// Regions being read now.
    pub(super) copies: Slab<Copying>,
    /// Regions whose last record is in the log but not confirmed, in the order of their seqs.
    copied: VecDeque<Copied>,
    /// The same regions.
    pub(super) copied_set: HashSet<u64>,
    /// Regions lost by this process: a hole there is not what the target has.
    pub(super) relost: HashSet<u64>,
    /// Lost regions that could not be read at the last try.
    pub(super) unreadable: HashSet<u64>,
    /// The newest hole that was found: what is still one of it takes one step.
    pub(super) hole: ByteRange,
    /// Where the search for the next region goes on.
    pub(super) cursor: u64,
    /// No region is read before this time: the last one could not be.
    pub(super) paused_until: Option<Instant>,
    /// Changes that the log does not get and that wait for its word that it is not consistent.
    unannounced: Vec<Waiter>,
    /// What the target is known to have.
    pub(super) known: Option<Known>,
    tend_at: Instant,
}

/// A region that was read back.
#[derive(Debug, Clone, Copy)]
struct Copied {
    /// Its last record, or one before it.
    seq: Seq,
    region: u64,
    /// The first fdatasync that covers what was read.
    needs_sync: u64,
}

impl Repair {
    /// `map` is the disk's, `progress` the group's, `last_seq` the newest seq of the ring: what earlier processes left open was
    /// changed before it. Either `progress` was resumed after a `resync end`: then the map's lost regions are in the log and wait
    /// for its confirmation. Or they have been counted there ([`ResyncProgress::lost`]).
    #[must_use]
    pub fn new(map: RegionMap, progress: Arc<ResyncProgress>, last_seq: Seq, mode: CopyMode) -> Self {
        let ended = progress.ended();
        let mut repair = Self {
            dirty: Dirty::new(map, last_seq),
            progress,
            mode,
            copies: Slab::new(),
            copied: VecDeque::new(),
            copied_set: HashSet::new(),
            relost: HashSet::new(),
            unreadable: HashSet::new(),
            hole: ByteRange::default(),
            cursor: 0,
            paused_until: None,
            unannounced: Vec::new(),
            known: None,
            tend_at: clock::mono(),
        };
        if ended.is_some() {
            let map = &repair.dirty.map;
            let lost = std::iter::successors(map.next_lost(0), |last| map.next_lost(last + 1));
            lost.collect::<Vec<_>>().into_iter().for_each(|region| repair.note_copied(region, ended, 1));
        }
        repair
    }

    /// What the target is known to have need not be shipped: only in the process that made the ring.
    #[must_use]
    pub fn knowing(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// The log changes a region: what the target was known to have there it has no more.
    pub(super) fn note_change(&mut self, range: ByteRange) {
        if let Some(known) = &mut self.known {
            self.dirty.map.touched(range).for_each(|region| known.changes(region));
        }
    }

    /// Notes a region as lost. Gives its bytes when it has to be copied (again) and was not counted for that.
    fn lose(&mut self, region: u64) -> Option<u64> {
        let new = self.dirty.lose(region);
        self.relost.insert(region);
        if let Some((_, copying)) = self.copies.iter_mut().find(|(_, c)| c.regions.contains(&region)) {
            copying.again = true;
            return None;
        }
        let was_copied = self.copied_set.remove(&region);
        if was_copied {
            self.copied.retain(|copied| copied.region != region);
        }
        (new || was_copied).then(|| self.dirty.map.range(region).len())
    }

    /// A region's last record is in the log, with `seq`; `None`: it needed no record. The fdatasync with the number `needs_sync`
    /// is the first that covers what was read.
    pub(super) fn note_copied(&mut self, region: u64, seq: Option<Seq>, needs_sync: u64) {
        let last = self.copied.back().map(|copied| copied.seq).unwrap_or_default();
        self.copied.push_back(Copied { seq: seq.unwrap_or_default().max(last), region, needs_sync });
        self.copied_set.insert(region);
        self.unreadable.remove(&region);
    }

    /// Lost regions that nobody has copied or is copying.
    pub(super) fn uncopied(&self) -> u64 {
        let copying: u64 = self.copies.iter().map(|(_, c)| c.regions.end - c.regions.start).sum();
        self.dirty.map.lost_regions() - self.copied_set.len() as u64 - copying
    }

    /// Clears the lost bits of regions whose records are confirmed. Gives whether one waits for an fdatasync.
    fn clear(&mut self, reached: Reached) -> bool {
        if self.dirty.failed() || !self.progress.may_clear(reached.confirmed) {
            return false;
        }
        while let Some(copied) = self.copied.front().copied().filter(|copied| copied.seq <= reached.confirmed) {
            if !self.dirty.covers(copied.region, copied.needs_sync, reached.synced) {
                return true;
            }
            self.copied.pop_front();
            self.copied_set.remove(&copied.region);
            self.relost.remove(&copied.region);
            self.dirty.map.repaired(copied.region);
        }
        false
    }
}

impl Tap {
    /// Notes regions as lost, and tells the log.
    fn lose_ranges(&mut self, ranges: &[ByteRange]) {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return };
        let mut lost = Vec::new();
        for range in ranges {
            lost.extend(repair.dirty.map.touched(*range).filter_map(|region| repair.lose(region)));
        }
        if !lost.is_empty() {
            repair.progress.lost(&mut log.borrow_mut(), lost.len() as u64, lost.iter().sum());
        }
        self.tell_lost();
    }

    /// The ranges of a change are lost: they are noted durably, `resync begin` is put, and only then its records are settled.
    /// Without ranges, or without a map, it is settled at once.
    pub(super) fn lose(&mut self, cx: &mut Cx<'_>, change: usize, ranges: Vec<ByteRange>) {
        if self.repair.is_none() || self.log.is_none() || ranges.is_empty() {
            return self.settle_change(cx, change);
        }
        for range in &ranges {
            tracing::error!(disk = %self.disk.name(), %range, "a range that failed cannot be read: its regions are lost until resync");
        }
        self.lose_ranges(&ranges);
        if let Some(repair) = &mut self.repair {
            repair.dirty.wait_for_all(Waiter::Settle(change));
        }
        self.commit_map(cx);
    }

    /// Somebody has asked that ranges of the disk be copied again: their regions are lost from here on; with `only_open`, those
    /// of them that are open. Gives the number of the dirty map's commit that notes it.
    pub fn copy_again(
        &mut self,
        engine: &mut dyn Engine,
        finished: &mut Vec<Finished>,
        ranges: &[ByteRange],
        only_open: bool,
    ) -> u64 {
        let Some(repair) = &self.repair else { return 0 };
        let (map, whole) = (&repair.dirty.map, self.disk.range());
        // Each once, however often it was named.
        let regions: BTreeSet<u64> = ranges.iter().flat_map(|range| map.touched(range.intersect(whole))).collect();
        let wanted = regions.into_iter().filter(|region| !only_open || map.is_open(*region));
        let ranges: Vec<ByteRange> = wanted.map(|region| map.range(region)).collect();
        if let Some(repair) = &mut self.repair {
            // Whoever asks does not believe what the target has there.
            ranges.iter().for_each(|range| repair.note_change(*range));
        }
        self.lose_ranges(&ranges);
        let noted = self.repair.as_ref().map_or(0, |repair| repair.dirty.now());
        self.commit_map(&mut Cx { engine, finished });
        noted
    }

    /// Whether a commit of the dirty map, by the number that [`Tap::copy_again`] gave, is durable or can never be.
    #[must_use]
    pub fn has_committed(&self, commit: u64) -> bool {
        self.repair.as_ref().is_none_or(|repair| repair.dirty.has_committed(commit))
    }

    /// The bits of a change's regions: set before the disk is touched (G5). It goes on when they are durable; `unlogged`: the log
    /// has no room for it, so its regions are lost too, which the log says before it is done.
    pub(super) fn open_regions(&mut self, cx: &mut Cx<'_>, change: usize, range: ByteRange, unlogged: bool) {
        let Some(repair) = &mut self.repair else { return self.order_change(cx, change) };
        repair.dirty.enter(range);
        repair.note_change(range);
        if unlogged {
            self.lose_ranges(&[range]);
            self.state.unlogged_changes.fetch_add(1, Relaxed);
        }
        self.regions_entered(cx, change);
    }

    /// Goes on with a change whose regions were entered, once their bits are durable.
    fn regions_entered(&mut self, cx: &mut Cx<'_>, change: usize) {
        let (range, unlogged) = self.entered(change);
        let Some(repair) = &mut self.repair else { return };
        match repair.dirty.entered(range) {
            Entered::Ready if unlogged && !repair.progress.announced() => {
                repair.unannounced.push(Waiter::Begin(change))
            }
            Entered::Ready => self.order_change(cx, change),
            Entered::Refused => self.refuse_change(cx, change, os_error(libc::EIO)),
            Entered::After(commit) => {
                repair.dirty.wait_for(commit, Waiter::Begin(change));
                self.commit_map(cx);
            }
        }
    }

    /// A change that entered its regions has ended; `seq`: its last record.
    pub(super) fn leave_regions(&mut self, range: ByteRange, seq: Option<Seq>) {
        let needs_sync = self.flushes.next_start();
        if let Some(repair) = &mut self.repair {
            repair.dirty.leave(range, seq, needs_sync);
        }
    }

    /// Makes the map durable as it is, unless a commit is in flight; then the next one follows it.
    fn commit_map(&mut self, cx: &mut Cx<'_>) {
        let Some(repair) = &mut self.repair else { return };
        if let Some(commit) = repair.dirty.next_commit() {
            let run = move || commit.run().map(|()| 0).map_err(io::Error::other);
            self.push(cx, Pending::Map, Io::Call(Box::new(move || (run(), Pieces::new()))));
        }
        self.serve_waiters(cx);
    }

    /// Those whose bits are durable go on.
    fn serve_waiters(&mut self, cx: &mut Cx<'_>) {
        let Some(repair) = &mut self.repair else { return };
        for waiter in repair.dirty.served() {
            match waiter {
                Waiter::Begin(change) => self.regions_entered(cx, change),
                Waiter::Settle(change) => self.settle_lost(cx, change),
            }
        }
    }

    /// A change whose range is lost is settled once the log says that it is not consistent.
    fn settle_lost(&mut self, cx: &mut Cx<'_>, change: usize) {
        match self.repair.as_mut().filter(|repair| !repair.progress.announced()) {
            Some(repair) => repair.unannounced.push(Waiter::Settle(change)),
            None => self.settle_change(cx, change),
        }
    }

    /// The commit in flight has ended.
    pub(super) fn map_committed(&mut self, cx: &mut Cx<'_>, result: io::Result<u64>) {
        let Some(repair) = &mut self.repair else { return };
        let failed = result.err().map(|error| {
            let known = error.get_ref().and_then(|e| e.downcast_ref::<CommitError>()).map(|e| e.removed);
            (error, known.unwrap_or(false))
        });
        match &failed {
            None => repair.dirty.committed(true, false),
            Some((error, removed)) => {
                repair.dirty.committed(false, *removed);
                self.state.map_failed.store(true, Relaxed);
                self.distrust();
                let then = if *removed {
                    "the next start copies the whole disk"
                } else {
                    "what is not noted in it yet is not written any more, because a power cut would forget it"
                };
                tracing::error!(disk = %self.disk.name(), %error, "the dirty map cannot be written: {then}");
            }
        }
        self.tell_lost();
        self.serve_waiters(cx);
        self.commit_map(cx);
    }

    /// Time-driven work: words that found no room, an overflow that is over, bits to clear, regions to read. Gives when there is
    /// more to do.
    pub(super) fn tend_repair(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return None };
        let progress = Arc::clone(&repair.progress);
        progress.leave_overflow(&mut log.borrow_mut());
        let words_due = progress.advance(&mut log.borrow_mut());
        if progress.announced() {
            let waiting = std::mem::take(&mut repair.unannounced);
            for waiter in waiting {
                match waiter {
                    Waiter::Begin(change) => self.regions_entered(cx, change),
                    Waiter::Settle(change) => self.settle_change(cx, change),
                }
            }
        }
        self.clear_bits(cx);
        self.pump_copies(cx);
        let repair = self.repair.as_ref()?;
        let to_copy = repair.uncopied() > 0 || repair.copies.iter().any(|(_, c)| c.wants_room());
        if words_due || !repair.unannounced.is_empty() {
            Some(ROOM_RETRY)
        } else if to_copy && !self.stopping && self.logging().is_some() {
            Some(COPY_RETRY)
        } else {
            let overflow = repair.progress.in_overflow();
            (to_copy || overflow || !repair.copied.is_empty() || repair.dirty.is_busy()).then_some(TICK)
        }
    }

    /// Clears what may be cleared, about once a second.
    fn clear_bits(&mut self, cx: &mut Cx<'_>) {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return };
        let now = clock::mono();
        if now < repair.tend_at {
            return;
        }
        repair.tend_at = now + CLEAR_EVERY;
        let reached = Reached { confirmed: log.borrow().ring().confirmed_seq(), synced: self.flushes.succeeded() };
        if repair.known.is_some() && !repair.progress.status().in_progress {
            repair.known = None; // it costs something with each change, and nothing is left to compare
        }
        let wants_sync = repair.clear(reached) | repair.dirty.close_quiet(reached);
        self.tell_lost();
        self.commit_map(cx);
        if wants_sync {
            self.sync_unasked(cx);
        }
    }

    /// Tells the rest of the process what is lost.
    pub(super) fn tell_lost(&self) {
        if let Some(repair) = &self.repair {
            let map = &repair.dirty.map;
            self.state.lost_regions.store(map.lost_regions(), Relaxed);
            self.state.lost_bytes.store(map.lost_bytes(), Relaxed);
            self.state.open_regions.store(map.open_regions(), Relaxed);
            self.state.unreadable_regions.store(repair.unreadable.len() as u64, Relaxed);
        }
    }
}
