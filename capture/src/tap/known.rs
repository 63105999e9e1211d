//! What the target is known to have: hashes of its images that the shipper has fetched, so that a lost range that it holds already
//! is not shipped again.
//!
//! They are of the images at the epoch's first `resync begin`. So they say nothing of a region that the log has changed since, and
//! only a process that has seen all of the epoch's log knows which regions these are: the one that made the ring.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::hashes::Hashes;
use farshore_changelog::ids::{DiskIndex, Epoch, GroupName, Hash};
use farshore_changelog::units::ByteRange;

/// Below so many lost bytes hashes are not waited for: shipping is quicker.
pub const WAIT_FROM_BYTES: u64 = 256 << 20;
/// How long they are waited for: for the log to reach the target, the target to hash, and the shipper to look.
pub const WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks for them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Hashes, and that of a unit of zeroes.
struct Compared {
    hashes: Mutex<Hashes>,
    unit_bytes: u64,
    zeroes: Hash,
}

impl Compared {
    fn new(hashes: Hashes) -> Self {
        let unit = hashes.unit_bytes() as usize;
        Self { zeroes: Hash::of(&vec![0; unit]), unit_bytes: unit as u64, hashes: Mutex::new(hashes) }
    }
}

/// The hashes of an epoch, once they are there.
pub struct Known {
    dir: PathBuf,
    group: GroupName,
    epoch: Epoch,
    wait_until: Instant,
    look_at: Instant,
    hashes: Option<Arc<Compared>>,
    /// Regions that the log has changed since the epoch began.
    changed: HashSet<u64>,
}

impl Known {
    /// Hashes that will lie in `dir` (the state folder's `hashes`); nothing is copied before they are there, for as long as `wait`.
    #[must_use]
    pub fn new(dir: PathBuf, group: GroupName, epoch: Epoch, wait: Duration) -> Self {
        let now = clock::mono();
        Self { dir, group, epoch, wait_until: now + wait, look_at: now, hashes: None, changed: HashSet::new() }
    }

    /// The log changes a region.
    pub(super) fn changes(&mut self, region: u64) {
        self.changed.insert(region);
    }

    /// Whether the log has changed a region since the epoch began.
    pub(super) fn has_changed(&self, region: u64) -> bool {
        self.changed.contains(&region)
    }

    /// Looks for the hashes when it is time. Whether they are still waited for.
    pub(super) fn waits(&mut self) -> bool {
        let now = clock::mono();
        if self.hashes.is_none() && now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.hashes = Hashes::open(&self.dir, &self.group, self.epoch).map(Compared::new).map(Arc::new);
        }
        self.hashes.is_none() && now < self.wait_until
    }

    /// A way to compare a part of a region of `disk`, or of several of which either all were changed or none; `None` where nothing
    /// is known of it.
    pub(super) fn comparer(&self, disk: DiskIndex, region: u64, range: ByteRange) -> Option<Comparer> {
        let hashes = self.hashes.as_ref().filter(|_| !self.changed.contains(&region))?;
        Some(Comparer { hashes: Arc::clone(hashes), disk, range })
    }
}

/// Compares what was read with what the target has; on a helper thread, as it may read a file.
pub(super) struct Comparer {
    hashes: Arc<Compared>,
    disk: DiskIndex,
    range: ByteRange,
}

impl Comparer {
    /// Whether the target has just these bytes: all of them in whole units (the disk's last unit may be cut short).
    pub fn is_same(&self, bytes: &[u8]) -> bool {
        let mut parts = bytes.chunks(self.hashes.unit_bytes as usize);
        self.all_units(|_| parts.next().map(Hash::of))
    }

    /// As [`Comparer::is_same`], of zeroes.
    pub fn is_zeroes(&self) -> bool {
        let Compared { unit_bytes, zeroes, .. } = *self.hashes;
        self.all_units(|len| Some(if len == unit_bytes { zeroes } else { Hash::of(&vec![0; len as usize]) }))
    }

    /// Whether each unit of the range has the hash that `hash` gives for its length.
    fn all_units(&self, mut hash: impl FnMut(u64) -> Option<Hash>) -> bool {
        let (unit, mut start) = (self.hashes.unit_bytes, self.range.start);
        let mut hashes = self.hashes.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = start.is_multiple_of(unit);
        while same && start < self.range.end {
            let len = unit.min(self.range.end - start);
            let known = hashes.unit(self.disk, start / unit);
            same = known.is_some() && known == hash(len);
            start += len;
        }
        same
    }
}
