use farshore_changelog::units::UnixMicros;
use proptest::prelude::*;

use super::*;

fn pos(epoch: u64, seq: u64) -> Position {
    Position { epoch: Epoch(epoch), seq: Seq(seq) }
}

fn row(offset: u64, end: u64, epoch: u64, first: u64, last: u64, time: u64, consistent: bool) -> BatchRow {
    BatchRow { offset, end, first: pos(epoch, first), last: pos(epoch, last), time: UnixMicros(time), consistent }
}

fn exactly(micros: u64) -> PointSpec {
    PointSpec::Time { at: UnixMicros(micros), through: UnixMicros(micros) }
}

fn spec(text: &str) -> PointSpec {
    text.parse().unwrap()
}

#[test]
fn every_form_is_understood_and_nothing_else() {
    assert_eq!(spec("latest"), PointSpec::Latest);
    assert_eq!(spec("p12"), PointSpec::Id(12));
    assert_eq!(spec("12"), PointSpec::Seq { epoch: None, seq: Seq(12) });
    assert_eq!(spec("2:1234"), PointSpec::Seq { epoch: Some(Epoch(2)), seq: Seq(1234) });
    assert_eq!(spec("1970-01-01T00:00:01Z"), exactly(1_000_000));
    assert_eq!(spec("1970-01-01T01:00:01.5+01:00"), exactly(1_500_000));
    for bad in
        ["", "p", "P12", "p-1", "+5", "1:", ":1", "1:2:3", "newest", "12.5", "99999999999999999999", "2026-05-01"]
    {
        assert!(bad.parse::<PointSpec>().is_err(), "{bad:?} was taken");
    }
}

#[test]
fn a_time_printed_in_milliseconds_names_the_position_it_was_printed_for() {
    let window =
        Window::new(&[row(0, 10, 1, 1, 5, 1_000_000, true), row(10, 20, 1, 6, 9, 1_500_777, true)], &[], 0, pos(1, 9));
    let printed = UnixMicros(1_500_777).to_string();
    assert_eq!(resolve(&spec(&printed), &window).map(|r| r.position).unwrap_or_default(), pos(1, 9));
}

#[test]
fn out_of_the_window_is_an_error_that_names_its_end() {
    let window = Window::new(
        &[row(50, 60, 1, 6, 9, 2_000_000, true), row(60, 70, 1, 10, 12, 3_000_000, true)],
        &[],
        50,
        pos(1, 12),
    );
    let early = resolve(&spec("1970-01-01T00:00:01Z"), &window).unwrap_err().to_string();
    assert!(early.contains("1:9") && early.contains("too old"), "{early}");
    let late = resolve(&spec("1970-01-01T00:00:04Z"), &window).unwrap_err().to_string();
    assert!(late.contains("1:12") && late.contains("not replayed yet"), "{late}");
    assert!(matches!(resolve(&spec("13"), &window), Err(ResolveError::NotYet { .. })));
    assert!(matches!(resolve(&spec("8"), &window), Err(ResolveError::TooOld { .. })));
    assert!(matches!(resolve(&spec("p1"), &window), Err(ResolveError::NoSuchPoint { id: 1, .. })));
    assert_eq!(resolve(&spec("latest"), &Window::default()), Err(ResolveError::NothingYet));
}

#[test]
fn a_resync_is_never_rounded_into() {
    let batches = [
        row(0, 10, 1, 1, 5, 1, true),
        row(10, 20, 2, 1, 4, 2, false),
        row(20, 30, 2, 5, 8, 3, false),
        row(30, 40, 2, 9, 9, 4, true),
    ];
    let window = Window::new(&batches, &[], 0, pos(2, 9));
    let got = resolve(&spec("2:8"), &window).unwrap();
    assert_eq!((got.position, got.undo_end, got.rounded_from), (pos(1, 5), 10, Some(spec("2:8"))));
    // Still under way: latest is the newest consistent position.
    let window = Window::new(&batches[..3], &[], 0, pos(2, 8));
    assert_eq!(resolve(&spec("latest"), &window).unwrap().position, pos(1, 5));
    assert!(matches!(resolve(&spec("2:8"), &window), Err(ResolveError::NotYet { .. })));
}

#[test]
fn a_batch_that_was_rolled_back_names_no_position() {
    // 10..20 was complete when the processor died, was rolled back, and its run was replayed as 20..30, in two batches.
    let batches = [row(0, 10, 1, 1, 5, 1, true), row(10, 20, 1, 6, 9, 2, true), row(20, 30, 1, 6, 7, 2, true)];
    let stale = Published { position: pos(1, 9), time: UnixMicros(2), undo_end: 20, consistent: true, point: None };
    let window = Window::new(&batches, std::slice::from_ref(&stale), 0, pos(1, 7));
    let places: Vec<_> = window.rows().iter().map(|r| (r.position, r.undo_end)).collect();
    assert_eq!(places, [(pos(1, 5), 10), (pos(1, 7), 30)]);
    // The stale entry of the catalogue is untrue also once replay has passed its position.
    let mut further = batches.to_vec();
    further.push(row(30, 40, 1, 8, 12, 3, true));
    let window = Window::new(&further, &[stale], 0, pos(1, 12));
    assert_eq!(resolve(&spec("9"), &window).unwrap().undo_end, 30);
}

