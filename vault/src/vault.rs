//! A vault as a whole: made once by `init`, found again by `open`.

use std::sync::Arc;

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use object_store::ObjectStore;

use crate::cloud::Variables;
use crate::condition;
use crate::crypt::{Access, Fingerprint, KeyRing, SourceKey, VaultCrypt, VaultKey, opening};
use crate::error::VaultError;
use crate::group::GroupVault;
use crate::keys::{Key, group_of_prefix, groups_prefix};
use crate::objects::{Nonce, OBJECT_MAX_BYTES, Object, VaultObject};
use crate::retry::RetryPolicy;
use crate::store::{Put, Store};
use crate::url::{self, OpenStore};

/// Puts a key where the vault with this id will find it.
type Keep<'a> = Box<dyn FnOnce(&str) -> Result<(), VaultError> + 'a>;

/// An open vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(crate) store: Store,
    url: Arc<str>,
    id: Arc<str>,
    /// Present when it is encrypted.
    crypt: Option<Arc<VaultCrypt>>,
}

impl Vault {
    /// Makes a vault at `url` (and the folder of a `file://` one), one that is not encrypted.
    ///
    /// # Errors
    /// [`VaultError::AlreadyAVault`] when there is one: it is left as it is. [`VaultError::BadUrl`], and those of the store.
    pub async fn init(url: &str) -> Result<Self, VaultError> {
        Self::init_in_environment(url, &Variables::of_process()).await
    }

    /// As [`Vault::init`], with `variables` instead of the environment.
    ///
    /// # Errors
    /// As [`Vault::init`].
    pub async fn init_in_environment(url: &str, variables: &Variables) -> Result<Self, VaultError> {
        let place = url::parse(url)?;
        place.prepare()?;
        Self::init_in(place.open(variables)?, &place.url(), None).await
    }

    /// As [`Vault::init`], encrypted with `key`. Before there is a vault, `keep` is told its id, so that the key is where it will be found.
    ///
    /// # Errors
    /// As [`Vault::init`], and what `keep` says.
    pub async fn init_encrypted(
        url: &str,
        variables: &Variables,
        key: &VaultKey,
        keep: impl FnOnce(&str) -> Result<(), VaultError>,
    ) -> Result<Self, VaultError> {
        let place = url::parse(url)?;
        place.prepare()?;
        Self::init_in(place.open(variables)?, &place.url(), Some((key, Box::new(keep)))).await
    }

    /// Opens the vault at `url`.
    ///
    /// # Errors
    /// [`VaultError::NotAVault`], [`VaultError::Version`], [`VaultError::BadUrl`], and those of the store.
    pub async fn open(url: &str) -> Result<Self, VaultError> {
        Self::open_with(url, &Access::of_process(), RetryPolicy::PATIENT).await
    }

    /// Opens the vault at `url` as `access` says; this and all later operations are tried as often as `policy` says.
    ///
    /// # Errors
    /// As [`Vault::open`]; [`VaultError::Key`].
    pub async fn open_with(url: &str, access: &Access, policy: RetryPolicy) -> Result<Self, VaultError> {
        let place = url::parse(url)?;
        Self::open_in(place.open(&access.variables)?, &place.url(), access, policy).await
    }

    /// Proves that `url` names a store that this build knows, and gives it in one form (absolute, no slash at the end).
    ///
    /// # Errors
    /// [`VaultError::BadUrl`].
    pub fn check_url(url: &str) -> Result<String, VaultError> {
        url::parse(url).map(|place| place.url())
    }

    /// Makes a vault in a store that was opened elsewhere; `name` stands for its URL in messages.
    ///
    /// # Errors
    /// As [`Vault::init`].
    pub async fn init_store(store: Arc<dyn ObjectStore>, name: &str) -> Result<Self, VaultError> {
        Self::init_in(OpenStore { store, folder: None }, name, None).await
    }

    /// As [`Vault::init_store`], encrypted with `key`.
    ///
    /// # Errors
    /// As [`Vault::init`].
    pub async fn init_store_encrypted(
        store: Arc<dyn ObjectStore>,
        name: &str,
        key: &VaultKey,
    ) -> Result<Self, VaultError> {
        Self::init_in(OpenStore { store, folder: None }, name, Some((key, Box::new(|_| Ok(()))))).await
    }

