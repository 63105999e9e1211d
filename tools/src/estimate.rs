//! What groups that write in some way would ask of a store in a month, and how long a write would wait, for one `max_delay` and another.
//! Pure. An even churn is what [`Use`] reckons with; of a trace each segment is sealed as the shipper would ([`Limits`]).

use std::time::Duration;

use farshore_shipper::batch::{AtHand, Limits};
use serde::Serialize;

use crate::agent::start::SLOTS_PER_LANE;
use crate::config::RING_BYTES;
use crate::costs::{self, AZURE, Requests, S3, Use};
use crate::trace::Trace;

/// Delays that are set side by side, in seconds.
const DELAYS: [u64; 5] = [1, 5, 30, 60, 300];

/// How one group writes.
#[derive(Debug, Clone, Copy)]
pub enum Writes<'a> {
    /// At the churn of the [`Use`].
    Evenly,
    /// As in a trace, over and over.
    As(&'a Trace),
}

/// How segments come of that.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pattern {
    /// Segments a second.
    segments: f64,
    /// Looks of a target a second after which there was nothing.
    looks_in_vain: f64,
    /// How long a write waits at most until its segment is sealed.
    waits: Duration,
}

/// A month with one `max_delay`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Month {
    /// `max_delay`, in seconds.
    pub max_delay_seconds: f64,
    /// Whether it is the one that was asked for.
    pub asked_for: bool,
    /// How long a write waits at most until its segment is sealed, in seconds. Its upload comes on top.
    pub waits_seconds: f64,
    /// Puts.
    pub puts: f64,
    /// Gets.
    pub gets: f64,
    /// Pages of listings.
    pub lists: f64,
    /// Deletes.
    pub deletes: f64,
    /// Dollars at S3's list prices.
    pub s3: f64,
    /// Dollars at Azure's.
    pub azure: f64,
}

/// Months of so many groups and one target, with the `max_delay` that was asked for and with others, in their order.
#[must_use]
pub fn months(writes: Writes<'_>, how: &Use, groups: u64) -> Vec<Month> {
    let mut delays: Vec<_> = DELAYS.into_iter().map(Duration::from_secs).chain([how.max_delay]).collect();
    delays.sort();
    delays.dedup();
    let month = |max_delay| {
        let used = Use { max_delay, ..*how };
        let Pattern { segments, looks_in_vain, waits } = match writes {
            Writes::Evenly => {
                Pattern { segments: used.segments(), looks_in_vain: used.looks_in_vain(), waits: used.waits() }
            }
            Writes::As(trace) => sealed(trace, &used),
        };
        let one = used.source_of(segments).and(used.target_of(segments, looks_in_vain));
        let asked = one.times(groups as f64).and(costs::of_vault(groups)).a_month();
        let Requests { puts, gets, lists, deletes } = asked;
        Month {
            max_delay_seconds: max_delay.as_secs_f64(),
            asked_for: max_delay == how.max_delay,
            waits_seconds: waits.as_secs_f64(),
            puts,
            gets,
            lists,
            deletes,
            s3: S3.of(asked),
            azure: AZURE.of(asked),
        }
    };
    delays.into_iter().map(month).collect()
}

/// Seals what a trace writes. What is overwritten before its segment is sealed counts here, so segments are rather more than there will be.
fn sealed(trace: &Trace, used: &Use) -> Pattern {
    let mut sealing = Sealing {
        limits: Limits::new(used.segment_bytes, used.max_delay, used.heartbeat, RING_BYTES, SLOTS_PER_LANE),
        used,
        at_hand: NOTHING,
        oldest: Duration::ZERO,
        last: Duration::ZERO,
        written: Duration::ZERO,
        segments: 0,
        looks: 0.0,
        waits: Duration::ZERO,
    };
    for request in &trace.requests {
        sealing.until(request.at);
        sealing.take(request.at, request.bytes);
    }
    sealing.until(trace.span);
    if sealing.at_hand.records > 0 {
        sealing.seal(trace.span);
    }
    let span = trace.span.as_secs_f64();
    // The quiet after the last one goes over into the next round.
    let looks = sealing.looks + used.looks_within(trace.span - sealing.written);
    Pattern { segments: sealing.segments as f64 / span, looks_in_vain: looks / span, waits: sealing.waits }
}

const NOTHING: AtHand = AtHand { payload_bytes: 0, ring_bytes: 0, records: 0, sealable: 0 };

/// The shipper's sealing, as far as it can be foretold.
struct Sealing<'a> {
    limits: Limits,
    used: &'a Use,
    at_hand: AtHand,
    /// When the first of what is at hand was written.
    oldest: Duration,
    /// When the last segment was sealed.
    last: Duration,
    /// When the last one with something in it was.
    written: Duration,
    segments: u64,
    looks: f64,
    waits: Duration,
}

impl Sealing<'_> {
    /// Lets time pass: what is old is sealed, and heartbeats while there is nothing.
    fn until(&mut self, now: Duration) {
        if self.at_hand.records > 0 && self.oldest + self.limits.max_delay <= now {
            self.seal(self.oldest + self.limits.max_delay);
        }
        if self.at_hand.records == 0 {
            let beats = ((now - self.last).as_nanos() / self.limits.heartbeat.as_nanos()) as u64;
            self.segments += beats;
            self.last += self.limits.heartbeat.mul_f64(beats as f64).min(now - self.last);
        }
    }

    fn take(&mut self, now: Duration, bytes: u64) {
        if self.at_hand.records == 0 {
            self.oldest = now;
        }
        let AtHand { payload_bytes, ring_bytes, records, sealable } = &mut self.at_hand;
        for of in [payload_bytes, ring_bytes] {
            *of = of.saturating_add(bytes);
        }
        (*records, *sealable) = (*records + 1, *sealable + 1);
        if self.limits.full(&self.at_hand) {
            self.seal(now);
        }
    }

    fn seal(&mut self, now: Duration) {
        self.waits = self.waits.max(now - self.oldest);
        self.looks += self.used.looks_within(now - self.written);
        (self.at_hand, self.last, self.written, self.segments) = (NOTHING, now, now, self.segments + 1);
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
