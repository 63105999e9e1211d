//! What a disk's tap tells the rest of the process about itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The state of one disk, written by its lane and read by anyone. The words are independent of each other.
#[derive(Debug, Default)]
pub struct DiskState {
    pub(super) sync_failed: AtomicBool,
    pub(super) map_failed: AtomicBool,
    pub(super) short_of_room: AtomicBool,
    pub(super) failed_changes: AtomicU64,
    pub(super) unlogged_changes: AtomicU64,
    pub(super) open_regions: AtomicU64,
    pub(super) lost_regions: AtomicU64,
    pub(super) lost_bytes: AtomicU64,
    pub(super) unreadable_regions: AtomicU64,
    pub(super) digests_left: AtomicU64,
    pub(super) same_bytes: AtomicU64,
}

/// A reading of a [`DiskState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStatus {
    /// An fsync of the disk failed: every change is refused until the agent is started anew.
    pub sync_failed: bool,
    /// The dirty map could not be written: the next start copies the whole disk.
    pub map_failed: bool,
    /// Requests wait for the shipper to make room in the ring.
    pub short_of_room: bool,
    /// Changes that the disk failed, since the start.
    pub failed_changes: u64,
    /// Changes that were done without the log because it had no room, since the start.
    pub unlogged_changes: u64,
    /// Regions that may hold what the vault does not have yet: after a power cut these are read again.
    pub open_regions: u64,
    /// Regions that the log does not have, or whose resync is not confirmed yet.
    pub lost_regions: u64,
    /// Their bytes.
    pub lost_bytes: u64,
    /// Lost regions that could not be read at the last try.
    pub unreadable_regions: u64,
    /// Bytes of lost regions that were not copied, because the target has them, since the start.
    pub same_bytes: u64,
    /// Bytes whose hash the run under way has still to log; 0 when there is none.
    pub digests_left: u64,
}

impl DiskState {
    /// What it says now.
    #[must_use]
    pub fn read(&self) -> DiskStatus {
        DiskStatus {
            sync_failed: self.sync_failed.load(Relaxed),
            map_failed: self.map_failed.load(Relaxed),
            short_of_room: self.short_of_room.load(Relaxed),
            failed_changes: self.failed_changes.load(Relaxed),
            unlogged_changes: self.unlogged_changes.load(Relaxed),
            open_regions: self.open_regions.load(Relaxed),
            lost_regions: self.lost_regions.load(Relaxed),
            lost_bytes: self.lost_bytes.load(Relaxed),
            unreadable_regions: self.unreadable_regions.load(Relaxed),
            same_bytes: self.same_bytes.load(Relaxed),
            digests_left: self.digests_left.load(Relaxed),
        }
    }
}
