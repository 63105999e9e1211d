//! Tests of the segment format: round trips, damage, the rules on both sides, limits.

mod damage;
mod forged;
mod limits;
mod roundtrip;
mod rules;
mod samples;
