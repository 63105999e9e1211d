//! The dirty map at work: a region's bits are durable before a change that needs them goes on, many regions to one small
//! synchronous write; an open bit goes lazily, under the whole rule of G5.
//!
//! A region is closed once all of this holds: no change of it is in flight; its last record is confirmed in the vault; an
//! fdatasync that began after its last change completed has succeeded; and nothing came for a while, because a bit that is set
//! again costs a write. A change that comes while the clearing is on its way to the disk sets the bit again, and waits for that.

use std::collections::{HashMap, VecDeque, hash_map};

use farshore_changelog::ids::Seq;
use farshore_changelog::units::ByteRange;

use crate::regions::{Commit, RegionMap};

use super::ahead::Ahead;

/// Open regions looked at in one go: a lane does not stand still over a map of many.
const LOOKED_AT_MAX: usize = 4096;
/// Ticks (about a second each) without a change before a region is closed.
const QUIET_TICKS: u64 = 3;

/// What the map is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// It can be written.
    Good,
    /// It could not be written and was removed: the next agent copies the whole disk, whatever happens here.
    Removed,
    /// It could not be written nor removed: on disk it says less than the truth.
    Stuck,
}

/// What is known of an open region beside its bit.
#[derive(Debug)]
struct Entry {
    /// The commit with which its bits became durable, or will.
    commit: u64,
    in_flight: u32,
    /// The last record that changed it.
    last_seq: Seq,
    /// The fdatasync (counted by their starts) that covers its last change.
    needs_sync: u64,
    /// When it was changed last, in ticks.
    tick: u64,
}

/// Who waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A change that begins.
    Begin(usize),
    /// A change whose range is lost.
    Settle(usize),
}

/// Whether a change may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// Its regions' bits are durable.
    Ready,
    /// They are after this commit.
    After(u64),
    /// They cannot be: the change must not be done.
    Refused,
}

/// How far the disk's writes are known to be where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// Every seq up to it is confirmed in the vault, and noted there durably.
    pub confirmed: Seq,
    /// The newest fdatasync that has succeeded, counted by their starts.
    pub synced: u64,
}

/// The map of one disk and who waits for it.
pub(super) struct Dirty {
    pub map: RegionMap,
    health: Health,
    entries: HashMap<u64, Entry>,
    ahead: Ahead,
    /// The open regions, in the order in which they are looked at.
    round: VecDeque<u64>,
    tick: u64,
    /// Commits taken, and the newest that is durable.
    taken: u64,
    done: u64,
    waiters: VecDeque<(u64, Waiter)>,
}

impl Dirty {
    /// Regions that the map says are open were changed by an earlier process: at the latest by the record `last_seq`, and no
    /// fdatasync of this process covers them yet.
    pub fn new(map: RegionMap, last_seq: Seq) -> Self {
        let open = std::iter::successors(map.next_open(0), |last| map.next_open(last + 1));
        let entry = |region| (region, Entry { commit: 0, in_flight: 0, last_seq, needs_sync: 1, tick: 0 });
        let entries: HashMap<u64, Entry> = open.map(entry).collect();
        let mut round: VecDeque<u64> = entries.keys().copied().collect();
        round.make_contiguous().sort_unstable();
        let (waiters, health) = (VecDeque::new(), Health::Good);
        Self { map, health, entries, ahead: Ahead::default(), round, tick: 0, taken: 0, done: 0, waiters }
    }

    /// The commit after which what is in memory now is durable.
    pub fn now(&self) -> u64 {
        self.taken + u64::from(self.map.is_changed())
    }

    /// A change of `range` begins: its regions are open. [`Dirty::leave`] follows, whatever comes of it.
    pub fn enter(&mut self, range: ByteRange) {
        for region in self.map.touched(range) {
            if !self.entries.contains_key(&region) {
                let group = self.ahead.touch(region, self.entries.len(), self.map.regions());
                group.for_each(|region| self.open(region));
            }
            if let Some(entry) = self.entries.get_mut(&region) {
                entry.in_flight += 1;
            }
        }
    }

    fn open(&mut self, region: u64) {
        if let hash_map::Entry::Vacant(vacant) = self.entries.entry(region) {
            self.map.open_up(region);
            self.round.push_back(region);
            let (commit, last_seq, needs_sync, tick) = (self.taken + 1, Seq(0), 0, self.tick);
            vacant.insert(Entry { commit, in_flight: 0, last_seq, needs_sync, tick });
        }
    }

