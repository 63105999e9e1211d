//! What a processor says of a group, in `status.json` of the group's folder, for the command line. It is a report, not state:
//! nothing is decided by it, and it may be lost.

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{GroupName, Position, SegmentNo};
use farshore_changelog::medium::{self, Create};
use farshore_changelog::units::UnixMicros;
use serde::{Deserialize, Serialize};

use crate::comeback::Stopped;
use crate::error::{GroupError, TargetError};
use crate::position::ReplayPosition;
use crate::target::{GroupDir, read_bounded};

/// Largest `status.json` that is read, in bytes.
const STATUS_MAX_BYTES: u64 = 64 << 10;
/// Without a record for this long a group is idle.
pub const IDLE_AFTER: Duration = Duration::from_secs(30);

/// What a group is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum GroupState {
    /// The disks are copied for the first time: there is no point yet.
    InitialReplication,
    /// Lost regions are copied: no new point until it ends, the old ones are good.
    Resync,
    /// The source had no room for its log, and what it left out is not copied yet: no new point until a resync has ended, the
    /// old ones are good.
    Overflow,
    /// The source writes, replay follows.
    Following,
    /// Nothing but heartbeats, or nothing at all.
    Idle,
    /// It stopped, and is tried again. Nothing past this is applied; the points cut before are good.
    Stopped {
        /// What kind of thing is wrong.
        cause: Cause,
        /// What is wrong and what to do.
        reason: String,
        /// The object key or the file.
        at: String,
        /// Since when (target's clock).
        since: jiff::Timestamp,
        /// How often it was tried since.
        tries: u32,
    },
}

/// What kind of thing stopped a group, by what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The log cannot be followed: the object comes back, or everything is copied again (`farshore resync --full`).
    Log,
    /// What was half done cannot be undone: the journal comes back, or everything is copied again (`farshore resync --full`).
    NoWayBack,
    /// The target has no room left: room.
    Full,
    /// A file of the target cannot be used: it can again.
    Target,
    /// Another process replays the group: it ends.
    Locked,
    /// The vault refuses: it does not any more.
    Vault,
}

impl Cause {
    /// The kind of `error`.
    #[must_use]
    pub fn of(error: &GroupError) -> Self {
        match error {
            e if e.is_in_the_log() => Self::Log,
            e if e.is_locked() => Self::Locked,
            e if e.no_way_back().is_some() => Self::NoWayBack,
            GroupError::Full { .. } => Self::Full,
            GroupError::Vault(_) => Self::Vault,
            _ => Self::Target,
        }
    }
}

impl GroupState {
    /// The state of a group that has stopped.
    #[must_use]
    pub fn stopped(stopped: &Stopped) -> Self {
        let Stopped { error, tries, since } = stopped;
        let (cause, reason, at) = (Cause::of(error), error.full_text(), error.at());
        Self::Stopped { cause, reason, at, since: *since, tries: *tries }
    }

    /// The state of a group that goes on; `active`: a record was applied within [`IDLE_AFTER`].
    #[must_use]
    pub fn going(position: Option<&ReplayPosition>, active: bool) -> Self {
        match position {
            Some(p) if p.overflow => Self::Overflow,
            Some(p) if p.resync && p.consistent.exists() => Self::Resync,
            Some(p) if p.resync => Self::InitialReplication,
            Some(_) if active => Self::Following,
            Some(_) | None => Self::Idle,
        }
    }
}

/// A position and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Epoch and seq.
    #[serde(flatten)]
    pub position: Position,
    /// Source's time.
    pub time: jiff::Timestamp,
}

/// How far a resync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncProgress {
    /// Bytes that it announced.
    pub announced_bytes: u64,
    /// Bytes that it brought.
    pub applied_bytes: u64,
}

/// What lies in the vault and is not replayed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unapplied {
    /// Segments and seals.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Retention would remove some, and does not, because they are not replayed.
    pub older_than_retention: bool,
    /// There are more than the limit allows.
    pub alarm: bool,
}

