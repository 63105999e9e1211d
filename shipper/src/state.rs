//! The durable notes of a source in its state folder (`docs/format.md`, "Source state"). The agent begins epochs and notes how it
//! stopped; the shipper notes what the vault has confirmed. Both go through these types.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::{clock, crashsafe};
use farshore_vault::{EpochDisk, EpochObject, Nonce, Reason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ShipError;

/// Format version of `epoch.json`, as of the epoch object whose fields it has.
const FORMAT: u64 = 1;
/// Longest wait for the other process that changes `epoch.json`; it holds the lock for one write.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at that lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The epoch that the source works in: its object, and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEpoch {
    /// The group.
    pub group: GroupName,
    /// Its number.
    pub epoch: Epoch,
    /// The epoch before; `None` in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Epoch>,
    /// Why it was begun.
    pub reason: Reason,
    /// Tells our epoch object from another's. Noted here before the object is created.
    pub nonce: Nonce,
    /// When it was begun.
    pub created: jiff::Timestamp,
    /// The group's disks in index order.
    pub disks: Vec<EpochDisk>,
    /// The id of the vault that it was opened in. Set by the shipper; from then on no other vault is taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// The vault has confirmed that it is ours, and the one before is sealed. Set by the shipper.
    pub opened: bool,
    /// The last agent ended in order. Set by the agent.
    pub clean: bool,
}

impl SourceEpoch {
    /// The object that stands for it in the vault.
    #[must_use]
    pub fn object(&self) -> EpochObject {
        EpochObject {
            group: self.group.clone(),
            epoch: self.epoch,
            parent: self.parent,
            reason: self.reason,
            nonce: self.nonce,
            created: self.created,
            disks: self.disks.clone(),
        }
    }

    /// The hash that its first segment names as its predecessor.
    #[must_use]
    pub fn object_hash(&self) -> Hash {
        Hash::of(&self.object().encoded())
    }
}

/// The newest segment that the vault has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub number: SegmentNo,
    /// Its hash.
    pub hash: Hash,
    /// The last seq it covers.
    pub last_seq: Seq,
}

/// Another writer has the group: our epoch is over for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fenced {
    /// Our epoch.
    pub epoch: Epoch,
    /// The epoch that ended it: its successor, or the one of the same number that we wanted to open.
    pub by: EpochObject,
}

/// The state folder of a group.
#[derive(Debug, Clone)]
pub struct SourceState {
    dir: PathBuf,
}

impl SourceState {
    /// In `dir`, which exists.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// `epoch.json`; `None` before the group's first start.
    ///
    /// # Errors
    /// [`ShipError::Io`]; [`ShipError::State`] when it is damaged or of another version.
    pub fn epoch(&self) -> Result<Option<SourceEpoch>, ShipError> {
        let path = self.path("epoch.json");
        let Some(mut value) = read::<Value>(&path)? else { return Ok(None) };
        let format = value.as_object_mut().and_then(|map| map.remove("format")).and_then(|v| v.as_u64());
        if format != Some(FORMAT) {
            let found = format.map_or_else(|| "no format".to_owned(), |f| format!("format {f}"));
            let what = format!("it has {found}, this farshore reads format {FORMAT}; use the version that wrote it");
            return Err(ShipError::State { path, what });
        }
        serde_json::from_value(value).map(Some).map_err(|e| damaged(&path, &e))
    }

    /// Notes the epoch, in place of any other.
    ///
    /// # Errors
    /// [`ShipError::Io`]; the old note is then untouched.
    pub fn set_epoch(&self, epoch: &SourceEpoch) -> Result<(), ShipError> {
        let mut value = serde_json::to_value(epoch).expect("an epoch has string keys only");
        value["format"] = FORMAT.into();
        write(&self.path("epoch.json"), &value)
    }

    /// Changes the note. Agent and shipper may both do so at one time: a lock keeps either's change from being lost.
    ///
    /// # Errors
    /// [`ShipError::Io`]; [`ShipError::State`] when there is no note, or a damaged one.
    pub fn update_epoch(&self, change: impl FnOnce(&mut SourceEpoch)) -> Result<SourceEpoch, ShipError> {
        let _lock = self.lock_epoch()?;
        let Some(mut epoch) = self.epoch()? else {
            let what = "no epoch is noted; start the group with `farshore run`".to_owned();
            return Err(ShipError::State { path: self.path("epoch.json"), what });
        };
        change(&mut epoch);
        self.set_epoch(&epoch)?;
        Ok(epoch)
    }

    fn lock_epoch(&self) -> Result<std::fs::File, ShipError> {
        let path = self.path("epoch.lock");
        let until = clock::mono() + LOCK_WAIT_MAX;
        loop {
            match crashsafe::lock_file(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && clock::mono() < until => {
                    clock::sleep(LOCK_PAUSE);
                }
                locked => return locked.map_err(ShipError::io("lock the noted epoch")),
            }
        }
    }

