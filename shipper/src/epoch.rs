//! Opens the source's epoch before its first segment, and seals the one before (DESIGN, "Epochs").

use farshore_changelog::ids::{Epoch, Hash, SegmentNo};
use farshore_vault::{EpochObject, GroupVault, Opened, VaultError};

use crate::state::{SourceEpoch, Watermark};

/// What came of opening an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// It is ours and the one before is sealed. With the hash of the stored object.
    Open(Hash),
    /// Another opened it first: we are fenced.
    Taken(EpochObject),
}

/// Opens `source`'s epoch, which is noted locally already, and seals its parent above the parent's watermark. It can be done
/// again after any crash or error in between.
///
/// # Errors
/// Those of the vault.
pub async fn open(
    vault: &GroupVault,
    source: &SourceEpoch,
    watermark: Option<&Watermark>,
) -> Result<Opening, VaultError> {
    let object = source.object();
    let hash = match vault.create_epoch(&object).await? {
        Opened::Mine(hash) => hash,
        Opened::Taken(by) => return Ok(Opening::Taken(by)),
    };
    if let Some(parent) = source.parent {
        let at = vault.seal(parent, known_of(parent, watermark), &object).await?;
        tracing::info!(epoch = parent.0, cut = at.0 - 1, "the epoch before is sealed");
    }
    Ok(Opening::Open(hash))
}

/// The newest segment of `epoch` that is known to be in the vault.
fn known_of(epoch: Epoch, watermark: Option<&Watermark>) -> SegmentNo {
    watermark.filter(|w| w.epoch == epoch).map_or(SegmentNo(0), |w| w.number)
}
