use farshore_changelog::segment::{SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;

use super::*;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn sealed(number: u64) -> Sealed {
    let stamp = Stamp {
        group: group(),
        epoch: Epoch(1),
        number: SegmentNo(number),
        first_seq: Seq(1),
        last_seq: Seq(0),
        created: UnixMicros(5),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    SegmentWriter::new(Kind::Log, Some(1)).seal(stamp).unwrap()
}

#[test]
fn what_was_put_is_found_again_in_order_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, found) = Spool::open(dir.path(), &group()).unwrap();
    assert!(found.is_empty() && spool.is_empty());
    let put: Vec<_> = [10, 2, 1].map(|n| spool.put(&sealed(n)).unwrap()).into();
    let (again, found) = Spool::open(dir.path(), &group()).unwrap();
    assert_eq!(found, put.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!((again.bytes(), again.bytes() > 0), (spool.bytes(), true));
    assert_eq!(again.read(&found[0]).unwrap(), sealed(1).bytes);
    for spooled in &found {
        again.remove(spooled).unwrap();
    }
    assert!(again.is_empty() && again.bytes() == 0);
    assert!(matches!(again.read(&found[0]), Err(ShipError::Spool { .. })));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let name = |number| dir.path().join(file_name(Epoch(1), SegmentNo(number)));
    std::fs::write(name(3), sealed(4).bytes).unwrap();
    let error = Spool::open(dir.path(), &group()).unwrap_err().to_string();
    assert!(error.contains("is segment 4"), "{error}");
    std::fs::write(name(3), sealed(3).bytes).unwrap();
    Spool::open(dir.path(), &group()).unwrap();
    assert!(Spool::open(dir.path(), &GroupName::new("db01").unwrap()).is_err());
}

#[test]
fn a_name_goes_both_ways_or_is_not_ours() {
    let name = file_name(Epoch(3), SegmentNo(12));
    assert_eq!(name, "0000000003-00000000000000000012.seg");
    assert_eq!(parse_name(&name), Some((Epoch(3), SegmentNo(12))));
    for strange in
        ["3-12.seg", "0000000003-+0000000000000000012.seg", "0000000003-00000000000000000012.seg.tmp", "-.seg", "x"]
    {
        assert_eq!(parse_name(strange), None, "{strange}");
    }
}

#[test]
fn only_the_segments_of_the_epoch_are_discarded() {
    let dir = tempfile::tempdir().unwrap();
    discard(&dir.path().join("absent"), Epoch(1)).unwrap();
    let (spool, _) = Spool::open(dir.path(), &group()).unwrap();
    spool.put(&sealed(1)).unwrap();
    std::fs::write(dir.path().join("notes"), "mine").unwrap();
    discard(dir.path(), Epoch(2)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    discard(dir.path(), Epoch(1)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
