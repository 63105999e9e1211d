//! Failover: the target takes over. Every step is noted before it is done, so the same command goes on after a crash, and
//! done again it serves the same point again.
//!
//! 1. [`note`]: the epoch object that will be opened, with its nonce, is noted in `overlay/<name>/failover.json`
//! 2. [`fence`]: the epoch is created conditionally, the epochs before it are sealed: the log ends at the *cut*
//! 3. [`catch_up`]: replay goes on to the cut, by the processor that runs, or here when none does; not where the point that
//!    was asked for is there already
//! 4. the point is resolved and noted; its view is opened with an overlay that stays
//!
//! A point that cannot be had is refused before the source is fenced, as far as that can be known then.

pub mod catch_up;
pub mod fence;
pub mod note;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use farshore_changelog::ids::{Epoch, GroupName, Position, SegmentNo};
use farshore_changelog::{clock, crashsafe};
use farshore_vault::{Vault, VaultError};

use crate::error::{GroupError, TargetError};
use crate::lease::Lease;
use crate::position::ReplayPosition;
use crate::resolve::{PointSpec, ResolveError, Resolved, resolve};
use crate::target::{GroupDir, Origin};
use crate::view::{PointView, ViewDisk, ViewError, check_usable, window};
pub use fence::Cut;
use note::{Note, NotedPoint, Stage};

/// Name of the overlay unless another is given.
pub const DEFAULT_NAME: &str = "failover";
/// Longest wait for another process's replay without it getting further.
pub const STALL_MAX: Duration = Duration::from_secs(300);

/// What is to be failed over, and to where.
#[derive(Debug, Clone)]
pub struct Request {
    /// The target folder.
    pub target: PathBuf,
    /// The group.
    pub group: GroupName,
    /// The point to start from.
    pub point: PointSpec,
    /// The overlay folder's name.
    pub name: String,
}

/// How far a failover is, for the one who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The source is fenced: this epoch is ours.
    Opened(Epoch),
    /// The log ends here.
    Sealed(Cut),
    /// Replay goes on to the cut.
    CatchingUp {
        /// Where it stands.
        position: Position,
        /// Its newest segment.
        number: SegmentNo,
        /// Where it must get.
        cut: Cut,
    },
}

/// A group that was failed over, ready to be served.
pub struct FailedOver {
    /// The disks in index order; each knows its name (`base().name()`) and size.
    pub disks: Vec<ViewDisk>,
    /// The point they show.
    pub point: Resolved,
    /// The epoch that fences the source.
    pub epoch: Epoch,
    /// Where the source's log ends.
    pub cut: Cut,
    /// Where replay stands.
    pub position: Position,
    /// Folder of the overlays.
    pub folder: PathBuf,
    /// From the call to here.
    pub took: Duration,
}

