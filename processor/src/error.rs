//! What can go wrong at the target: with its files ([`TargetError`]), and with a group as a whole ([`GroupError`]).
//! Both say where, what is wrong and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::VaultError;

/// A file of the target folder that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file system refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried, as in "write".
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what this program wrote.
    #[error(
        "{path} is damaged at byte {offset}: {what}; points that do not need it are still good, restore the file or protect the group anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The file has a version that this build does not read.
    #[error("{path} has version {found}, this farshore reads version {supported}; use the version that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is read.
        supported: u32,
    },
    /// The file is sound and must not be used for this; the text says why and what to do.
    #[error("{path} is refused: {what}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        what: String,
    },
    /// A file that is in use is not at its name any more.
    #[error(
        "{path} is gone: put it back as it was, and the group goes on by itself. Is it lost, so are the points that need it: move the group's folder away and start the processor again, and replay begins anew"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// What must be rolled back cannot be: the images are those of no position.
    #[error(
        "{undo} is damaged at journal offset {at}: {what}; what replay had begun there cannot be undone. Restore it, and the group goes on by itself; else ask the source for everything again, and the points before are lost: farshore resync GROUP --full"
    )]
    NoWayBack {
        /// The folder of the undo journal.
        undo: PathBuf,
        /// The journal offset.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// Another process works on the folder.
    #[error("{path} is locked: another process replays this group (a failover does); once it ends this one goes on")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

impl TargetError {
    /// The constructor that `map_err` wants for an error of the file system.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }

    /// A damaged file.
    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), offset, what: what.into() }
    }

    /// A refused file.
    pub(crate) fn refused(path: &Path, what: impl Into<String>) -> Self {
        Self::Refused { path: path.to_path_buf(), what: what.into() }
    }

    /// The file it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::Damaged { path, .. }
            | Self::Version { path, .. }
            | Self::Refused { path, .. }
            | Self::Gone { path }
            | Self::NoWayBack { undo: path, .. }
            | Self::Locked { path } => path,
        }
    }

    /// Whether there was no room left (the disk is full, or a quota is used up).
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Damaged { .. }
            | Self::Version { .. }
            | Self::Refused { .. }
            | Self::Gone { .. }
            | Self::NoWayBack { .. }
            | Self::Locked { .. } => false,
        }
    }
}

