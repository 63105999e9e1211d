use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_changelog::segment::Segment;

use proptest::prelude::*;

use super::*;
use crate::testing::{Rng, SECTORS, Source};

const INTERVAL: Duration = Duration::from_secs(300);

fn start(source: &Source) -> ReplayPosition {
    ReplayPosition::start(source.group.clone(), Epoch(1), source.epoch_hash())
}

/// Ends and points of the batches of a segment.
fn ends(segment: &Segment, position: &ReplayPosition) -> Vec<(u64, Option<CutPoint>)> {
    let batches = cut(segment.index().head(), segment.index().records(), position, INTERVAL);
    let mut next = batches[0].records.start;
    for batch in &batches {
        assert_eq!(batch.records.start, next);
        next = batch.records.end;
    }
    assert_eq!(next, segment.index().records().len());
    batches.iter().map(|batch| (batch.end_seq.0, batch.point)).collect()
}

fn after_all(segment: &Segment, before: &ReplayPosition) -> ReplayPosition {
    let index = segment.index();
    let mut position = before.clone();
    for batch in cut(index.head(), index.records(), before, INTERVAL) {
        let records = &index.records()[batch.records.clone()];
        let undo_end = position.undo_end + 100;
        position = position_after(&position, index.head(), index.hash(), &batch, records, undo_end);
    }
    position
}

#[test]
fn points_come_at_marks_and_when_the_interval_is_over() {
    let mut source = Source::new("web01", 1);
    let mut position = start(&source);
    position.last_periodic = UnixMicros(source.time);
    source.flush(); // 1
    source.mark("m"); // 2
    source.write(0, 0, 1, 1, RecordFlags::NONE); // 3
    source.time += 300_000_000;
    source.write(0, 0, 1, 2, RecordFlags::NONE); // 4: due, and no boundary
    source.flush(); // 5
    source.flush(); // 6
    source.seq += 2; // void
    let segment = source.segment();
    let expected = [(2, Some(CutPoint::Mark)), (5, Some(CutPoint::Periodic)), (8, None)];
    assert_eq!(ends(&segment, &position), expected);

    // Applied in part, it goes on after the part.
    (position.number, position.seq, position.chain_seq) = (SegmentNo(1), Seq(2), Seq(8));
    assert_eq!(ends(&segment, &position), expected[1..]);
    let after = after_all(&segment, &position);
    assert_eq!((after.seq, after.chain_seq, after.last_periodic), (Seq(8), Seq(8), UnixMicros(source.time)));
    assert_eq!(after.consistent.position, after.position());
}

#[test]
fn a_heartbeat_cuts_a_point_and_a_clock_set_back_does_not_end_them() {
    let mut source = Source::new("web01", 1);
    source.flush();
    let mut position = after_all(&source.segment(), &start(&source));
    assert_eq!(position.last_periodic.0, source.time);
    let mut beat = |position: &mut ReplayPosition, time: u64| {
        source.time = time;
        let segment = source.segment();
        let point = ends(&segment, position)[0].1;
        *position = after_all(&segment, position);
        point.is_some()
    };
    let first = position.last_periodic.0;
    assert!(!beat(&mut position, first + 299_999_999));
    assert!(beat(&mut position, first + 300_000_000));
    let time = position.time;
    assert!(!beat(&mut position, first + 100_000_000), "back by less than an interval");
    assert!(beat(&mut position, 5));
    assert!(!beat(&mut position, 6));
    assert_eq!(position.time, time, "the position's time does not go back");
}

#[test]
fn nothing_is_consistent_inside_a_resync() {
    let mut source = Source::new("web01", 1);
    source.write(0, 0, 4, 1, RecordFlags::NONE); // 1
    source.resync_begin(SECTORS * 512); // 2
    source.mark("unseen"); // 3
    source.time += 900_000_000;
    source.flush(); // 4
    source.resync(0, 0, SECTORS); // 5
    let first = source.segment();
    let position = start(&source);
    assert_eq!(ends(&first, &position), [(2, None), (3, None), (5, None)]);
    let inside = after_all(&first, &position);
    assert!(inside.resync);
    assert_eq!((inside.resync_announced, inside.resync_applied), (SECTORS * 512, SECTORS * 512));
    let before = Position { epoch: Epoch(1), seq: Seq(1) };
    assert_eq!((inside.consistent.position, inside.consistent.undo_end), (before, 100));

    source.resync_end(); // 6
    source.write(0, 0, 1, 9, RecordFlags::NONE); // 7
    let second = source.segment();
    assert_eq!(ends(&second, &inside), [(6, Some(CutPoint::Periodic)), (7, None)]);
    let outside = after_all(&second, &inside);
    assert_eq!((outside.resync, outside.consistent.position.seq), (false, Seq(7)));
}

#[test]
fn an_epoch_that_begins_with_a_resync_leaves_the_position_in_the_one_before() {
    let mut source = Source::new("web01", 1);
    source.flush();
    let old = after_all(&source.segment(), &start(&source));
    let group: GroupName = source.group.clone();
    let next = source.next_epoch();
    let turned = ReplayPosition { consistent: old.consistent, ..ReplayPosition::start(group, next.epoch, source.prev) };
    let beaten = after_all(&source.segment(), &turned);
    assert_eq!(beaten.consistent, old.consistent, "a heartbeat says nothing about lost regions");
    source.resync_begin(512);
    let begun = after_all(&source.segment(), &beaten);
    assert_eq!((begun.resync, begun.consistent), (true, old.consistent));
}

