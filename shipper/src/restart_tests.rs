use farshore_changelog::ids::{DiskName, GroupName};
use farshore_vault::{EpochDisk, Nonce, Reason};
use proptest::prelude::*;

use super::*;

fn source(epoch: u64, opened: bool) -> SourceEpoch {
    SourceEpoch {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(epoch),
        parent: (epoch > 1).then(|| Epoch(epoch - 1)),
        reason: Reason::FirstStart,
        nonce: Nonce([1; 16]),
        created: jiff::Timestamp::UNIX_EPOCH,
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 20 }],
        vault: None,
        opened,
        clean: false,
    }
}

fn hash(epoch: u64, number: u64) -> Hash {
    Hash::of(&[epoch.to_le_bytes(), number.to_le_bytes()].concat())
}

/// Segment `number`, which covers ten seqs.
fn segment(source: &SourceEpoch, epoch: u64, number: u64) -> Spooled {
    let first = epoch == source.epoch.0 && number == 1;
    Spooled {
        epoch: Epoch(epoch),
        number: SegmentNo(number),
        hash: hash(epoch, number),
        prev: if first { source.object_hash() } else { hash(epoch, number - 1) },
        first_seq: Seq(number * 10 - 9),
        last_seq: Seq(number * 10),
        bytes: 400,
    }
}

fn mark(epoch: u64, number: u64) -> Watermark {
    Watermark { epoch: Epoch(epoch), number: SegmentNo(number), hash: hash(epoch, number), last_seq: Seq(number * 10) }
}

fn numbers(list: &[Spooled]) -> Vec<(u64, u64)> {
    list.iter().map(|s| (s.epoch.0, s.number.0)).collect()
}

/// Stale, queue, set aside, and the numbers of head and confirmed; or what is refused.
type Outcome = Result<(Vec<(u64, u64)>, Vec<(u64, u64)>, Vec<(u64, u64)>, u64, u64), String>;

fn file(segment: Spooled) -> Found {
    let Spooled { epoch, number, .. } = segment;
    let path = format!("/spool/{epoch}-{number}.seg").into();
    Found { epoch, number, segment: Ok(segment), aside: false, path }
}

fn outcome(source: &SourceEpoch, mark: Option<Watermark>, found: &[(u64, u64)]) -> Outcome {
    outcome_of(source, mark, found.iter().map(|&(e, n)| file(segment(source, e, n))).collect())
}

fn outcome_of(source: &SourceEpoch, mark: Option<Watermark>, found: Vec<Found>) -> Outcome {
    let plan = plan(source, mark.as_ref(), found).map_err(|e| e.to_string())?;
    assert_eq!(plan.head.last_seq.0, plan.head.number.0 * 10);
    let stale = plan.stale.iter().map(|(e, n)| (e.0, n.0)).collect();
    let aside = plan.aside.iter().map(|f| (f.epoch.0, f.number.0)).collect();
    Ok((stale, numbers(&plan.queue), aside, plan.head.number.0, plan.confirmed.number.0))
}

#[test]
fn every_crash_has_its_continuation() {
    let first = source(1, true);
    assert_eq!(outcome(&first, None, &[]), Ok((vec![], vec![], vec![], 0, 0)));
    assert_eq!(outcome(&first, None, &[(1, 1), (1, 2)]), Ok((vec![], vec![(1, 1), (1, 2)], vec![], 2, 0)));
    assert_eq!(outcome(&first, Some(mark(1, 4)), &[]), Ok((vec![], vec![], vec![], 4, 4)));
    assert_eq!(outcome(&first, Some(mark(1, 4)), &[(1, 4), (1, 5)]), Ok((vec![(1, 4)], vec![(1, 5)], vec![], 5, 4)));
}

#[test]
fn the_epoch_before_is_finished_first() {
    let next = source(2, false);
    assert_eq!(outcome(&next, Some(mark(1, 4)), &[]), Ok((vec![], vec![], vec![], 0, 0)));
    assert_eq!(
        outcome(&next, Some(mark(1, 4)), &[(1, 4), (1, 5), (2, 1)]),
        Ok((vec![(1, 4)], vec![(1, 5), (2, 1)], vec![], 1, 0))
    );
    assert_eq!(outcome(&next, None, &[(1, 1), (1, 2)]), Ok((vec![], vec![(1, 1), (1, 2)], vec![], 0, 0)));
}

#[test]
fn what_does_not_continue_is_refused() {
    let first = source(1, true);
    for (mark, found, word) in [
        (None, vec![(1, 2)], "segment 1 is missing"),
        (Some(mark(1, 4)), vec![(1, 6)], "segment 5 is missing"),
        (Some(mark(1, 4)), vec![(1, 5), (1, 7)], "segment 6 is missing"),
        (None, vec![(3, 1)], "of epoch 3"),
    ] {
        let error = outcome(&first, mark, &found).unwrap_err();
        assert!(error.contains(word) && error.contains("/spool/"), "{error}");
    }
    let damaged = Found { segment: Err("has a wrong hash".to_owned()), ..file(segment(&first, 1, 5)) };
    assert!(outcome_of(&first, Some(mark(1, 4)), vec![damaged]).unwrap_err().contains("wrong hash"));
}

