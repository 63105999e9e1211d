//! Sealed segments on disk, exactly as they are uploaded, until the vault has confirmed them.

mod files;
mod reserve;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::segment::{Sealed, Segment};

use files::{ASIDE, UNFINISHED, entries, file_name, name_of, parse_name, prove};
pub use files::{Found, discard, list};
pub use reserve::Reserve;

use crate::error::ShipError;
use crate::state::at;
use crate::voice::Trouble;

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

/// The spool folder of a group. Shared by the half that fills it and the one that empties it.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    group: GroupName,
    reserve: Reserve,
    /// Bytes of segments that may stay in memory too, so that they are uploaded without being read back.
    memory_max_bytes: u64,
    /// Held by whoever takes room of the disk. Not by who asks what is in it: that must not wait for a disk.
    writing: Mutex<()>,
    held: Mutex<Held>,
}

/// What is in it.
#[derive(Debug, Default)]
struct Held {
    /// Device and inode of the folder: another one in its place is a disk that was unmounted, or mounted over it.
    folder: Option<(u64, u64)>,
    /// Size of each segment that is not confirmed.
    waiting: BTreeMap<(Epoch, SegmentNo), u64>,
    /// Size of each confirmed one whose file could not be removed yet.
    stale: BTreeMap<(Epoch, SegmentNo), u64>,
    /// The content of some of those that are not confirmed.
    memory: BTreeMap<(Epoch, SegmentNo), Arc<Sealed>>,
}

/// A sealed segment as bytes, without a copy.
struct InMemory(Arc<Sealed>);

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Held {
    fn bytes(&self) -> u64 {
        self.waiting.values().chain(self.stale.values()).sum()
    }

    fn confirmed(&mut self, name: (Epoch, SegmentNo)) {
        let bytes = self.waiting.remove(&name).unwrap_or(0);
        self.stale.insert(name, bytes);
        self.memory.remove(&name);
    }

    fn memory_bytes(&self) -> u64 {
        self.memory.values().map(|sealed| sealed.bytes.len() as u64).sum()
    }
}

impl Spool {
    /// In `dir`; nothing is looked at yet. `reserve` is kept before anything is put. Up to `memory_max_bytes` of what is put stay in
    /// memory too.
    #[must_use]
    pub fn new(dir: &Path, group: &GroupName, reserve: Reserve, memory_max_bytes: u64) -> Self {
        let (dir, group) = (dir.to_owned(), group.clone());
        Self { dir, group, reserve, memory_max_bytes, writing: Mutex::default(), held: Mutex::default() }
    }

