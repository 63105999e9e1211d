//! Tells a segment that has not come yet from one that is gone. Pure: times in, decisions out.
//!
//! A source puts several segments at once, so later ones may lie above a hole: while it fills it, while it is cut off, and for ever once it
//! has died, until the next epoch seals there. Nothing is wrong with such a log. What was confirmed once and is not there is gone.

use std::time::{Duration, Instant};

use farshore_changelog::ids::{Epoch, SegmentNo};

/// How long a segment that was confirmed may be missing, unless the config says otherwise.
pub const GAP_PATIENCE: Duration = Duration::from_secs(60);
/// A missing segment is looked for among the later ones this many times within the patience …
const LOOKS: u32 = 4;
/// … and, the longer nothing at all has come, the more rarely, but this often at least.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(5 * 60);

/// What lies after a missing segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Segments or seals of its epoch, this one first; and the missing one was confirmed, so it was there.
    Segment(SegmentNo),
    /// Segments of its epoch, this one first, none of which says that the missing one was confirmed.
    Ahead(SegmentNo),
    /// Nothing of its epoch, not even a seal; but segments of this one, its successor.
    Successor(Epoch),
}

/// What a look said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing lies after it: it has not come yet.
    Nothing,
    /// Its source has put this one before it.
    Hole(SegmentNo),
    /// Something lies after it, not for long.
    Later,
    /// This has lain after it for longer than the patience.
    Gap(Later),
}

/// Watches the one segment that a group waits for.
#[derive(Debug)]
pub struct GapWatch {
    patience: Duration,
    waits_for: (Epoch, SegmentNo),
    /// Since when.
    since: Option<Instant>,
    looked: Option<Instant>,
    later_since: Option<Instant>,
}

impl GapWatch {
    /// A watch that calls it a gap after `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { patience, waits_for: (Epoch(0), SegmentNo(0)), since: None, looked: None, later_since: None }
    }

    /// Whether it is time to list what lies after the missing `number` of `epoch`. Listings cost more than gets, and what is
    /// missing is mostly just not written yet: the first look comes after a while.
    pub fn wants_look(&mut self, epoch: Epoch, number: SegmentNo, now: Instant) -> bool {
        if self.waits_for != (epoch, number) {
            self.waits_for = (epoch, number);
            (self.since, self.looked, self.later_since) = (Some(now), Some(now), None);
        }
        let often = self.patience / LOOKS;
        let quiet = self.since.filter(|_| self.later_since.is_none()).map_or(Duration::ZERO, |since| now - since);
        let pause = (quiet / LOOKS).clamp(often, LOOK_AT_LEAST_EVERY.max(often));
        self.looked.is_none_or(|last| now - last >= pause)
    }

    /// The next question is answered with a look: the group is tried again.
    pub fn look_at_once(&mut self) {
        self.looked = None;
    }

    /// Takes in a look: what is `later` than the missing `number`.
    pub fn saw(&mut self, epoch: Epoch, number: SegmentNo, later: Option<Later>, now: Instant) -> Seen {
        if self.waits_for != (epoch, number) {
            self.waits_for = (epoch, number);
            (self.since, self.later_since) = (Some(now), None);
        }
        self.looked = Some(now);
        let later = match later {
            Some(Later::Ahead(first)) => {
                self.later_since = None;
                return Seen::Hole(first);
            }
            Some(later @ (Later::Segment(_) | Later::Successor(_))) => later,
            None => {
                self.later_since = None;
                return Seen::Nothing;
            }
        };
        let since = *self.later_since.get_or_insert(now);
        if now - since >= self.patience { Seen::Gap(later) } else { Seen::Later }
    }
}

#[cfg(test)]
mod tests {
    use farshore_changelog::clock;

    use super::*;

    #[test]
    fn only_what_stays_missing_before_a_later_one_is_a_gap() {
        let mut watch = GapWatch::new(Duration::from_secs(60));
        let start = clock::mono();
        let at = |s: u64| start + Duration::from_secs(s);
        let (epoch, n) = (Epoch(1), SegmentNo(7));
        assert!(!watch.wants_look(epoch, n, at(0)));
        assert!(watch.wants_look(epoch, n, at(15)));
        assert_eq!(watch.saw(epoch, n, None, at(15)), Seen::Nothing);
        assert!(!watch.wants_look(epoch, n, at(20)));
        let segment = |n| Some(Later::Segment(SegmentNo(n)));
        assert_eq!(watch.saw(epoch, n, Some(Later::Successor(Epoch(2))), at(30)), Seen::Later);
        assert_eq!(watch.saw(epoch, n, segment(8), at(89)), Seen::Later);
        assert_eq!(watch.saw(epoch, n, segment(8), at(90)), Seen::Gap(Later::Segment(SegmentNo(8))));
        watch.look_at_once();
        assert!(watch.wants_look(epoch, n, at(91)));
        assert_eq!(watch.saw(epoch, n, segment(8), at(91)), Seen::Gap(Later::Segment(SegmentNo(8))));
        assert!(!watch.wants_look(epoch, SegmentNo(8), at(100)), "it came: another one is waited for");
        assert_eq!(watch.saw(epoch, SegmentNo(8), segment(9), at(101)), Seen::Later);
    }

    #[test]
    fn what_was_never_confirmed_is_no_gap_however_long_it_is_missing() {
        let (mut watch, start) = (GapWatch::new(Duration::from_secs(60)), clock::mono());
        let at = |s: u64| start + Duration::from_secs(s);
        let (epoch, n) = (Epoch(1), SegmentNo(7));
        for second in [0, 60, 100_000] {
            let ahead = Some(Later::Ahead(SegmentNo(9)));
            assert_eq!(watch.saw(epoch, n, ahead, at(second)), Seen::Hole(SegmentNo(9)));
        }
        // Until a segment says that it was: the patience begins then.
        let later = Some(Later::Segment(SegmentNo(9)));
        assert_eq!(watch.saw(epoch, n, later, at(100_001)), Seen::Later);
        assert_eq!(watch.saw(epoch, n, later, at(100_061)), Seen::Gap(Later::Segment(SegmentNo(9))));
    }

    #[test]
    fn a_source_that_is_away_is_looked_for_more_and_more_rarely_and_often_again_once_something_came() {
        let (mut watch, start) = (GapWatch::new(Duration::from_secs(60)), clock::mono());
        let at = |s: u64| start + Duration::from_secs(s);
        let (epoch, n, hour) = (Epoch(1), SegmentNo(7), 60 * 60);
        let mut looks = Vec::new();
        for second in 0..2 * hour {
            if watch.wants_look(epoch, n, at(second)) {
                looks.push(second);
                assert_eq!(watch.saw(epoch, n, None, at(second)), Seen::Nothing);
            }
        }
        assert_eq!(looks[..4], [15, 30, 45, 60]);
        assert!(looks.len() < 50 && looks.windows(2).all(|two| two[1] - two[0] <= 300), "{looks:?}");
        // It goes on, and one is missing.
        let first = *looks.last().unwrap() + 300;
        assert!(watch.wants_look(epoch, n, at(first)));
        let later = Some(Later::Segment(SegmentNo(8)));
        assert_eq!(watch.saw(epoch, n, later, at(first)), Seen::Later);
        assert!(!watch.wants_look(epoch, n, at(first + 14)) && watch.wants_look(epoch, n, at(first + 15)));
        assert_eq!(watch.saw(epoch, n, later, at(first + 60)), Seen::Gap(Later::Segment(SegmentNo(8))));
    }
}
