use super::*;
use crate::trace::Request;

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 0.01 * b.abs()
}

/// Writes of 64 KiB, so many a second at an even pace.
fn even(a_second: u32, span: u32) -> Trace {
    let at = |i| Duration::from_secs(1) * i / a_second;
    let requests = (0..a_second * span).map(|i| Request { at: at(i), bytes: 64 << 10 }).collect();
    Trace { requests, span: Duration::from_secs(span.into()) }
}

#[test]
fn an_even_trace_costs_what_its_churn_costs() {
    for (a_second, span) in [(4, 3600), (16, 3600), (256, 600)] {
        let trace = even(a_second, span);
        let how = Use::usual(trace.churn());
        let (of_trace, of_churn) = (months(Writes::As(&trace), &how, 1), months(Writes::Evenly, &how, 1));
        for (trace, churn) in of_trace.iter().zip(&of_churn) {
            // A segment begins with the first write after the one before, which is up to one write's time later.
            let slack = 1.0 + 1.0 / f64::from(a_second) / churn.waits_seconds;
            assert!(trace.puts <= churn.puts * 1.01 && trace.puts >= churn.puts / slack * 0.98, "{trace:?} {churn:?}");
            assert!(trace.waits_seconds <= churn.waits_seconds * 1.01, "{trace:?} {churn:?}");
        }
    }
}

/// A write a minute: what an average would call idle is a segment each, and heartbeats between.
#[test]
fn bursts_are_sealed_one_by_one_with_heartbeats_between() {
    let burst = |i: u64| Request { at: Duration::from_secs(60 * i), bytes: 4096 };
    let trace = Trace { requests: (0..60).map(burst).collect(), span: Duration::from_secs(3600) };
    let pattern = sealed(&trace, &Use::usual(0.0));
    // A second after each of them, and five heartbeats in the 59 s that are left.
    assert!(near(pattern.segments * 3600.0, 60.0 * 6.0), "{pattern:?}");
    assert_eq!(pattern.waits, seconds(1.0));
    // Heartbeats do not make a target look more often.
    let looks = Use::usual(0.0).looks_within(Duration::from_secs(60)) / 60.0;
    assert!((pattern.looks_in_vain - looks).abs() < 0.02, "{pattern:?}, {looks}");
}

#[test]
fn a_trace_of_an_age_is_reckoned_at_once() {
    let requests = vec![Request { at: Duration::ZERO, bytes: 4096 }];
    let pattern = sealed(&Trace { requests, span: Duration::from_micros(u64::MAX) }, &Use::usual(0.0));
    assert!(near(pattern.segments, 0.1) && near(pattern.looks_in_vain, 0.2), "{pattern:?}");
}

#[test]
fn a_longer_delay_costs_less_and_waits_longer_until_segments_are_full() {
    let how = Use { max_delay: seconds(2.0), ..Use::usual(1e6) };
    let months = months(Writes::Evenly, &how, 1);
    let delays: Vec<_> = months.iter().map(|m| (m.max_delay_seconds, m.asked_for)).collect();
    assert_eq!(delays, [(1.0, false), (2.0, true), (5.0, false), (30.0, false), (60.0, false), (300.0, false)]);
    assert!(months.windows(2).all(|two| two[1].s3 <= two[0].s3 && two[1].waits_seconds >= two[0].waits_seconds));
    assert!(near(months[1].waits_seconds, 2.0) && near(months[5].waits_seconds, 8.39));
    assert!(near(months[0].puts, 2_592_000.0));
}

#[test]
fn groups_cost_each_their_own_and_the_vault_once() {
    let how = Use::usual(0.0);
    let (one, ten) = (months(Writes::Evenly, &how, 1)[0], months(Writes::Evenly, &how, 10)[0]);
    assert!(near(ten.puts, 10.0 * one.puts));
    assert!(near(ten.gets - 86_400.0, 10.0 * (one.gets - 86_400.0)) && near(one.gets, 1_296_000.0 + 86_400.0));
    assert!(near(one.lists, 270.0 + 720.0) && near(ten.lists, 2700.0 + 720.0));
}

#[test]
fn a_request_larger_than_a_segment_is_one() {
    let requests =
        vec![Request { at: Duration::ZERO, bytes: u64::MAX }, Request { at: Duration::ZERO, bytes: 32 << 20 }];
    let pattern = sealed(&Trace { requests, span: seconds(1.0) }, &Use::usual(0.0));
    assert_eq!((pattern.segments, pattern.waits), (2.0, Duration::ZERO));
}
