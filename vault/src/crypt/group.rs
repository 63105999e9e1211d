//! Sealing and opening the objects of a group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, GroupName};
use farshore_changelog::segment::{Kind, layout};

use crate::crypt::envelope::{self, Broken, Envelope, Under};
use crate::crypt::error::KeyError;
use crate::crypt::keys::{DataKey, Fingerprint, SourceKey, VaultKey};
use crate::crypt::ring::KeyRing;
use crate::error::VaultError;
use crate::keys::Key;
use crate::objects::Nonce;

/// What a process can do in an encrypted vault.
#[derive(Debug)]
pub(crate) struct VaultCrypt {
    id: Nonce,
    /// The key that the vault was made with.
    first: Fingerprint,
    ring: KeyRing,
    /// Where the keys come from, for messages.
    given: String,
    /// One a group that was asked for: the data keys in it are found once.
    groups: Mutex<HashMap<GroupName, Arc<GroupCrypt>>>,
}

/// What a process can do with the objects of a group.
#[derive(Debug)]
pub(crate) struct GroupCrypt {
    id: Nonce,
    group: GroupName,
    given: String,
    /// The newest first.
    held: Vec<Held>,
    /// The data keys of epochs: those that were read, or made here. As many as the group has epochs.
    data: Mutex<HashMap<Epoch, DataKey>>,
    /// The newest epoch that was read here, and the key that it is under: what its source can read.
    spoken: Mutex<Option<(Epoch, Fingerprint)>>,
}

/// One vault key, as far as it is known here.
#[derive(Debug)]
struct Held {
    fingerprint: Fingerprint,
    source: SourceKey,
    /// Present where everything may be opened.
    vault: Option<VaultKey>,
}

/// Why an object was not opened.
pub(crate) enum Closed {
    /// The data key of the epoch is not known yet: its object has it.
    DataKey(Epoch),
    /// For good.
    Failed(VaultError),
}

impl VaultCrypt {
    pub(crate) fn new(id: Nonce, first: Fingerprint, ring: KeyRing, given: String) -> Self {
        Self { id, first, ring, given, groups: Mutex::default() }
    }

    /// The keys of this vault's groups that a source of `group` needs; `None` where they cannot be made here.
    pub(crate) fn source_key(&self, group: &GroupName) -> Option<SourceKey> {
        let first = self.ring.vault_key(self.first)?;
        self.ring.vault.first().map(|key| key.source_key(self.id, group, first))
    }

    pub(crate) fn vault_keys(&self) -> Option<(&[VaultKey], &str)> {
        (!self.ring.vault.is_empty()).then_some((self.ring.vault.as_slice(), self.given.as_str()))
    }

    pub(crate) fn first(&self) -> Fingerprint {
        self.first
    }

    /// The key that new epochs are sealed to.
    pub(crate) fn current(&self) -> Fingerprint {
        let source = || self.ring.source.iter().find(|key| key.vault == self.id).map(SourceKey::fingerprint);
        self.ring.vault.first().map(VaultKey::fingerprint).or_else(source).unwrap_or(self.first)
    }

    pub(crate) fn group(&self, group: &GroupName) -> Arc<GroupCrypt> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            // The object key is of no use to a group; any vault key will do as the first.
            let of_vault = self.ring.vault.iter().map(|key| Held {
                fingerprint: key.fingerprint(),
                source: key.source_key(self.id, group, key),
                vault: Some(key.clone()),
            });
            let of_source = self.ring.source.iter().filter(|k| k.vault == self.id && k.group == *group);
            let of_source =
                of_source.map(|key| Held { fingerprint: key.fingerprint(), source: key.clone(), vault: None });
            let held = of_vault.chain(of_source).collect();
            let (id, given, group) = (self.id, self.given.clone(), group.clone());
            Arc::new(GroupCrypt { id, group, given, held, data: Mutex::default(), spoken: Mutex::default() })
        };
        Arc::clone(groups.entry(group.clone()).or_insert_with(made))
    }
}

impl GroupCrypt {
    pub(crate) fn group(&self) -> &GroupName {
        &self.group
    }

    /// Takes the data key of an epoch that this process made.
    pub(crate) fn know(&self, epoch: Epoch, key: DataKey) {
        self.lock().insert(epoch, key);
    }

    /// Seals what is to lie under `key`.
    pub(crate) fn seal(&self, key: &Key, content: &[u8]) -> Result<Bytes, VaultError> {
        let held = self.held_for(key).ok_or_else(|| self.wrong(key, "this group".to_owned()))?;
        let place = self.place(key);
        let print = held.fingerprint;
        let by_group = |sealed_key: Option<&[u8]>| {
            let digest = blake3::hash(content);
            envelope::seal(&held.source.group_key, Under::Group, print, sealed_key, &place, digest.as_bytes(), content)
        };
        match key {
            Key::Segment(_, epoch, _) if !is_seal(content) => {
                let data = self.lock().get(epoch).cloned().ok_or_else(|| {
                    damaged(
                        key,
                        format!("the data key of epoch {epoch} is not known here; only its source can write to it"),
                    )
                })?;
                let digest = digest_of_segment(content);
                Ok(envelope::seal(&data.0, Under::Data, print, None, &place, &digest, content))
            }
            Key::Epoch(_, epoch) => {
                let data = self.lock().get(epoch).cloned();
                let sealed = data.map(|data| data.sealed(&held.source.public, self.id, &self.group, *epoch));
                let sealed = match sealed {
                    Some(None) => {
                        return Err(damaged(key, "the key it is to be sealed to is no public key".to_owned()));
                    }
                    Some(sealed) => sealed,
                    None => None,
                };
                Ok(by_group(sealed.as_deref()))
            }
            _ => Ok(by_group(None)),
        }
    }

