use farshore_changelog::ids::{Epoch, GroupName, Hash, Position, Seq};
use proptest::prelude::*;

use super::*;
use crate::position::Consistent;

fn point(id: u64, time: u64, mark: bool) -> Point {
    let kind = if mark { PointKind::Mark("m".into()) } else { PointKind::Periodic };
    let position = Position { epoch: Epoch(1), seq: Seq(id * 10) };
    let time = UnixMicros(time);
    Point { id, position, time, clock: time, undo_end: id * 100, kind }
}

proptest! {
    #[test]
    fn what_goes_is_too_old_or_too_many_and_the_newest_stays(
        steps in proptest::collection::vec((0_u64..50, proptest::bool::ANY), 0..60),
        ahead in 0_u64..100,
        max_age in 0_u64..500,
        max_points in 0_usize..20,
    ) {
        let mut time = 1000;
        let points: Vec<Point> = (1..).zip(steps).map(|(id, (step, mark))| {
            time += step;
            point(id, time, mark)
        }).collect();
        let now = UnixMicros(time + ahead);
        let policy = Policy { max_age: Duration::from_micros(max_age), max_points };
        let kept = kept(&points, now, &policy);
        prop_assert_eq!(kept.last(), points.last());
        prop_assert!(kept.windows(2).all(|w| w[0].id < w[1].id));
        for (i, p) in points.iter().enumerate() {
            let newer_periodic = points[i + 1..].iter().filter(|p| p.kind == PointKind::Periodic).count();
            let old = now.since(p.time) > policy.max_age;
            let too_many = p.kind == PointKind::Periodic && newer_periodic >= max_points;
            let newest = i + 1 == points.len();
            prop_assert_eq!(kept.contains(p), newest || !(old || too_many), "{:?}", p);
        }
        // Doing it again takes nothing more.
        prop_assert_eq!(super::kept(&kept, now, &policy), kept);
    }
}

#[test]
fn marks_have_a_limit_of_their_own() {
    let policy = Policy { max_age: MAX_AGE, max_points: 2 };
    let mut points: Vec<Point> = (1..=MARKS_MAX as u64 + 5).map(|id| point(id, 1000 + id, true)).collect();
    points.push(point(90_000, 20_000, false));
    let kept = kept(&points, UnixMicros(20_000), &policy);
    assert_eq!(kept.len(), MARKS_MAX + 1);
    assert_eq!(kept[0].id, 6);
}

#[test]
fn what_anybody_needs_is_needed() {
    let mut position = ReplayPosition::start(GroupName::new("g").unwrap(), Epoch(1), Hash::ZERO);
    (position.seq, position.undo_end) = (Seq(90), 900);
    assert_eq!(undo_needed(&[], &position, None), 900);
    assert_eq!(log_needed(&[], &position).seq, Seq(90));
    position.consistent =
        Consistent { position: Position { epoch: Epoch(1), seq: Seq(80) }, undo_end: 800, time: UnixMicros(1) };
    assert_eq!(undo_needed(&[], &position, None), 800);
    let points = [point(5, 1, false), point(6, 1, true)];
    assert_eq!(undo_needed(&points, &position, None), 500);
    assert_eq!(log_needed(&points, &position).seq, Seq(50));
    assert_eq!(undo_needed(&points, &position, Some(30)), 30);
}