#[test]
fn what_is_left_of_an_epoch_that_is_over_or_cannot_be_finished_is_set_aside() {
    let (next, opened) = (source(2, false), source(2, true));
    assert_eq!(outcome(&opened, Some(mark(2, 1)), &[(1, 9)]), Ok((vec![], vec![], vec![(1, 9)], 1, 1)));
    assert_eq!(outcome(&source(3, false), Some(mark(2, 1)), &[(1, 9)]), Ok((vec![], vec![], vec![(1, 9)], 0, 0)));
    // Segment 6 is missing: what is before it is uploaded, what is after it has no place.
    assert_eq!(
        outcome(&next, Some(mark(1, 4)), &[(1, 5), (1, 7), (1, 8), (2, 1)]),
        Ok((vec![], vec![(1, 5), (2, 1)], vec![(1, 7), (1, 8)], 1, 0))
    );
    let damaged = Found { segment: Err("has a wrong hash".to_owned()), ..file(segment(&next, 1, 5)) };
    let found = vec![damaged, file(segment(&next, 1, 6))];
    assert_eq!(outcome_of(&next, Some(mark(1, 4)), found), Ok((vec![], vec![], vec![(1, 5), (1, 6)], 0, 0)));
}

#[test]
fn a_segment_of_another_chain_is_refused() {
    let first = source(1, true);
    for change in [|s: &mut Spooled| s.prev = Hash::ZERO, |s: &mut Spooled| s.first_seq = Seq(42)] {
        let mut segment = segment(&first, 1, 5);
        change(&mut segment);
        assert!(plan(&first, Some(&mark(1, 4)), vec![file(segment)]).is_err());
    }
    let other_epoch_object = SourceEpoch { nonce: Nonce([2; 16]), ..first.clone() };
    assert!(plan(&other_epoch_object, None, vec![file(segment(&first, 1, 1))]).is_err());
}

/// What a shipper does to one segment, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Sealed,
    Confirmed,
    Noted,
    Removed,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A shipper that was stopped anywhere, once or often: each segment is somewhere in its life, the older never behind the younger.
    /// The plan uploads just those that are not noted, in order, and goes on at the newest; a file that is missing among them or
    /// damaged is named.
    #[test]
    fn every_life_that_a_crash_can_cut_off_goes_on(
        opened: bool,
        parents in 0..4_u64,
        lives in prop::collection::vec(0..3_u8, 0..12),
        harm in prop::option::of((any::<prop::sample::Index>(), any::<bool>())),
    ) {
        use Step::{Confirmed, Noted, Removed, Sealed};
        let second = source(2, opened);
        // How far each has come: removals first, then noted ones, then what is only sealed.
        let mut steps: Vec<Step> = lives.iter().map(|life| [Removed, Noted, Sealed][usize::from(*life)]).collect();
        steps.sort_by(|a, b| b.cmp(a));
        // Of the epoch before, everything that is not noted is uploaded first, and it is noted before anything of this one is.
        let noted = steps.iter().filter(|step| **step >= Noted).count() as u64;
        let parents = if opened || noted > 0 { 0 } else { parents };
        let parent_marks = 3;
        let watermark = match noted {
            0 => Some(mark(1, parent_marks)),
            n => Some(mark(2, n)),
        };
        let mut found: Vec<Found> = (0..parents).map(|n| file(segment(&second, 1, parent_marks + 1 + n))).collect();
        let there = (1..).zip(&steps).filter(|(_, step)| **step != Removed);
        found.extend(there.map(|(number, _)| file(segment(&second, 2, number))));
        let waiting: Vec<(u64, u64)> = (0..parents).map(|n| (1, parent_marks + 1 + n))
            .chain((1..).zip(&steps).filter(|(_, step)| **step < Confirmed).map(|(number, _)| (2, number)))
            .collect();
        let stale: Vec<(u64, u64)> = (1..).zip(&steps).filter(|(_, step)| **step == Noted).map(|(number, _)| (2, number)).collect();

        // One of those that wait is lost or damaged.
        let own: Vec<(u64, u64)> = waiting.iter().copied().filter(|(epoch, _)| *epoch == 2).collect();
        let harmed = harm.filter(|_| !own.is_empty()).map(|(index, lost)| (own[index.index(own.len())], lost));
        if let Some(((epoch, number), lost)) = harmed {
            let at = found.iter().position(|f| (f.epoch.0, f.number.0) == (epoch, number)).unwrap();
            if lost {
                found.remove(at);
            } else {
                found[at].segment = Err("is damaged".to_owned());
            }
            let newest = own.last().unwrap().1;
            let outcome = outcome_of(&second, watermark, found);
            match outcome {
                // Nobody can know of a file that was the newest.
                Ok((.., head, _)) if lost && number == newest => prop_assert_eq!(head, newest - 1),
                Err(what) => {
                    let named = if lost { number + 1 } else { number };
                    let path = format!("/spool/2-{named}.seg");
                    prop_assert!(what.contains(&path), "{}", what);
                }
                other => prop_assert!(false, "{:?}", other),
            }
            return Ok(());
        }
        let expected = Ok((stale, waiting, vec![], steps.len() as u64, noted));
        prop_assert_eq!(outcome_of(&second, watermark, found), expected);
    }
}
