//! Why a point cannot be shown.

use std::io;
use std::path::PathBuf;

use farshore_changelog::ids::GroupName;

use crate::error::TargetError;
use crate::resolve::ResolveError;

/// Why a point cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no such group at the target.
    #[error(
        "{dir} holds nothing of group {group}: check --target and the group's name, or start farshore process for it"
    )]
    NoGroup {
        /// The target folder.
        dir: PathBuf,
        /// The group.
        group: GroupName,
    },
    /// `--point` names no position.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The undo journal is damaged between the point and now.
    #[error(
        "{point} is unusable, the undo journal is damaged at {offset} and leads back to it no more: {what}; take a newer point"
    )]
    Unusable {
        /// The point.
        point: String,
        /// Journal offset of the damage.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file of the target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A lease, an overlay or an image could not be used; the text names the file.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// As an error of a disk's read, the whole story in one line.
pub(crate) fn as_io(e: TargetError) -> io::Error {
    match e {
        TargetError::Io { doing, path, source } => {
            io::Error::new(source.kind(), format!("cannot {doing} {}: {source}", path.display()))
        }
        e @ (TargetError::Damaged { .. }
        | TargetError::Version { .. }
        | TargetError::Refused { .. }
        | TargetError::Gone { .. }
        | TargetError::NoWayBack { .. }
        | TargetError::Locked { .. }) => io::Error::new(io::ErrorKind::InvalidData, e),
    }
}
