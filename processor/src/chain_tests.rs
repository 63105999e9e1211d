use farshore_changelog::ids::DiskName;
use farshore_changelog::units::UnixMicros;
use farshore_vault::{EpochDisk, Nonce, Reason};

use super::*;
use crate::testing::Source;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn head(kind: Kind) -> SegmentHead {
    SegmentHead {
        kind,
        group: group(),
        epoch: Epoch(2),
        number: SegmentNo(5),
        first_seq: Seq(41),
        last_seq: Seq(50),
        min_time: UnixMicros(1),
        max_time: UnixMicros(2),
        created: UnixMicros(3),
        watermark: SegmentNo(3),
        prev: Hash::of(b"4"),
        successor: Epoch(if kind == Kind::Seal { 3 } else { 0 }),
        nonce: [7; 16],
    }
}

fn position() -> ReplayPosition {
    let mut position = ReplayPosition::start(group(), Epoch(2), Hash::of(b"4"));
    (position.number, position.seq, position.chain_seq) = (SegmentNo(4), Seq(40), Seq(40));
    position
}

fn asked(head: &SegmentHead) -> Result<Next, String> {
    follows(&expected(&position()), head, Hash::of(b"5"))
}

#[test]
fn the_next_segment_and_a_seal_in_its_place_follow() {
    assert_eq!(asked(&head(Kind::Log)), Ok(Next::Log));
    let seal = SegmentHead { prev: Hash::ZERO, first_seq: Seq(1), last_seq: Seq(0), ..head(Kind::Seal) };
    assert_eq!(asked(&seal), Ok(Next::Seal));
}

#[test]
fn whatever_differs_is_named() {
    let good = head(Kind::Log);
    let other = GroupName::new("db01").unwrap();
    for (bad, word) in [
        (SegmentHead { group: other, ..good.clone() }, "group"),
        (SegmentHead { epoch: Epoch(1), ..good.clone() }, "epoch"),
        (SegmentHead { number: SegmentNo(6), ..good.clone() }, "number"),
        (SegmentHead { prev: Hash::of(b"x"), ..good.clone() }, "chain"),
        (SegmentHead { first_seq: Seq(42), ..good.clone() }, "seq"),
        (SegmentHead { kind: Kind::Undo, ..good }, "undo"),
    ] {
        let said = asked(&bad).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_segment_applied_in_part_must_be_the_same_one() {
    let mut position = position();
    (position.number, position.seq, position.chain_seq) = (SegmentNo(5), Seq(44), Seq(50));
    position.hash = Hash::of(b"5");
    let expected = expected(&position);
    assert_eq!((expected.number, &expected.link), (SegmentNo(5), &Link::Itself(Hash::of(b"5"))));
    assert_eq!(follows(&expected, &head(Kind::Log), Hash::of(b"5")), Ok(Next::Log));
    assert!(follows(&expected, &head(Kind::Log), Hash::of(b"other")).unwrap_err().contains("hash"));
    assert!(follows(&expected, &head(Kind::Seal), Hash::of(b"5")).is_err());
}

#[test]
fn an_epoch_begins_with_its_object() {
    let start = ReplayPosition::start(group(), Epoch(2), Hash::of(b"object"));
    let expected = expected(&start);
    let link = Link::Follows { prev: Hash::of(b"object"), first_seq: Seq(1) };
    assert_eq!(expected, Expected { group: group(), epoch: Epoch(2), number: SegmentNo(1), link });
}

#[test]
fn only_the_epoch_that_the_seal_names_comes_next() {
    let next = EpochObject {
        group: group(),
        epoch: Epoch(3),
        parent: Some(Epoch(2)),
        reason: Reason::Failover,
        nonce: Nonce([7; 16]),
        created: UnixMicros(0).timestamp(),
        disks: vec![],
    };
    let seal = head(Kind::Seal);
    assert_eq!(succeeds(&seal, &next), Ok(()));
    for bad in [
        EpochObject { group: GroupName::new("db01").unwrap(), ..next.clone() },
        EpochObject { epoch: Epoch(4), ..next.clone() },
        EpochObject { parent: None, ..next.clone() },
        EpochObject { nonce: Nonce([8; 16]), ..next },
    ] {
        assert!(succeeds(&seal, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn disks_grow_and_are_added_at_the_end() {
    let disk = |name: &str, size_bytes| EpochDisk { name: DiskName::new(name).unwrap(), size_bytes };
    let object = |disks: Vec<EpochDisk>| EpochObject { disks, ..Source::new("web01", 1).object };
    let old = target_disks(&object(vec![disk("a", 1024), disk("b", 512)])).unwrap();
    let ok = |disks| disks_of(&old, &object(disks)).map(|(disks, changed)| (disks.len(), changed));
    assert_eq!(ok(vec![disk("a", 1024), disk("b", 512)]), Ok((2, false)));
    assert_eq!(ok(vec![disk("a", 2048), disk("b", 512)]), Ok((2, true)));
    assert_eq!(ok(vec![disk("a", 1024), disk("b", 512), disk("c", 512)]), Ok((3, true)));
    for (bad, word) in [
        (vec![disk("b", 512), disk("a", 1024)], "renamed"),
        (vec![disk("a", 512), disk("b", 512)], "shrink"),
        (vec![disk("a", 1024)], "gone"),
        (vec![disk("a", 1024), disk("b", 512), disk("a", 512)], "named"),
        (vec![disk("a", 1024), disk("b", 512), disk("c", 100)], "sectors"),
    ] {
        let said = ok(bad).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}
