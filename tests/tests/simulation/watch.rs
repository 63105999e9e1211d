//! What is looked at while a world goes on, beside its target: what the source says of itself, and what it takes.

use crate::world::{World, Wrong};

/// In one of so many steps the spool's size is looked at.
const SPOOL_LOOK: u64 = 64;

impl World {
    /// What the source counts as stored is in the log, before any seal.
    pub fn check_confirmed(&mut self) -> Result<(), Wrong> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let confirmed = (agent.epoch, agent.ring().confirmed_seq());
        if confirmed == self.confirmed {
            return Ok(());
        }
        self.confirmed = confirmed;
        self.oracle.check_confirmed(confirmed.0, confirmed.1)
    }

    /// The spool keeps to its limit, whatever is away (G12).
    pub fn check_spool(&self) -> Result<(), Wrong> {
        if !self.steps.is_multiple_of(SPOOL_LOOK) {
            return Ok(());
        }
        let spool = self.source().join("state/spool");
        let entries = std::fs::read_dir(&spool).into_iter().flatten().filter_map(Result::ok);
        let bytes: u64 = entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        // The limit is one of payloads; the smallest records have heads and indexes of their own size.
        let limit = 2 * self.plan.spool_bytes;
        if bytes > limit {
            Err(format!("G12: the spool has {bytes} bytes, and its limit makes at most {limit}"))
        } else {
            Ok(())
        }
    }
}
