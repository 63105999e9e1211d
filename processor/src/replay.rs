//! The target of one group, open for replay: the lock, the images, the journal, the position, the catalogue. Here it is
//! created and taken into the next epoch; [`crate::apply`] changes it batch by batch, [`crate::rollback`] opens it again.

use std::fs::File;
use std::sync::Arc;

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::segment::PressPool;
use farshore_vault::EpochObject;

use crate::chain;
use crate::compare::Comparison;
use crate::error::{GroupError, TargetError};
use crate::image::Image;
use crate::lease;
use crate::points::{self, Point};
use crate::position::{HashesDue, PositionFile, ReplayPosition};
use crate::settle::Unsettled;
use crate::target::{DiskTable, GroupDir, Origin, TargetDisk};
use crate::undo::journal::Journal;
use crate::undo::published::Publisher;

/// Which vault a target belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultName {
    /// Its URL.
    pub url: String,
    /// Its id.
    pub id: String,
}

/// An open target. After an error of any of its functions it is dropped and opened again, which undoes what was half done.
#[derive(Debug)]
pub struct Replay {
    pub(crate) dir: GroupDir,
    pub(crate) _lock: File,
    pub(crate) origin: Origin,
    /// In index order, of the position's epoch.
    pub(crate) images: Vec<Image>,
    pub(crate) journal: Journal,
    pub(crate) published: Publisher,
    pub(crate) position: PositionFile,
    /// Oldest first.
    pub(crate) points: Vec<Point>,
    /// What was compared with the source.
    pub(crate) comparison: Comparison,
    /// Who compresses the journal; `None`: whoever applies, and it starts no threads either.
    pub(crate) pool: Option<Arc<PressPool>>,
    /// The last batch, while its images become durable.
    pub(crate) unsettled: Option<Unsettled>,
    /// The catalogue was written since the target was opened.
    pub(crate) points_are_durable: bool,
}

impl Replay {
    /// Creates the target of a group: empty images, and a position at the start of its first epoch. What a crash left of an
    /// earlier attempt is taken over.
    ///
    /// # Errors
    /// [`GroupError`]; also when there is data in an image already, or the folder belongs to another vault.
    pub fn create(
        dir: &GroupDir,
        group: &GroupName,
        vault: &VaultName,
        epoch: &EpochObject,
        hash: Hash,
    ) -> Result<Self, GroupError> {
        let disks =
            chain::target_disks(epoch).map_err(|what| GroupError::Refused { at: epoch.key().to_string(), what })?;
        // Leases and overlays too: on the day a full disk must not keep a point from being attached.
        for folder in [dir.root().to_path_buf(), dir.leases(), dir.overlays()] {
            crashsafe::create_dir_all(&folder).map_err(TargetError::io("create", &folder))?;
        }
        let lock = dir.take_lock()?;
        let _there = Origin::read(dir)?.map(|origin| check_vault(dir, &origin, vault)).transpose()?;
        let tables = vec![DiskTable { from_epoch: epoch.epoch, disks: disks.clone() }];
        let origin = Origin { vault_url: vault.url.clone(), vault_id: vault.id.clone(), tables };
        origin.write(dir)?;
        let images = disks.iter().map(|disk| Image::create(&dir.image(&disk.name), disk.size_bytes));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let journal = Journal::open(&dir.undo(), group, 0, None)?.journal;
        if journal.end() != 0 {
            let what =
                "there is an undo journal and no position; move the group's folder away, or restore the position";
            return Err(TargetError::refused(&dir.undo(), what).into());
        }
        let published = Publisher::open(&dir.published(), 0)?;
        let start = ReplayPosition::start(group.clone(), epoch.epoch, hash);
        let position = PositionFile::create(&dir.position(), start)?;
        Ok(Self {
            dir: dir.clone(),
            _lock: lock,
            origin,
            images,
            journal,
            published,
            position,
            points: Vec::new(),
            comparison: Comparison::default(),
            pool: None,
            unsettled: None,
            points_are_durable: false,
        })
    }

    /// Has the journal compressed by the threads of `pool`, and images made durable by a thread of their own.
    pub fn compress_with(&mut self, pool: Option<Arc<PressPool>>) {
        self.pool = pool;
    }

    /// Where replay stands, durably.
    #[must_use]
    pub fn position(&self) -> &ReplayPosition {
        self.position.current()
    }

    /// The recovery points, oldest first.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The disks of the epoch that is replayed, in index order.
    #[must_use]
    pub fn disks(&self) -> &[TargetDisk] {
        self.origin.disks_at(self.position().epoch)
    }

