//! A point's disk with an overlay: what an export serves.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::ViewError;
use super::point::{PointDisk, PointView};
use super::read_disk::ReadDisk;
use crate::overlay::Overlay;
use crate::overlay::layout::Header;

/// A disk of a point that can be read and written: blocking `read_at`, `write_at`, `zero`, `trim`, `flush` and `extents` from
/// any number of threads. What is written goes into the overlay; the point stays as it is.
pub type ViewDisk = Overlay<PointDisk>;

impl PointView {
    /// The disks in index order, each with an overlay that goes away with the process.
    ///
    /// # Errors
    /// [`ViewError::Io`] when an overlay cannot be made.
    pub fn private_disks(self: &Arc<Self>) -> Result<Vec<ViewDisk>, ViewError> {
        let folder = self.dir().overlays();
        let over = |disk: PointDisk| {
            let header = self.header(&disk);
            Overlay::private(disk, header, &folder)
        };
        Ok(self.disks().into_iter().map(over).collect::<Result<_, _>>()?)
    }

    /// The disks in index order, each with the overlay `overlay/<name>/<disk>.cow`, which is created when it is absent and
    /// goes on where it was when it is there.
    ///
    /// # Errors
    /// [`ViewError::Io`] when an overlay cannot be made, is in use, is damaged, or lies over another point.
    pub fn persistent_disks(self: &Arc<Self>, name: &str) -> Result<Vec<ViewDisk>, ViewError> {
        let over = |disk: PointDisk| {
            let (header, path) = (self.header(&disk), self.overlay_path(name, &disk));
            Overlay::persistent(disk, header, &path)
        };
        Ok(self.disks().into_iter().map(over).collect::<Result<_, _>>()?)
    }

    fn overlay_path(&self, name: &str, disk: &PointDisk) -> PathBuf {
        self.dir().overlay(name).join(format!("{}.cow", disk.name()))
    }

    fn header(&self, disk: &PointDisk) -> Header {
        Header {
            group: self.group().clone(),
            disk: disk.name().clone(),
            size_bytes: disk.size_bytes(),
            granule_bytes: Header::granule_for(disk.size_bytes()),
            position: self.point().position,
            undo_end: self.point().undo_end,
        }
    }
}
