//! From what the last agent left to a log that can go on: disks, ring, epoch, dirty maps.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use farshore_capture::disk::SourceDisk;
use farshore_capture::regions::RegionMap;
use farshore_capture::settle::settle;
use farshore_capture::tap::CopyMode;
use farshore_changelog::ids::{DiskName, Epoch};
use farshore_changelog::ring::{self, Ring, RingError, RingSpec, Settled};
use farshore_changelog::{clock, crashsafe};
use farshore_shipper::{SourceEpoch, SourceState};
use farshore_vault::{Nonce, Reason, VaultError};

use super::look::{Question, look};
use super::takeover::{EpochChoice, FoundRing, Lost, Noted, Start, decide};
use super::{enable, maps, served, stamp};
use crate::config::Config;
use crate::failure::{Next, fail};
use crate::units::show_bytes;

/// Slots a lane: enough for 128 MiB of 8 KiB writes.
pub const SLOTS_PER_LANE: u32 = 16_384;
/// How long the vault may take to say its version at an orderly start.
const VAULT_LOOK_MAX: Duration = Duration::from_secs(5);
/// How long a predecessor's shipper may take to end before the agent gives up.
const OLD_SHIPPER_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at it.
const OLD_SHIPPER_PAUSE: Duration = Duration::from_millis(50);

/// A group that is ready to be served.
pub struct Prepared {
    /// Held as long as the agent lives.
    pub lock: File,
    /// The disks, in index order, locked.
    pub disks: Vec<SourceDisk>,
    /// Their dirty maps, in the same order.
    pub maps: Vec<RegionMap>,
    /// The ring, settled.
    pub ring: Ring,
    /// The epoch.
    pub epoch: Epoch,
    /// How lost regions are copied.
    pub mode: CopyMode,
    /// What was found and done, for the start-up line.
    pub story: String,
}

/// Prepares the group.
///
/// # Errors
/// What is missing or in the way, by name; nothing of the group's data was changed.
pub fn prepare(config: &Config) -> Result<Prepared> {
    let lock = enable::lock(config)?;
    for dir in [&config.spool_dir, &config.ring_dir, &config.run_dir] {
        crashsafe::create_dir_all(dir)?;
    }
    // The flock of every disk comes before anything is read: the kernel may still be writing for a dead predecessor.
    let disks = enable::open_disks(config)?;
    let state = SourceState::new(&config.state_dir);
    enable::note(config, &disks, false)?;
    let mut noted = noted_epoch(&state)?;
    let grown = same_disks(config, &noted, &disks)?;
    if noted.clean {
        refuse_other_vault(config, noted.vault.as_deref())?;
    }
    let changed = stamp::changed(&config.state_dir, &disks)?;

    let path = ring::path_in(&config.ring_dir, &config.group);
    let wanted = spec(config, &noted, &disks)?;
    let (mut found, mut open) = find_ring(&path, &wanted, noted.clean)?;
    let mut maps = maps::open(config, &wanted.disks, open.as_ref())?;
    if let Some(ring) = &open
        && let Err(e) = recover(ring, &disks, &mut maps)
    {
        tracing::warn!("the ring {} is lost: {e}", path.display());
        (found, open) = (FoundRing::Useless, None);
    }
    // While the ring that it asks is there.
    let write_back = served::must_write_back(config)?;
    let mut start = decide(facts(&noted), found);
    if start.epoch != EpochChoice::Continue {
        // It may still open the epoch and ship into it; what it noted last decides.
        wait_for_old_shipper(config)?;
        noted = noted_epoch(&state)?;
        start = decide(facts(&noted), found);
    }
    if start.epoch != EpochChoice::Continue {
        // It is not gone on with; nor by a start after a crash from here on, which would take it for one in which nothing is missing.
        crashsafe::remove(&path)?;
    }
    // Durable before there is an epoch, or a ring, that a process after a crash would take for one in which nothing is missing.
    let newly_lost = maps::lose(config, &wanted.disks, &mut maps, start.lost, &changed, open.as_ref())?;
    let lost_bytes = match start.epoch {
        // What a resync before has copied is in the ring.
        EpochChoice::Continue => newly_lost,
        // Also what was lost before, and whose copy the vault has not confirmed.
        EpochChoice::Begin | EpochChoice::Next => maps.iter().map(RegionMap::lost_bytes).sum(),
    };
    if write_back {
        // Before the ring that knew of it is replaced by one that does not.
        served::note(&config.state_dir, true)?;
    }
    let (epoch, ring) = match (start.epoch, open) {
        (EpochChoice::Continue, Some(ring)) => (noted.epoch, ring),
        (EpochChoice::Continue, None) => unreachable!("a ring that fits is open"),
        (EpochChoice::Begin, _) => {
            discard_spool(config, noted.epoch)?;
            state.update_epoch(|e| e.clean = false)?;
            (noted.epoch, make_ring(&path, &wanted)?)
        }
        (EpochChoice::Next, _) => {
            let next = SourceEpoch { disks: enable::table(&disks), ..after(&noted) };
            state.set_epoch(&next)?;
            (next.epoch, make_ring(&path, &RingSpec { epoch: next.epoch, ..wanted })?)
        }
    };
    if start.epoch == EpochChoice::Continue {
        state.update_epoch(|e| e.clean = false)?;
    }
    if !write_back {
        served::note(&config.state_dir, false)?;
    }
    stamp::forget(&config.state_dir)?;
    let story = tell(start, found, grown, lost_bytes, write_back);
    Ok(Prepared { lock, disks, maps, ring, epoch, mode: CopyMode { skip_holes: start.skip_holes, write_back }, story })
}

