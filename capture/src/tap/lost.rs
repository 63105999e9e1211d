//! Ranges that the log cannot have: noted in the dirty map before anyone is answered, and repaired by resync (`copy.rs`).

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::Seq;
use farshore_changelog::units::ByteRange;
use slab::Slab;

use crate::device::TICK;
use crate::engine::Io;
use crate::regions::RegionMap;
use crate::resync::ResyncProgress;

use super::copy::{COPY_RETRY, Copying};
use super::{Cx, Pending, ROOM_RETRY, Tap};

/// Shortest time between two commits that only clear bits.
const CLEAR_EVERY: Duration = Duration::from_secs(1);

/// A disk's dirty map and what is done about it.
pub struct Repair {
    pub(super) map: RegionMap,
    pub(super) progress: Arc<ResyncProgress>,
    pub(super) skip_holes: bool,
    /// Regions being read now.
    pub(super) copies: Slab<Copying>,
    /// Regions whose last record is in the log but not confirmed, in the order of their seqs.
    copied: VecDeque<(Seq, u64)>,
    /// The same regions.
    pub(super) copied_set: HashSet<u64>,
    /// Regions lost by this process: a hole there is not what the target has.
    pub(super) relost: HashSet<u64>,
    /// Lost regions that could not be read at the last try.
    pub(super) unreadable: HashSet<u64>,
    /// Where the search for the next region goes on.
    pub(super) cursor: u64,
    /// No region is read before this time: the last one could not be.
    pub(super) paused_until: Option<Instant>,
    /// A commit is in flight.
    committing: bool,
    /// Changes that wait for the commit in flight.
    covered: Vec<usize>,
    /// Changes that wait for the next one.
    uncovered: Vec<usize>,
    failed: bool,
    clear_at: Instant,
}

impl Repair {
    /// `map` is the disk's, `progress` the group's. Either `progress` was resumed after a `resync end`: then the map's lost
    /// regions are in the log and wait for its confirmation. Or they have been counted there ([`ResyncProgress::lost`]). With `skip_holes`, a lost region without any data leaves no record: only in the process that
    /// began an epoch for target images created empty.
    #[must_use]
    pub fn new(map: RegionMap, progress: Arc<ResyncProgress>, skip_holes: bool) -> Self {
        let ended = progress.ended();
        let mut repair = Self {
            map,
            progress,
            skip_holes,
            copies: Slab::new(),
            copied: VecDeque::new(),
            copied_set: HashSet::new(),
            relost: HashSet::new(),
            unreadable: HashSet::new(),
            cursor: 0,
            paused_until: None,
            committing: false,
            covered: Vec::new(),
            uncovered: Vec::new(),
            failed: false,
            clear_at: clock::mono(),
        };
        if ended.is_some() {
            let lost = std::iter::successors(repair.map.next_lost(0), |last| repair.map.next_lost(last + 1));
            lost.collect::<Vec<_>>().into_iter().for_each(|region| repair.note_copied(region, ended));
        }
        repair
    }

    /// Notes a region as lost. Gives its bytes when it has to be copied (again) and was not counted for that.
    fn lose(&mut self, region: u64) -> Option<u64> {
        let new = self.map.lose(region);
        self.relost.insert(region);
        if let Some((_, copying)) = self.copies.iter_mut().find(|(_, c)| c.region == region) {
            copying.again = true;
            return None;
        }
        let was_copied = self.copied_set.remove(&region);
        if was_copied {
            self.copied.retain(|(_, copied)| *copied != region);
        }
        (new || was_copied).then(|| self.map.range(region).len())
    }

    /// A region's last record is in the log, with `seq`; `None`: it needed no record.
    pub(super) fn note_copied(&mut self, region: u64, seq: Option<Seq>) {
        let last = self.copied.back().map(|(seq, _)| *seq).unwrap_or_default();
        self.copied.push_back((seq.unwrap_or_default().max(last), region));
        self.copied_set.insert(region);
        self.unreadable.remove(&region);
    }

    /// Lost regions that nobody has copied or is copying.
    pub(super) fn uncopied(&self) -> u64 {
        self.map.lost_regions() - self.copied_set.len() as u64 - self.copies.len() as u64
    }