#[test]
fn a_point_is_found_by_its_id_and_by_its_position() {
    let named = Published {
        position: pos(1, 5),
        time: UnixMicros(1),
        undo_end: 10,
        consistent: true,
        point: Some(PointTag { id: 3, mark: Some("before-upgrade".into()) }),
    };
    let window = Window::new(&[row(0, 10, 1, 1, 5, 1, true), row(10, 20, 1, 6, 9, 2, true)], &[named], 0, pos(1, 9));
    assert_eq!(window.rows().len(), 2);
    let by_id = resolve(&spec("p3"), &window).unwrap();
    assert_eq!(by_id, resolve(&spec("1:5"), &window).unwrap());
    assert_eq!(by_id.point.unwrap().mark.as_deref(), Some("before-upgrade"));
}

/// A journal without roll-backs: batches of random length, over a few epochs, some inside a resync.
fn journal() -> impl Strategy<Value = Vec<BatchRow>> {
    prop::collection::vec((1u64..50, 1u64..9, 0i64..40, prop::bool::weighted(0.8), prop::bool::weighted(0.1)), 1..40)
        .prop_map(|steps| {
            let (mut offset, mut at, mut time) = (0, pos(1, 0), 1_000i64);
            let mut rows = Vec::new();
            for (bytes, seqs, tick, consistent, new_epoch) in steps {
                if new_epoch {
                    at = pos(at.epoch.0 + 1, 0);
                }
                time += tick - 5; // the source's clock may go back
                let last = at.seq.0 + seqs;
                rows.push(row(offset, offset + bytes, at.epoch.0, at.seq.0 + 1, last, time.max(0) as u64, consistent));
                offset += bytes;
                at = pos(at.epoch.0, last);
            }
            rows
        })
}

proptest! {
    #[test]
    fn what_is_printed_can_be_given_back(id: u64, seq: u64, epoch: u64, micros in 0u64..4_000_000_000_000_000) {
        for asked in [
            PointSpec::Latest,
            PointSpec::Id(id),
            PointSpec::Seq { epoch: None, seq: Seq(seq) },
            PointSpec::Seq { epoch: Some(Epoch(epoch)), seq: Seq(seq) },
            exactly(micros),
            spec(&UnixMicros(micros).to_string()),
        ] {
            prop_assert_eq!(asked.to_string().parse::<PointSpec>().unwrap(), asked);
        }
    }

    #[test]
    fn any_text_is_answered_without_a_panic(text in "[lp0-9:.TZ+a-z-]{0,30}") {
        let _ = text.parse::<PointSpec>();
    }

    #[test]
    fn a_seq_or_time_rounds_down_to_the_newest_consistent_row(
        rows in journal(), epoch in 1u64..6, seq in 0u64..300, time in 0u64..2_000,
    ) {
        let window = Window::new(&rows, &[], 0, rows.last().map(|r| r.last).unwrap_or_default());
        for asked in [PointSpec::Seq { epoch: Some(Epoch(epoch)), seq: Seq(seq) }, exactly(time)] {
            let fits = |row: &Published| match &asked {
                PointSpec::Seq { .. } => row.position <= pos(epoch, seq),
                PointSpec::Time { at, .. } => row.time <= *at,
                PointSpec::Latest | PointSpec::Id(_) => true,
            };
            let best = window.rows().iter().filter(|r| r.consistent && fits(r)).max_by_key(|r| r.position);
            match resolve(&asked, &window) {
                Ok(got) => {
                    let best = best.unwrap();
                    prop_assert_eq!((got.position, got.undo_end), (best.position, best.undo_end));
                    prop_assert_eq!(got.rounded_from.is_none(), match &asked {
                        PointSpec::Seq { .. } => got.position == pos(epoch, seq),
                        PointSpec::Time { at, .. } => got.time == *at,
                        PointSpec::Latest | PointSpec::Id(_) => true,
                    });
                }
                Err(ResolveError::NothingYet) => prop_assert!(rows.iter().all(|r| !r.consistent)),
                Err(ResolveError::TooOld { .. }) => prop_assert!(best.is_none()),
                Err(ResolveError::NotYet { .. }) => {
                    let newest = window.consistent_ends().unwrap().1;
                    prop_assert!(!fits(newest) || newest.position < pos(epoch, seq) || newest.time < UnixMicros(time));
                }
                Err(ResolveError::NoSuchPoint { .. }) => prop_assert!(false, "no id was asked for"),
            }
        }
    }

    #[test]
    fn rows_rise_in_position_offset_and_time(rows in journal()) {
        let window = Window::new(&rows, &[], 0, rows.last().map(|r| r.last).unwrap_or_default());
        for pair in window.rows().windows(2) {
            prop_assert!(pair[0].position < pair[1].position);
            prop_assert!(pair[0].undo_end < pair[1].undo_end);
            prop_assert!(pair[0].time <= pair[1].time);
        }
    }
}

#[test]
fn points_cut_at_one_position_of_an_idle_disk_are_all_found() {
    let point = |id: u64, time: u64, mark: Option<&str>| Published {
        position: pos(1, 5),
        time: UnixMicros(time),
        undo_end: 10,
        consistent: true,
        point: Some(PointTag { id, mark: mark.map(str::to_owned) }),
    };
    let named = [point(1, 100, None), point(2, 200, Some("m")), point(3, 300, None)];
    let window = Window::new(&[row(0, 10, 1, 1, 5, 90, true)], &named, 0, pos(1, 5));
    for id in 1..=3 {
        let found = resolve(&PointSpec::Id(id), &window).unwrap();
        assert_eq!((found.position, found.point.unwrap().id), (pos(1, 5), id));
    }
    assert_eq!(resolve(&exactly(250), &window).unwrap().point.unwrap().id, 2);
}
