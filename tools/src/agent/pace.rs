//! How many segments the vault took since the agent started, as `farshore status` reckons a month of requests from it.

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_shipper::{SourceState, Watermark};

/// A pace that was kept for less says nothing of a month.
const KEPT_AT_LEAST: Duration = Duration::from_secs(60);

/// Where the uploads were when the agent started.
#[derive(Debug)]
pub struct Pace {
    state: SourceState,
    epoch: Epoch,
    since: Instant,
    /// The newest segment of the epoch that was confirmed then; 0: none.
    from: SegmentNo,
}

/// Segments over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// Segments a second.
    pub segments: f64,
    /// Over how long.
    pub over: Duration,
}

impl Pace {
    /// From now on.
    #[must_use]
    pub fn begin(state: SourceState, epoch: Epoch) -> Self {
        let from = number_in(epoch, state.watermark().ok().flatten().as_ref());
        Self { state, epoch, since: clock::mono(), from }
    }

    /// The pace until now. `None` while it cannot be told: it is too early, or the note cannot be read.
    #[must_use]
    pub fn now(&self) -> Option<Kept> {
        let mark = self.state.watermark().ok()?;
        kept(self.from, number_in(self.epoch, mark.as_ref()), clock::mono().duration_since(self.since))
    }
}

fn number_in(epoch: Epoch, mark: Option<&Watermark>) -> SegmentNo {
    mark.filter(|mark| mark.epoch == epoch).map_or(SegmentNo(0), |mark| mark.number)
}

fn kept(from: SegmentNo, to: SegmentNo, over: Duration) -> Option<Kept> {
    let segments = to.0.checked_sub(from.0).filter(|_| over >= KEPT_AT_LEAST)?;
    Some(Kept { segments: segments as f64 / over.as_secs_f64(), over })
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::{Hash, Seq};

    use super::*;

    #[test]
    fn a_pace_is_told_once_it_was_kept_for_a_while() {
        let minute = Duration::from_secs(60);
        assert_eq!(kept(SegmentNo(7), SegmentNo(10), minute / 2), None);
        assert_eq!(kept(SegmentNo(10), SegmentNo(130), 2 * minute), Some(Kept { segments: 1.0, over: 2 * minute }));
        assert_eq!(kept(SegmentNo(10), SegmentNo(10), minute).map(|k| k.segments), Some(0.0));
    }

    #[test]
    fn what_was_confirmed_of_the_epoch_before_does_not_count() {
        let mark =
            |epoch| Watermark { epoch: Epoch(epoch), number: SegmentNo(9), hash: Hash([0; 32]), last_seq: Seq(9) };
        assert_eq!(number_in(Epoch(2), None), SegmentNo(0));
        assert_eq!(number_in(Epoch(2), Some(&mark(1))), SegmentNo(0));
        assert_eq!(number_in(Epoch(2), Some(&mark(2))), SegmentNo(9));
    }
}