    /// Makes the folder when it is absent, and proves what lies in it as far as that is possible without reading the payloads
    /// ([`Spool::read`] does that). The segments come in the order of epoch and number. Files that were not finished are
    /// removed; files that are not the spool's are left alone.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn look_through(&self) -> Result<Vec<Found>, ShipError> {
        crashsafe::create_dir_all(&self.dir).map_err(ShipError::io("make the spool folder"))?;
        let folder = folder_id(&self.dir).map_err(ShipError::io("look at the spool folder"))?;
        let mut found = Vec::new();
        for path in entries(&self.dir)? {
            let name = name_of(&path);
            if let Some((epoch, number)) = parse_name(&name) {
                let segment = prove(&path, &self.group, epoch, number)?;
                found.push(Found { epoch, number, segment, aside: false, path });
            } else if name.ends_with(UNFINISHED) {
                // A disk that cannot be written is noticed by the next put.
                let _ = crashsafe::remove(&path).inspect_err(|e| tracing::warn!("{e}"));
            } else if !name.ends_with(ASIDE) {
                tracing::warn!(file = %path.display(), "not a file of the spool; left alone");
            }
        }
        found.sort_by_key(|f| (f.epoch, f.number));
        let size = |f: &Found| f.segment.as_ref().map_or(0, |s| s.bytes);
        let waiting = found.iter().map(|f| ((f.epoch, f.number), size(f))).collect();
        *self.held() = Held { folder: Some(folder), waiting, ..Held::default() };
        Ok(found)
    }

    /// Takes a sealed segment. When this returns it is durable. After an error it can be put again.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn put(&self, sealed: &Arc<Sealed>) -> Result<Spooled, ShipError> {
        let spooled = Spooled {
            epoch: sealed.head.epoch,
            number: sealed.head.number,
            hash: sealed.hash,
            prev: sealed.head.prev,
            first_seq: sealed.head.first_seq,
            last_seq: sealed.head.last_seq,
            bytes: sealed.bytes.len() as u64,
        };
        let _writing = self.writing();
        let put = self
            .check_folder(&mut self.held())
            .and_then(|()| self.reserve.keep())
            .and_then(|()| crashsafe::replace(&self.path(spooled.epoch, spooled.number), &sealed.bytes));
        put.map_err(ShipError::io("write the spool"))?;
        let (mut held, name) = (self.held(), (spooled.epoch, spooled.number));
        held.waiting.insert(name, spooled.bytes);
        if held.memory_bytes() + spooled.bytes <= self.memory_max_bytes {
            held.memory.insert(name, Arc::clone(sealed));
        }
        Ok(spooled)
    }

    /// Refuses a folder that is not the one that holds what was put: what is written there would be hidden once the right one is
    /// back.
    fn check_folder(&self, held: &mut Held) -> io::Result<()> {
        let now = folder_id(&self.dir)?;
        if held.folder == Some(now) {
            return Ok(());
        }
        let gone = held.waiting.keys().map(|(epoch, number)| self.path(*epoch, *number)).find(|path| !path.exists());
        if let Some(gone) = gone {
            let dir = self.dir.display();
            let what =
                format!("{dir} is another folder than before: {} is not in it; is its disk mounted?", gone.display());
            return Err(io::Error::other(what));
        }
        held.folder = Some(now);
        Ok(())
    }

    /// The bytes of a segment: from memory, or from its file, and then every one is proved.
    ///
    /// # Errors
    /// [`ShipError::Spool`] when the file is missing or not what was put; [`ShipError::Io`] when it cannot be read.
    pub fn read(&self, spooled: &Spooled) -> Result<Bytes, ShipError> {
        let in_memory = self.held().memory.get(&(spooled.epoch, spooled.number)).map(Arc::clone);
        if let Some(sealed) = in_memory.filter(|sealed| sealed.hash == spooled.hash) {
            return Ok(Bytes::from_owner(InMemory(sealed)));
        }
        let path = self.path(spooled.epoch, spooled.number);
        let bad = |what: String| ShipError::Spool { path: path.clone(), what };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Bytes::from(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(bad("is missing".to_owned())),
            Err(e) => return Err(ShipError::Io { what: "read the spool", source: at(&path, &e) }),
        };
        let segment = Segment::parse(bytes.clone()).map_err(|e| bad(e.to_string()))?;
        if segment.index().hash() != spooled.hash || segment.index().head().group != self.group {
            return Err(bad("is another segment than the one that was put there".to_owned()));
        }
        Ok(bytes)
    }

    /// Removes a segment that the vault has confirmed and whose watermark is noted, and those that could not be removed before.
    ///
    /// # Errors
    /// [`ShipError::Io`]: the file is left, still counts, and is removed by a later call, or by the next shipper.
    pub fn remove(&self, epoch: Epoch, number: SegmentNo) -> Result<(), ShipError> {
        self.held().confirmed((epoch, number));
        while let Some((epoch, number)) = self.first_stale() {
            crashsafe::remove(&self.path(epoch, number)).map_err(ShipError::io("remove a confirmed spool file"))?;
            self.held().stale.remove(&(epoch, number));
        }
        // The room that has just come is the reserve's first. Whoever puts something at this moment sees to it.
        if let Ok(_writing) = self.writing.try_lock() {
            let _ = self.reserve.keep();
        }
        Ok(())
    }

    /// Takes a file out of the spool without removing it: nothing can follow it any more, and what it holds may be looked for.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn set_aside(&self, found: &Found) -> Result<(), ShipError> {
        let mut held = self.held();
        let mut name = found.path.as_os_str().to_owned();
        name.push(ASIDE);
        crashsafe::rename(&found.path, Path::new(&name)).map_err(ShipError::io("set a spool file aside"))?;
        held.waiting.remove(&(found.epoch, found.number));
        Ok(())
    }

    /// Bytes of the segments in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.held().bytes()
    }

    /// Whether every segment that was put is confirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held().waiting.is_empty()
    }

    /// Writes a note; when the disk is full, in the place of the reserve.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn note<T>(&self, write: impl Fn() -> Result<T, ShipError>) -> Result<T, ShipError> {
        match write() {
            Err(e) if Trouble::of(&e) == Some(Trouble::Full) => {
                // Nothing is put meanwhile: it would take the room again.
                let _writing = self.writing();
                if self.reserve.give_up() { write() } else { Err(e) }
            }
            written => written,
        }
    }

    /// Where a segment lies.
    #[must_use]
    pub fn path(&self, epoch: Epoch, number: SegmentNo) -> PathBuf {
        self.dir.join(file_name(epoch, number))
    }

    fn first_stale(&self) -> Option<(Epoch, SegmentNo)> {
        self.held().stale.first_key_value().map(|(name, _)| *name)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder_id(dir: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(dir).map_err(|e| at(dir, &e))?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests;
