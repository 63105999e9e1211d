//! The target site: replays the vault's segments onto target images, keeps an undo journal and recovery points, and shows
//! any of these points as a disk.
//!
//! Replay:
//! - [`processor`]: any number of groups of one vault; [`Processor`] is what the command line starts
//! - [`discover`]: which groups the vault has
//! - `board`: whose turn it is; [`poll`]: how often a group is looked after while nothing comes
//! - [`group`]: the loop of one group; [`fetch`] brings its segments, [`chain`] says whether they follow, [`gap`] when one
//!   is gone, [`comeback`] when a group that stopped is tried again
//! - [`batch`]: pure: where a segment is cut into batches, and what the position is after each
//! - [`replay`]: an open target; [`apply`] takes one batch into it, step by step: undo, images, catalogue, position;
//!   [`settle`]: the next one is prepared while its images become durable; [`rollback`] opens it again and undoes what a crash
//!   left half done
//! - [`retention`]: which points go, and then what only they needed, at the target and ([`vault_retention`]) in the vault
//! - [`status`]: what a group's processor says to the command line
//!
//! The folder of a group:
//! - [`target`]: where each file lies, the lock, `origin.json`
//! - [`image`], [`position`], [`points`], [`undo`]: one file each of what lies there
//! - [`extents`]: the map from ranges to where their content is
//! - [`error`]: what can go wrong and what to do then
//!
//! Points and views:
//! - [`resolve`]: what `--point` means
//! - [`view`]: the disks of a group as they were at a point; [`PointView`] opens one
//! - [`overlay`]: copy-on-write over a view; what a VM at the target writes
//! - [`lease`]: what a view needs is not pruned
//! - [`failover()`](failover::failover): the target takes over
//! - [`hashes`]: what the images hold, told to the source before it copies
//! - [`verify`]: everything is read again and proved; [`compare`]: the images against the source's digests

pub mod apply;
pub mod batch;
mod board;
pub mod chain;
pub mod claims;
pub mod comeback;
pub mod compare;
pub mod discover;
pub mod error;
pub mod extents;
pub mod failover;
pub mod fetch;
pub mod gap;
pub mod group;
pub mod hashes;
pub mod image;
pub mod lease;
pub mod overlay;
pub mod points;
pub mod poll;
pub mod position;
mod prepare;
pub mod processor;
pub mod replay;
pub mod resolve;
pub mod retention;
pub mod rollback;
pub mod settle;
pub mod status;
pub mod stop;
pub mod target;
#[cfg(test)]
mod testing;
pub mod undo;
pub mod vault_retention;
pub mod verify;
pub mod view;

pub use error::{GroupError, ProcessorError, TargetError};
pub use group::GroupOutcome;
pub use processor::{Processor, ProcessorConfig};
pub use status::{GroupState, GroupStatus};
pub use stop::Stop;
pub use view::{PointView, ViewDisk};