    /// Opens what lies under `key`. Of an epoch object the data key is kept, where it can be opened here.
    pub(crate) fn open(&self, key: &Key, bytes: &[u8]) -> Result<Bytes, Closed> {
        let broken = |e: Broken| Closed::Failed(damaged(key, e.to_string()));
        let envelope = Envelope::parse(bytes).map_err(broken)?;
        let held = self.held.iter().find(|held| held.fingerprint == envelope.fingerprint);
        let held = held.ok_or_else(|| Closed::Failed(self.wrong(key, envelope.fingerprint.to_string())))?;
        let place = self.place(key);
        match (envelope.under, key) {
            (Under::Data, Key::Segment(_, epoch, _)) => {
                let data = self.lock().get(epoch).cloned().ok_or(Closed::DataKey(*epoch))?;
                envelope.open(&data.0, &place).map_err(broken)
            }
            (Under::Data, _) => Err(broken(Broken::Layout("it is under a data key, as only a segment is".to_owned()))),
            (Under::Group, _) => {
                let content = envelope.open(&held.source.group_key, &place).map_err(broken)?;
                if matches!(key, Key::Segment(..)) && !is_seal(&content) {
                    return Err(broken(Broken::Layout("it is a segment under the group's key".to_owned())));
                }
                if let Key::Epoch(_, epoch) = key {
                    self.heard(*epoch, envelope.fingerprint);
                }
                if let (Key::Epoch(_, epoch), Some(sealed), Some(vault)) = (key, envelope.data_key, &held.vault) {
                    let data = vault.open_data_key(sealed, self.id, &self.group, *epoch).ok_or_else(|| {
                        broken(Broken::Layout("its data key cannot be opened with the vault's key".to_owned()))
                    })?;
                    self.know(*epoch, data);
                }
                Ok(content)
            }
        }
    }

    /// The key to seal with: the newest in an epoch that begins here; else the one that the group's source has shown that it has.
    fn held_for(&self, key: &Key) -> Option<&Held> {
        let ours = matches!(key, Key::Epoch(_, epoch) | Key::Segment(_, epoch, _) if self.lock().contains_key(epoch));
        let spoken = self.spoken().filter(|_| !ours);
        let of_source = spoken.and_then(|print| self.held.iter().find(|held| held.fingerprint == print));
        of_source.or_else(|| self.held.first())
    }

    fn spoken(&self) -> Option<Fingerprint> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, print)| print)
    }

    /// Whether it must be found out first which key the group's source has: there are several.
    pub(crate) fn is_at_a_loss(&self) -> bool {
        self.held.len() > 1 && self.spoken().is_none() && self.lock().is_empty()
    }

    fn heard(&self, epoch: Epoch, print: Fingerprint) {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.is_none_or(|(newest, _)| newest <= epoch) {
            *spoken = Some((epoch, print));
        }
    }

    /// What an object is bound to.
    fn place(&self, key: &Key) -> Vec<u8> {
        [self.id.0.as_slice(), key.to_string().as_bytes()].concat()
    }

    fn wrong(&self, key: &Key, wanted: String) -> VaultError {
        let prints: Vec<String> = self.held.iter().map(|held| held.fingerprint.to_string()).collect();
        let held = if prints.is_empty() { format!("none of group {}", self.group) } else { prints.join(", ") };
        VaultError::Key(KeyError::Wrong { place: key.to_string(), wanted, given: self.given.clone(), held })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Epoch, DataKey>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(key: &Key, what: String) -> VaultError {
    VaultError::Damaged { key: key.to_string(), what }
}

/// What tells a segment from every other content: its own hash, which covers every byte of it, and which whoever puts it has proved. To hash
/// all of it once more would cost as much as to encrypt it. What does not look like a segment is hashed.
fn digest_of_segment(content: &[u8]) -> [u8; 32] {
    let end = content.len().checked_sub(layout::FOOTER_MAGIC.len());
    let hash = end.filter(|&end| content.starts_with(&layout::HEADER_MAGIC) && content[end..] == layout::FOOTER_MAGIC);
    let hash = hash.and_then(|end| content.get(end.checked_sub(32)?..end)?.try_into().ok());
    hash.unwrap_or_else(|| *blake3::hash(content).as_bytes())
}

/// Whether this is a seal, by its kind; whoever reads it proves it.
fn is_seal(content: &[u8]) -> bool {
    content.get(layout::KIND_AT) == Some(&(Kind::Seal as u8))
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
