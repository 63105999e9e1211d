//! The group's part of the vault: opened when it can be reached, and which of its errors are waited out.

use std::sync::atomic::{AtomicBool, Ordering};

use farshore_changelog::ids::GroupName;
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{Access, GroupVault, Vault, VaultError};
use tokio::sync::OnceCell;

use crate::state::SourceEpoch;

/// Where the vault comes from.
#[derive(Debug, Clone)]
pub enum VaultSource {
    /// Opened when it can be reached.
    Url(String, Access),
    /// Open.
    Open(Vault),
}

/// The way to the vault, for the uploads and the looks.
#[derive(Debug)]
pub struct Door {
    source: VaultSource,
    opened: OnceCell<Vault>,
    group: GroupName,
    /// The id of the vault that the group ships to, once that is noted.
    expected: Option<String>,
    /// The vault has confirmed our epoch: it was there once.
    known: AtomicBool,
}

impl Door {
    /// To the part of the group that works in this epoch.
    #[must_use]
    pub fn new(source: VaultSource, epoch: &SourceEpoch) -> Self {
        let (group, expected, known) = (epoch.group.clone(), epoch.vault.clone(), AtomicBool::new(epoch.opened));
        Self { source, opened: OnceCell::new(), group, expected, known }
    }

    /// The group's part of the vault, opened at first use. Its operations are tried once: the waits are the caller's.
    ///
    /// # Errors
    /// Those of [`Vault::open_with`]; [`VaultError::OtherVault`].
    pub async fn group(&self) -> Result<GroupVault, VaultError> {
        Ok(self.vault().await?.group(&self.group))
    }

    /// The vault.
    ///
    /// # Errors
    /// As [`Door::group`].
    pub async fn vault(&self) -> Result<&Vault, VaultError> {
        let vault = match &self.source {
            VaultSource::Open(vault) => vault,
            VaultSource::Url(url, access) => {
                self.opened
                    .get_or_try_init(|| async {
                        let vault = Vault::open_with(url, access, RetryPolicy::ONCE).await?;
                        tracing::info!(vault = vault.url(), id = vault.id(), "vault opened");
                        Ok::<_, VaultError>(vault)
                    })
                    .await?
            }
        };
        self.expected.as_deref().map_or(Ok(()), |wanted| vault.expect_id(wanted))?;
        Ok(vault)
    }

    /// The vault has confirmed our epoch.
    pub fn set_known(&self) {
        self.known.store(true, Ordering::Release);
    }

    /// Whether an error is waited out. Missing rights are: whoever gives them back need not restart anything. A folder that is
    /// no vault is one whose mount is missing, once this group has shipped to it.
    #[must_use]
    pub fn may_pass(&self, error: &VaultError) -> bool {
        match error {
            VaultError::Unreachable { .. }
            | VaultError::Throttled { .. }
            | VaultError::Refused { .. }
            | VaultError::Gone { .. } => true,
            // Keys may lie on a mount that is missing, or with a server.
            VaultError::NotAVault { .. } | VaultError::Key(_) => self.known.load(Ordering::Acquire),
            VaultError::AlreadyAVault { .. }
            | VaultError::Unconditional { .. }
            | VaultError::OtherVault { .. }
            | VaultError::Version { .. }
            | VaultError::Damaged { .. }
            | VaultError::BadUrl { .. } => false,
        }
    }
}
