//! The dirty maps at the start of an agent, and at an orderly stop.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use farshore_capture::regions::{MapError, RegionMap, region_bytes_for};
use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskEntry, Ring};
use farshore_changelog::{crashsafe, medium};

use super::takeover::Lost;
use crate::config::Config;
use crate::failure::Next;

fn path(config: &Config, disk: &DiskName) -> PathBuf {
    config.state_dir.join(format!("{disk}.map"))
}

fn all_lost(config: &Config, disk: &DiskEntry) -> Result<RegionMap> {
    Ok(RegionMap::create(&path(config, &disk.name), disk, region_bytes_for(disk.size_bytes), true)?)
}

/// Removes the maps of all disks: without one, everything is lost.
///
/// # Errors
/// When one cannot be removed.
pub fn remove(config: &Config) -> Result<()> {
    config.disks.iter().try_for_each(|disk| Ok(crashsafe::remove(&path(config, &disk.name))?))
}

/// The dirty maps as they are. A map that is missing, damaged, or another disk's is made anew and says that everything is lost;
/// that of a disk that has grown is taken over.
///
/// # Errors
/// [`MapError::Version`] and [`MapError::Io`] of a map: nothing is guessed of what another version wrote.
pub fn open(config: &Config, disks: &[DiskEntry], ring: Option<&Ring>) -> Result<Vec<RegionMap>> {
    let open = |disk: &DiskEntry| {
        let path = path(config, &disk.name);
        let opened = match RegionMap::open(&path, disk) {
            Err(MapError::Refused { .. }) => RegionMap::grow(&path, disk),
            opened => opened,
        };
        match opened {
            Ok(map) => Ok(map),
            Err(e @ MapError::Io { .. }) => Err(e.into()),
            Err(e @ MapError::Version { .. }) => Err(e).next(format!(
                "start the group with the farshore that wrote it; or begin a new epoch, which copies every disk again: \
                 farshore enable --adopt {}",
                config.path.display()
            )),
            Err(e @ (MapError::Missing { .. } | MapError::Refused { .. } | MapError::Damaged { .. })) => {
                if !matches!(e, MapError::Missing { .. }) {
                    tracing::warn!("disk {} is copied again: {e}", disk.name);
                }
                if let Some(ring) = ring {
                    ring.set_resync_end(None);
                }
                all_lost(config, disk)
            }
        }
    };
    disks.iter().map(open).collect()
}

/// Makes the maps say durably what is lost. `changed`: disks that somebody else has written. Gives how many bytes became lost.
///
/// # Errors
/// When a map cannot be written.
pub fn lose(
    config: &Config,
    disks: &[DiskEntry],
    maps: &mut [RegionMap],
    lost: Lost,
    changed: &[bool],
    ring: Option<&Ring>,
) -> Result<u64> {
    let mut bytes = 0;
    for ((disk, map), changed) in disks.iter().zip(maps).zip(changed) {
        let before = map.lost_bytes();
        let lost = if *changed { Lost::All } else { lost };
        if let (Lost::Open | Lost::All, Some(ring)) = (lost, ring) {
            // Before the map says so, and even if it said so before: these regions are not those that the log has.
            ring.set_resync_end(None);
        }
        match lost {
            Lost::AsNoted => {}
            Lost::Open => {
                map.lose_open();
                commit(map)?;
            }
            Lost::All => *map = all_lost(config, disk)?,
        }
        bytes += map.lost_bytes() - before;
    }
    Ok(bytes)
}

fn commit(map: &mut RegionMap) -> Result<()> {
    map.commit().map_or(Ok(()), farshore_capture::regions::Commit::run).context("the dirty map cannot be written")
}

/// At an orderly stop, with everything in the vault: the disks are made durable, and then nothing is open any more. Gives how many
/// regions are lost.
///
/// # Errors
/// When a disk or its map fails: the stop is then not a clean one.
pub fn close(config: &Config, disks: &[DiskEntry], files: &[Arc<File>]) -> Result<u64> {
    let mut lost = 0;
    for (disk, file) in disks.iter().zip(files) {
        medium::sync_data(file).with_context(|| format!("disk {} cannot be made durable", disk.name))?;
        let mut map = RegionMap::open(&path(config, &disk.name), disk)?;
        while let Some(region) = map.next_open(0) {
            map.close(region);
        }
        commit(&mut map)?;
        lost += map.lost_regions();
    }
    Ok(lost)
}
