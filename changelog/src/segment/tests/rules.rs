//! Records and stamps that the writer refuses. The reader calls the same functions: `forged.rs` shows that it does.

use super::samples::{Entry, every_op, payload, record, stamp, write};
use crate::ids::{DiskIndex, Epoch, SegmentNo, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::segment::{Kind, SegmentError, SegmentWriter, Stamp};
use crate::units::UnixMicros;

const MIB: u64 = 1 << 20;

fn refusal(kind: Kind, records: &[Record]) -> Option<&'static str> {
    let mut writer = SegmentWriter::new(kind, None);
    let last = records.len() - 1;
    for (n, r) in records.iter().enumerate() {
        let before = (writer.payload_bytes(), writer.record_count());
        match writer.push(r, &payload(0, r.payload_len())) {
            Ok(()) => {}
            Err(SegmentError::Record { what, .. }) => {
                assert_eq!(n, last, "an earlier record was refused: {what}");
                assert_eq!(before, (writer.payload_bytes(), writer.record_count()));
                return Some(what);
            }
            Err(other) => panic!("{other}"),
        }
    }
    None
}

fn with(r: Record, flags: RecordFlags) -> Record {
    Record { flags, ..r }
}

#[test]
fn single_records() {
    let good = record(5, Op::Write, 512, 512);
    let far = DiskIndex(32);
    let table: &[(Record, &str)] = &[
        (record(0, Op::Flush, 0, 0), "begin at 1"),
        (record(1, Op::Write, 100, 512), "whole sectors"),
        (record(1, Op::Trim, 0, 513), "whole sectors"),
        (record(1, Op::WriteZeroes, 0, 0), "empty"),
        (record(1, Op::Write, 0, 0), "empty"),
        (record(1, Op::Write, 0, MIB + 512), "larger"),
        (record(1, Op::ResyncWrite, 0, MIB + 512), "larger"),
        (record(1, Op::Trim, u64::MAX - 511, 1024), "address space"),
        (Record { disk: far, ..good }, "disk"),
        (Record { disk: far, ..record(1, Op::Flush, 0, 0) }, "disk"),
        (record(1, Op::Flush, 512, 0), "no range"),
        (record(1, Op::Flush, 0, 512), "no range"),
        (record(1, Op::Mark, 0, 0), "name"),
        (record(1, Op::Mark, 0, 129), "name"),
        (Record { disk: DiskIndex(1), ..record(1, Op::ResyncEnd, 0, 0) }, "whole group"),
        (record(1, Op::ResyncBegin, 512, 5), "whole group"),
        (record(1, Op::ResyncEnd, 0, 1), "length"),
        (Record { disk: DiskIndex(1), ..record(1, Op::ResyncBegin, 0, 5) }, "whole group"),
        (with(good, RecordFlags(32)), "unknown flag"),
        (with(good, RecordFlags::NO_HOLE), "NO_HOLE"),
        (with(record(1, Op::Flush, 0, 0), RecordFlags::FUA), "FUA"),
        (with(record(1, Op::Mark, 0, 4), RecordFlags::MORE), "FUA"),
        (with(good, RecordFlags::BOUNDARY.with(RecordFlags::MORE)), "inside a request"),
    ];
    for (r, expected) in table {
        let what = refusal(Kind::Log, &[*r]).unwrap_or_else(|| panic!("{r:?} was taken"));
        assert!(what.contains(expected), "{r:?}: {what}");
    }
    assert_eq!(refusal(Kind::Log, &[good]), None);
}

#[test]
fn the_order_of_log_records() {
    let w = |seq, offset| record(seq, Op::Write, offset, 512);
    let boundary = |r: Record| with(r, r.flags.with(RecordFlags::BOUNDARY));
    let piece = |offset| Record { time: UnixMicros(9), ..w(4, offset) };
    let table: &[(&[Record], Option<&str>)] = &[
        (&[w(4, 0), w(3, 0)], Some("fall")),
        (&[piece(0), piece(1024)], None),
        (&[piece(1024), piece(0)], Some("pieces")),
        (&[piece(0), piece(0)], Some("pieces")),
        (&[piece(0), Record { disk: DiskIndex(1), ..piece(1024) }], Some("pieces")),
        (&[piece(0), Record { time: UnixMicros(8), ..piece(1024) }], Some("pieces")),
        (&[piece(0), with(piece(1024), RecordFlags::FUA)], Some("pieces")),
        (&[record(4, Op::Flush, 0, 0), record(4, Op::Flush, 0, 0)], Some("pieces")),
        (&[boundary(with(piece(0), RecordFlags::FUA)), with(piece(1024), RecordFlags::FUA)], Some("pieces")),
        (&[with(piece(0), RecordFlags::FUA), boundary(with(piece(1024), RecordFlags::FUA)), w(5, 0)], None),
        (&[boundary(w(1, 0)), w(2, 0)], Some("boundary")),
        (&[boundary(record(1, Op::Flush, 0, 0)), w(2, 0)], None),
        (&[boundary(record(1, Op::ResyncEnd, 0, 0)), w(2, 0)], None),
    ];
    for (records, expected) in table {
        let what = refusal(Kind::Log, records);
        assert_eq!(what.is_some(), expected.is_some(), "{records:?}: {what:?}");
        assert!(what.unwrap_or_default().contains(expected.unwrap_or_default()), "{records:?}: {what:?}");
    }
}

