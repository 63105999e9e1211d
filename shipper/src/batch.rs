//! When a segment is sealed: a pure decision over what is at hand.

use std::time::Duration;

/// Most records of one segment: folding can at most double them, which stays below the format's limit.
pub const RECORDS_MAX: usize = 100_000;
/// Most of a lane's payload area or slots that one segment may hold back, as a divisor: while one segment is being filled
/// and sealed, the guest needs the rest.
const LANE_SHARE: u64 = 4;
/// Longest wait without a look at the world outside the ring (stop, fence, room in the spool).
pub const POLL: Duration = Duration::from_millis(200);

/// When to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload at which a segment is sealed, in bytes.
    pub payload_bytes: u64,
    /// Payload area of the ring that a segment may hold, in bytes.
    pub ring_bytes: u64,
    /// Records that a segment may hold.
    pub records: usize,
    /// Age of the oldest record at which a segment is sealed.
    pub max_delay: Duration,
    /// Time without a segment after which an empty one is sealed.
    pub heartbeat: Duration,
}

impl Limits {
    /// Those of a configuration, cut down so that a small ring is not held back by one segment.
    #[must_use]
    pub fn new(
        segment_bytes: u64,
        max_delay: Duration,
        heartbeat: Duration,
        lane_payload_bytes: u64,
        lane_slots: u32,
    ) -> Self {
        let slots = usize::try_from(u64::from(lane_slots) / LANE_SHARE).unwrap_or(RECORDS_MAX);
        let ring_bytes = lane_payload_bytes / LANE_SHARE;
        Self { payload_bytes: segment_bytes, ring_bytes, records: slots.clamp(1, RECORDS_MAX), max_delay, heartbeat }
    }
}

/// What was taken and not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtHand {
    /// Payload in bytes.
    pub payload_bytes: u64,
    /// Payload area of the ring that it holds, in bytes.
    pub ring_bytes: u64,
    /// Records.
    pub records: usize,
    /// Records among them that belong to whole requests: these can be sealed.
    pub sealable: usize,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What was taken and not sealed.
    pub at_hand: AtHand,
    /// Time since the first of them was taken.
    pub age: Duration,
    /// Time since a segment was sealed; `None` when this epoch has none yet.
    pub since_seal: Option<Duration>,
    /// Seqs were passed over that no segment covers yet.
    pub uncovered: bool,
    /// Every sealed segment is confirmed. While one waits, the target would not see a heartbeat either.
    pub spool_empty: bool,
    /// The shipper is to end: nothing is waited for.
    pub stopping: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Seal what is sealable; with none, a heartbeat.
    Seal,
    /// Take more, or wait for it, at most this long.
    Wait(Duration),
}

impl Limits {
    /// Whether a segment should take no more records. One request that is larger than the limits is taken whole all the same:
    /// nothing can be sealed before its end.
    #[must_use]
    pub fn full(&self, at: &AtHand) -> bool {
        at.sealable > 0
            && (at.payload_bytes >= self.payload_bytes
                || at.ring_bytes >= self.ring_bytes
                || at.records >= self.records)
    }