    /// The images, in index order.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The hashes that the position owed are published, or were not worth it.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn hashes_are_done(&mut self) -> Result<(), TargetError> {
        self.settle()?;
        let before = self.position().clone();
        self.position.advance(ReplayPosition { hashes: HashesDue::No, ..before })
    }

    /// What was compared with the source.
    #[must_use]
    pub fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// The group's folder.
    #[must_use]
    pub fn dir(&self) -> &GroupDir {
        &self.dir
    }

    /// Proves that every image is still at its name: what is written to one that was deleted is lost in silence.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Io`].
    pub fn check_images(&self) -> Result<(), TargetError> {
        self.images.iter().try_for_each(Image::check_there)
    }

    /// Goes on to the epoch of `next`, whose object has the hash `hash`: the one before was sealed, and all of it up to its cut
    /// was applied. Images grow where disks did, and new disks get empty ones. A crash on the way leaves the epoch before, and
    /// it is done again.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when the disks changed in another way; [`GroupError`] of the target's files.
    pub fn turn(&mut self, next: &EpochObject, hash: Hash) -> Result<(), GroupError> {
        self.settle()?;
        self.take_disks(next)?;
        let resync = self.position().resync;
        Ok(self.advance_to(next, hash, resync)?)
    }

    /// Leaves the rest of the position's epoch, of which nothing more is applied, and goes on to the epoch of `next`, in which
    /// every region is lost and is copied: no position is consistent until that resync has ended. What was recovered before
    /// stays. As with [`Replay::turn`], a crash on the way leaves the epoch before.
    ///
    /// # Errors
    /// As [`Replay::turn`].
    pub fn leave(&mut self, next: &EpochObject, hash: Hash) -> Result<(), GroupError> {
        self.settle()?;
        self.take_disks(next)?;
        // A batch that was rolled back stays in the journal and bears a position that was never reached. It would be applied
        // again in the ordinary course, and a later batch says so; here an empty one does.
        self.journal.disown_tail(self.position.current())?;
        self.published.store(self.journal.end());
        Ok(self.advance_to(next, hash, true)?)
    }

    /// Replaces the catalogue with the points as they are here.
    pub(crate) fn write_points(&mut self) -> Result<(), TargetError> {
        points::write(&self.dir.points(), &self.points)?;
        self.points_are_durable = true;
        Ok(())
    }

    /// After a failure: what of the journal no image was touched for is taken away, unless a view may have read it.
    pub(crate) fn give_back(&mut self) {
        let root = self.dir.root().to_path_buf();
        let mut held = None;
        self.journal.give_back(|| {
            // No view may be opened until it is done.
            held = Some(lease::freeze(&root)?);
            Ok(lease::oldest_needed(&root)?.is_some())
        });
    }

    /// Makes the images those of `next`.
    fn take_disks(&mut self, next: &EpochObject) -> Result<(), GroupError> {
        let old = self.disks().to_vec();
        let (disks, changed) =
            chain::disks_of(&old, next).map_err(|what| GroupError::Refused { at: next.key().to_string(), what })?;
        if !changed {
            return Ok(());
        }
        self.origin.tables.retain(|table| table.from_epoch < next.epoch);
        self.origin.tables.push(DiskTable { from_epoch: next.epoch, disks: disks.clone() });
        self.origin.write(&self.dir)?;
        for (i, disk) in disks.iter().enumerate() {
            let path = self.dir.image(&disk.name);
            if i < old.len() {
                Image::grow(&path, disk.size_bytes)?
            } else {
                Image::create(&path, disk.size_bytes).map(drop)?
            }
        }
        self.images = open_images(&self.dir, &disks)?;
        Ok(())
    }

    fn advance_to(&mut self, next: &EpochObject, hash: Hash, resync: bool) -> Result<(), TargetError> {
        let before = self.position().clone();
        let (epoch, seq, number) = (next.epoch, Seq(0), SegmentNo(0));
        let hashes = HashesDue::No;
        // What lies in the journal beyond the position before, if anything does, was rolled back, or is given up.
        let (undo_end, last_undo) = (self.journal.end(), Some(self.journal.last()));
        self.position.advance(ReplayPosition {
            epoch,
            seq,
            number,
            chain_seq: seq,
            hash,
            resync,
            hashes,
            undo_end,
            last_undo,
            ..before
        })
    }
}

/// Opens the images of `disks`, in order.
pub(crate) fn open_images(dir: &GroupDir, disks: &[TargetDisk]) -> Result<Vec<Image>, TargetError> {
    disks.iter().map(|disk| Image::open(&dir.image(&disk.name), disk.size_bytes)).collect()
}

/// Refuses a vault that the target does not come from.
pub(crate) fn check_vault(dir: &GroupDir, origin: &Origin, vault: &VaultName) -> Result<(), TargetError> {
    if origin.vault_id == vault.id {
        return Ok(());
    }
    let what = format!(
        "this target comes from the vault {} at {}, and {} is the vault {}; give that one, or another target folder",
        origin.vault_id, origin.vault_url, vault.url, vault.id
    );
    Err(TargetError::refused(&dir.origin(), what))
}

/// The first epoch of a group.
pub const FIRST_EPOCH: Epoch = Epoch(1);
