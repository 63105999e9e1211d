//! Which groups a vault has. They are listed at the start; then one small object is asked for, the next announcement, which is there once
//! a group was begun (`docs/format.md`, "Announcements").

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_vault::{Vault, VaultError};

/// Time between two looks for new groups; as long as there is none, the vault is looked at as for the segments of a group.
pub const DISCOVER_EVERY: Duration = Duration::from_secs(30);
/// The groups are listed so often all the same: a source of an older version announces nothing, and one that was broken into may have
/// made a mess of the numbers.
pub const LISTED_EVERY: Duration = Duration::from_secs(60 * 60);

/// What is known of a vault's groups.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The number of the next announcement; `None` when there is none to wait for.
    next: Option<u64>,
    /// When they were listed.
    listed: Option<Instant>,
}

impl Discovery {
    /// The groups of the vault, the first time, and later when there may be new ones.
    ///
    /// # Errors
    /// Those of the vault; the next look is as this one was.
    pub async fn look(&mut self, vault: &Vault) -> Result<Option<Vec<GroupName>>, VaultError> {
        let now = clock::mono();
        let due = self.listed.is_none_or(|last| now - last >= LISTED_EVERY);
        let came = match self.next {
            Some(next) if !due => vault.is_announced(next).await?,
            Some(_) | None => false,
        };
        if !due && !came {
            return Ok(None);
        }
        // In this order: a group that is not listed is announced later, under that number.
        let next = vault.next_announced().await?;
        let groups = vault.groups().await?;
        (self.next, self.listed) = (next, Some(now));
        Ok(Some(groups))
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
