//! What the target has put for this source, looked for once a heartbeat and only by asking for names (a source need not be allowed
//! to list): the epoch after ours, the next request, and hashes for a resync.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::ids::Epoch;
use farshore_changelog::ring::Ring;
use farshore_vault::{EpochObject, GroupVault, VaultError};

use crate::door::Door;
use crate::error::{ShipError, chain};
use crate::fetch::Fetch;
use crate::requests::{self, PENDING_MAX};
use crate::voice::{Asking, Voice};

/// While a resync waits for hashes they are looked for this often at least …
const HASHES_EVERY: Duration = Duration::from_secs(1);
/// … for this long; then once a heartbeat.
const HASHES_SOON: Duration = Duration::from_secs(60);

/// Everything the looks need.
pub(crate) struct Looks {
    door: Arc<Door>,
    voice: Arc<Voice>,
    ring: Ring,
    epoch: Epoch,
    state_dir: PathBuf,
    heartbeat: Duration,
    fetch: Fetch,
    /// The newest request that was refused: it is not asked for again.
    refused: u64,
}

impl Looks {
    pub(crate) fn new(
        door: Arc<Door>,
        voice: Arc<Voice>,
        ring: Ring,
        epoch: Epoch,
        state_dir: PathBuf,
        heartbeat: Duration,
    ) -> Self {
        let fetch = Fetch::new(&state_dir, ring.spec());
        Self { door, voice, ring, epoch, state_dir, heartbeat, fetch, refused: 0 }
    }

    /// Looks, for as long as our epoch goes on; gives the one that ends it.
    ///
    /// # Errors
    /// [`ShipError::Vault`]: what lies there, or the vault, cannot be used, and waiting does not help.
    pub(crate) async fn run(&mut self) -> Result<EpochObject, ShipError> {
        // What one resync waits for in a row, in looks.
        let mut soon = HASHES_SOON;
        loop {
            match self.look().await {
                Ok(None) => self.voice.reached(Asking::Looks),
                Ok(Some(by)) => return Ok(by),
                Err(e) if self.door.may_pass(&e) => self.voice.unreachable(Asking::Looks, &e),
                Err(e) => return Err(e.into()),
            }
            let waits = self.ring.resync_end().is_none() && !self.fetch.is_done();
            let pause = if waits && !soon.is_zero() { self.heartbeat.min(HASHES_EVERY) } else { self.heartbeat };
            soon = if waits { soon.saturating_sub(pause) } else { HASHES_SOON };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&mut self) -> Result<Option<EpochObject>, VaultError> {
        let vault = self.door.group().await?;
        if let Some((by, _)) = vault.get_epoch(self.epoch.next()).await? {
            return Ok(Some(by));
        }
        self.look_for_requests(&vault).await?;
        if self.ring.resync_end().is_none() {
            self.fetch.go_on(&vault).await?;
        }
        Ok(None)
    }

    /// Fetches the requests that have come, as many as may wait.
    async fn look_for_requests(&mut self, vault: &GroupVault) -> Result<(), VaultError> {
        loop {
            let (known, waiting) = match requests::known(&self.state_dir) {
                Ok(known) => known,
                Err(e) => {
                    tracing::warn!("requests are not looked for: {}", chain(&e));
                    return Ok(());
                }
            };
            if waiting >= PENDING_MAX {
                return Ok(());
            }
            let next = known.max(self.refused) + 1;
            let request = match vault.get_request(next).await {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(e @ (VaultError::Version { .. } | VaultError::Damaged { .. })) => {
                    tracing::error!("request {next} is refused and passed over: {}", chain(&e));
                    self.refused = next;
                    continue;
                }
                Err(e) => return Err(e),
            };
            tracing::info!(n = next, ?request, "the target asks");
            if let Err(e) = requests::put(&self.state_dir, next, &request) {
                tracing::warn!("request {next} is fetched again later: {}", chain(&e));
                return Ok(());
            }
        }
    }
}
