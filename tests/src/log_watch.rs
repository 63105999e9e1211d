//! What one epoch's log in a folder vault says, read as it grows: each segment once.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use farshore_changelog::op::{Op, Record, RecordFlags};

use crate::durable;
use crate::site::{GROUP, Site};

/// Counts of what was read so far.
#[derive(Debug, Default)]
pub struct LogWatch {
    epoch: u64,
    read: BTreeSet<PathBuf>,
    ops: HashMap<Op, usize>,
    resync_bytes: u64,
    reread: usize,
}

impl LogWatch {
    /// Of an epoch's log, from its beginning.
    #[must_use]
    pub fn of(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Reads what has come since the last look.
    ///
    /// # Panics
    /// When a segment is not whole.
    pub fn look(&mut self, site: &Site) -> &Self {
        self.look_in(&site.vault)
    }

    /// As [`LogWatch::look`], in the vault in this folder.
    ///
    /// # Panics
    /// As there.
    pub fn look_in(&mut self, vault: &Path) -> &Self {
        for path in durable::segment_files(vault, GROUP, self.epoch) {
            if self.read.insert(path.clone()) {
                durable::index(&path).records().iter().for_each(|entry| self.count(&entry.record));
            }
        }
        self
    }

    fn count(&mut self, record: &Record) {
        *self.ops.entry(record.op).or_default() += 1;
        if matches!(record.op, Op::ResyncWrite | Op::ResyncZeroes) {
            self.resync_bytes += record.len;
        }
        self.reread += usize::from(record.flags.has(RecordFlags::REREAD));
    }

    /// How often an operation was logged.
    #[must_use]
    pub fn ops(&self, op: Op) -> usize {
        self.ops.get(&op).copied().unwrap_or_default()
    }

    /// Bytes that resyncs copied, zeroes among them.
    #[must_use]
    pub fn resync_bytes(&self) -> u64 {
        self.resync_bytes
    }

    /// Operations that a successor found in flight, and whose range it read again.
    #[must_use]
    pub fn reread(&self) -> usize {
        self.reread
    }
}