fn noted_epoch(state: &SourceState) -> Result<SourceEpoch> {
    state.epoch()?.context("the group's epoch is not noted any more: another program changes its state folder")
}

fn facts(noted: &SourceEpoch) -> Noted {
    Noted { opened: noted.opened, clean: noted.clean, reason: noted.reason }
}

/// Settles what a dead agent left in flight.
fn recover(ring: &Ring, disks: &[SourceDisk], maps: &mut [RegionMap]) -> Result<(), RingError> {
    let mut ended = ring.resync_end();
    let report = ring.recover(&mut |record, payload| {
        // While a range may become lost, the ring must not say that every lost bit is of a region in the log.
        ring.set_resync_end(None);
        let settled = settle(disks, maps, record, payload).unwrap_or_else(|error| {
            // What is lost is not noted durably: the ring is lost with it, and what it had in flight is open.
            tracing::error!("{error}");
            ring.distrust();
            Settled::Unreadable
        });
        if settled == Settled::Unreadable {
            ended = None;
        }
        ring.set_resync_end(ended);
        settled
    })?;
    tracing::debug!(?report, "slots settled");
    if ring.is_distrusted() {
        return Err(RingError::Damaged {
            path: ring.path().to_owned(),
            what: "it says that a disk or its dirty map has failed".to_owned(),
        });
    }
    Ok(())
}

/// At an orderly start somebody is there to mend another vault, or one of another version. After a crash the disk is served all the same, as
/// it is when the vault does not answer: the shipper says what is wrong, and the log waits.
fn refuse_other_vault(config: &Config, noted: Option<&str>) -> Result<()> {
    match look(config, Question::default(), VAULT_LOOK_MAX) {
        Ok(seen) if noted.is_some_and(|id| id != seen.id) => {
            let (found, wanted) = (seen.id, noted.unwrap_or_default().to_owned());
            Err(VaultError::OtherVault { url: config.vault.clone(), found, wanted }).next(format!(
                "correct vault in the configuration; or, if the group is to go on in that vault, begin a new epoch that copies every disk \
                 again: farshore enable --adopt {}",
                config.path.display()
            ))
        }
        Ok(_) => Ok(()),
        Err(e) if e.for_good => Err(e).what(
            format!("the vault {} cannot be used", config.vault),
            "use the farshore that wrote it, or correct vault, encryption or the keys in the configuration",
        ),
        Err(e) => {
            tracing::warn!(
                "the vault {} cannot be used now: {e}; the disks are served and logged all the same",
                config.vault
            );
            Ok(())
        }
    }
}

fn tell(start: Start, found: FoundRing, grown: bool, lost_bytes: u64, write_back: bool) -> String {
    let bytes = show_bytes(lost_bytes);
    let copied = match (lost_bytes, write_back) {
        (0, _) => "nothing is copied again".to_owned(),
        (_, false) => format!("{bytes} are copied again"),
        (_, true) => format!("{bytes} are copied again, and written back first, as an fdatasync may have failed"),
    };
    let story = match (start.epoch, start.lost, found) {
        (EpochChoice::Continue, ..) => format!("the log goes on where it was, {copied}"),
        (EpochChoice::Begin, Lost::All, _) if start.skip_holes => "initial replication".to_owned(),
        (_, Lost::All, _) => "every disk is copied again".to_owned(),
        (_, Lost::AsNoted, _) => format!("a new ring after a clean stop, {copied}"),
        (_, Lost::Open, FoundRing::Absent) => format!("the ring is gone without a clean stop: {copied}"),
        (_, Lost::Open, FoundRing::Fits | FoundRing::Useless) => format!("the ring cannot be used: {copied}"),
    };
    if grown { format!("{story}; disks have grown or were added") } else { story }
}

