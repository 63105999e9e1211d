//! What a vault object says of encryption, made at `init` and proved at every opening.

use std::sync::Arc;

use crate::crypt::error::KeyError;
use crate::crypt::group::VaultCrypt;
use crate::crypt::held::{Access, Encryption};
use crate::crypt::keys::{Fingerprint, VaultKey};
use crate::crypt::ring::KeyRing;
use crate::crypt::secret::Secret;
use crate::error::VaultError;
use crate::keys::Key;
use crate::objects::{Encrypted, VaultObject};

/// The only suite there is.
const SUITE: &str = "hpke-x25519-chacha20poly1305+aes-256-gcm";

/// Marks a vault that is about to be made as encrypted with `key`.
pub(crate) fn mark(object: &mut VaultObject, key: &VaultKey) {
    let encrypted = Encrypted { suite: SUITE.to_owned(), key: key.fingerprint().to_string(), mac: String::new() };
    object.encryption = Some(encrypted);
    let mac = mac(object, &key.object_key(object.id));
    if let Some(encrypted) = &mut object.encryption {
        encrypted.mac = mac;
    }
}

/// What whoever opens a vault as `access` can do in it; `None` when it is plain.
///
/// # Errors
/// [`VaultError::Key`]; [`VaultError::Damaged`] when the object was tampered with.
pub(crate) async fn prove(
    object: &VaultObject,
    url: &str,
    access: &Access,
) -> Result<Option<Arc<VaultCrypt>>, VaultError> {
    let id = object.id.to_string();
    let not_as_asked = |found, wanted, next| KeyError::NotAsAsked { url: url.to_owned(), found, wanted, next };
    let Some(encrypted) = &object.encryption else {
        if access.encryption == Encryption::Required {
            let next = "make an encrypted vault, or write encryption = \"off\" if everybody who can read the store may read the disks";
            return Err(not_as_asked("not encrypted", "required", next).into());
        }
        if let (Encryption::AsFound, Ok((_, given))) = (access.encryption, access.ring(&id).await?) {
            return Err(KeyError::Plain { url: url.to_owned(), id, given }.into());
        }
        return Ok(None);
    };
    if access.encryption == Encryption::Off {
        let next = "take that line away; everything is sealed then before it leaves this host";
        return Err(not_as_asked("encrypted", "off", next).into());
    }
    let damaged = |what: String| VaultError::Damaged { key: Key::Vault.to_string(), what };
    if encrypted.suite != SUITE {
        return Err(damaged(format!("it is sealed with {:?}, this farshore knows {SUITE:?}", encrypted.suite)));
    }
    let first = Fingerprint::parse(&encrypted.key).ok_or_else(|| damaged("its key is no fingerprint".to_owned()))?;
    let (ring, given) = access.ring(&id).await?.map_err(|looked| KeyError::Missing {
        url: url.to_owned(),
        id: id.clone(),
        wanted: first,
        looked,
    })?;
    let object_key = object_key(object, first, &ring).ok_or_else(|| KeyError::Wrong {
        place: format!("{url} (vault {id})"),
        wanted: first.to_string(),
        given: given.clone(),
        held: ring.prints(),
    })?;
    if mac(object, &object_key) != encrypted.mac {
        return Err(damaged("it was changed after it was made: its seal is broken".to_owned()));
    }
    Ok(Some(Arc::new(VaultCrypt::new(object.id, first, ring, given))))
}

/// The key that the object is proved with: of the key that the vault was made with, or of any source of this vault.
fn object_key(object: &VaultObject, first: Fingerprint, ring: &KeyRing) -> Option<Secret> {
    let of_vault = ring.vault_key(first).map(|key| key.object_key(object.id));
    of_vault.or_else(|| ring.source.iter().find(|key| key.vault == object.id).map(|key| key.object_key.clone()))
}

/// Over everything that the object says, but for itself.
fn mac(object: &VaultObject, key: &Secret) -> String {
    let encrypted = object.encryption.as_ref();
    let said = format!(
        "{}\n{}\n{}\n{}",
        object.id,
        object.created,
        encrypted.map_or("", |e| e.suite.as_str()),
        encrypted.map_or("", |e| e.key.as_str())
    );
    key.tag(said.as_bytes()).to_hex().to_string()
}
