//! That a group was begun, said once in the vault by its source (`docs/format.md`, "Announcements"): so whoever follows the vault asks
//! for one object, and lists the groups only when it is there.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::keys::Key;
use crate::objects::{Nonce, OBJECT_MAX_BYTES, Object};
use crate::store::Put;
use crate::vault::Vault;

/// Most announcements of a vault, far above its groups: the search for the first free number ends there.
pub const ANNOUNCED_MAX: u64 = 1 << 20;
/// How often somebody else may have been quicker, or a number may be refused and free all the same, before nothing is announced.
const TRIES_MAX: u32 = 256;

/// Says that there is one group more, and not which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Announcement {
    /// Tells it from every other, for a person.
    nonce: Nonce,
}

impl Object for Announcement {
    fn objection(&self, _: &Key) -> Option<String> {
        None
    }
}

impl Vault {
    /// Whether announcement `n` was made. It is not read: it says nothing but that it is there.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn is_announced(&self, n: u64) -> Result<bool, VaultError> {
        Ok(self.store.get_small(&Key::Announced(n), OBJECT_MAX_BYTES).await?.is_some())
    }

    /// The number of the next announcement: one that is free after one that is not, found with few gets however many there are. `None`
    /// when there seem to be [`ANNOUNCED_MAX`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next_announced(&self) -> Result<Option<u64>, VaultError> {
        let (mut there, mut free) = (0, 1);
        while self.is_announced(free).await? {
            if free >= ANNOUNCED_MAX {
                return Ok(None);
            }
            (there, free) = (free, free * 2);
        }
        while free - there > 1 {
            let middle = there + (free - there) / 2;
            if self.is_announced(middle).await? { there = middle } else { free = middle }
        }
        Ok(Some(free))
    }

    /// Says that there is one group more, and gives the number under which that is said; `None` when it cannot be, as others have made
    /// a mess of the numbers. An attempt whose answer was lost may have said it too, which does no harm.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn announce(&self) -> Result<Option<u64>, VaultError> {
        let bytes = Bytes::from(Announcement { nonce: Nonce::random() }.encode());
        let Some(mut n) = self.next_announced().await? else { return Ok(None) };
        for _ in 0..TRIES_MAX {
            if self.store.put_new(&Key::Announced(n), bytes.clone()).await? == Put::Created {
                return Ok(Some(n));
            }
            // A store may refuse while another's put is at work, which then fails: a number that is left out is one that is waited for.
            if self.is_announced(n).await? {
                n += 1;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

    use super::*;
    use crate::count::{CountingStore, Requests};
    use crate::crypt::VaultKey;
    use crate::fault::{Fault, FaultStore, On};
    use crate::retry::RetryPolicy;

    async fn vault_over(store: Arc<dyn ObjectStore>) -> Vault {
        Vault::init_store(store, "memory:").await.unwrap().with_retry(RetryPolicy::ONCE)
    }

    /// Puts something under each of these numbers.
    async fn fill(store: &dyn ObjectStore, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            store.put(&Key::Announced(n).path(), PutPayload::from_static(b"?")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn of_many_that_announce_at_once_each_gets_a_number_of_its_own() {
        let store = FaultStore::in_memory();
        let vault = vault_over(store.clone()).await;
        // Each put takes a while, so that all of them have searched before the first is there.
        store.inject(On::Put, "announced", 16, Fault::Delay(std::time::Duration::from_millis(20)));
        let all = futures::future::join_all((0..16).map(|_| vault.announce())).await;
        let numbers: BTreeSet<u64> = all.into_iter().map(|n| n.unwrap().unwrap()).collect();
        assert_eq!(numbers, (1..=16).collect());
        assert_eq!(vault.next_announced().await.unwrap(), Some(17));
    }

    #[tokio::test]
    async fn the_next_number_is_found_with_few_gets() {
        for (count, most) in [(0, 1), (1, 2), (2, 4), (1000, 20), (10_000, 28)] {
            let store = CountingStore::in_memory();
            let vault = vault_over(store.clone()).await;
            fill(&*store, 1..=count).await;
            let before = store.requests();
            assert_eq!(vault.next_announced().await.unwrap(), Some(count + 1));
            let asked = store.requests().since(before);
            assert!(asked.gets + asked.misses <= most, "{count}: {asked:?}");
            assert_eq!(asked, Requests { gets: asked.gets, misses: asked.misses, ..Requests::default() });
            assert_eq!(vault.announce().await.unwrap(), Some(count + 1));
        }
    }

    #[tokio::test]
    async fn it_names_nobody_and_is_plain_in_an_encrypted_vault_too() {
        let store = FaultStore::in_memory();
        let key = VaultKey::generate();
        let vault = Vault::init_store_encrypted(store.clone(), "memory:", &key).await.unwrap();
        assert_eq!(vault.announce().await.unwrap(), Some(1));
        let key = "announced/00000000000000000001".into();
        let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let object = json.as_object().unwrap();
        assert_eq!((object.len(), &json["format"]), (2, &serde_json::Value::from(1)));
        assert!(json["nonce"].as_str().unwrap().parse::<Nonce>().is_ok());
    }

    #[tokio::test]
    async fn a_lost_answer_is_at_most_one_too_many_and_an_undecided_refusal_leaves_no_number_out() {
        let store = FaultStore::in_memory();
        let vault = vault_over(store.clone()).await;
        store.inject(On::Put, "announced", 1, Fault::After);
        assert!(vault.announce().await.unwrap_err().is_transient());
        assert_eq!(vault.announce().await.unwrap(), Some(2));
        store.inject(On::Put, "announced", 3, Fault::Undecided);
        assert_eq!(vault.announce().await.unwrap(), Some(3));
        store.inject(On::Put, "announced", u64::from(TRIES_MAX), Fault::Undecided);
        assert_eq!(vault.announce().await.unwrap(), None, "not for ever");
    }

    #[tokio::test]
    async fn numbers_that_somebody_has_made_a_mess_of_keep_nobody_for_long() {
        let store = CountingStore::in_memory();
        let vault = vault_over(store.clone()).await;
        fill(&*store, [1, 2, 4, 8, 12, 1 << 40]).await;
        let next = vault.next_announced().await.unwrap().unwrap();
        assert!(!vault.is_announced(next).await.unwrap() && vault.is_announced(next - 1).await.unwrap());
        assert_eq!(vault.announce().await.unwrap(), Some(next));
        fill(&*store, (0..=20).map(|power| 1 << power)).await;
        assert_eq!((vault.next_announced().await.unwrap(), vault.announce().await.unwrap()), (None, None));
    }
}
