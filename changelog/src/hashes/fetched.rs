//! The hashes that the shipper has fetched for an epoch, as capture reads them: one chunk in memory at a time.

use std::path::{Path, PathBuf};

use super::chunk::{CHUNK_MAX_BYTES, Chunk};
use crate::ids::{DiskIndex, Epoch, GroupName, Hash, Seq};

/// The file that is written last: with it, what the target published for the epoch is there, whole.
pub const PLAN_FILE: &str = "plan.json";

/// Where the hashes for an epoch lie under the folder of hashes.
#[must_use]
pub fn folder(dir: &Path, epoch: Epoch) -> PathBuf {
    dir.join(format!("{epoch:010}"))
}

/// The file of a chunk in its epoch's folder.
#[must_use]
pub fn chunk_file_name(disk: DiskIndex, chunk: u32) -> String {
    format!("{disk:05}-{chunk:010}")
}

/// The hashes of the target's images at one seq of an epoch.
#[derive(Debug)]
pub struct Hashes {
    folder: PathBuf,
    /// The chunk that was used last. Every other must agree with it in all but disk, first unit and hashes.
    loaded: Chunk,
}

impl Hashes {
    /// What lies in `dir` for this epoch; `None` as long as it is not there whole. Nothing that is damaged, or another group's or
    /// epoch's, is taken: its units are as if they had no hash.
    #[must_use]
    pub fn open(dir: &Path, group: &GroupName, epoch: Epoch) -> Option<Self> {
        let folder = folder(dir, epoch);
        std::fs::metadata(folder.join(PLAN_FILE)).ok()?;
        // Every group has a disk, and every disk a unit.
        let loaded = load(&folder, DiskIndex(0), 0)?;
        ((&loaded.group, loaded.epoch) == (group, epoch)).then_some(Self { folder, loaded })
    }

    /// The images were those at this seq.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.loaded.seq
    }

    /// Bytes of a unit, a power of two. The last unit of a disk is what is left.
    #[must_use]
    pub fn unit_bytes(&self) -> u32 {
        self.loaded.unit_bytes
    }

    /// The hash of unit `index` of a disk, where one is known. Asked in rising order, each chunk is read once.
    pub fn unit(&mut self, disk: DiskIndex, index: u64) -> Option<Hash> {
        let size = u64::from(self.loaded.chunk_units);
        let chunk = u32::try_from(index / size).ok()?;
        if (self.loaded.disk, self.loaded.number()) != (disk, u64::from(chunk)) {
            let next = load(&self.folder, disk, chunk)?;
            let agrees = |a: &Chunk, b: &Chunk| {
                (&a.group, a.epoch, a.seq, a.unit_bytes, a.chunk_units)
                    == (&b.group, b.epoch, b.seq, b.unit_bytes, b.chunk_units)
            };
            if !agrees(&next, &self.loaded) {
                tracing::warn!(folder = %self.folder.display(), %disk, chunk, "hashes of another plan are not used");
                return None;
            }
            self.loaded = next;
        }
        self.loaded.hashes.get(usize::try_from(index % size).ok()?).copied()
    }
}

/// The chunk, proved to be the one that its file's name says; `None` when it is absent or is not.
fn load(folder: &Path, disk: DiskIndex, chunk: u32) -> Option<Chunk> {
    let path = folder.join(chunk_file_name(disk, chunk));
    let len = std::fs::metadata(&path).ok()?.len();
    let bytes = if len <= CHUNK_MAX_BYTES { std::fs::read(&path).ok()? } else { Vec::new() };
    match Chunk::parse(&bytes) {
        Ok(found) if (found.disk, found.number()) == (disk, u64::from(chunk)) => Some(found),
        Ok(found) => {
            let (disk, number) = (found.disk, found.number());
            tracing::warn!(file = %path.display(), %disk, number, "hashes that are not those of their file's name");
            None
        }
        Err(e) => {
            tracing::warn!(file = %path.display(), "hashes are not used: {e}");
            None
        }
    }
}

#[cfg(test)]
#[path = "fetched_tests.rs"]
mod tests;
