//! Fetches the hashes of the target's images for the running epoch into the state folder, where capture reads them: every chunk proved
//! against the plan, the plan last. What was fetched before a crash is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_changelog::crashsafe;
use farshore_changelog::hashes::{self, Chunk, PLAN_FILE, chunk_file_name};
use farshore_changelog::ids::{DiskIndex, Epoch, GroupName};
use farshore_changelog::ring::RingSpec;
use farshore_vault::{GroupVault, HashPlan, VaultError};

/// The fetching of one epoch's hashes.
pub(crate) struct Fetch {
    dir: PathBuf,
    group: GroupName,
    epoch: Epoch,
    /// Name and size in bytes of the disks.
    disks: Vec<(Arc<str>, u64)>,
    /// They are there, or are not to be had.
    done: bool,
    cleaned: bool,
}

/// Why they are not there.
enum Stop {
    /// The vault does not answer.
    Vault(VaultError),
    /// The state folder cannot be written.
    Disk(std::io::Error),
    /// What was published is not for us, or is damaged.
    Useless(String),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Version { .. } | VaultError::Damaged { .. } => Self::Useless(error.to_string()),
            other => Self::Vault(other),
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Fetch {
    pub(crate) fn new(state_dir: &Path, spec: &RingSpec) -> Self {
        let dir = state_dir.join("hashes");
        let disks = spec.disks.iter().map(|d| (d.name.as_str().into(), d.size_bytes)).collect();
        let done = hashes::folder(&dir, spec.epoch).join(PLAN_FILE).exists();
        Self { dir, group: spec.group.clone(), epoch: spec.epoch, disks, done, cleaned: false }
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Fetches them, if the target has published them by now.
    ///
    /// # Errors
    /// Of the vault, as long as it does not answer; the next call goes on. What cannot be used is said, and given up.
    pub(crate) async fn go_on(&mut self, vault: &GroupVault) -> Result<(), VaultError> {
        if !self.cleaned {
            self.cleaned = true;
            self.remove_others();
        }
        if self.done {
            return Ok(());
        }
        match self.fetch(vault).await {
            Ok(None) => {}
            Ok(Some(plan)) => {
                self.done = true;
                tracing::info!(epoch = self.epoch.0, seq = plan.seq.0, "the hashes of the target's images are there");
            }
            Err(Stop::Vault(e)) => return Err(e),
            Err(Stop::Disk(e)) => {
                tracing::warn!(epoch = self.epoch.0, "the hashes of the target's images are fetched again later: {e}");
            }
            // A resync is right without them: it ships everything.
            Err(Stop::Useless(what)) => {
                self.done = true;
                tracing::warn!(epoch = self.epoch.0, "the hashes of the target's images cannot be used: {what}");
            }
        }
        Ok(())
    }

    async fn fetch(&self, vault: &GroupVault) -> Result<Option<HashPlan>, Stop> {
        let Some(plan) = vault.get_hash_plan(self.epoch).await? else { return Ok(None) };
        if let Some(what) = self.objection(&plan) {
            return Err(Stop::Useless(what));
        }
        let folder = hashes::folder(&self.dir, self.epoch);
        crashsafe::create_dir_all(&folder)?;
        for (disk, chunk, units) in plan.chunks() {
            let prove = |bytes: &[u8]| self.prove(&plan, disk, chunk, units, bytes);
            let path = folder.join(chunk_file_name(disk, chunk));
            if std::fs::read(&path).is_ok_and(|bytes| prove(&bytes).is_ok()) {
                continue;
            }
            let useless = |what: String| Stop::Useless(format!("chunk {chunk} of disk {disk}: {what}"));
            let bytes = vault.get_hash_chunk(self.epoch, disk, chunk).await?;
            let bytes = bytes.ok_or_else(|| useless("it is missing".to_owned()))?;
            prove(&bytes).map_err(useless)?;
            crashsafe::replace(&path, &bytes)?;
        }
        crashsafe::replace(&folder.join(PLAN_FILE), &plan.encoded())?;
        Ok(Some(plan))
    }

    /// What keeps the plan from being one for these disks.
    fn objection(&self, plan: &HashPlan) -> Option<String> {
        let units = |bytes: u64| bytes.div_ceil(u64::from(plan.unit_bytes));
        let same = plan.disks.len() == self.disks.len()
            && plan
                .disks
                .iter()
                .zip(&self.disks)
                .all(|(theirs, (name, bytes))| theirs.name.as_str() == &**name && theirs.units == units(*bytes));
        (!same).then(|| "they are of other disks than the group's".to_owned())
    }

    fn prove(&self, plan: &HashPlan, disk: DiskIndex, chunk: u32, units: u32, bytes: &[u8]) -> Result<(), String> {
        let found = Chunk::parse(bytes).map_err(|e| e.to_string())?;
        let right = (&found.group, found.epoch, found.seq) == (&self.group, plan.epoch, plan.seq)
            && (found.unit_bytes, found.chunk_units) == (plan.unit_bytes, plan.chunk_units)
            && (found.disk, found.number(), found.hashes.len()) == (disk, u64::from(chunk), units as usize);
        if right { Ok(()) } else { Err("it is not the one that the plan says".to_owned()) }
    }

    /// Those of other epochs are of no use.
    fn remove_others(&self) {
        let own = hashes::folder(&self.dir, self.epoch);
        let others = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in others.filter(|path| *path != own && path.is_dir()) {
            let mut files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let removed = files.try_for_each(|file| crashsafe::remove(&file.path()));
            let removed = removed.and_then(|()| std::fs::remove_dir(&folder));
            if let Err(e) = removed {
                tracing::warn!(folder = %folder.display(), "hashes of another epoch cannot be removed: {e}");
            }
        }
    }
}
