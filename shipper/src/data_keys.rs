//! The data keys of a source (`docs/format.md`, "Encryption"): noted before the epoch's object is created, kept as long as a segment of
//! the epoch may have to be sealed again, and forgotten then, so that whoever breaks in later cannot read what was shipped before.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farshore_changelog::crashsafe;
use farshore_changelog::ids::Epoch;
use farshore_vault::DataKey;
use zeroize::Zeroizing;

use crate::error::ShipError;
use crate::state::{self, SourceEpoch, SourceState};

const FILE: &str = "data-keys.json";

/// The note of them.
#[derive(Debug)]
pub(crate) struct DataKeys {
    path: PathBuf,
}

impl DataKeys {
    pub(crate) fn new(state: &SourceState) -> Self {
        Self { path: state.path(FILE) }
    }

    /// The key of `epoch`. A new one is made, and is durable, where `source` is that epoch and has not been opened yet.
    ///
    /// # Errors
    /// [`ShipError::Io`]; [`ShipError::State`] when the note is damaged, or lacks the key.
    pub(crate) fn of(&self, epoch: Epoch, source: &SourceEpoch) -> Result<DataKey, ShipError> {
        let mut noted = self.noted()?;
        if let Some(key) = noted.remove(&epoch) {
            return Ok(key);
        }
        if epoch != source.epoch || source.opened {
            let what = format!(
                "it lacks the data key of epoch {epoch}, so nothing more can be sealed in that epoch; restore it, or begin a new epoch \
                 that copies every disk: farshore enable --adopt CONFIG"
            );
            return Err(ShipError::State { path: self.path.clone(), what });
        }
        let key = DataKey::generate();
        noted.insert(epoch, key.clone());
        self.note(&noted)?;
        Ok(key)
    }

    /// Forgets the keys of epochs before `epoch`: everything of them is in the vault.
    ///
    /// # Errors
    /// [`ShipError::Io`]; the note is untouched then.
    pub(crate) fn forget_before(&self, epoch: Epoch) -> Result<(), ShipError> {
        let mut noted = self.noted()?;
        if noted.keys().all(|&of| of >= epoch) {
            return Ok(());
        }
        self.note(&noted.split_off(&epoch))
    }

    fn noted(&self) -> Result<BTreeMap<Epoch, DataKey>, ShipError> {
        let noted: Option<BTreeMap<Epoch, String>> = state::read(&self.path)?;
        let noted = noted.unwrap_or_default().into_iter().map(|(epoch, hex)| (epoch, Zeroizing::new(hex)));
        let keys: Option<_> = noted.map(|(epoch, hex)| DataKey::from_hex(&hex).map(|key| (epoch, key))).collect();
        keys.ok_or_else(|| state::damaged(&self.path, &"a key of it is none"))
    }

    fn note(&self, keys: &BTreeMap<Epoch, DataKey>) -> Result<(), ShipError> {
        let text: BTreeMap<_, _> = keys.iter().map(|(epoch, key)| (epoch, key.to_hex())).collect();
        let text: BTreeMap<_, _> = text.iter().map(|(epoch, hex)| (epoch, hex.as_str())).collect();
        let bytes = Zeroizing::new(serde_json::to_vec(&text).expect("epochs and hex digits can be written"));
        crashsafe::replace_secret(&self.path, &bytes).map_err(ShipError::io("note the data keys"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tests::world::noted;

    #[test]
    fn a_key_is_made_once_kept_secret_and_forgotten_when_its_epoch_is_shipped() {
        let dir = tempfile::tempdir().unwrap();
        let state = SourceState::new(dir.path());
        let keys = DataKeys::new(&state);
        let first = keys.of(Epoch(1), &noted(1)).unwrap();
        let second = keys.of(Epoch(2), &noted(2)).unwrap();
        assert_ne!(first, second);
        let again = DataKeys::new(&state);
        assert_eq!(again.of(Epoch(1), &noted(2)).unwrap(), first);
        assert_eq!(again.of(Epoch(2), &SourceEpoch { opened: true, ..noted(2) }).unwrap(), second);
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        again.forget_before(Epoch(2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&*second.to_hex()) && !text.contains(&*first.to_hex()));
        let missing = again.of(Epoch(1), &noted(2)).unwrap_err().to_string();
        assert!(missing.contains("data-keys.json") && missing.contains("--adopt"), "{missing}");
        std::fs::write(&path, "{\"1\":\"xyz\"}").unwrap();
        assert!(DataKeys::new(&state).of(Epoch(1), &noted(2)).unwrap_err().to_string().contains("damaged"));
    }
}
