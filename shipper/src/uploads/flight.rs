//! One segment on its way into the vault, and what a refusal of it means.
//!
//! Several are on their way at once, and each is decided by itself: that a segment is in the vault does not say that it counts. It does
//! once all below it are there too, which `Uploads` sees to.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use farshore_vault::{EpochObject, GroupVault, Put, VaultError};

use super::line::Line;
use crate::error::ShipError;
use crate::spool::Spooled;
use crate::uploader::Queued;

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the vault.
    Stored,
    /// The epoch was over.
    Over(EpochObject),
    /// Something else is in its place.
    Foreign,
}

/// Uploads one segment, the one at `place` in the order, for as long as that takes.
///
/// A segment comes from the spool for its upload, so one that is put again is the same bytes.
///
/// # Errors
/// [`ShipError`] that waiting does not mend.
pub(crate) async fn fly(line: Arc<Line>, queued: Queued, place: u64) -> Result<(Spooled, Verdict), ShipError> {
    let Queued { segment, tried } = queued;
    let tried = Cell::new(tried);
    let bytes = line.of_disk(|| line.spool.read(&segment)).await?;
    let attempt = async |vault: &GroupVault| {
        let _turn = line.gate.turn(place).await;
        upload(&line, vault, &segment, &bytes, &tried).await
    };
    Ok((segment, line.patiently(attempt).await?))
}

/// One attempt to store a segment, and what a refusal means (DESIGN, "Epochs"): a first refusal is undecided and asked again;
/// then the next epoch decides. Where there is none, nobody can have sealed, so what lies there is either ours, of an
/// attempt whose answer was lost, or another source's. `tried`: there was an attempt before, whose end is not known.
///
/// A source that may not read its own log cannot look whether something is there at all: it asks on ([`GroupVault::put_segment_unseen`]).
async fn upload(
    line: &Line,
    vault: &GroupVault,
    segment: &Spooled,
    bytes: &Bytes,
    tried: &Cell<bool>,
) -> Result<Verdict, VaultError> {
    let Spooled { epoch, number, .. } = *segment;
    for _ in 0..2 {
        let put = line.put(vault, epoch, number, bytes).await;
        if put.inspect_err(|_| tried.set(true))? == Put::Created {
            return Ok(Verdict::Stored);
        }
    }
    if let Some((by, _)) = vault.get_epoch(epoch.next()).await? {
        return Ok(Verdict::Over(by));
    }
    match vault.get_segment(epoch, number).await {
        Ok(Some(stored)) if stored == bytes => Ok(Verdict::Stored),
        Ok(Some(_)) => Ok(Verdict::Foreign),
        Ok(None) => Err(VaultError::Unreachable {
            what: format!("store segment {number} of epoch {epoch}"),
            source: "the store says that it exists and that it does not".into(),
        }),
        Err(VaultError::Refused { .. }) if tried.get() => {
            line.pace(bytes.len() as u64).await;
            if vault.put_segment_unseen(epoch, number, bytes.clone()).await? == Put::Created {
                return Ok(Verdict::Stored);
            }
            // It is there since the attempt whose end was not known, or somebody has sealed there meanwhile.
            let next = vault.get_epoch(epoch.next()).await?;
            Ok(next.map_or(Verdict::Stored, |(by, _)| Verdict::Over(by)))
        }
        Err(VaultError::Refused { .. }) => Ok(Verdict::Foreign),
        Err(e) => Err(e),
    }
}