    /// A region became lost.
    pub fn lose(&mut self, region: u64) -> bool {
        let new = self.map.lose(region);
        if new && let Some(entry) = self.entries.get_mut(&region) {
            entry.commit = self.taken + 1;
        }
        new
    }

    /// Whether the bits of a range that was entered are durable.
    pub fn entered(&self, range: ByteRange) -> Entered {
        let commits = self.map.touched(range).filter_map(|region| Some(self.entries.get(&region)?.commit));
        match (commits.max(), self.health) {
            (None, _) | (_, Health::Removed) => Entered::Ready,
            (Some(commit), _) if commit <= self.done => Entered::Ready,
            (Some(commit), Health::Good) => Entered::After(commit),
            (Some(_), Health::Stuck) => Entered::Refused,
        }
    }

    /// A change of `range` has ended; its last record, when it left one, was `seq`, and the fdatasync with the number
    /// `needs_sync` is the first that covers it.
    pub fn leave(&mut self, range: ByteRange, seq: Option<Seq>, needs_sync: u64) {
        for region in self.map.touched(range) {
            let Some(entry) = self.entries.get_mut(&region) else { continue };
            entry.in_flight -= 1;
            entry.last_seq = entry.last_seq.max(seq.unwrap_or_default());
            entry.needs_sync = needs_sync;
            entry.tick = self.tick;
        }
    }

    /// Whether a region may lose its lost bit once the record that was read back from it is confirmed: either its open bit says
    /// as much, or an fdatasync covers what was read.
    pub fn covers(&self, region: u64, read_needs_sync: u64, synced: u64) -> bool {
        self.entries.contains_key(&region) || read_needs_sync <= synced
    }

    /// A tick is over: closes regions that nothing keeps open. Gives whether one waits for an fdatasync and nothing else.
    pub fn close_quiet(&mut self, reached: Reached) -> bool {
        self.tick += 1;
        self.ahead.tick();
        let mut wants_sync = false;
        if self.health != Health::Good {
            return false;
        }
        for _ in 0..self.round.len().min(LOOKED_AT_MAX) {
            let Some(region) = self.round.pop_front() else { break };
            let Some(entry) = self.entries.get(&region) else { continue };
            let quiet = entry.in_flight == 0 && entry.commit <= self.done && self.tick - entry.tick > QUIET_TICKS;
            let confirmed = quiet && entry.last_seq <= reached.confirmed;
            if confirmed && entry.needs_sync <= reached.synced {
                self.entries.remove(&region);
                self.map.close(region);
            } else {
                wants_sync |= confirmed;
                self.round.push_back(region);
            }
        }
        wants_sync
    }

    /// Whether a region is open, or a clearing is not durable yet: there is something to do when time passes.
    pub fn is_busy(&self) -> bool {
        self.health == Health::Good && !self.entries.is_empty()
    }

    /// Puts somebody in the line of those who wait for a commit.
    pub fn wait_for(&mut self, commit: u64, who: Waiter) {
        let at = self.waiters.partition_point(|(earlier, _)| *earlier <= commit);
        self.waiters.insert(at, (commit, who));
    }

    /// As [`Dirty::wait_for`] for everything that is in memory now.
    pub fn wait_for_all(&mut self, who: Waiter) {
        self.wait_for(self.now(), who);
    }

    /// The next commit, unless one is on its way or nothing has changed.
    pub fn next_commit(&mut self) -> Option<Commit> {
        if self.taken > self.done || self.health != Health::Good {
            return None;
        }
        let commit = self.map.commit()?;
        self.taken += 1;
        Some(commit)
    }

    /// The commit on its way is durable, or the map has failed and was `removed` or not.
    pub fn committed(&mut self, good: bool, removed: bool) {
        if good {
            self.done = self.taken;
        } else {
            // Nobody knows which of its pages reached the disk.
            self.health = if removed { Health::Removed } else { Health::Stuck };
        }
    }

    /// Who waits no longer: their commit is durable, or the map has failed.
    pub fn served(&mut self) -> Vec<Waiter> {
        let upto = match self.health {
            Health::Good => self.waiters.partition_point(|(commit, _)| *commit <= self.done),
            Health::Removed | Health::Stuck => self.waiters.len(),
        };
        self.waiters.drain(..upto).map(|(_, who)| who).collect()
    }

    /// Whether a commit is durable, or can never be.
    pub fn has_committed(&self, commit: u64) -> bool {
        self.failed() || commit <= self.done
    }

    /// Whether the map could not be written.
    pub fn failed(&self) -> bool {
        self.health != Health::Good
    }
}

#[cfg(test)]
#[path = "dirty_tests.rs"]
mod tests;