/// A group's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Whose.
    pub group: GroupName,
    /// What it is doing.
    #[serde(flatten)]
    pub state: GroupState,
    /// When this was written (target's clock).
    pub updated: jiff::Timestamp,
    /// Where replay stands; absent before the first segment.
    pub position: Option<At>,
    /// The newest segment of which anything was applied.
    pub segment: SegmentNo,
    /// The newest consistent position.
    pub consistent: Option<At>,
    /// Age of the position when this was written, in milliseconds.
    pub lag_ms: Option<u64>,
    /// When the newest segment seen was sealed (source's clock); an idle source seals one every heartbeat.
    pub newest_heartbeat: Option<jiff::Timestamp>,
    /// The resync in progress.
    pub resync: Option<ResyncProgress>,
    /// Count of recovery points.
    pub points: usize,
    /// What waits in the vault, when it was last measured; absent when nothing does.
    #[serde(default)]
    pub unapplied: Option<Unapplied>,
    /// The next segment, when its source has put later ones before it and not come to it: it is under way, or the source was cut off or died
    /// while it was. The next epoch ends the log before it.
    #[serde(default)]
    pub hole: Option<SegmentNo>,
    /// Why the vault cannot be read now; the group waits and tries again.
    pub vault_problem: Option<String>,
}

impl GroupStatus {
    /// A status of `group` at `position`.
    #[must_use]
    pub fn new(group: &GroupName, state: GroupState, position: Option<&ReplayPosition>) -> Self {
        let now = clock::wall();
        let at = |position, time: UnixMicros| At { position, time: time.timestamp() };
        let lag = position.filter(|p| p.time.0 > 0).map(|p| now.since(p.time).as_millis());
        let resync = |p: &ReplayPosition| ResyncProgress {
            announced_bytes: p.resync_announced,
            applied_bytes: p.resync_applied,
        };
        Self {
            group: group.clone(),
            state,
            updated: now.timestamp(),
            position: position.map(|p| at(p.position(), p.time)),
            segment: position.map_or(SegmentNo(0), |p| p.number),
            consistent: position.map(|p| p.consistent).filter(|c| c.exists()).map(|c| at(c.position, c.time)),
            lag_ms: lag.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            newest_heartbeat: None,
            resync: position.filter(|p| p.resync).map(resync),
            points: 0,
            unapplied: None,
            hole: None,
            vault_problem: None,
        }
    }

    /// Reads the status that a processor left; `None` when there is none.
    ///
    /// # Errors
    /// [`TargetError::Io`]; [`TargetError::Damaged`] when it is no status (it is then only lost).
    pub fn read(dir: &GroupDir) -> Result<Option<Self>, TargetError> {
        let path = dir.status();
        match read_bounded(&path, STATUS_MAX_BYTES) {
            Ok(bytes) => {
                let status = serde_json::from_slice(&bytes);
                status.map(Some).map_err(|e| TargetError::damaged(&path, 0, e.to_string()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(TargetError::io("read", &path)(e)),
        }
    }

    /// Writes it, without fsync: it need not survive a power cut. On a full disk the old file's room is used, so that a group
    /// that stopped for that reason can still say so.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn write(&self, dir: &GroupDir) -> Result<(), TargetError> {
        let path = dir.status();
        let mut bytes = serde_json::to_vec_pretty(self).expect("names, numbers and times can be written as JSON");
        bytes.push(b'\n');
        let tmp = path.with_extension("json.tmp");
        let replaced = medium::create(&tmp, Create::Emptied)
            .and_then(|file| medium::write_all_at(&file, &bytes, 0))
            .and_then(|()| medium::rename(&tmp, &path));
        let written = replaced.or_else(|_| {
            let _gone = medium::remove(&tmp);
            let file = OpenOptions::new().write(true).open(&path)?;
            medium::write_all_at(&file, &bytes, 0)?;
            medium::set_len(&file, bytes.len() as u64)
        });
        written.map_err(TargetError::io("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::{Epoch, Hash, Seq};

    use super::*;

    #[test]
    fn a_status_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let group = GroupName::new("web01").unwrap();
        let dir = GroupDir::new(folder.path(), &group);
        assert_eq!(GroupStatus::read(&dir).unwrap(), None);
        std::fs::create_dir_all(dir.root()).unwrap();
        let mut position = ReplayPosition::start(group.clone(), Epoch(1), Hash::ZERO);
        (position.seq, position.time, position.resync) = (Seq(7), UnixMicros(5_000_000), true);
        assert_eq!(GroupState::going(Some(&position), true), GroupState::InitialReplication);
        let error = GroupError::Refused { at: "groups/web01/log/1".into(), what: "a reason".into() };
        let state = GroupState::stopped(&Stopped { error, tries: 2, since: jiff::Timestamp::UNIX_EPOCH });
        for state in [state, GroupState::InitialReplication, GroupState::Idle] {
            let status = GroupStatus::new(&group, state, Some(&position));
            status.write(&dir).unwrap();
            assert_eq!(GroupStatus::read(&dir).unwrap(), Some(status));
        }
    }
}
