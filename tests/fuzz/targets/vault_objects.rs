//! What lies in a vault under a group's keys, in foreign bytes: refused, or an object that is written and read as the same.
//!
//! Input: a byte that says which object, then its bytes.
#![no_main]

use std::sync::Arc;

use farshore_changelog::ids::{Epoch, GroupName};
use farshore_vault::keys::Key;
use farshore_vault::{EpochObject, HashPlan, Request, Vault, VaultError};
use libfuzzer_sys::fuzz_target;
use object_store::memory::InMemory;
use object_store::{ObjectStore, PutMode, PutOptions};
use tokio::runtime::Runtime;

const EPOCH: Epoch = Epoch(3);

thread_local!(static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fn group() -> GroupName {
    GroupName::new("web01").expect("a valid name")
}

async fn lay(store: &InMemory, key: &Key, bytes: &[u8]) {
    let options = PutOptions::from(PutMode::Overwrite);
    store.put_opts(&key.path(), bytes.to_vec().into(), options).await.expect("memory takes every object");
}

/// The object that `bytes` are under each key that a reader would find them.
struct Vaults {
    store: Arc<InMemory>,
    vault: Vault,
}

impl Vaults {
    async fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let vault = Vault::init_store(Arc::clone(&store) as Arc<dyn ObjectStore>, "memory:").await;
        Self { vault: vault.expect("memory takes a vault"), store }
    }

    async fn epoch(&self, bytes: &[u8]) -> Result<Option<EpochObject>, VaultError> {
        lay(&self.store, &Key::Epoch(group(), EPOCH), bytes).await;
        Ok(self.vault.group(&group()).get_epoch(EPOCH).await?.map(|(object, _)| object))
    }

    async fn request(&self, bytes: &[u8]) -> Result<Option<Request>, VaultError> {
        lay(&self.store, &Key::Request(group(), 1), bytes).await;
        self.vault.group(&group()).get_request(1).await
    }

    async fn plan(&self, bytes: &[u8]) -> Result<Option<HashPlan>, VaultError> {
        lay(&self.store, &Key::HashPlan(group(), EPOCH), bytes).await;
        self.vault.group(&group()).get_hash_plan(EPOCH).await
    }
}

async fn read(kind: u8, bytes: &[u8]) {
    let vaults = Vaults::new().await;
    match kind % 4 {
        0 => {
            lay(&vaults.store, &Key::Vault, bytes).await;
            let store = Arc::clone(&vaults.store) as Arc<dyn ObjectStore>;
            if let Ok(vault) = Vault::open_store(store, "memory:", &farshore_vault::Access::of_process()).await {
                assert_eq!(vault.id().len(), 32);
            }
        }
        1 => {
            if let Ok(Some(object)) = vaults.epoch(bytes).await {
                assert_eq!((&object.group, object.epoch), (&group(), EPOCH));
                let again = vaults.epoch(&object.encoded()).await.expect("what was written can be read");
                assert_eq!(again, Some(object));
            }
        }
        2 => {
            if let Ok(Some(request)) = vaults.request(bytes).await {
                assert_eq!(Request::decoded(bytes).expect("the same bytes"), request);
                let again = vaults.request(&request.encoded()).await.expect("what was written can be read");
                assert_eq!(again, Some(request));
            } else {
                assert!(Request::decoded(bytes).is_err());
            }
        }
        _ => {
            if let Ok(Some(plan)) = vaults.plan(bytes).await {
                let other = Vaults::new().await;
                other.vault.group(&group()).put_hash_plan(&plan).await.expect("what was read can be written");
                assert_eq!(other.vault.group(&group()).get_hash_plan(EPOCH).await.expect("and read"), Some(plan));
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    RUNTIME.with(|runtime| runtime.block_on(read(*kind, bytes)));
});