#[test]
fn undo_and_seal_records() {
    let w = record(4, Op::Write, 0, 512);
    for (op, len) in [(Op::Trim, 512), (Op::Flush, 0), (Op::Mark, 4), (Op::ResyncWrite, 512)] {
        assert!(refusal(Kind::Undo, &[record(4, op, 0, len)]).unwrap().contains("only write"));
    }
    assert!(refusal(Kind::Undo, &[with(w, RecordFlags::REREAD)]).unwrap().contains("no flag"));
    assert!(refusal(Kind::Undo, &[w, record(5, Op::Write, 512, 512)]).unwrap().contains("one seq"));
    assert!(refusal(Kind::Seal, &[w]).unwrap().contains("no record"));
}

#[test]
fn payloads() {
    let mut writer = SegmentWriter::new(Kind::Log, None);
    let mut refused = |r: Record, payload: &[u8]| writer.push(&r, payload).is_err();
    assert!(refused(record(1, Op::Write, 0, 512), &[0; 511]));
    assert!(refused(record(1, Op::Trim, 0, 512), &[0; 512]));
    assert!(refused(record(1, Op::Mark, 0, 2), &[0xff, 0xfe]));
}

fn seal(kind: Kind, entries: &[Entry], change: impl FnOnce(&mut Stamp)) -> Result<(), SegmentError> {
    let mut stamp = stamp(entries);
    change(&mut stamp);
    write(kind, None, entries)?.seal(stamp).map(|_| ())
}

#[test]
fn stamps_that_contradict_the_records() {
    let log = every_op();
    let undo = vec![(record(4, Op::Write, 512, 512), vec![1; 512].into())];
    assert!(seal(Kind::Log, &log, |_| ()).is_ok());
    assert!(seal(Kind::Log, &log, |s| s.last_seq = Seq(100)).is_ok(), "void seqs may follow the last record");
    assert!(seal(Kind::Log, &log, |s| s.last_seq = Seq(9)).is_err());
    assert!(seal(Kind::Log, &log, |s| s.first_seq = Seq(2)).is_err());
    assert!(seal(Kind::Log, &log, |s| s.first_seq = Seq(0)).is_err());
    assert!(seal(Kind::Log, &log, |s| s.epoch = Epoch(0)).is_err());
    assert!(seal(Kind::Log, &log, |s| s.number = SegmentNo(0)).is_err());
    assert!(seal(Kind::Log, &log, |s| s.watermark = s.number).is_err());
    assert!(seal(Kind::Log, &[], |s| s.last_seq = Seq(s.first_seq.0 - 2)).is_err());
    assert!(seal(Kind::Undo, &undo, |s| s.first_seq = Seq(2)).is_ok());
    assert!(seal(Kind::Undo, &undo, |s| s.last_seq = Seq(5)).is_err());
    assert!(seal(Kind::Seal, &[], |_| ()).is_err(), "a seal names its successor: seal_object makes it");
}

#[test]
fn the_end_of_a_segment() {
    let more = (with(record(1, Op::Write, 0, 512), RecordFlags::MORE), vec![0; 512].into());
    assert!(seal(Kind::Log, &[more], |_| ()).unwrap_err().to_string().contains("inside a request"));

    let plain = (record(1, Op::Write, 0, 512), vec![0; 512].into());
    let sealed = write(Kind::Log, None, std::slice::from_ref(&plain)).unwrap().seal(stamp(&[plain])).unwrap();
    let index = crate::segment::Index::read(&mut &sealed.bytes[..], 0, None).unwrap();
    assert_eq!(index.records()[0].record.flags, RecordFlags::BOUNDARY, "sealing makes the last record a boundary");
}

#[test]
fn overlapping_undo_ranges() {
    let w = |disk, offset, len| {
        let r = Record { disk: DiskIndex(disk), ..record(4, Op::Write, offset, len) };
        (r, payload(offset, len))
    };
    assert!(seal(Kind::Undo, &[w(0, 1024, 1024), w(1, 1024, 512), w(0, 0, 1024)], |_| ()).is_ok());
    assert!(seal(Kind::Undo, &[w(0, 1024, 1024), w(0, 0, 1536)], |_| ()).is_err());
    assert!(seal(Kind::Undo, &[w(0, 512, 512), w(0, 512, 512)], |_| ()).is_err());
}
