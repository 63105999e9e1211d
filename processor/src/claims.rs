//! Which of several processors of a vault follows a group (`docs/format.md`, "Claims"). A target takes a group that nobody ever followed; one
//! that was released, or whose target is lost, it takes only when it is told to: an image does not move by itself.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::crashsafe;
use farshore_changelog::ids::GroupName;
use farshore_vault::{Claim, GroupVault, Nonce, Put, VaultError};
use serde::{Deserialize, Serialize};

use crate::error::TargetError;
use crate::target::{GroupDir, read_bounded};

/// Format of `target.json`.
const FORMAT: u32 = 1;
/// Largest `target.json` that is read, in bytes.
const TARGET_MAX_BYTES: u64 = 4096;
/// The vault is asked this often about a group that another target follows.
pub const ASK_EVERY: Duration = Duration::from_secs(5 * 60);
/// A group that nobody follows, and for which there is no room here, is asked for again this often.
pub const NOBODYS_EVERY: Duration = Duration::from_secs(5);
/// A group that another target follows is looked after this often: whether somebody here was told to adopt it.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Claims of one group that are lost to others in one go before it is given up for now.
const RACES_MAX: u32 = 8;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    format: u32,
    id: Nonce,
}

/// A target folder, as its claims name it.
#[derive(Debug)]
pub struct Claimant {
    target: PathBuf,
    id: Nonce,
    place: String,
    limit: usize,
    held: Mutex<BTreeSet<GroupName>>,
}

/// Whose a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This target's.
    Ours,
    /// Another's: where, and since when.
    Other(String, jiff::Timestamp),
    /// Nobody's, since it was released there.
    Released(String, jiff::Timestamp),
    /// Nobody's, and this target follows as many as it may.
    Full,
    /// Ours, and about to be released.
    Leaving,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours => f.write_str("this target follows it"),
            Self::Other(place, since) => write!(
                f,
                "the target {place} follows it, since {since}; to bring it here: farshore release GROUP there, then farshore adopt GROUP here"
            ),
            Self::Released(place, since) => write!(
                f,
                "nobody follows it, since {place} released it at {since}; to bring it here: farshore adopt GROUP"
            ),
            Self::Full => {
                f.write_str("nobody follows it, and this target follows as many groups as it may (--max-groups)")
            }
            Self::Leaving => f.write_str("it is being released"),
        }
    }
}

