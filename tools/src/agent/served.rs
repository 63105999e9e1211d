//! Whether what a disk reads as may be less durable than its next fdatasync will say. When an fdatasync fails, the kernel may drop
//! what it could not write and still read it from memory, and no later fdatasync speaks of it. Whoever copies such a region to
//! the target and then closes it would have a target that a power cut makes differ from the disk; so it is written back first.
//!
//! The ring knows of the failure ([`Ring::is_distrusted`]), and a ring can be lost. `served.json` in the state folder names the boot
//! in which disks are being served, from before they are until all of it is durable; so a lost ring of this boot counts as
//! one that knew of a failure. With the boot the kernel's memory is gone, and what is read is what the disk has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use farshore_changelog::crashsafe;
use farshore_changelog::ring::{self, Ring};
use farshore_shipper::SourceState;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Largest `served.json` that is read, in bytes.
const SERVED_MAX_BYTES: u64 = 4 << 10;

/// `served.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    boot: [u8; 16],
    /// What is copied in this epoch is written back first.
    write_back: bool,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("served.json")
}

fn boot() -> Result<[u8; 16]> {
    ring::boot_id().context("this boot's identity cannot be read")
}

/// `None`: nobody has served the disks, or all they did is durable. A note that cannot be read counts as one of this boot.
fn read(state_dir: &Path) -> Result<Option<Served>> {
    let path = path(state_dir);
    match std::fs::metadata(&path).map(|meta| meta.len()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(format!("{} cannot be looked at", path.display())),
        Ok(len) if len > SERVED_MAX_BYTES => Ok(Some(Served { boot: boot()?, write_back: true })),
        Ok(_) => {
            let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            let served = serde_json::from_slice(&bytes);
            Ok(Some(served.unwrap_or(Served { boot: boot()?, write_back: true })))
        }
    }
}

/// Whether what is copied has to be written back first, as things stand: with the ring that is there, and the epoch that is noted.
///
/// # Errors
/// Of the file system.
pub fn must_write_back(config: &Config) -> Result<bool> {
    let served = read(&config.state_dir)?;
    let here = boot()?;
    if served.as_ref().is_some_and(|served| served.boot != here) {
        return Ok(false);
    }
    let noted = SourceState::new(&config.state_dir).epoch()?.map(|noted| noted.epoch);
    let ring = Ring::open(&ring::path_in(&config.ring_dir, &config.group));
    let known = ring.ok().filter(|ring| ring.spec().group == config.group && Some(ring.spec().epoch) == noted);
    Ok(match (served, known) {
        (served, Some(ring)) => ring.is_distrusted() || served.is_some_and(|served| served.write_back),
        (served, None) => served.is_some(),
    })
}

/// Notes durably that disks are served from here on, before they are. With `write_back` it comes before the ring that knew of the failure is
/// replaced; without, after the ring is there, so that a start that fails between leaves no note of a lost ring.
///
/// # Errors
/// Of the file system.
pub fn note(state_dir: &Path, write_back: bool) -> Result<()> {
    let served = Served { boot: boot()?, write_back };
    crashsafe::replace(&path(state_dir), &serde_json::to_vec_pretty(&served)?)
        .context("that the disks are served cannot be noted")
}

/// An agent has ended in order, with its disks durable. What is still to be copied is written back by the next one, if it was to be by
/// this one.
///
/// # Errors
/// Of the file system.
pub fn ended(state_dir: &Path, lost: bool) -> Result<()> {
    let write_back = lost && read(state_dir)?.is_some_and(|served| served.write_back);
    leave(state_dir, write_back)
}

/// Notes what is left for the next epoch, whose ring is yet to be made: nothing, or that it writes back.
///
/// # Errors
/// Of the file system.
pub fn leave(state_dir: &Path, write_back: bool) -> Result<()> {
    if write_back { note(state_dir, true) } else { Ok(crashsafe::remove(&path(state_dir))?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_another_boot_says_nothing_and_a_damaged_one_everything() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        note(dir.path(), false).unwrap();
        let here = Served { boot: boot().unwrap(), write_back: false };
        assert_eq!(read(dir.path()).unwrap(), Some(here));
        std::fs::write(path(dir.path()), b"{").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(Served { boot: boot().unwrap(), write_back: true }));
        ended(dir.path(), true).unwrap();
        assert!(
            read(dir.path()).unwrap().is_some_and(|served| served.write_back),
            "what is lost is still to be written back"
        );
        ended(dir.path(), false).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }
}
