//! Sealed segments on disk, exactly as they are uploaded, until the vault has confirmed them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::segment::{Index, Kind, Sealed, Segment};

use crate::error::ShipError;

/// Digits of the epoch and of the number in a file's name: as in the vault's keys.
const EPOCH_DIGITS: usize = 10;
const NUMBER_DIGITS: usize = 20;
/// Suffix of a segment's file.
const SUFFIX: &str = ".seg";
/// Suffix that [`crashsafe::replace`] gives a file that is not finished.
const UNFINISHED: &str = ".seg.tmp";

/// A segment that lies in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spooled {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub number: SegmentNo,
    /// Its hash.
    pub hash: Hash,
    /// Its predecessor's hash.
    pub prev: Hash,
    /// The first seq it covers.
    pub first_seq: Seq,
    /// The last seq it covers.
    pub last_seq: Seq,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Spooled {
    /// The name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        file_name(self.epoch, self.number)
    }
}

fn file_name(epoch: Epoch, number: SegmentNo) -> String {
    format!("{epoch:0EPOCH_DIGITS$}-{number:0NUMBER_DIGITS$}{SUFFIX}")
}

/// The spool folder of a group. Shared by the thread that fills it and the one that empties it.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    group: GroupName,
    bytes: AtomicU64,
    count: AtomicU64,
}

impl Spool {
    /// Opens the folder, makes it when it is absent, and proves what lies in it as far as that is possible without reading
    /// the payloads ([`Spool::read`] does that). The segments come in the order of epoch and number. Files that were not
    /// finished are removed; files that are not the spool's are left alone.
    ///
    /// # Errors
    /// [`ShipError::Spool`] for a damaged file, [`ShipError::Io`].
    pub fn open(dir: &Path, group: &GroupName) -> Result<(Self, Vec<Spooled>), ShipError> {
        crashsafe::create_dir_all(dir).map_err(ShipError::io("make the spool folder"))?;
        let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut found = Vec::new();
        for entry in listed.map_err(ShipError::io("list the spool folder"))? {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if let Some((epoch, number)) = parse_name(&name) {
                found.push(prove(&entry.path(), group, epoch, number)?);
            } else if name.ends_with(UNFINISHED) {
                crashsafe::remove(&entry.path()).map_err(ShipError::io("remove an unfinished spool file"))?;
            } else {
                tracing::warn!(file = %entry.path().display(), "not a file of the spool; left alone");
            }
        }
        found.sort_by_key(|s| (s.epoch, s.number));
        let bytes = found.iter().map(|s| s.bytes).sum();
        let count = found.len() as u64;
        let spool = Self {
            dir: dir.to_owned(),
            group: group.clone(),
            bytes: AtomicU64::new(bytes),
            count: AtomicU64::new(count),
        };
        Ok((spool, found))
    }

    /// Takes a sealed segment. When this returns it is durable.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn put(&self, sealed: &Sealed) -> Result<Spooled, ShipError> {
        let spooled = Spooled {
            epoch: sealed.head.epoch,
            number: sealed.head.number,
            hash: sealed.hash,
            prev: sealed.head.prev,
            first_seq: sealed.head.first_seq,
            last_seq: sealed.head.last_seq,
            bytes: sealed.bytes.len() as u64,
        };
        crashsafe::replace(&self.path(&spooled), &sealed.bytes).map_err(ShipError::io("write the spool"))?;
        self.bytes.fetch_add(spooled.bytes, Ordering::AcqRel);
        self.count.fetch_add(1, Ordering::AcqRel);
        Ok(spooled)
    }

    /// The bytes of a segment, every one proved.
    ///
    /// # Errors
    /// [`ShipError::Spool`] when the file is missing or not what was put.
    pub fn read(&self, spooled: &Spooled) -> Result<Bytes, ShipError> {
        let path = self.path(spooled);
        let bytes = Bytes::from(std::fs::read(&path).map_err(|e| bad(&path, format!("cannot be read: {e}")))?);
        let segment = Segment::parse(bytes.clone()).map_err(|e| bad(&path, e.to_string()))?;
        if segment.index().hash() != spooled.hash || segment.index().head().group != self.group {
            return Err(bad(&path, "is another segment than the one that was put there".to_owned()));
        }
        Ok(bytes)
    }

    /// Removes a segment that the vault has confirmed and whose watermark is noted.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn remove(&self, spooled: &Spooled) -> Result<(), ShipError> {
        crashsafe::remove(&self.path(spooled)).map_err(ShipError::io("remove a confirmed spool file"))?;
        self.bytes.fetch_sub(spooled.bytes, Ordering::AcqRel);
        self.count.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    /// Bytes of the segments in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether no segment is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Where a segment lies.
    #[must_use]
    pub fn path(&self, spooled: &Spooled) -> PathBuf {
        self.dir.join(spooled.file_name())
    }
}

/// Discards the segments of `epoch`: they were cut from a ring that is gone, the epoch was never opened in the vault, and it begins
/// anew. The agent calls it before it makes that epoch's next ring: its seqs start at 1 again, and must not be taken for those.
///
/// # Errors
/// [`ShipError::Io`].
pub fn discard(dir: &Path, epoch: Epoch) -> Result<(), ShipError> {
    let listed = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listed => listed.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    for entry in listed.map_err(ShipError::io("list the spool folder"))? {
        let name = entry.file_name();
        if parse_name(&name.to_string_lossy()).is_some_and(|(of, _)| of == epoch) {
            crashsafe::remove(&entry.path()).map_err(ShipError::io("discard a spool file"))?;
        }
    }
    Ok(())
}

fn parse_name(name: &str) -> Option<(Epoch, SegmentNo)> {
    let (epoch, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (epoch, number) = (Epoch(digits(epoch)?), SegmentNo(digits(number)?));
    (file_name(epoch, number) == name).then_some((epoch, number))
}

/// Proves header, index and length of a file, and that it is what its name says.
fn prove(path: &Path, group: &GroupName, epoch: Epoch, number: SegmentNo) -> Result<Spooled, ShipError> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|m| (file, m.len())));
    let (mut file, bytes) = opened.map_err(|e| bad(path, format!("cannot be read: {e}")))?;
    let index = Index::read(&mut file, 0, Some(bytes)).map_err(|e| bad(path, e.to_string()))?;
    let head = index.head();
    if (head.kind, &head.group, head.epoch, head.number) != (Kind::Log, group, epoch, number) {
        return Err(bad(path, format!("is segment {} of epoch {} of group {}", head.number, head.epoch, head.group)));
    }
    let (prev, first_seq, last_seq) = (head.prev, head.first_seq, head.last_seq);
    Ok(Spooled { epoch, number, hash: index.hash(), prev, first_seq, last_seq, bytes })
}

fn bad(path: &Path, what: String) -> ShipError {
    ShipError::Spool { path: path.to_owned(), what }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
