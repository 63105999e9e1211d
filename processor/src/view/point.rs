//! All disks of a group at one position.
//!
//! A block is in the first undo batch at or after the position that holds it, else in the image. Replay may be changing the
//! image meanwhile, so the order of things matters. Replay: (1) the batch lies whole in the journal, (2) `published` moves past
//! it, (3) the images are written. A view: (a) looks in its index, (b) reads the image, (c) loads `published`, (d) if that moved
//! beyond the index, takes in the new batches and looks once more. Did (b) see a byte of (3), then (2) came before it, so (c),
//! which comes after (b), sees it, and (d) finds the block's old content in the batch; did it see none, the image's bytes
//! are the old content, and (d) either finds the same bytes or nothing. Once is enough: a batch published after (c) had
//! changed no image when (b) read.
//!
//! A roll-back after a crash writes into the images what batches say, which the index of every view holds that was opened
//! since those batches were complete; to the others it changes bytes to just what they would find in the journal.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use farshore_changelog::ids::{DiskIndex, DiskName, GroupName};
use farshore_changelog::units::ByteRange;

use super::error::{ViewError, as_io};
use super::read_disk::{EXTENTS_MAX, Extent, ExtentList, RawDisk, ReadDisk, on_disk};
use super::window::window;
use crate::lease::Lease;
use crate::resolve::{POINT_ID_PREFIX, PointSpec, Resolved, resolve};
use crate::target::{GroupDir, Origin};
use crate::undo::{Published, Saved, UndoIndex, damage};

/// Bytes of a disk whose extents are looked up at a time.
const EXTENTS_STEP_BYTES: u64 = 1 << 30;

/// One disk of a view.
#[derive(Debug)]
struct Image {
    name: DiskName,
    size_bytes: u64,
    raw: RawDisk,
}

/// All disks of a group at one position. Reads from any number of threads.
#[derive(Debug)]
pub struct PointView {
    dir: GroupDir,
    group: GroupName,
    point: Resolved,
    images: Vec<Image>,
    index: RwLock<UndoIndex>,
    published: Published,
    /// Keeps the journal from the position on.
    _lease: Lease,
}

impl PointView {
    /// Opens the view of `asked` of `group` in the folder `target`.
    ///
    /// # Errors
    /// [`ViewError`]: no such group, no such point, or files that cannot be used.
    pub fn open(target: &Path, group: &GroupName, asked: &PointSpec) -> Result<Arc<Self>, ViewError> {
        let dir = GroupDir::new(target, group);
        if Origin::read(&dir)?.is_none() {
            return Err(ViewError::NoGroup { dir: target.to_path_buf(), group: group.clone() });
        }
        // Nothing is pruned between finding the point and holding it.
        let all = Lease::take(dir.root(), 0)?;
        let point = resolve(asked, &window(&dir, group, asked)?)?;
        let view = Self::at(target, group, point);
        drop(all);
        view
    }

    /// Opens the view of a position that was resolved before.
    ///
    /// # Errors
    /// As [`PointView::open`]; [`crate::TargetError::Refused`] when it was pruned meanwhile.
    pub fn at(target: &Path, group: &GroupName, point: Resolved) -> Result<Arc<Self>, ViewError> {
        let dir = GroupDir::new(target, group);
        let Some(origin) = Origin::read(&dir)? else {
            return Err(ViewError::NoGroup { dir: target.to_path_buf(), group: group.clone() });
        };
        let lease = Lease::take(dir.root(), point.undo_end)?;
        let published = Published::open(&dir.published())?;
        check_usable(&dir, &point)?;
        let index = UndoIndex::open(&dir.undo(), group.clone(), point.undo_end).map_err(|e| {
            // It has just been noted, and has a point now that it spoils.
            check_usable(&dir, &point).err().unwrap_or_else(|| e.into())
        })?;
        let mut images = Vec::new();
        for disk in origin.disks_at(point.position.epoch) {
            let raw = RawDisk::open(&dir.image(&disk.name))?;
            if raw.size_bytes() < disk.size_bytes {
                let what = format!("it has {} bytes, the disk has {}", raw.size_bytes(), disk.size_bytes);
                return Err(crate::TargetError::refused(&dir.image(&disk.name), what).into());
            }
            images.push(Image { name: disk.name.clone(), size_bytes: disk.size_bytes, raw });
        }
        let index = RwLock::new(index);
        Ok(Arc::new(Self { dir, group: group.clone(), point, images, index, published, _lease: lease }))
    }

