//! The disks of a group as they were at a point, while replay goes on or without any processor.
//!
//! - [`window`]: which positions can be had, read from the target's files without a lock
//! - [`point`]: [`PointView`], all disks at one position, and [`PointDisk`], one of them to read
//! - [`attach`]: [`ViewDisk`], a point's disk with an overlay, to read and write
//! - [`export`]: a disk into a raw sparse file
//! - [`read_disk`]: what all of these have in common
//! - [`sparse`]: holes of files
//! - [`error`]: what can go wrong

pub mod attach;
pub mod error;
pub mod export;
pub mod point;
pub mod read_disk;
pub mod sparse;
pub mod window;

pub use attach::ViewDisk;
pub use error::ViewError;
pub use point::{PointDisk, PointView, check_usable};
pub use read_disk::{Extent, RawDisk, ReadDisk};

#[cfg(test)]
mod tests;
