//! How much of the log is not replayed yet. Nothing of it may be pruned, however old it is, so a target that falls behind, or stands
//! still, lets the vault grow: that is said before it is full.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_changelog::units::UnixMicros;
use farshore_vault::GroupVault;

use super::{GroupTask, Turn};
use crate::error::GroupError;
use crate::position::ReplayPosition;
use crate::status::Unapplied;

/// Bytes of the log that may wait in the vault before that is an alarm, unless the config says otherwise.
pub const ALARM_BYTES: u64 = 10 << 30;
/// It is measured this often while there may be any: it takes listings.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

impl GroupTask {
    /// Measures what waits, after a turn.
    pub(super) fn measure_backlog(&mut self, turn: Turn) {
        if turn == Turn::CaughtUp {
            self.unapplied = None;
            return;
        }
        let now = clock::mono();
        if turn == Turn::VaultAway || self.backlog_measured.is_some_and(|last| now - last < MEASURE_EVERY) {
            return;
        }
        self.backlog_measured = Some(now);
        match self.backlog() {
            Ok(unapplied) => self.unapplied = unapplied,
            Err(e) => {
                tracing::debug!(group = %self.group, error = %e.full_text(), "what waits in the vault cannot be measured now")
            }
        }
    }

    fn backlog(&mut self) -> Result<Option<Unapplied>, GroupError> {
        let position = match &self.replay {
            Some(replay) => replay.position().clone(),
            None => match ReplayPosition::read(&self.dir.position())? {
                Some(position) => position,
                None => return Ok(None),
            },
        };
        let vault = self.fetcher.vault().clone();
        let waiting = self.fetcher.block_on(waiting(&vault, &position))?;
        if let Some(newest) = waiting.newest {
            self.history.saw(newest)?;
        }
        let Some(oldest) = waiting.oldest else { return Ok(None) };
        let created = self.fetcher.block_on(self.pruner.created(oldest.0, oldest.1))?;
        let retention = u64::try_from(self.config.retention.as_micros()).unwrap_or(u64::MAX);
        let before = UnixMicros(clock::wall().0.saturating_sub(retention));
        let unapplied = Unapplied {
            segments: waiting.segments,
            bytes: waiting.bytes,
            older_than_retention: created.is_some_and(|created| created < before),
            alarm: waiting.bytes > self.config.backlog_alarm_bytes,
        };
        if unapplied.alarm || unapplied.older_than_retention {
            tracing::warn!(
                group = %self.group, segments = unapplied.segments, bytes = unapplied.bytes, alarm_bytes = self.config.backlog_alarm_bytes,
                older_than_retention = unapplied.older_than_retention,
                "the vault keeps what is not replayed yet, however old it is: let replay catch up, or make room"
            );
        }
        Ok(Some(unapplied))
    }
}

/// What of a group's log a position has not got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Segments and seals.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The first of them.
    pub oldest: Option<(Epoch, SegmentNo)>,
    /// The last of them.
    pub newest: Option<(Epoch, SegmentNo)>,
}

/// Lists what `position` has not got, through all later epochs.
///
/// # Errors
/// Those of the vault.
pub async fn waiting(vault: &GroupVault, position: &ReplayPosition) -> Result<Waiting, farshore_vault::VaultError> {
    let mut waiting = Waiting::default();
    let (mut epoch, mut number) = (position.epoch, position.number);
    loop {
        let listed = vault.list_segments(epoch, number.next()).await?;
        if let Some((last, _)) = listed.last() {
            number = *last;
            waiting.newest = Some((epoch, number));
            waiting.oldest = waiting.oldest.or(listed.first().map(|(first, _)| (epoch, *first)));
            waiting.segments += listed.len() as u64;
            waiting.bytes += listed.iter().map(|(_, bytes)| bytes).sum::<u64>();
            continue; // a listing has a limit
        }
        (epoch, number) = (epoch.next(), SegmentNo(0));
        if vault.get_epoch(epoch).await?.is_none() {
            return Ok(waiting);
        }
    }
}