    /// The position that is shown.
    #[must_use]
    pub fn point(&self) -> &Resolved {
        &self.point
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &GroupDir {
        &self.dir
    }

    /// The disks in index order, to be read.
    #[must_use]
    pub fn disks(self: &Arc<Self>) -> Vec<PointDisk> {
        (0..self.images.len()).map(|disk| PointDisk { view: Arc::clone(self), disk }).collect()
    }

    /// The index, at least as far as `published`.
    fn index_upto(&self, published: u64) -> io::Result<RwLockReadGuard<'_, UndoIndex>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if index.scanned() >= published {
            return Ok(index);
        }
        drop(index);
        self.index.write().unwrap_or_else(PoisonError::into_inner).refresh(published).map_err(as_io)?;
        Ok(self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where each piece of `range` is, by an index that reaches `published` at least; and how far it does reach.
    fn lookup(&self, disk: usize, range: ByteRange, published: u64) -> io::Result<(Pieces, u64)> {
        let index = self.index_upto(published)?;
        Ok((index.lookup(disk_index(disk), range), index.scanned()))
    }

    fn read_saved(&self, saved: &Saved, buf: &mut [u8]) -> io::Result<()> {
        match saved {
            Saved::Zeroes => buf.fill(0),
            Saved::Data { .. } => {
                self.index.write().unwrap_or_else(PoisonError::into_inner).read(saved, buf).map_err(as_io)?;
            }
        }
        Ok(())
    }

    fn read_at(&self, disk: usize, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let image = &self.images[disk];
        let whole = on_disk(offset, buf.len() as u64, image.size_bytes)?;
        let part = |piece: ByteRange| (piece.start - whole.start) as usize..(piece.end - whole.start) as usize;
        let (pieces, scanned) = self.lookup(disk, whole, 0)?;
        let mut from_image = Vec::new();
        for (piece, saved) in pieces {
            match saved {
                Some(saved) => self.read_saved(&saved, &mut buf[part(piece)])?,
                None => {
                    image.raw.read_at(&mut buf[part(piece)], piece.start)?;
                    from_image.push(piece);
                }
            }
        }
        // After the image was read, never before (see the module).
        let published = self.published.load();
        if published <= scanned {
            return Ok(());
        }
        for piece in from_image {
            for (again, saved) in self.lookup(disk, piece, published)?.0 {
                if let Some(saved) = saved {
                    self.read_saved(&saved, &mut buf[part(again)])?;
                }
            }
        }
        Ok(())
    }

    /// Adds extents of `range` from its start; how far it got, `None` when the list is full.
    fn extents_of(&self, disk: usize, range: ByteRange, list: &mut ExtentList) -> io::Result<Option<u64>> {
        let (pieces, scanned) = self.lookup(disk, range, 0)?;
        let mut found: Vec<(ByteRange, bool)> = Vec::new();
        for (piece, saved) in &pieces {
            match saved {
                Some(saved) => found.push((*piece, is_hole(saved))),
                None => self.images[disk].raw.walk(*piece, &mut |part, hole| {
                    found.push((part, hole));
                    found.len() <= EXTENTS_MAX
                })?,
            }
            if found.len() > EXTENTS_MAX {
                break;
            }
        }
        let published = self.published.load();
        let reached = found.last().map_or(range.end, |(part, _)| part.end);
        for (part, hole) in found {
            if published <= scanned {
                if !list.push(part, hole) {
                    return Ok(None);
                }
                continue;
            }
            // What was saved at the first look is the same at the second: the first batch that holds it is not a new one.
            for (again, saved) in self.lookup(disk, part, published)?.0 {
                if !list.push(again, saved.as_ref().map_or(hole, is_hole)) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(reached))
    }
}

/// Refuses a point that the undo journal does not lead back to any more, as far as that is known.
///
/// # Errors
/// [`ViewError::Unusable`]; [`ViewError::Target`].
pub fn check_usable(dir: &GroupDir, point: &Resolved) -> Result<(), ViewError> {
    let known = damage::known(&dir.undo())?;
    let Some(damage) = damage::in_the_way(&known, point.undo_end) else { return Ok(()) };
    let id = point.point.as_ref().map(|tag| format!("point {POINT_ID_PREFIX}{}, ", tag.id)).unwrap_or_default();
    let point = format!("{id}position {} ({})", point.position, point.time);
    Err(ViewError::Unusable { point, offset: damage.offset, what: damage.what.clone() })
}

/// A range in order without a gap, and where each piece is saved.
type Pieces = Vec<(ByteRange, Option<Saved>)>;

fn is_hole(saved: &Saved) -> bool {
    matches!(saved, Saved::Zeroes)
}

fn disk_index(disk: usize) -> DiskIndex {
    DiskIndex(u16::try_from(disk).expect("a group has at most 32 disks"))
}

/// One disk of a view, to be read.
#[derive(Debug, Clone)]
pub struct PointDisk {
    view: Arc<PointView>,
    disk: usize,
}

impl PointDisk {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &DiskName {
        &self.view.images[self.disk].name
    }

    /// Its view.
    #[must_use]
    pub fn view(&self) -> &Arc<PointView> {
        &self.view
    }
}

impl ReadDisk for PointDisk {
    fn size_bytes(&self) -> u64 {
        self.view.images[self.disk].size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.view.read_at(self.disk, buf, offset)
    }

    fn extents(&self, range: ByteRange) -> io::Result<Vec<Extent>> {
        on_disk(range.start, range.len(), self.size_bytes())?;
        let mut list = ExtentList::default();
        let mut at = range.start;
        while at < range.end {
            let step = ByteRange { start: at, end: range.end.min(at.saturating_add(EXTENTS_STEP_BYTES)) };
            match self.view.extents_of(self.disk, step, &mut list)? {
                Some(reached) => at = reached,
                None => break,
            }
        }
        Ok(list.into_vec())
    }
}