impl Claimant {
    /// The target folder, which gets an id when it has none; it follows at most `limit` groups.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn open(target: &Path, limit: usize) -> Result<Self, TargetError> {
        let path = target.join("target.json");
        let id = match id(&path)? {
            Some(id) => id,
            None => {
                // Two that start at once on a new folder are to agree.
                let _locked = lock_soon(&target.join("target.lock"))?;
                match id(&path)? {
                    Some(id) => id,
                    None => new_id(&path)?,
                }
            }
        };
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
        let place = format!("{host}:{}", folder.display());
        Ok(Self { target: target.to_owned(), id, place, limit, held: Mutex::default() })
    }

    /// Whose the group is; takes it when nobody ever followed it and there is room.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn claim(&self, vault: &GroupVault) -> Result<Owner, VaultError> {
        if self.dir(vault).is_to_be_released() {
            return Ok(Owner::Leaving);
        }
        let mut from = 0;
        for _ in 0..RACES_MAX {
            let (n, newest) = vault.newest_claim(from).await?;
            match newest {
                Some(claim) => return Ok(self.owner(vault.group(), claim)),
                None if !self.has_room(vault.group()) => return Ok(Owner::Full),
                None => {}
            }
            let put = vault.put_claim(n + 1, &self.taken()).await;
            if matches!(put, Ok(Put::Created)) {
                return Ok(Owner::Ours);
            }
            self.held().remove(vault.group());
            put?;
            from = n + 1;
        }
        Ok(Owner::Full)
    }

    /// Takes the group although it was released, or, with `owner_is_lost`, although another target follows it.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn adopt(&self, vault: &GroupVault, owner_is_lost: bool) -> Result<Owner, VaultError> {
        for _ in 0..RACES_MAX {
            let (n, newest) = vault.newest_claim(0).await?;
            let owner = newest.map(|claim| self.owner(vault.group(), claim));
            match owner {
                Some(Owner::Other(place, since)) if !owner_is_lost => return Ok(Owner::Other(place, since)),
                Some(Owner::Ours) => return Ok(Owner::Ours),
                _ => {}
            }
            if vault.put_claim(n + 1, &self.taken()).await? == Put::Created {
                return Ok(Owner::Ours);
            }
        }
        Ok(Owner::Full)
    }

    /// Gives the group up. The caller holds its lock, so nobody here writes to it.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn release(&self, vault: &GroupVault) -> Result<Option<Owner>, VaultError> {
        let (n, newest) = vault.newest_claim(0).await?;
        let Some(claim) = newest else { return Ok(None) };
        let owner = self.owner(vault.group(), claim);
        if owner != Owner::Ours {
            return Ok(Some(owner));
        }
        let (target, place, created) = (self.id, self.place.clone(), clock::wall().timestamp());
        // Exists: it was adopted meanwhile, with the word that we are lost.
        let _created = vault.put_claim(n + 1, &Claim::Released { target, place, created }).await?;
        self.held().remove(vault.group());
        Ok(Some(Owner::Ours))
    }

    /// The group is not followed here any more.
    pub fn let_go(&self, group: &GroupName) {
        self.held().remove(group);
    }

    fn owner(&self, group: &GroupName, claim: Claim) -> Owner {
        match claim {
            Claim::Taken { target, .. } if target == self.id => {
                self.held().insert(group.clone());
                Owner::Ours
            }
            Claim::Taken { place, created, .. } => Owner::Other(place, created),
            Claim::Released { place, created, .. } => Owner::Released(place, created),
        }
    }

    /// Whether there is room for the group, which it takes at once: several are claimed at a time.
    fn has_room(&self, group: &GroupName) -> bool {
        let mut held = self.held();
        held.contains(group) || (held.len() < self.limit && held.insert(group.clone()))
    }

    fn taken(&self) -> Claim {
        Claim::Taken { target: self.id, place: self.place.clone(), created: clock::wall().timestamp() }
    }

    fn dir(&self, vault: &GroupVault) -> GroupDir {
        GroupDir::new(&self.target, vault.group())
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<GroupName>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(path: &Path) -> Result<Option<Nonce>, TargetError> {
    let bytes = match read_bounded(path, TARGET_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(TargetError::io("read", path)(e)),
    };
    let note: Note = serde_json::from_slice(&bytes).map_err(|e| TargetError::damaged(path, 0, e.to_string()))?;
    if note.format != FORMAT {
        return Err(TargetError::Version { path: path.to_owned(), found: note.format, supported: FORMAT });
    }
    Ok(Some(note.id))
}

fn new_id(path: &Path) -> Result<Nonce, TargetError> {
    let note = Note { format: FORMAT, id: Nonce::random() };
    let bytes = serde_json::to_vec(&note).expect("a note of two values can be written");
    crashsafe::replace(path, &bytes).map_err(TargetError::io("write", path))?;
    Ok(note.id)
}

/// Longest wait for a lock that others hold for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Takes a lock that others hold for a moment only.
///
/// # Errors
/// [`TargetError::Io`], also when it stays held.
pub fn lock_soon(lock: &Path) -> Result<std::fs::File, TargetError> {
    let until = clock::mono() + LOCK_WAIT_MAX;
    loop {
        match crashsafe::lock_file(lock) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && clock::mono() < until => clock::sleep(LOCK_PAUSE),
            locked => return locked.map_err(TargetError::io("lock", lock)),
        }
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