/// Whether the disks are those of the epoch: the same ones in the same order. Gives whether any has grown, or new ones come after
/// them, which the next epoch says to the target.
///
/// # Errors
/// When the log would mean something else: a disk has shrunk, moved, or is gone. Also when a grown disk meets an epoch that the
/// vault has not confirmed: what it says cannot be changed any more, and the next one has no parent yet.
fn same_disks(config: &Config, noted: &SourceEpoch, disks: &[SourceDisk]) -> Result<bool> {
    let now = enable::table(disks);
    if now == noted.disks {
        return Ok(false);
    }
    let source = |name: &DiskName| {
        let disk = config.disks.iter().find(|disk| disk.name == *name);
        disk.map_or_else(String::new, |disk| disk.source.display().to_string())
    };
    let differs = noted.disks.iter().zip(&now).find(|(was, is)| was.name != is.name || is.size_bytes < was.size_bytes);
    let why = match differs {
        Some((was, is)) if was.name == is.name => format!(
            "disk {} ({}) has {} bytes now and had {} when epoch {} began",
            is.name,
            source(&is.name),
            is.size_bytes,
            was.size_bytes,
            noted.epoch
        ),
        Some((was, is)) => format!("disk {} stands where disk {} was", is.name, was.name),
        None if now.len() < noted.disks.len() => {
            format!("it has {} disks now and had {} when epoch {} began", now.len(), noted.disks.len(), noted.epoch)
        }
        None if !noted.opened => {
            format!("a disk has grown or was added, and the vault has not confirmed epoch {} yet", noted.epoch)
        }
        None => return Ok(true),
    };
    Err(fail(format!("the disks of group {} are not those it had", config.group))
        .because(anyhow::anyhow!(why))
        .next(format!(
            "put the disk back as it was; or, if the change is meant, begin a new epoch that copies every disk again: farshore enable --adopt {}",
            config.path.display()
        ))
        .into())
}

fn spec(config: &Config, noted: &SourceEpoch, disks: &[SourceDisk]) -> Result<RingSpec> {
    Ok(RingSpec {
        group: config.group.clone(),
        epoch: noted.epoch,
        boot_id: ring::boot_id().context("this boot's identity cannot be read")?,
        lanes: config.lanes,
        slots_per_lane: SLOTS_PER_LANE,
        payload_bytes_per_lane: config.ring_bytes,
        created: clock::wall(),
        disks: disks.iter().map(SourceDisk::entry).collect(),
    })
}

/// The ring, when it can go on being used. Its own geometry stays: a changed `ring_size` counts from the next ring on.
/// One of another version is left to that version, unless the last stop was clean: then the vault has all of it.
fn find_ring(path: &std::path::Path, wanted: &RingSpec, clean: bool) -> Result<(FoundRing, Option<Ring>)> {
    Ok(match Ring::open(path) {
        Ok(ring) => {
            let spec = ring.spec();
            if spec.group == wanted.group && spec.epoch == wanted.epoch && spec.disks == wanted.disks {
                return Ok((FoundRing::Fits, Some(ring)));
            }
            tracing::warn!("the ring {} is of epoch {} or of other disks: it is not used", path.display(), spec.epoch);
            (FoundRing::Useless, None)
        }
        Err(RingError::Missing { .. } | RingError::OtherBoot { .. }) => (FoundRing::Absent, None),
        Err(RingError::Version { .. }) if clean => (FoundRing::Absent, None),
        Err(e @ RingError::Version { .. }) => {
            return Err(e).next(
                "start the group with the farshore that made it, and stop it in order; or remove the ring, and what the vault does not \
                 have of it is copied again from the disks",
            );
        }
        Err(e) => {
            tracing::warn!("the ring {} cannot be used: {e}", path.display());
            (FoundRing::Useless, None)
        }
    })
}

fn make_ring(path: &std::path::Path, spec: &RingSpec) -> Result<Ring> {
    Ring::create(path, spec).what(
        format!("the ring {} cannot be made", path.display()),
        "free memory in /dev/shm, or make ring_size smaller, or set ring_dir to another tmpfs",
    )
}

fn after(noted: &SourceEpoch) -> SourceEpoch {
    SourceEpoch {
        epoch: noted.epoch.next(),
        parent: Some(noted.epoch),
        reason: Reason::RingLost,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        opened: false,
        clean: false,
        ..noted.clone()
    }
}

/// The epoch begins again from nothing: what an earlier ring of it has sealed never reached the vault.
fn discard_spool(config: &Config, epoch: Epoch) -> Result<()> {
    farshore_shipper::spool::discard(&config.spool_dir, epoch).context("the old spool cannot be discarded")
}

/// A killed agent's shipper drains and ends by itself. It may do so beside its successor's agent, but not beside a new ring.
pub(super) fn wait_for_old_shipper(config: &Config) -> Result<()> {
    let until = clock::mono() + OLD_SHIPPER_MAX;
    while farshore_shipper::is_running(&config.state_dir)? {
        ensure!(
            clock::mono() < until,
            "a shipper of group {} still runs after {OLD_SHIPPER_MAX:?}: stop the `farshore ship` process",
            config.group
        );
        clock::sleep(OLD_SHIPPER_PAUSE);
    }
    Ok(())
}