/// Why a group stopped (or, when [`GroupError::is_transient`], why it waits). Nothing past the place it names is applied,
/// and the points cut before stay good. It is tried again, so each says what is to be mended, and none to start anything anew.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// An object of the vault is not what belongs there.
    #[error(
        "{at} is damaged or out of place: {what}; nothing of it was applied. Put the right object there, or ask the source for everything again: farshore resync GROUP --full"
    )]
    Damaged {
        /// The object's key.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// A segment is missing while later ones are there.
    #[error(
        "segment {number} of epoch {epoch} is missing at {at}, while segment {later} is there. Put it back, or ask the source for everything again: farshore resync GROUP --full"
    )]
    Gap {
        /// The key that should be there.
        at: String,
        /// Its epoch.
        epoch: Epoch,
        /// Its number.
        number: SegmentNo,
        /// A later one that is there.
        later: SegmentNo,
    },
    /// The epoch's seal is missing while its successor has segments.
    #[error(
        "epoch {epoch} has no seal at {at} or above, while its successor {next} has segments. Put it back, or ask the source for everything again: farshore resync GROUP --full"
    )]
    Unsealed {
        /// The key where replay waits.
        at: String,
        /// Its epoch.
        epoch: Epoch,
        /// The successor.
        next: Epoch,
    },
    /// The log ends before what was there once.
    #[error(
        "the vault has gone back in time at {at}: {what}. Put back what was there; if the vault was restored from a copy, ask the source for everything again: farshore resync GROUP --full"
    )]
    WentBack {
        /// The key where it shows.
        at: String,
        /// What is gone.
        what: String,
    },
    /// What the vault says must not be done to this target; the text says why and what to do.
    #[error("{at} is refused: {what}")]
    Refused {
        /// The object or file.
        at: String,
        /// Why, and what to do.
        what: String,
    },
    /// The target has no room left.
    #[error(
        "no room left for {at}: make room, and the group goes on by itself where it stopped; or start the processor with a shorter retention"
    )]
    Full {
        /// The file that could not grow.
        at: String,
        /// What the file system said.
        #[source]
        source: TargetError,
    },
    /// A file of the target.
    #[error("the target cannot be used")]
    Target(#[source] TargetError),
    /// The vault.
    #[error("the vault cannot be used")]
    Vault(#[source] VaultError),
}

impl GroupError {
    /// The object key or the file it is about.
    #[must_use]
    pub fn at(&self) -> String {
        match self {
            Self::Damaged { at, .. }
            | Self::Gap { at, .. }
            | Self::Unsealed { at, .. }
            | Self::WentBack { at, .. }
            | Self::Refused { at, .. }
            | Self::Full { at, .. } => at.clone(),
            Self::Target(e) => e.path().display().to_string(),
            Self::Vault(e) => match e {
                VaultError::Damaged { key, .. } | VaultError::Version { key, .. } => key.clone(),
                VaultError::NotAVault { url }
                | VaultError::AlreadyAVault { url }
                | VaultError::OtherVault { url, .. }
                | VaultError::Unconditional { url, .. }
                | VaultError::BadUrl { url, .. } => url.clone(),
                VaultError::Key(e) => e.at().to_owned(),
                VaultError::Unreachable { what, .. }
                | VaultError::Throttled { what, .. }
                | VaultError::Refused { what, .. }
                | VaultError::Gone { what, .. } => what.clone(),
            },
        }
    }

    /// Whether trying again later can help without anybody doing something.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Vault(e) => e.is_transient(),
            Self::Damaged { .. }
            | Self::Gap { .. }
            | Self::Unsealed { .. }
            | Self::WentBack { .. }
            | Self::Refused { .. }
            | Self::Full { .. }
            | Self::Target(_) => false,
        }
    }

    /// Whether the log itself cannot be followed: then a later epoch that copies everything again is a way out.
    #[must_use]
    pub fn is_in_the_log(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::Gap { .. }
            | Self::Unsealed { .. }
            | Self::WentBack { .. }
            | Self::Refused { .. } => true,
            Self::Vault(e) => matches!(e, VaultError::Damaged { .. }),
            Self::Full { .. } | Self::Target(_) => false,
        }
    }

    /// Whether what was half done cannot be undone: then too a later epoch that copies everything again is a way out. Gives the
    /// journal offset of the damage.
    #[must_use]
    pub fn no_way_back(&self) -> Option<u64> {
        match self {
            Self::Target(TargetError::NoWayBack { at, .. }) => Some(*at),
            _ => None,
        }
    }

    /// Whether another process replays the group.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Target(TargetError::Locked { .. }))
    }

    /// The whole story in one line: this error and its sources.
    #[must_use]
    pub fn full_text(&self) -> String {
        let first: Option<&dyn std::error::Error> = Some(self);
        let texts: Vec<String> = std::iter::successors(first, |e| e.source()).map(ToString::to_string).collect();
        texts.join(": ")
    }
}

impl From<TargetError> for GroupError {
    fn from(e: TargetError) -> Self {
        if e.is_full() { Self::Full { at: e.path().display().to_string(), source: e } } else { Self::Target(e) }
    }
}

impl From<VaultError> for GroupError {
    fn from(e: VaultError) -> Self {
        Self::Vault(e)
    }
}

/// Why a processor could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The vault.
    #[error("the vault {url} cannot be used")]
    Vault {
        /// Its URL.
        url: String,
        /// Why.
        #[source]
        source: VaultError,
    },
    /// The target folder.
    #[error("the target folder cannot be used")]
    Target(#[from] TargetError),
    /// A thread could not be started.
    #[error("cannot start a thread: raise the limit of processes")]
    Thread(#[source] io::Error),
}