#[test]
fn what_an_overflow_left_out_makes_nothing_consistent_until_the_resync_after_it_has_ended() {
    let mut source = Source::new("web01", 1);
    source.write(0, 0, 8, 1, RecordFlags::NONE);
    let mut position = after_all(&source.segment(), &start(&source));
    let before = source.position();
    assert_eq!(position.consistent.position, before);
    let mut next = |source: &mut Source, word: &dyn Fn(&mut Source)| {
        word(source);
        source.write(0, 1, 1, 7, RecordFlags::NONE);
        source.mark("m");
        position = after_all(&source.segment(), &position);
        (position.resync, position.overflow, position.consistent.position == source.position())
    };
    assert_eq!(next(&mut source, &|s| s.overflow()), (true, true, false));
    // The end of a resync that began before the overflow repairs nothing of it.
    let end = |s: &mut Source| s.log(Op::ResyncEnd, RecordFlags::BOUNDARY, 0, Default::default(), &[]);
    assert_eq!(next(&mut source, &end), (true, true, false));
    assert_eq!(next(&mut source, &|s| s.resync_begin(512)), (true, false, false));
    // Once more, in the middle of the copy.
    assert_eq!(next(&mut source, &|s| s.overflow()), (true, true, false));
    assert_eq!(next(&mut source, &end), (true, true, false));
    assert_eq!(next(&mut source, &|s| s.resync_begin(512)), (true, false, false));
    assert_eq!(next(&mut source, &end), (false, false, true));
}

#[test]
fn no_point_is_cut_between_an_overflow_and_the_end_of_its_resync() {
    let mut source = Source::new("web01", 1);
    source.write(0, 0, 8, 1, RecordFlags::NONE);
    source.mark("before");
    source.overflow();
    source.mark("within");
    source.log(Op::ResyncEnd, RecordFlags::BOUNDARY, 0, Default::default(), &[]);
    source.time += 400_000_000;
    source.flush();
    source.resync_begin(512);
    source.mark("copying");
    source.log(Op::ResyncEnd, RecordFlags::BOUNDARY, 0, Default::default(), &[]);
    source.mark("after");
    let segment = source.segment();
    let records = segment.index().records();
    let batches = cut(segment.index().head(), records, &start(&source), INTERVAL);
    let points: Vec<Op> =
        batches.iter().filter(|b| b.point.is_some()).map(|b| records[b.records.end - 1].record.op).collect();
    assert_eq!(points, [Op::Mark, Op::ResyncEnd, Op::Mark]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Random histories with resyncs and overflows, cut into segments anywhere, replayed in runs that end after any batch: a position
    /// is consistent exactly where the model says so, points are cut only there, and where replay stopped leaves no trace.
    #[test]
    fn what_is_published_is_what_the_model_calls_consistent(seed: u64, stops in prop::collection::vec(any::<bool>(), 64)) {
        let mut rng = Rng(seed);
        let mut source = Source::new("web01", 2);
        let mut segments = Vec::new();
        source.random_resync(&mut rng);
        segments.push(source.segment());
        for _ in 0..12 {
            match rng.below(8) {
                0 => source.random_resync(&mut rng),
                1 => {
                    source.overflow();
                    source.random(&mut rng);
                    if rng.one_in(2) {
                        segments.push(source.segment());
                    }
                    source.random_resync(&mut rng);
                }
                _ => (0..rng.below(8)).for_each(|_| source.random(&mut rng)),
            }
            segments.push(source.segment());
        }
        let mut stops = stops.into_iter().cycle();
        let (mut position, mut cut_points, mut marks) = (start(&source), Vec::new(), 0);
        for segment in &segments {
            let index = segment.index();
            let (head, records) = (index.head(), index.records());
            loop {
                let batches = cut(head, records, &position, INTERVAL);
                let before = position.clone();
                for batch in &batches {
                    let slice = &records[batch.records.clone()];
                    let last_of_segment = batch.end_seq == head.last_seq;
                    let boundary = slice.last().is_some_and(|last| last.record.flags.has(RecordFlags::BOUNDARY));
                    prop_assert!(boundary || last_of_segment, "a batch ends inside a request");
                    position = position_after(&position, head, index.hash(), batch, slice, position.undo_end + 100);
                    let here = Position { epoch: position.epoch, seq: position.seq };
                    let model = source.consistent[&here];
                    prop_assert_eq!(position.consistent.position == here, model, "{}", here);
                    if batch.point.is_some() {
                        prop_assert!(model, "a point inside a resync or an overflow, at {}", here);
                        cut_points.push((here, batch.point));
                    }
                    marks += slice.iter().filter(|r| r.record.op == Op::Mark && source.consistent[&Position { epoch: here.epoch, seq: r.record.seq }]).count();
                    if stops.next() == Some(true) {
                        break;
                    }
                }
                if position.seq == head.last_seq && (position.number == head.number || batches.is_empty()) {
                    break;
                }
                prop_assert!(position.seq > before.seq || position.number > before.number, "it does not go on");
            }
        }
        prop_assert_eq!(position.position(), source.position());
        let named = cut_points.iter().filter(|(_, point)| *point == Some(CutPoint::Mark)).count();
        prop_assert_eq!(named, marks, "every mark at a consistent position is a point");
        // In one go it is the same.
        let whole = segments.iter().fold(start(&source), |before, segment| after_all(segment, &before));
        prop_assert_eq!((whole.position(), whole.consistent.position, whole.resync, whole.overflow), (position.position(), position.consistent.position, position.resync, position.overflow));
        prop_assert_eq!(whole.last_periodic, position.last_periodic);
    }
}