/// Why a group was not failed over.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// The point cannot be shown.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The vault.
    #[error("the vault cannot be used; the source may not be fenced: do not start the VM elsewhere")]
    Vault(#[from] VaultError),
    /// The target's vault is another one.
    #[error("target {dir} comes from the vault {known}, and {given} was given: give that one")]
    OtherVault {
        /// The group's folder.
        dir: PathBuf,
        /// Id and URL as noted at the target.
        known: String,
        /// Id and URL as given.
        given: String,
    },
    /// Nothing of the group is in the vault.
    #[error("group {group} has no epoch in this vault: check its name")]
    NotShipped {
        /// The group.
        group: GroupName,
    },
    /// Another target has taken over.
    #[error(
        "group {group} was failed over already, epoch {epoch} was opened for that and not from this target: look there"
    )]
    Elsewhere {
        /// The group.
        group: GroupName,
        /// The epoch.
        epoch: Epoch,
    },
    /// No epoch could be opened.
    #[error("epoch {epoch} could not be had after {tries} tries; the same command goes on")]
    NoEpoch {
        /// How often.
        tries: u32,
        /// The last one tried.
        epoch: Epoch,
    },
    /// It was failed over to another point.
    #[error("{name} was failed over to {noted} already: use the same point, or another --name for another point")]
    OtherPoint {
        /// Name of the overlay.
        name: String,
        /// The position it shows.
        noted: Position,
    },
    /// The name cannot be a folder's.
    #[error("{name:?} cannot be the name of a failover: use a-z A-Z 0-9 . _ -, not starting with a dot or a dash")]
    Name {
        /// What was given.
        name: String,
    },
    /// Another failover of the group is at work.
    #[error("another failover of the group is at work: wait for it ({path} is locked)")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// Replay does not get further.
    #[error("replay of this group stands at {position} for {}s and must get to segment {} of epoch {}: see farshore status; the same command goes on", STALL_MAX.as_secs(), cut.number, cut.epoch)]
    Stalled {
        /// Where it stands.
        position: Position,
        /// Where it must get.
        cut: Cut,
    },
    /// Replay stopped on the way to the cut.
    #[error(
        "the source is fenced, and replay cannot get to the end of its log; mend what is named and give the same command again, or take a point that is there with --point (farshore points)"
    )]
    Replay(#[source] GroupError),
    /// Replay could not be started.
    #[error("replay cannot be started; start farshore process, and the same command goes on")]
    Processor(#[from] crate::ProcessorError),
    /// The target's files.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<TargetError> for FailoverError {
    fn from(e: TargetError) -> Self {
        Self::View(ViewError::Target(e))
    }
}

impl From<ResolveError> for FailoverError {
    fn from(e: ResolveError) -> Self {
        Self::View(ViewError::Resolve(e))
    }
}

/// Fails `request.group` over: after it the source is fenced, and the disks can be served. `progress` hears each step.
///
/// # Errors
/// [`FailoverError`]. Whatever it is, the same call goes on where this one stopped.
pub async fn failover(
    vault: &Vault,
    request: &Request,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<FailedOver, FailoverError> {
    let began = clock::mono();
    let (group, dir) = (&request.group, GroupDir::new(&request.target, &request.group));
    // A disk's name has just the characters that a folder's may have.
    farshore_changelog::ids::DiskName::new(&request.name)
        .map_err(|_| FailoverError::Name { name: request.name.clone() })?;
    check_origin(vault, request, &dir)?;
    let _one = lock(&dir)?;
    // Until the point is noted nothing is pruned.
    let lease = Lease::take(dir.root(), 0)?;
    let in_vault = vault.group(group);
    let position = at(&dir, group)?;
    let known = known_note(&dir, &request.name, &in_vault, position.epoch).await?;
    let early = match known.as_ref().is_some_and(|note| note.stage == Stage::FailedOver) {
        true => None,
        false => early_point(&dir, request)?,
    };
    let mut note = fence::open_epoch(&in_vault, &dir, &request.name, position.epoch, known).await?;
    progress(Progress::Opened(note.epoch.epoch));
    let cut = fence::seal(&in_vault, &dir, &request.name, &position, &mut note).await?;
    progress(Progress::Sealed(cut));
    // A point that is there needs nothing more of the log; so a damaged log does not stand in its way.
    if early.is_none() && note.point.is_none() {
        catch_up::catch_up(vault, &request.target, &dir, group, cut, progress).await?;
    }
    let point = choose(&dir, request, early, &mut note)?;
    let view = PointView::at(&request.target, group, point.clone())?;
    drop(lease);
    let disks = view.persistent_disks(&request.name)?;
    let folder = dir.overlay(&request.name);
    let position = at(&dir, group)?.position();
    let took = clock::mono().duration_since(began);
    Ok(FailedOver { disks, point, epoch: note.epoch.epoch, cut, position, folder, took })
}

fn check_origin(vault: &Vault, request: &Request, dir: &GroupDir) -> Result<(), FailoverError> {
    let Some(origin) = Origin::read(dir)? else {
        let (dir, group) = (request.target.clone(), request.group.clone());
        return Err(ViewError::NoGroup { dir, group }.into());
    };
    if origin.vault_id == vault.id() {
        return Ok(());
    }
    let known = format!("{} at {}", origin.vault_id, origin.vault_url);
    let given = format!("{} at {}", vault.id(), vault.url());
    Err(FailoverError::OtherVault { dir: dir.root().to_path_buf(), known, given })
}

/// One failover of a group at a time.
fn lock(dir: &GroupDir) -> Result<std::fs::File, FailoverError> {
    let folder = dir.overlays();
    crashsafe::create_dir_all(&folder)?;
    let path = folder.join("lock");
    crashsafe::lock_file(&path).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => FailoverError::Busy { path },
        _ => FailoverError::Io(e),
    })
}