    /// Opens a vault in a store that was opened elsewhere; `name` stands for its URL in messages.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_store(store: Arc<dyn ObjectStore>, name: &str, access: &Access) -> Result<Self, VaultError> {
        Self::open_in(OpenStore { store, folder: None }, name, access, RetryPolicy::PATIENT).await
    }

    async fn init_in(
        store: OpenStore,
        url: &str,
        encrypted: Option<(&VaultKey, Keep<'_>)>,
    ) -> Result<Self, VaultError> {
        let store = Store::new(store, RetryPolicy::PATIENT);
        let mut object = VaultObject { id: Nonce::random(), created: clock::wall().timestamp(), encryption: None };
        match Self::read(&store, url).await {
            Err(VaultError::NotAVault { .. }) => {}
            found => return found.and_then(|_| Err(already(url))),
        }
        // Before there is a vault: a store that cannot hold one gets none.
        condition::decides_races(&store, url).await?;
        let mut crypt = None;
        if let Some((key, keep)) = encrypted {
            keep(&object.id.to_string())?;
            opening::mark(&mut object, key);
            let ring = KeyRing::of(key.clone());
            crypt = Some(Arc::new(VaultCrypt::new(object.id, key.fingerprint(), ring, "init".to_owned())));
        }
        let bytes = Bytes::from(object.encode());
        if store.put_new(&Key::Vault, bytes.clone()).await? == Put::Exists && Self::read(&store, url).await?.0 != object
        {
            return Err(already(url));
        }
        // Ours, also where the answer to an earlier attempt was lost.
        condition::refuses(&store, url, &Key::Vault, bytes).await?;
        Ok(Self::of(store, url, &object, crypt))
    }

    async fn open_in(store: OpenStore, url: &str, access: &Access, policy: RetryPolicy) -> Result<Self, VaultError> {
        let store = Store::new(store, policy);
        let (object, bytes) = Self::read(&store, url).await?;
        let crypt = opening::prove(&object, url, access).await?;
        condition::refuses(&store, url, &Key::Vault, bytes).await?;
        Ok(Self::of(store, url, &object, crypt))
    }

    async fn read(store: &Store, url: &str) -> Result<(VaultObject, Bytes), VaultError> {
        match store.get(&Key::Vault, OBJECT_MAX_BYTES).await? {
            Some(bytes) => Ok((VaultObject::decode(&Key::Vault, &bytes)?, bytes)),
            None => Err(VaultError::NotAVault { url: url.to_owned() }),
        }
    }

    fn of(store: Store, url: &str, object: &VaultObject, crypt: Option<Arc<VaultCrypt>>) -> Self {
        Self { store, url: url.into(), id: object.id.to_string().into(), crypt }
    }

    /// Whether what is put is sealed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.crypt.is_some()
    }

    /// The key that it was made with, and the one that new epochs are sealed to; `None` in a plain vault.
    #[must_use]
    pub fn fingerprints(&self) -> Option<(Fingerprint, Fingerprint)> {
        self.crypt.as_ref().map(|crypt| (crypt.first(), crypt.current()))
    }

    /// The vault's keys, the newest first, and where they come from; `None` in a plain vault, and where a source's key alone is at hand.
    #[must_use]
    pub fn vault_keys(&self) -> Option<(&[VaultKey], &str)> {
        self.crypt.as_ref().and_then(|crypt| crypt.vault_keys())
    }

    /// What a source of `group` needs to write here; `None` in a plain vault, and where the vault's own key is not at hand.
    #[must_use]
    pub fn source_key(&self, group: &GroupName) -> Option<SourceKey> {
        self.crypt.as_ref()?.source_key(group)
    }

    /// The same vault, its operations tried as often as `policy` says. Without this: [`RetryPolicy::PATIENT`].
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.store.retry = policy;
        self
    }

    /// Tells this vault from every other: 32 hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Proves that it is the vault with this id.
    ///
    /// # Errors
    /// [`VaultError::OtherVault`].
    pub fn expect_id(&self, wanted: &str) -> Result<(), VaultError> {
        if self.id() == wanted {
            return Ok(());
        }
        Err(VaultError::OtherVault {
            url: self.url().to_owned(),
            found: self.id().to_owned(),
            wanted: wanted.to_owned(),
        })
    }

    /// Its URL in one form (absolute, no slash at the end).
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The part of one group; it need not exist yet.
    #[must_use]
    pub fn group(&self, group: &GroupName) -> GroupVault {
        let mut store = self.store.clone();
        store.crypt = self.crypt.as_ref().map(|crypt| crypt.group(group));
        GroupVault { store, group: group.clone() }
    }

    /// The groups that have something in the vault, in the order of their names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn groups(&self) -> Result<Vec<GroupName>, VaultError> {
        let prefixes = self.store.list_prefixes(&groups_prefix()).await?;
        let mut groups: Vec<GroupName> = prefixes.iter().filter_map(group_of_prefix).collect();
        groups.sort();
        Ok(groups)
    }
}

fn already(url: &str) -> VaultError {
    VaultError::AlreadyAVault { url: url.to_owned() }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
