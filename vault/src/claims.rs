//! Which target follows a group (`docs/format.md`, "Claims"): a line of objects, each created once, of which the newest counts. So of
//! several that want a group one gets it, and nobody who was asleep meanwhile believes that it is still his.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::group::GroupVault;
use crate::keys::Key;
use crate::objects::{Nonce, OBJECT_MAX_BYTES, Object};
use crate::store::Put;

/// Most claims of one group.
const CLAIMS_MAX: u64 = 1_000_000;
/// Longest name of a place, in bytes.
const PLACE_MAX_BYTES: usize = 4096;

/// Who follows a group from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Claim {
    /// This target.
    Taken {
        /// Its id.
        target: Nonce,
        /// Where it is, for a person: host and folder.
        place: String,
        /// Since when (the target's clock).
        created: jiff::Timestamp,
    },
    /// Nobody, until somebody is told to.
    Released {
        /// Who had it.
        target: Nonce,
        /// Where that is.
        place: String,
        /// Since when.
        created: jiff::Timestamp,
    },
}

impl Object for Claim {
    fn objection(&self, _: &Key) -> Option<String> {
        let (Self::Taken { place, .. } | Self::Released { place, .. }) = self;
        (place.len() > PLACE_MAX_BYTES).then(|| format!("its place has {} bytes", place.len()))
    }
}

impl GroupVault {
    /// The newest claim and its number, when the one numbered `from` was the newest; 0 and `None` when there is none.
    ///
    /// # Errors
    /// Those of the store; [`VaultError::Version`] or [`VaultError::Damaged`].
    pub async fn newest_claim(&self, from: u64) -> Result<(u64, Option<Claim>), VaultError> {
        let mut newest = (0, None);
        for n in from.max(1)..=CLAIMS_MAX {
            let key = Key::Claim(self.group.clone(), n);
            let Some(bytes) = self.store.get(&key, OBJECT_MAX_BYTES).await? else { break };
            newest = (n, Some(Claim::decode(&key, &bytes)?));
        }
        Ok(newest)
    }

    /// Puts a claim as number `n`, one above the newest. [`Put::Exists`]: somebody else was quicker.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_claim(&self, n: u64, claim: &Claim) -> Result<Put, VaultError> {
        let key = Key::Claim(self.group.clone(), n);
        let put = self.store.put_new(&key, Bytes::from(claim.encode())).await?;
        if put == Put::Exists
            && let Some(bytes) = self.store.get(&key, OBJECT_MAX_BYTES).await?
            && Claim::decode(&key, &bytes)? == *claim
        {
            // Ours, of an attempt whose answer was lost.
            return Ok(Put::Created);
        }
        Ok(put)
    }
}

#[cfg(test)]
mod tests {

    use farshore_changelog::clock;
    use farshore_changelog::ids::GroupName;

    use super::*;
    use crate::fault::{Fault, FaultStore, On};
    use crate::retry::RetryPolicy;
    use crate::vault::Vault;

    fn taken(target: u8) -> Claim {
        Claim::Taken {
            target: Nonce([target; 16]),
            place: format!("host{target}:/t"),
            created: clock::wall().timestamp(),
        }
    }

    #[tokio::test]
    async fn of_several_that_claim_one_gets_it_and_a_lost_answer_is_no_loss() {
        let store = FaultStore::in_memory();
        let vault = Vault::init_store(store.clone(), "memory:").await.unwrap().with_retry(RetryPolicy::ONCE);
        let group = vault.group(&GroupName::new("web01").unwrap());
        assert_eq!(group.newest_claim(0).await.unwrap(), (0, None));
        let claims: Vec<Claim> = (1..=8).map(taken).collect();
        let puts = futures::future::join_all(claims.iter().map(|claim| group.put_claim(1, claim))).await;
        assert_eq!(puts.into_iter().filter(|put| matches!(put, Ok(Put::Created))).count(), 1);
        let (n, first) = group.newest_claim(0).await.unwrap();
        assert!(n == 1 && claims.contains(first.as_ref().unwrap()));
        let released =
            Claim::Released { target: Nonce([1; 16]), place: "host1:/t".into(), created: clock::wall().timestamp() };
        store.inject(On::Put, "claims", 1, Fault::After);
        assert!(group.put_claim(2, &released).await.is_err());
        assert_eq!(group.put_claim(2, &released).await.unwrap(), Put::Created, "it is the same");
        assert_eq!(group.put_claim(2, &taken(3)).await.unwrap(), Put::Exists);
        assert_eq!(group.newest_claim(1).await.unwrap(), (2, Some(released)));
    }
}
