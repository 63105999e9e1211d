//! Where keys come from: what was said, else the environment, else the folders in which `farshore init` leaves them.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::cloud::Variables;
use crate::crypt::error::KeyError;
use crate::crypt::ring::{KEYS_MAX_BYTES, KeyRing};

/// The keys themselves.
const KEY: &str = "FARSHORE_VAULT_KEY";
/// A file with them.
const KEY_FILE: &str = "FARSHORE_VAULT_KEY_FILE";
/// A command that prints them.
const KEY_COMMAND: &str = "FARSHORE_VAULT_KEY_COMMAND";
/// The name of a systemd credential with them.
const CREDENTIAL: &str = "vault-key";
/// Longest time that a command may take; some ask a key server, or a person.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Where the keys of a vault come from.
#[derive(Debug, Clone, Default)]
pub enum KeySource {
    /// The environment, a systemd credential, or the usual folders.
    #[default]
    Usual,
    /// This file.
    File(PathBuf),
    /// What this command prints, run by `/bin/sh`.
    Command(String),
    /// These.
    Held(KeyRing),
}

/// Whether a vault must be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// As the vault is. Where there is a key for it, it must be.
    #[default]
    AsFound,
    /// It must be: a source that is to write to it does not believe the store, which could say anything.
    Required,
    /// It must not be.
    Off,
}

/// Everything about whoever opens a vault.
#[derive(Debug, Clone)]
pub struct Access {
    /// Credentials of the store, and keys.
    pub variables: Variables,
    /// Where the keys come from.
    pub keys: KeySource,
    /// What the vault must be.
    pub encryption: Encryption,
}

impl Access {
    /// As the environment of this process says.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of(Variables::of_process())
    }

    /// As these variables say.
    #[must_use]
    pub fn of(variables: Variables) -> Self {
        Self { variables, keys: KeySource::Usual, encryption: Encryption::AsFound }
    }

    /// With keys from there.
    #[must_use]
    pub fn with_keys(mut self, keys: KeySource) -> Self {
        self.keys = keys;
        self
    }

    /// The keys for the vault `id`, and where they were found; `Err` with where they were looked for when there are none.
    ///
    /// # Errors
    /// [`KeyError::Unreadable`].
    pub(crate) async fn ring(&self, id: &str) -> Result<Result<(KeyRing, String), String>, KeyError> {
        if let Some(given) = self.given().await? {
            return Ok(Ok(given));
        }
        match self.in_folders(id) {
            Ok(found) => found.ring().await.map(Ok),
            Err(looked) => Ok(Err(looked)),
        }
    }

    /// The keys that are given for whatever vault is asked for, and where they were found; `None` when there are none.
    ///
    /// # Errors
    /// [`KeyError::Unreadable`].
    pub async fn given(&self) -> Result<Option<(KeyRing, String)>, KeyError> {
        let found = match &self.keys {
            KeySource::Held(ring) => return Ok(Some((ring.clone(), "memory".to_owned()))),
            KeySource::File(path) => Some(Found::File(path.clone())),
            KeySource::Command(command) => Some(Found::Command(command.clone())),
            KeySource::Usual => self.of_environment()?,
        };
        match found {
            Some(found) => found.ring().await.map(Some),
            None => Ok(None),
        }
    }

    fn of_environment(&self) -> Result<Option<Found>, KeyError> {
        let of = |name: &'static str| self.variables.get(name).map(|value| (name, value.to_owned()));
        let said: Vec<(&str, String)> = [KEY, KEY_FILE, KEY_COMMAND].into_iter().filter_map(of).collect();
        match said.as_slice() {
            [] => Ok(None),
            [(KEY, text)] => Ok(Some(Found::Text(zeroize::Zeroizing::new(text.clone())))),
            [(KEY_FILE, path)] => Ok(Some(Found::File(PathBuf::from(path)))),
            [(_, command)] => Ok(Some(Found::Command(command.clone()))),
            several => {
                let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
                Err(KeyError::Unreadable {
                    given: names.join(" and "),
                    what: "set one of them, not several".to_owned(),
                })
            }
        }
    }

    fn in_folders(&self, id: &str) -> Result<Found, String> {
        let mut places = Vec::new();
        places.extend(self.variables.get("CREDENTIALS_DIRECTORY").map(|dir| Path::new(dir).join(CREDENTIAL)));
        places.extend(self.folders().into_iter().map(|folder| folder.join(file_name(id))));
        match places.iter().find(|path| path.symlink_metadata().is_ok()) {
            Some(path) => Ok(Found::File(path.clone())),
            None => {
                let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
                Err(format!("neither {KEY}, {KEY_FILE} nor {KEY_COMMAND} is set, nor is there {}", places.join(" or ")))
            }
        }
    }

    /// The folders in which keys are looked for, the first being the one in which new ones are left.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let config = self.variables.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| self.variables.get("HOME").map(|home| Path::new(home).join(".config")));
        let own = config.filter(|path| path.is_absolute()).map(|path| path.join("farshore/keys"));
        own.into_iter().chain([PathBuf::from("/etc/farshore/keys")]).collect()
    }
}

/// The name of the file with the keys of the vault `id`, in one of those folders.
#[must_use]
pub fn file_name(id: &str) -> String {
    format!("{id}.key")
}

enum Found {
    Text(zeroize::Zeroizing<String>),
    File(PathBuf),
    Command(String),
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => write!(f, "{KEY}"),
            Self::File(path) => write!(f, "{}", path.display()),
            // A command may have a secret among its words.
            Self::Command(_) => f.write_str("the output of the key command"),
        }
    }
}

impl Found {
    async fn ring(self) -> Result<(KeyRing, String), KeyError> {
        let given = self.to_string();
        let unreadable = |what: String| KeyError::Unreadable { given: given.clone(), what };
        let text = self.text().await.map_err(unreadable)?;
        let ring = KeyRing::parse(&text).map_err(unreadable)?;
        Ok((ring, given))
    }

    async fn text(self) -> Result<zeroize::Zeroizing<String>, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::File(path) => of_file(&path),
            Self::Command(command) => of_command(&command).await,
        }
    }
}

fn of_file(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    let mode = meta.permissions().mode() & 0o777;
    if meta.is_file() && mode & 0o077 != 0 {
        return Err(format!("others may read it (mode {mode:03o}); run: chmod 600 {}", path.display()));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(KEYS_MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    fits(text)
}

async fn of_command(command: &str) -> Result<zeroize::Zeroizing<String>, String> {
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("/bin/sh cannot be started: {e}"))?;
    let stdout = child.stdout.take().ok_or("its output cannot be read")?;
    let mut text = zeroize::Zeroizing::new(String::new());
    let ended = tokio::time::timeout(COMMAND_MAX, async {
        stdout.take(KEYS_MAX_BYTES + 1).read_to_string(&mut text).await?;
        child.wait().await
    });
    let status = ended.await.map_err(|_| format!("it did not end within {} s", COMMAND_MAX.as_secs()))?;
    let status = status.map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("it ended with {status}; what it said is above"));
    }
    fits(text)
}

fn fits(text: zeroize::Zeroizing<String>) -> Result<zeroize::Zeroizing<String>, String> {
    if text.len() as u64 > KEYS_MAX_BYTES { Err(format!("it is larger than {KEYS_MAX_BYTES} bytes")) } else { Ok(text) }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
