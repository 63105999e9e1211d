//! The group's first epoch, or the next one by request: noted here, opened in the vault later by the shipper.

use std::fs::File;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_capture::access::Access;
use farshore_capture::disk::{LOCK_WAIT, SourceDisk};
use farshore_changelog::ids::Epoch;
use farshore_changelog::{clock, crashsafe, ring};
use farshore_shipper::{SourceEpoch, SourceState, requests};
use farshore_vault::{EpochDisk, Nonce, Reason};

use super::look::{Question, look};
use crate::config::Config;
use crate::failure::{Next, fail};

/// How long the vault may take to say what it has of a group: every epoch and request is asked for, one after the other.
const VAULT_MAX: Duration = Duration::from_secs(120);

/// What `enable` found or did.
pub struct Enabled {
    /// The group's epoch.
    pub epoch: Epoch,
    /// It was noted now.
    pub new: bool,
}

/// Who may connect to the disks' exports; refused before anything is noted or served.
///
/// # Errors
/// When one may not be listened at.
pub fn access(config: &Config) -> Result<Access> {
    let access = config.listen_access.open(config.disks.iter().map(|disk| &disk.listen));
    access.next(format!("check listen of each [[disk]] in {}", config.path.display()))
}

/// Takes the group's lock: one agent at a time.
///
/// # Errors
/// When another agent has it, or the state folder cannot be made.
pub fn lock(config: &Config) -> Result<File> {
    crashsafe::create_dir_all(&config.state_dir)
        .next("state_dir in the configuration must be a folder that can be written")?;
    crashsafe::lock_file(&config.state_dir.join("lock")).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => fail(format!("another agent of group {} runs", config.group))
            .because(e)
            .next(format!("`farshore status {}` shows it; stop it first", config.path.display()))
            .into(),
        _ => e.into(),
    })
}

/// Opens and locks the disks, in index order.
///
/// # Errors
/// When one is missing, in use, or cannot be a disk; by its name.
pub fn open_disks(config: &Config) -> Result<Vec<SourceDisk>> {
    let open = |disk: &crate::config::DiskConfig| {
        SourceDisk::open(disk.name.clone(), &disk.source, LOCK_WAIT).what(
            format!("disk {} of group {} cannot be used", disk.name, config.group),
            format!("check source in {}", config.path.display()),
        )
    };
    config.disks.iter().map(open).collect()
}

/// The disks as an epoch object names them.
#[must_use]
pub fn table(disks: &[SourceDisk]) -> Vec<EpochDisk> {
    disks.iter().map(|d| EpochDisk { name: d.name().clone(), size_bytes: d.size_bytes() }).collect()
}

/// Checks the configuration and notes the group's epoch, unless one is noted. With `adopt`, the next epoch with every disk
/// copied again.
///
/// # Errors
/// When the vault does not answer, the disks cannot be used, or the group is another's.
pub fn enable(config: &Config, adopt: bool) -> Result<Enabled> {
    access(config)?;
    let _lock = lock(config)?;
    let disks = open_disks(config)?;
    note(config, &disks, adopt)
}

/// As [`enable`], for a caller that holds lock and disks.
///
/// # Errors
/// As [`enable`].
pub fn note(config: &Config, disks: &[SourceDisk], adopt: bool) -> Result<Enabled> {
    let state = SourceState::new(&config.state_dir);
    if adopt {
        // A killed agent's shipper may still open the noted epoch, and would note that of the new one.
        super::start::wait_for_old_shipper(config)?;
    }
    let noted = state.epoch()?;
    if let Some(other) = noted.as_ref().filter(|noted| noted.group != config.group) {
        return Err(fail(format!(
            "{} is the state of group {}, not of {}",
            config.state_dir.display(),
            other.group,
            config.group
        ))
        .next("give each group a state_dir of its own, or correct group in the configuration")
        .into());
    }
    if let (Some(noted), false) = (&noted, adopt) {
        return Ok(Enabled { epoch: noted.epoch, new: false });
    }
    let question = Question { epoch: true, requests_from: Some(requests::done(&config.state_dir)?) };
    let seen = look(config, question, VAULT_MAX).what(
        format!("the vault {} cannot be asked about group {}", config.vault, config.group),
        format!("check the URL, or make the vault with `farshore init --vault {}`", config.vault),
    )?;
    let (newest, asked) = (seen.epoch, seen.request.unwrap_or_default());
    if let (Some(there), false) = (&newest, adopt) {
        let why = format!("its epoch {} was opened at {} ({:?})", there.epoch, there.created, there.reason);
        return Err(fail(format!("group {} is in the vault already, and {} knows nothing of it", config.group, config.state_dir.display()))
            .because(anyhow::anyhow!(why))
            .next(format!(
                "give the group another name if it is another VM; if this machine is to be its source from now on: farshore enable --adopt {}",
                config.path.display()
            ))
            .into());
    }
    let parent = newest.map(|object| object.epoch);
    // The number of an epoch that was never opened is free: one above it would have no parent in the vault.
    let least = noted.as_ref().map_or(Epoch(1), |n| if n.opened { n.epoch.next() } else { n.epoch });
    let epoch = SourceEpoch {
        group: config.group.clone(),
        epoch: parent.unwrap_or(Epoch(0)).next().max(least),
        parent,
        reason: if parent.is_none() && noted.is_none() { Reason::FirstStart } else { Reason::AskedFor },
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: table(disks),
        vault: None,
        opened: false,
        clean: false,
    };
    super::served::leave(&config.state_dir, super::served::must_write_back(config)?)?;
    // Without this a ring of the state folder's earlier life could be taken for this epoch's.
    crashsafe::remove(&ring::path_in(&config.ring_dir, &config.group)).context("the old ring cannot be removed")?;
    if adopt {
        keep_spool(config, noted.map_or(Epoch(0), |n| n.epoch))?;
        // Every region will be lost, whatever they say, and whoever wrote them.
        super::maps::remove(config)?;
    }
    // In this order: a fence that stayed would hold for the new epoch too, and a request counts as done once the epoch is noted that
    // answers it.
    state.forget_fence()?;
    state.set_epoch(&epoch)?;
    // They were asked of a source before this one, or are answered by copying every disk.
    requests::set_done(&config.state_dir, asked)?;
    Ok(Enabled { epoch: epoch.epoch, new: true })
}

/// What an earlier epoch could not ship is no part of the new one. It is moved beside the spool, not removed: it may be the only
/// copy of what a fenced source wrote.
fn keep_spool(config: &Config, epoch: Epoch) -> Result<()> {
    let holds_any = std::fs::read_dir(&config.spool_dir).is_ok_and(|mut entries| entries.next().is_some());
    if holds_any {
        let mut kept = config.spool_dir.as_os_str().to_owned();
        kept.push(format!(".kept-{epoch}-{}", clock::wall().0));
        std::fs::rename(&config.spool_dir, &kept).context("the old spool cannot be moved aside")?;
        crashsafe::sync_parent(&config.spool_dir)?;
        tracing::warn!("what epoch {epoch} could not ship is kept in {}", kept.display());
    }
    Ok(())
}
