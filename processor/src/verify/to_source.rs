//! What the target has put for the source: requests and hashes.

use farshore_changelog::hashes::Chunk;
use farshore_changelog::ids::Epoch;
use farshore_vault::VaultError;
use farshore_vault::keys::Key;

use super::vault::Walk;

/// Every request, up to the first number that is free.
pub(super) async fn requests(walk: &mut Walk<'_>) -> Result<(), VaultError> {
    for n in 1.. {
        match walk.vault.get_request(n).await {
            Ok(None) => break,
            Ok(Some(request)) => walk.report.read(request.encoded().len() as u64),
            Err(e) => walk.damaged(&Key::Request(walk.vault.group().clone(), n), e)?,
        }
    }
    Ok(())
}

/// The hashes of an epoch: a plan is put last, so its chunks are there, and go only when the epoch is `over`.
pub(super) async fn hashes(walk: &mut Walk<'_>, epoch: Epoch, over: bool) -> Result<(), VaultError> {
    let group = walk.vault.group().clone();
    let plan = match walk.vault.get_hash_plan(epoch).await {
        Ok(None) => return Ok(()),
        Ok(Some(plan)) => plan,
        Err(e) => return walk.damaged(&Key::HashPlan(group, epoch), e),
    };
    walk.report.read(plan.encoded().len() as u64);
    for (disk, number, units) in plan.chunks() {
        let key = Key::HashChunk(group.clone(), epoch, disk, number);
        let bytes = match walk.vault.get_hash_chunk(epoch, disk, number).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) if over => continue,
            Ok(None) => {
                walk.report.damage(&key, "it is missing, and its plan is there");
                continue;
            }
            Err(e) => {
                walk.damaged(&key, e)?;
                continue;
            }
        };
        walk.report.read(bytes.len() as u64);
        match Chunk::parse(&bytes) {
            Err(e) => walk.report.damage(&key, e.to_string()),
            Ok(chunk) => {
                let found = (&chunk.group, chunk.epoch, chunk.seq, chunk.disk, chunk.number(), chunk.hashes.len());
                if found != (&group, epoch, plan.seq, disk, u64::from(number), units as usize) {
                    walk.report.damage(&key, "it is another chunk than its key and its plan say");
                }
            }
        }
    }
    Ok(())
}

impl Walk<'_> {
    /// Takes in what is wrong with one object; an error of the store itself ends the walk.
    fn damaged(&mut self, key: &Key, e: VaultError) -> Result<(), VaultError> {
        match e {
            e @ (VaultError::Damaged { .. } | VaultError::Version { .. }) => {
                self.report.damage(key, e.to_string());
                Ok(())
            }
            e => Err(e),
        }
    }
}
