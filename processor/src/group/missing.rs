//! What it means that the next object of the log is not there: it has not come yet, the source left a hole, it is lost, or the vault has
//! gone back in time.

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::PUT_AHEAD_MAX;

use super::history::{Gone, look_ahead};
use super::{GroupTask, Turn};
use crate::chain::Expected;
use crate::error::GroupError;
use crate::gap::{Later, Seen};

impl GroupTask {
    /// The next object is not there.
    pub(super) fn missing(&mut self, expected: &Expected) -> Result<Turn, GroupError> {
        let (epoch, number) = (expected.epoch, expected.number);
        if !self.gap.wants_look(epoch, number, clock::mono()) && self.goal.is_none() {
            return Ok(Turn::CaughtUp);
        }
        let later = self.later(epoch, number)?;
        self.hole = None;
        match self.gap.saw(epoch, number, later, clock::mono()) {
            Seen::Nothing => Ok(Turn::CaughtUp),
            Seen::Hole(ahead) => {
                self.hole = Some(number);
                tracing::debug!(group = %self.group, %epoch, missing = %number, %ahead, "the source has not put it yet");
                Ok(Turn::CaughtUp)
            }
            Seen::Later => Ok(Turn::MaybeGap),
            Seen::Gap(Later::Segment(later) | Later::Ahead(later)) => {
                Err(GroupError::Gap { at: self.key(epoch, number), epoch, number, later })
            }
            Seen::Gap(Later::Successor(next)) => Err(GroupError::Unsealed { at: self.key(epoch, number), epoch, next }),
        }
    }

    /// What lies after the missing segment `number` of `epoch`.
    fn later(&mut self, epoch: Epoch, number: SegmentNo) -> Result<Option<Later>, GroupError> {
        let vault = self.fetcher.vault().clone();
        let seen = self.history.seen()?;
        // Sealed, or to be come to: nobody fills it any more, or somebody has seen it there.
        let due = self.goal.is_some_and(|goal| (epoch, number) <= goal);
        let ahead = self.fetcher.block_on(look_ahead(&vault, (epoch, number), seen))?;
        if let Some(gone) = ahead.gone {
            return Err(self.went_back((epoch, number), gone));
        }
        let (numbers, pruner) = (ahead.numbers, &mut self.pruner);
        self.fetcher.block_on(async {
            let next = epoch.next();
            let written = async || {
                // A successor writes only once it has sealed its parent.
                let opened = vault.get_epoch(next).await?.is_some();
                Ok::<_, GroupError>(opened && !vault.list_segments(next, SegmentNo(1)).await?.is_empty())
            };
            let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
                let sealed = written().await? && vault.get_segment(epoch, number).await?.is_none();
                return Ok(sealed.then_some(Later::Successor(next)));
            };
            if *first == number {
                return Ok(None); // it has come between the get and the listing
            }
            let was_there = due
                || last.0 >= number.0 + PUT_AHEAD_MAX
                || pruner.watermark(epoch, &numbers).await? >= number
                || written().await?;
            Ok(Some(if was_there { Later::Segment(*first) } else { Later::Ahead(*first) }))
        })
    }

    pub(super) fn went_back(&self, at: (Epoch, SegmentNo), gone: Gone) -> GroupError {
        GroupError::WentBack { at: self.key(at.0, at.1), what: gone.to_string() }
    }
}
