//! The source's clock is set back a day, and forward a year and back. Order is by seq and nothing else; the times of points only
//! rise, and a point says where the clock said something else.

use super::*;
use crate::points::{self, Point};
use crate::resolve::{PointSpec, resolve};
use crate::view::window::window;

const HOUR: u64 = 3_600_000_000;
const DAY: u64 = 24 * HOUR;

fn points_of(site: &Site, source: &Source) -> Vec<Point> {
    points::read(&site.dir(source).points()).unwrap()
}

/// Each step sets the clock, then writes the same place anew, cuts a mark, and is replayed.
fn live(site: &Site, source: &mut Source, clocks: &[u64]) {
    let config = ProcessorConfig { retention: Duration::from_secs(100 * 24 * 3600), ..site.config() };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    for (n, clock) in clocks.iter().enumerate() {
        source.time = *clock;
        source.write(0, 0, 4, n as u8 + 1, RecordFlags::NONE);
        source.mark(&format!("m{n}"));
        site.ship(source);
        assert!(all_good(&processor.run_once().unwrap()));
        assert!(images(&site.dir(source), &source.object) == source.logged, "after clock {n}");
    }
}

#[test]
fn a_clock_set_back_a_day_or_forward_a_year_orders_nothing_and_times_only_rise_and_say_so() {
    let site = Site::new();
    let mut source = Source::new("web01", 1);
    site.open_epoch(&source);
    let start = clock::wall().0 - 30 * DAY;
    // On, back a day, on, a year ahead, and right again.
    let year = 365 * DAY;
    let clocks = [start, start + HOUR, start + 2 * HOUR - DAY, start + 3 * HOUR - DAY, start + year, start + 4 * HOUR];
    live(&site, &mut source, &clocks);
    site.check(&source);
    let points: Vec<Point> =
        points_of(&site, &source).into_iter().filter(|p| matches!(p.kind, points::PointKind::Mark(_))).collect();
    assert_eq!(points.len(), clocks.len());
    let times: Vec<u64> = points.iter().map(|p| p.time.0).collect();
    let highest = start + HOUR;
    assert_eq!(times, [start, highest, highest, highest, start + year, start + year]);
    assert_eq!(points.iter().map(|p| p.clock.0).collect::<Vec<_>>(), clocks, "and each says what the clock said");
    // A time names the newest point at or before it, in the order of the log.
    let (dir, group) = (site.dir(&source), &source.group);
    let at = |time: u64| {
        let asked: PointSpec = UnixMicros(time).timestamp().to_string().parse().unwrap();
        resolve(&asked, &window(&dir, group, &asked).unwrap()).unwrap().position
    };
    assert_eq!(at(start + 1), points[0].position);
    assert_eq!(at(highest + 1), points[3].position);
    assert_eq!(at(start + 40 * DAY), points[3].position);
}

#[test]
fn points_of_a_clock_that_was_a_year_ahead_do_not_stay_for_a_year() {
    let site = Site::new();
    let mut source = Source::new("web01", 1);
    site.open_epoch(&source);
    let now = clock::wall().0;
    let clocks = [now - 6 * HOUR, now - 5 * HOUR + 365 * DAY, now - 5 * HOUR, now - 4 * HOUR, now - HOUR];
    live(&site, &mut source, &clocks);
    let ids: Vec<u64> = points_of(&site, &source).iter().map(|p| p.id).collect();
    assert!(ids.len() >= clocks.len(), "within the retention all stay: {ids:?}");
    // Two hours of retention: what is older by any honest clock goes.
    let config = ProcessorConfig { retention: Duration::from_secs(2 * 3600), ..site.config() };
    let processor = Processor::open_vault(config, site.vault.clone()).unwrap();
    source.time = now;
    source.mark("now");
    site.ship(&mut source);
    assert!(all_good(&processor.run_once().unwrap()));
    let left = points_of(&site, &source);
    assert!(left.iter().all(|p| p.clock.0 >= now - 2 * HOUR && p.clock.0 <= now), "{left:?}");
    assert!(left.len() >= 2);
    site.check(&source);
}

#[test]
fn a_clock_set_back_a_day_costs_no_point_before_its_time() {
    let site = Site::new();
    let mut source = Source::new("web01", 1);
    site.open_epoch(&source);
    let now = clock::wall().0;
    let clocks = [now - 2 * HOUR, now - HOUR, now - DAY, now - DAY + HOUR];
    live(&site, &mut source, &clocks);
    let config = ProcessorConfig { retention: Duration::from_secs(3 * 3600), ..site.config() };
    assert!(all_good(&Processor::open_vault(config, site.vault.clone()).unwrap().run_once().unwrap()));
    let marks = points_of(&site, &source).into_iter().filter(|p| matches!(p.kind, points::PointKind::Mark(_)));
    assert_eq!(marks.count(), clocks.len(), "none is older than three hours");
    site.check(&source);
}
