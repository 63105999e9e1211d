//! A vault as a whole: made once by `init`, found again by `open`.

use std::sync::Arc;

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use object_store::ObjectStore;

use crate::cloud::Variables;
use crate::condition;
use crate::error::VaultError;
use crate::group::GroupVault;
use crate::keys::{Key, group_of_prefix, groups_prefix};
use crate::objects::{Nonce, OBJECT_MAX_BYTES, Object, VaultObject};
use crate::retry::RetryPolicy;
use crate::store::{Put, Store};
use crate::url::{self, OpenStore};

/// An open vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(crate) store: Store,
    url: Arc<str>,
    id: Arc<str>,
}

impl Vault {
    /// Makes a vault at `url` (and the folder of a `file://` one).
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
        Self::init_in(place.open(variables)?, &place.url()).await
    }

    /// Opens the vault at `url`.
    ///
    /// # Errors
    /// [`VaultError::NotAVault`], [`VaultError::Version`], [`VaultError::BadUrl`], and those of the store.
    pub async fn open(url: &str) -> Result<Self, VaultError> {
        Self::open_with(url, RetryPolicy::PATIENT).await
    }

    /// Opens the vault at `url`; this and all later operations are tried as often as `policy` says.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_with(url: &str, policy: RetryPolicy) -> Result<Self, VaultError> {
        let place = url::parse(url)?;
        Self::open_in(place.open(&Variables::of_process())?, &place.url(), policy).await
    }

    /// As [`Vault::open`], with `variables` instead of the environment.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_in_environment(url: &str, variables: &Variables) -> Result<Self, VaultError> {
        let place = url::parse(url)?;
        Self::open_in(place.open(variables)?, &place.url(), RetryPolicy::PATIENT).await
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
        Self::init_in(OpenStore { store, folder: None }, name).await
    }

    /// Opens a vault in a store that was opened elsewhere; `name` stands for its URL in messages.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open_store(store: Arc<dyn ObjectStore>, name: &str) -> Result<Self, VaultError> {
        Self::open_in(OpenStore { store, folder: None }, name, RetryPolicy::PATIENT).await
    }

    async fn init_in(store: OpenStore, url: &str) -> Result<Self, VaultError> {
        let store = Store::new(store, RetryPolicy::PATIENT);
        let object = VaultObject { id: Nonce::random(), created: clock::wall().timestamp() };
        match Self::read(&store, url).await {
            Err(VaultError::NotAVault { .. }) => {}
            found => return found.and_then(|_| Err(already(url))),
        }
        // Before there is a vault: a store that cannot hold one gets none.
        condition::decides_races(&store, url).await?;
        let bytes = Bytes::from(object.encode());
        if store.put_new(&Key::Vault, bytes.clone()).await? == Put::Exists && Self::read(&store, url).await?.0 != object
        {
            return Err(already(url));
        }
        // Ours, also where the answer to an earlier attempt was lost.
        condition::refuses(&store, url, &Key::Vault, bytes).await?;
        Ok(Self::of(store, url, &object))
    }

    async fn open_in(store: OpenStore, url: &str, policy: RetryPolicy) -> Result<Self, VaultError> {
        let store = Store::new(store, policy);
        let (object, bytes) = Self::read(&store, url).await?;
        condition::refuses(&store, url, &Key::Vault, bytes).await?;
        Ok(Self::of(store, url, &object))
    }

    async fn read(store: &Store, url: &str) -> Result<(VaultObject, Bytes), VaultError> {
        match store.get(&Key::Vault, OBJECT_MAX_BYTES).await? {
            Some(bytes) => Ok((VaultObject::decode(&Key::Vault, &bytes)?, bytes)),
            None => Err(VaultError::NotAVault { url: url.to_owned() }),
        }
    }

    fn of(store: Store, url: &str, object: &VaultObject) -> Self {
        Self { store, url: url.into(), id: object.id.to_string().into() }
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
        GroupVault { store: self.store.clone(), group: group.clone() }
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