/// Where replay stands; at the start of the first epoch when nothing was replayed.
fn at(dir: &GroupDir, group: &GroupName) -> Result<ReplayPosition, FailoverError> {
    let start = || ReplayPosition::start(group.clone(), Epoch(1), farshore_changelog::ids::Hash::ZERO);
    Ok(window::position(dir)?.unwrap_or_else(start))
}

/// The note to go on from: this overlay's, or that of another failover of this target whose epoch is still the newest, so that
/// another point can be served without another epoch.
async fn known_note(
    dir: &GroupDir,
    name: &str,
    vault: &farshore_vault::GroupVault,
    from: Epoch,
) -> Result<Option<Note>, FailoverError> {
    let notes = note::list(dir.root())?;
    if let Some((_, own)) = notes.iter().find(|(n, _)| n == name) {
        return Ok(Some(own.clone()));
    }
    let Some((newest, _)) = vault.newest_epoch(from).await? else { return Ok(None) };
    let same = notes.into_iter().find(|(_, note)| note.stage >= Stage::Opened && note.epoch == newest);
    Ok(same.map(|(_, note)| {
        let stage = note.stage.min(Stage::Sealed);
        Note { stage, point: None, ..note }
    }))
}

/// The point asked for, when it is there already: nothing is pruned from now on, so it stays. `None` when only the catch-up can
/// bring it; one that it cannot bring is refused while nothing has happened yet.
fn early_point(dir: &GroupDir, request: &Request) -> Result<Option<Resolved>, FailoverError> {
    if request.point == PointSpec::Latest {
        return Ok(None);
    }
    match resolve(&request.point, &window::window(dir, &request.group, &request.point)?) {
        Ok(point) => {
            check_usable(dir, &point)?;
            Ok(Some(point))
        }
        Err(ResolveError::NothingYet | ResolveError::NotYet { .. }) => Ok(None),
        Err(e @ (ResolveError::TooOld { .. } | ResolveError::NoSuchPoint { .. })) => Err(e.into()),
    }
}

/// The noted point, or the one asked for, which is noted.
fn choose(
    dir: &GroupDir,
    request: &Request,
    early: Option<Resolved>,
    note: &mut Note,
) -> Result<Resolved, FailoverError> {
    if let Some(noted) = &note.point {
        let same = || {
            let window = window::window(dir, &request.group, &request.point)?;
            Ok::<_, FailoverError>(resolve(&request.point, &window)?.position == noted.position)
        };
        // Without --point a failover that was done is served again, whatever its point was.
        if request.point == PointSpec::Latest || same()? {
            return Ok(noted.resolved());
        }
        return Err(FailoverError::OtherPoint { name: request.name.clone(), noted: noted.position });
    }
    let point = match early {
        Some(point) => point,
        None => resolve(&request.point, &window::window(dir, &request.group, &request.point)?)?,
    };
    check_usable(dir, &point)?;
    note.stage = Stage::FailedOver;
    note.point = Some(NotedPoint {
        position: point.position,
        time: point.time,
        undo_end: point.undo_end,
        id: point.point.as_ref().map(|p| p.id),
        mark: point.point.as_ref().and_then(|p| p.mark.clone()),
        done: clock::wall().timestamp(),
    });
    let path = note::path(dir, &request.name);
    crashsafe::create_dir_all(&dir.overlay(&request.name))?;
    note.write(&path)?;
    Ok(point)
}

#[cfg(test)]
mod tests;
