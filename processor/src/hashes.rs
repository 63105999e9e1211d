//! The hashes of the images at the beginning of a resync, published in the vault: what the target has already need not be shipped
//! again (`docs/format.md`, "Region hashes").
//!
//! A resync that was shortened that way is whole only for a target with these very images. Replay of one log gives one and the
//! same images everywhere, so mostly that is no question; but a target that left an epoch, or is in a resync that another
//! epoch goes on with, may have others. Such a one publishes its own, or, where somebody else did, holds its images against them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use farshore_changelog::clock;
use farshore_changelog::hashes::Chunk;
use farshore_changelog::ids::{DiskIndex, Epoch, GroupName, Hash};
use farshore_changelog::units::ByteRange;
use farshore_vault::{EpochObject, HashPlan, HashedDisk, Reason};

use crate::compare::batch::hash;
use crate::error::TargetError;
use crate::image::Image;
use crate::position::{HashesDue, ReplayPosition};
use crate::target::TargetDisk;

/// Bytes of a unit, unless the config says otherwise.
pub const UNIT_BYTES: u32 = 1 << 20;
/// A resync of less than this is not worth hashing the images, unless the config says otherwise.
pub const PUBLISH_FROM_BYTES: u64 = 64 << 20;
/// Units of a chunk: an object of 256 KiB.
const CHUNK_UNITS: u32 = 8192;

/// What is to be done with the hashes of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// They are published.
    Publish,
    /// They are held against those that another target published.
    Compare,
    /// Nothing.
    Nothing,
}

/// What is known of the epoch of a resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// There is a plan for it in the vault. It is never removed.
    pub published: bool,
    /// It has a successor: nobody reads hashes for it any more, and where there is no plan nobody ever did.
    pub over: bool,
    /// The images hold nothing.
    pub empty: bool,
}

/// Decides. Pure.
#[must_use]
pub fn decide(position: &ReplayPosition, epoch: &EpochObject, known: Known, from_bytes: u64) -> Wanted {
    if epoch.reason == Reason::FirstStart {
        return Wanted::Nothing;
    }
    let worth_it = position.resync_announced >= from_bytes && !known.empty;
    match (known.published, needed(position, epoch)) {
        (true, true) => Wanted::Compare,
        (true, false) => Wanted::Nothing,
        (false, needed) if (needed || worth_it) && !known.over => Wanted::Publish,
        (false, _) => Wanted::Nothing,
    }
}

/// Whether these images may be others than another target's: what was left of the epoch before may not be in them. Pure.
#[must_use]
pub fn needed(position: &ReplayPosition, epoch: &EpochObject) -> bool {
    epoch.reason == Reason::AskedFor || position.hashes == HashesDue::Needed
}

/// The plan of the images of `disks` at `position`.
#[must_use]
pub fn plan_of(disks: &[TargetDisk], position: &ReplayPosition, unit_bytes: u32) -> HashPlan {
    let disk = |disk: &TargetDisk| HashedDisk {
        name: disk.name.clone(),
        units: disk.size_bytes.div_ceil(u64::from(unit_bytes)),
    };
    let (epoch, seq) = (position.epoch, position.seq);
    HashPlan { epoch, seq, unit_bytes, chunk_units: CHUNK_UNITS, disks: disks.iter().map(disk).collect() }
}

/// Hashing of all images by a plan, a little at a time.
#[derive(Debug)]
pub struct HashJob {
    group: GroupName,
    plan: HashPlan,
    /// What is done with each chunk.
    pub wanted: Wanted,
    /// Images that differ from those that were hashed cannot be brought to the source's state.
    pub needed: bool,
    left: VecDeque<(DiskIndex, u32, u32)>,
    /// Of the first chunk that is left.
    hashes: Vec<Hash>,
    zeroes: BTreeMap<u64, Hash>,
}

impl HashJob {
    /// A job that has done nothing yet.
    #[must_use]
    pub fn new(group: GroupName, plan: HashPlan, wanted: Wanted, needed: bool) -> Self {
        let left = plan.chunks().collect();
        Self { group, plan, wanted, needed, left, hashes: Vec::new(), zeroes: BTreeMap::new() }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &HashPlan {
        &self.plan
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.plan.epoch
    }

    /// The next chunk, with its number; `None` when all are done, or it was not finished by `until`: see [`HashJob::is_done`].
    ///
    /// # Errors
    /// [`TargetError::Io`] when an image cannot be read.
    pub fn next_chunk(&mut self, images: &[Image], until: Instant) -> Result<Option<(u32, Chunk)>, TargetError> {
        let Some((disk, number, count)) = self.left.front().copied() else { return Ok(None) };
        let first = u64::from(number) * u64::from(self.plan.chunk_units);
        let unit = u64::from(self.plan.unit_bytes);
        while self.hashes.len() < count as usize {
            if clock::mono() >= until {
                return Ok(None);
            }
            let image = images.get(usize::from(disk.0));
            let image = image.expect("the plan was made for the disks of these images");
            let start = (first + self.hashes.len() as u64) * unit;
            let range = ByteRange { start, end: (start + unit).min(image.size_bytes()) };
            self.hashes.push(hash(image, range, &mut self.zeroes)?);
        }
        self.left.pop_front();
        let hashes = std::mem::take(&mut self.hashes);
        let HashPlan { epoch, seq, unit_bytes, chunk_units, .. } = self.plan;
        let group = self.group.clone();
        Ok(Some((number, Chunk { group, epoch, seq, disk, unit_bytes, chunk_units, first_unit: first, hashes })))
    }

    /// Whether every chunk was given.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}

/// The first unit in which two chunks of one place differ.
#[must_use]
pub fn first_difference(ours: &Chunk, theirs: &Chunk) -> Option<u64> {
    let at = ours.hashes.iter().zip(&theirs.hashes).position(|(a, b)| a != b);
    let at = at.or((ours.hashes.len() != theirs.hashes.len()).then_some(ours.hashes.len().min(theirs.hashes.len())));
    at.map(|at| ours.first_unit + at as u64)
}

#[cfg(test)]
#[path = "hashes_tests.rs"]
mod tests;