    /// Clears the bits of regions whose records are confirmed. Whether a commit is worth it.
    fn clear(&mut self, confirmed: Seq) -> bool {
        let now = clock::mono();
        if self.failed || now < self.clear_at || self.copied.front().is_none_or(|(seq, _)| *seq > confirmed) {
            return false;
        }
        self.clear_at = now + CLEAR_EVERY;
        if !self.progress.may_clear(confirmed) {
            return false;
        }
        while let Some((_, region)) = self.copied.pop_front_if(|(seq, _)| *seq <= confirmed) {
            self.copied_set.remove(&region);
            self.relost.remove(&region);
            self.map.repaired(region);
        }
        true
    }
}

impl Tap {
    /// The ranges of a change are lost: they are noted durably, `resync begin` is put, and only then its records are settled.
    /// Without ranges, or without a map, it is settled at once.
    pub(super) fn lose(&mut self, cx: &mut Cx<'_>, change: usize, ranges: Vec<ByteRange>) {
        let (Some(repair), Some(log), false) = (&mut self.repair, &self.log, ranges.is_empty()) else {
            return self.settle_change(cx, change);
        };
        let mut lost = Vec::new();
        for range in ranges {
            tracing::error!(disk = %self.disk.name(), %range, "a range that failed cannot be read: its regions are lost until resync");
            lost.extend(repair.map.touched(range).filter_map(|region| repair.lose(region)));
        }
        if !lost.is_empty() {
            repair.progress.lost(&mut log.borrow_mut(), lost.len() as u64, lost.iter().sum());
        }
        repair.uncovered.push(change);
        self.tell_lost();
        self.commit_map(cx);
    }

    /// Makes the map durable as it is, unless a commit is in flight; then the next one follows it.
    fn commit_map(&mut self, cx: &mut Cx<'_>) {
        let Some(repair) = self.repair.as_mut().filter(|repair| !repair.committing) else { return };
        let waiters = std::mem::take(&mut repair.uncovered);
        if let Some(commit) = repair.map.commit() {
            repair.committing = true;
            repair.covered = waiters;
            let run = move || commit.run().map(|()| 0).map_err(io::Error::other);
            self.push(cx, Pending::Map, Io::Call(Box::new(move || (run(), Vec::new()))));
        } else {
            waiters.into_iter().for_each(|change| self.settle_change(cx, change));
        }
    }

    /// The commit in flight has ended.
    pub(super) fn map_committed(&mut self, cx: &mut Cx<'_>, result: io::Result<u64>) {
        let Some(repair) = &mut self.repair else { return };
        repair.committing = false;
        if let Err(error) = result {
            // In memory the regions stay lost, and are repaired; bits on disk are not cleared any more.
            repair.failed = true;
            self.state.map_failed.store(true, Relaxed);
            tracing::error!(disk = %self.disk.name(), %error, "the dirty map cannot be written");
        }
        let covered = std::mem::take(&mut repair.covered);
        covered.into_iter().for_each(|change| self.settle_change(cx, change));
        self.commit_map(cx);
    }

    /// Time-driven work: words that found no room, bits to clear, regions to read. Gives when there is more to do.
    pub(super) fn tend_repair(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let (Some(repair), Some(log)) = (&mut self.repair, &self.log) else { return None };
        let words_due = repair.progress.advance(&mut log.borrow_mut());
        let confirmed = log.borrow().ring().confirmed_seq();
        if repair.clear(confirmed) {
            self.tell_lost();
            self.commit_map(cx);
        }
        self.pump_copies(cx);
        let repair = self.repair.as_ref()?;
        let to_copy = repair.uncopied() > 0 || repair.copies.iter().any(|(_, c)| c.wants_room());
        if words_due {
            Some(ROOM_RETRY)
        } else if to_copy && !self.stopping && self.logging().is_some() {
            Some(COPY_RETRY)
        } else {
            (to_copy || !repair.copied.is_empty()).then_some(TICK)
        }
    }

    /// Tells the rest of the process what is lost.
    pub(super) fn tell_lost(&self) {
        if let Some(repair) = &self.repair {
            self.state.lost_regions.store(repair.map.lost_regions(), Relaxed);
            self.state.lost_bytes.store(repair.map.lost_bytes(), Relaxed);
            self.state.unreadable_regions.store(repair.unreadable.len() as u64, Relaxed);
        }
    }
}