    /// Decides.
    #[must_use]
    pub fn decide(&self, at: &Standing) -> Decision {
        if at.at_hand.sealable > 0 {
            return if self.full(&at.at_hand) || at.stopping || at.age >= self.max_delay {
                Decision::Seal
            } else {
                Decision::Wait(POLL.min(self.max_delay - at.age))
            };
        }
        if at.stopping {
            return if at.uncovered { Decision::Seal } else { Decision::Wait(POLL) };
        }
        match at.since_seal {
            None if at.spool_empty => Decision::Seal,
            Some(since) if at.spool_empty && since >= self.heartbeat => Decision::Seal,
            Some(since) if at.spool_empty => Decision::Wait(POLL.min(self.heartbeat - since)),
            None | Some(_) => Decision::Wait(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        payload_bytes: 1000,
        ring_bytes: 5000,
        records: 10,
        max_delay: Duration::from_secs(1),
        heartbeat: Duration::from_secs(10),
    };

    const NOTHING: AtHand = AtHand { payload_bytes: 0, ring_bytes: 0, records: 0, sealable: 0 };
    const IDLE: Standing = Standing {
        at_hand: NOTHING,
        age: Duration::ZERO,
        since_seal: Some(Duration::ZERO),
        uncovered: false,
        spool_empty: true,
        stopping: false,
    };

    const ONE: AtHand = AtHand { payload_bytes: 10, ring_bytes: 4096, records: 1, sealable: 1 };
    const SOME: Standing = Standing { at_hand: ONE, ..IDLE };

    #[test]
    fn a_segment_is_sealed_when_it_is_full_or_old_or_asked_for() {
        assert_eq!(LIMITS.decide(&SOME), Decision::Wait(POLL));
        for full in [
            Standing { at_hand: AtHand { payload_bytes: 1000, ..ONE }, ..SOME },
            Standing { at_hand: AtHand { ring_bytes: 5000, ..ONE }, ..SOME },
            Standing { at_hand: AtHand { records: 10, ..ONE }, ..SOME },
            Standing { age: LIMITS.max_delay, ..SOME },
            Standing { stopping: true, ..SOME },
        ] {
            assert_eq!(LIMITS.decide(&full), Decision::Seal, "{full:?}");
        }
        let nearly = Standing { age: Duration::from_millis(990), ..SOME };
        assert_eq!(LIMITS.decide(&nearly), Decision::Wait(Duration::from_millis(10)));
    }

    #[test]
    fn nothing_is_sealed_inside_a_request() {
        let inside = Standing {
            at_hand: AtHand { payload_bytes: 9999, ring_bytes: 9999, records: 99, sealable: 0 },
            age: Duration::from_secs(5),
            since_seal: Some(Duration::from_secs(5)),
            ..IDLE
        };
        assert!(!LIMITS.full(&inside.at_hand));
        assert_eq!(LIMITS.decide(&inside), Decision::Wait(POLL));
        assert_eq!(LIMITS.decide(&Standing { stopping: true, ..inside }), Decision::Wait(POLL));
    }

    #[test]
    fn a_heartbeat_comes_when_nothing_else_does() {
        assert_eq!(LIMITS.decide(&IDLE), Decision::Wait(POLL));
        let due = Standing { since_seal: Some(LIMITS.heartbeat), ..IDLE };
        assert_eq!(LIMITS.decide(&due), Decision::Seal);
        assert_eq!(LIMITS.decide(&Standing { spool_empty: false, ..due }), Decision::Wait(POLL));
        assert_eq!(
            LIMITS.decide(&Standing { since_seal: None, ..IDLE }),
            Decision::Seal,
            "a new epoch says so at once"
        );
        assert_eq!(LIMITS.decide(&Standing { stopping: true, ..due }), Decision::Wait(POLL));
        assert_eq!(LIMITS.decide(&Standing { stopping: true, uncovered: true, ..IDLE }), Decision::Seal);
    }

    #[test]
    fn a_small_ring_is_not_held_back_by_one_segment() {
        let limits = Limits::new(8 << 20, LIMITS.max_delay, LIMITS.heartbeat, 8 << 20, 64);
        assert_eq!((limits.ring_bytes, limits.records), (2 << 20, 16));
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let at_hand = (0..3000_u64, 0..9000_u64, 0..20_usize, 0..20_usize).prop_map(
            |(payload_bytes, ring_bytes, records, sealable)| AtHand {
                payload_bytes,
                ring_bytes,
                records,
                sealable: sealable.min(records),
            },
        );
        let millis = |most: u64| (0..most).prop_map(Duration::from_millis);
        let since = prop::option::of(millis(20_000));
        (at_hand, millis(3000), since, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(at_hand, age, since_seal, uncovered, spool_empty, stopping)| Standing {
                at_hand,
                age,
                since_seal,
                uncovered,
                spool_empty,
                stopping,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The rule, said once more without an order of cases; and every wait ends when something is due.
        #[test]
        fn it_is_sealed_for_a_reason_and_waited_no_longer_than_one(at in standing()) {
            let hand = &at.at_hand;
            let full = hand.payload_bytes >= 1000 || hand.ring_bytes >= 5000 || hand.records >= 10;
            let records_due = hand.sealable > 0 && (full || at.stopping || at.age >= LIMITS.max_delay);
            let nothing_to_seal = hand.sealable == 0;
            let heartbeat_due = at.since_seal.is_none_or(|since| since >= LIMITS.heartbeat);
            let word_due = nothing_to_seal && if at.stopping { at.uncovered } else { at.spool_empty && heartbeat_due };
            match LIMITS.decide(&at) {
                Decision::Seal => prop_assert!(records_due || word_due),
                Decision::Wait(time) => {
                    prop_assert!(!records_due && !word_due);
                    prop_assert!(time <= POLL);
                    // After so long, and nothing new: due, or asked again.
                    let later = Standing { age: at.age + time, since_seal: at.since_seal.map(|since| since + time), ..at };
                    let due = LIMITS.decide(&later) == Decision::Seal;
                    prop_assert!(due || time == POLL, "{time:?} is no time of anything");
                }
            }
        }
    }
}
