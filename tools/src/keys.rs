//! Files with keys: written by `init` and `key`, read by [`farshore_vault::Access`].

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use anyhow::Result;
use farshore_changelog::{clock, crashsafe};
use farshore_vault::crypt::file_name;
use farshore_vault::{Access, KeyError, KeyRing, KeySource, VaultError, VaultKey};

use crate::failure::fail;
use crate::verbs::block_on;

/// The key that a vault is to be made with.
pub struct Chosen {
    /// The key.
    pub key: VaultKey,
    place: Place,
    /// The file that was written.
    written: RefCell<Option<PathBuf>>,
}

enum Place {
    /// It is kept by somebody.
    Given(String),
    /// It is to be written to this file.
    File(PathBuf),
    /// It is to be written to this folder, under the vault's id.
    Folder(PathBuf),
}

/// Chooses it: what `file` holds, what the environment gives, or a new one.
///
/// # Errors
/// When a key is there and cannot be read.
pub fn choose(access: &Access, file: Option<&Path>) -> Result<Chosen> {
    let chosen = |key, place| Chosen { key, place, written: RefCell::default() };
    let given = match file {
        Some(path) if path.symlink_metadata().is_err() => {
            return Ok(chosen(VaultKey::generate(), Place::File(std::path::absolute(path)?)));
        }
        Some(path) => {
            let keys = access.clone().with_keys(KeySource::File(path.to_owned()));
            block_on(keys.given())??
        }
        None => block_on(access.given())??,
    };
    if let Some((ring, from)) = given {
        let key = ring.vault.into_iter().next().ok_or_else(|| {
            fail(format!("{from} holds keys of sources alone"))
                .next("a vault is made with a key of its own: take another place for it")
        })?;
        return Ok(chosen(key, Place::Given(from)));
    }
    let folder = access.folders().into_iter().next().unwrap_or_else(|| PathBuf::from("/etc/farshore/keys"));
    Ok(chosen(VaultKey::generate(), Place::Folder(folder)))
}

impl Chosen {
    /// Puts the key where the vault `id` will find it.
    ///
    /// # Errors
    /// [`VaultError::Key`].
    pub fn keep(&self, id: &str) -> Result<(), VaultError> {
        let path = match &self.place {
            Place::Given(_) => return Ok(()),
            Place::File(path) => path.clone(),
            Place::Folder(folder) => folder.join(file_name(id)),
        };
        let said = format!("the key of vault {id}, made {}", clock::wall().timestamp());
        write(&path, &said, &KeyRing::of(self.key.clone())).map_err(|e| {
            VaultError::Key(KeyError::Unreadable { given: path.display().to_string(), what: format!("{e:#}") })
        })?;
        *self.written.borrow_mut() = Some(path);
        Ok(())
    }

    /// Removes a file that was written for a vault that was not made.
    pub fn take_back(&self) {
        if let Some(path) = self.written.take()
            && let Err(e) = crashsafe::remove(&path)
        {
            tracing::warn!("{} holds a key of no vault and could not be removed: {e}", path.display());
        }
    }

    /// Where it is kept.
    pub fn place(&self) -> String {
        match (&self.place, &*self.written.borrow()) {
            (Place::Given(from), _) => from.clone(),
            (_, Some(path)) => path.display().to_string(),
            (Place::File(path) | Place::Folder(path), None) => path.display().to_string(),
        }
    }
}

/// Writes a file of keys, readable by its owner alone, in place of any other.
///
/// # Errors
/// Of the file system.
pub fn write(path: &Path, said: &str, ring: &KeyRing) -> Result<()> {
    let mut text = zeroize::Zeroizing::new(format!(
        "# farshore: {said}.\n# The newest key comes first. Whoever has this file has what it opens.\n"
    ));
    for key in &ring.vault {
        text.push_str(&key.to_line());
        text.push('\n');
    }
    for key in &ring.source {
        text.push_str(&key.to_line());
        text.push('\n');
    }
    if let Some(folder) = path.parent() {
        crashsafe::create_dir_all(folder)?;
    }
    Ok(crashsafe::replace_secret(path, text.as_bytes())?)
}