    /// `shipped.json`; `None` before the first confirmation.
    ///
    /// # Errors
    /// [`ShipError::Io`]; [`ShipError::State`] when it is damaged.
    pub fn watermark(&self) -> Result<Option<Watermark>, ShipError> {
        read(&self.path("shipped.json"))
    }

    /// Notes the watermark.
    ///
    /// # Errors
    /// [`ShipError::Io`]; the old note is then untouched.
    pub fn set_watermark(&self, watermark: &Watermark) -> Result<(), ShipError> {
        write(&self.path("shipped.json"), watermark)
    }

    /// `fenced.json`; `None` as long as no other writer has the group.
    ///
    /// # Errors
    /// [`ShipError::Io`]; [`ShipError::State`] when it is damaged.
    pub fn fenced(&self) -> Result<Option<Fenced>, ShipError> {
        read(&self.path("fenced.json"))
    }

    /// Notes that the group is another's.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn set_fenced(&self, fenced: &Fenced) -> Result<(), ShipError> {
        write(&self.path("fenced.json"), fenced)
    }

    /// Forgets that the group was another's: somebody has decided that this source begins the next epoch.
    ///
    /// # Errors
    /// [`ShipError::Io`].
    pub fn forget_fence(&self) -> Result<(), ShipError> {
        crashsafe::remove(&self.path("fenced.json")).map_err(ShipError::io("forget that the group was fenced"))
    }

    /// A file of the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ShipError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ShipError::Io { what: "read the group's state", source: at(path, &e) }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(path, &e))
}

pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), ShipError> {
    let bytes = serde_json::to_vec_pretty(value).expect("the notes have string keys only");
    crashsafe::replace(path, &bytes).map_err(ShipError::io("note the group's state"))
}

pub(crate) fn damaged(path: &Path, error: &impl std::fmt::Display) -> ShipError {
    let what = format!("it is damaged ({error}); restore it, or move it away and begin a new epoch with a full resync");
    ShipError::State { path: path.to_owned(), what }
}

pub(crate) fn at(path: &Path, e: &std::io::Error) -> std::io::Error {
    std::io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::DiskName;

    use super::*;

    fn noted() -> SourceEpoch {
        SourceEpoch {
            group: GroupName::new("web01").unwrap(),
            epoch: Epoch(2),
            parent: Some(Epoch(1)),
            reason: Reason::RingLost,
            nonce: Nonce([7; 16]),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 30 }],
            vault: None,
            opened: false,
            clean: true,
        }
    }

    #[test]
    fn notes_survive_and_absent_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = SourceState::new(dir.path());
        assert_eq!((state.epoch().unwrap(), state.watermark().unwrap(), state.fenced().unwrap()), (None, None, None));
        state.set_epoch(&noted()).unwrap();
        assert_eq!(state.epoch().unwrap(), Some(noted()));
        let text = std::fs::read_to_string(dir.path().join("epoch.json")).unwrap();
        assert!(text.contains("\"format\": 1") && text.contains("\"opened\": false"), "{text}");
        let watermark = Watermark { epoch: Epoch(1), number: SegmentNo(9), hash: Hash::of(b"x"), last_seq: Seq(77) };
        state.set_watermark(&watermark).unwrap();
        assert_eq!(state.watermark().unwrap(), Some(watermark));
        let fenced = Fenced { epoch: Epoch(1), by: noted().object() };
        state.set_fenced(&fenced).unwrap();
        assert_eq!(state.fenced().unwrap(), Some(fenced));
    }

    #[test]
    fn changes_of_two_processes_are_both_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = SourceState::new(dir.path());
        assert!(state.update_epoch(|_| ()).unwrap_err().to_string().contains("farshore run"));
        state.set_epoch(&noted()).unwrap();
        std::thread::scope(|scope| {
            for flag in [true, false] {
                let state = state.clone();
                scope.spawn(move || {
                    for _ in 0..20 {
                        state.update_epoch(|e| if flag { e.opened = true } else { e.clean = false }).unwrap();
                    }
                });
            }
        });
        let both = state.epoch().unwrap().unwrap();
        assert!(both.opened && !both.clean);
    }

    #[test]
    fn a_damaged_note_or_one_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = SourceState::new(dir.path());
        for (bad, word) in [
            (r#"{"format":2,"x":1}"#, "format 2"),
            ("{}", "no format"),
            ("{", "damaged"),
            (r#"{"format":1}"#, "damaged"),
        ] {
            std::fs::write(dir.path().join("epoch.json"), bad).unwrap();
            let error = state.epoch().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("epoch.json"), "{error}");
        }
        std::fs::write(dir.path().join("shipped.json"), r#"{"epoch":1}"#).unwrap();
        assert!(matches!(state.watermark(), Err(ShipError::State { .. })));
    }
}
