//! What of one file is durable, and what may be: for each sector that was written since its last fsync, every content that a power
//! cut can leave there.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::rng::Rng;

pub const SECTOR: u64 = 512;
type Bytes = Box<[u8; SECTOR as usize]>;

/// Names one change of one file; later changes have higher ones.
pub type Change = u64;

/// What a power cut does to what was not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of it reached the medium.
    All,
    /// All of it did.
    None,
    /// Each sector has any of its contents.
    Sectors,
    /// Each change reached the medium or did not, whole.
    Changes,
}

struct Version {
    change: Change,
    bytes: Bytes,
    /// An fsync that covered it failed: no later one brings it to the medium.
    dropped: bool,
    /// It is the file system's own matter, in its journal: a failed fsync of pages does not drop it.
    kept: bool,
}

struct Sector {
    durable: Bytes,
    later: Vec<Version>,
}

/// One file, known by its inode.
pub struct FileHistory {
    /// Where it was first seen, for messages.
    pub path: PathBuf,
    /// A handle of the simulation's own: it holds no lock, and keeps the inode.
    own: File,
    durable_len: u64,
    lens: Vec<(Change, u64)>,
    sectors: BTreeMap<u64, Sector>,
}

impl FileHistory {
    /// A file as it is now is durable.
    pub fn new(path: PathBuf, own: File) -> io::Result<Self> {
        let durable_len = own.metadata()?.len();
        Ok(Self { path, own, durable_len, lens: Vec::new(), sectors: BTreeMap::new() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.own.metadata()?.len())
    }

    /// The content of a sector now, zeroes beyond the end.
    fn read(&self, sector: u64) -> io::Result<Bytes> {
        let mut bytes = Box::new([0; SECTOR as usize]);
        let mut done = 0;
        while done < bytes.len() {
            match self.own.read_at(&mut bytes[done..], sector * SECTOR + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(bytes)
    }

    /// Changes the file from `at` on, `len` bytes, with `work`, and remembers what was there and what is; `kept`: in the file system's
    /// journal.
    pub fn change<T>(
        &mut self,
        change: Change,
        at: u64,
        len: u64,
        kept: bool,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let touched = at / SECTOR..(at + len).div_ceil(SECTOR);
        let before = self.len()?;
        for n in touched.clone() {
            if !self.sectors.contains_key(&n) {
                let durable = self.read(n)?;
                self.sectors.insert(n, Sector { durable, later: Vec::new() });
            }
        }
        let done = work();
        for n in touched {
            let bytes = self.read(n)?;
            let sector = self.sectors.get_mut(&n).expect("it was just put there");
            let same = match sector.later.last() {
                // Written once more, it is not what the failed fsync dropped.
                Some(last) => !last.dropped && last.bytes == bytes,
                None => sector.durable == bytes,
            };
            if !same {
                sector.later.push(Version { change, bytes, dropped: false, kept });
            } else if sector.later.is_empty() {
                self.sectors.remove(&n);
            }
        }
        let after = self.len()?;
        if after != before {
            self.lens.push((change, after));
        }
        done
    }

    /// An fsync of the changes below `upto` other than `not` ends well, or fails.
    pub fn sync(&mut self, upto: Change, not: &HashSet<Change>, good: bool) {
        let covered = |change: Change| change < upto && !not.contains(&change);
        for sector in self.sectors.values_mut() {
            if !good {
                sector.later.iter_mut().filter(|v| covered(v.change) && !v.kept).for_each(|v| v.dropped = true);
                continue;
            }
            let last = sector.later.iter().rposition(|v| covered(v.change) && !v.dropped);
            if let Some(last) = last {
                // What came before the covered one in time and is not covered itself can no longer be the newest.
                sector.durable = sector.later.drain(..=last).next_back().expect("there is one").bytes;
            }
        }
        self.sectors.retain(|_, sector| !sector.later.is_empty());
        if good {
            while let Some((_, len)) = self.lens.first().copied().filter(|(change, _)| covered(*change)) {
                self.durable_len = len;
                self.lens.remove(0);
            }
        }
    }

    /// Whether a power cut can change it.
    pub fn at_risk(&self) -> bool {
        !self.sectors.is_empty() || !self.lens.is_empty()
    }

    /// Puts the file into a state that a power cut can leave, which is durable from then on. Gives the sectors that lost
    /// something.
    pub fn cut(&mut self, loss: Loss, rng: &mut Rng) -> io::Result<u64> {
        let mut kept_changes: BTreeMap<Change, bool> = BTreeMap::new();
        let mut kept = |change: Change, rng: &mut Rng| *kept_changes.entry(change).or_insert_with(|| rng.one_in(2));
        let longest = self.lens.iter().map(|(_, len)| *len).max().unwrap_or(0).max(self.len()?).max(self.durable_len);
        self.own.set_len(longest)?;
        let mut lost = 0;
        for (n, sector) in std::mem::take(&mut self.sectors) {
            let Sector { durable, later } = sector;
            let choice = match loss {
                Loss::All => 0,
                Loss::None => later.len(),
                Loss::Sectors => rng.below(later.len() as u64 + 1) as usize,
                Loss::Changes => later.iter().rposition(|v| kept(v.change, rng)).map_or(0, |at| at + 1),
            };
            if choice < later.len() {
                lost += 1;
                let bytes = if choice == 0 { &durable } else { &later[choice - 1].bytes };
                self.own.write_all_at(&bytes[..], n * SECTOR)?;
            }
        }
        let lens = std::mem::take(&mut self.lens);
        let len = match loss {
            Loss::All => self.durable_len,
            Loss::None => lens.last().map_or(self.durable_len, |(_, len)| *len),
            Loss::Sectors | Loss::Changes => match rng.below(lens.len() as u64 + 1) as usize {
                0 => self.durable_len,
                n => lens[n - 1].1,
            },
        };
        self.own.set_len(len)?;
        self.durable_len = len;
        Ok(lost)
    }
}
