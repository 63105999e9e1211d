//! Every limit is reached, held, and leaves a writer that can be sealed.

use bytes::Bytes;

use super::samples::{payload, record, stamp};
use crate::ids::Seq;
use crate::op::Op;
use crate::segment::layout::{BLOCK_CLOSES_AT_BYTES, BLOCK_RAW_MAX_BYTES, RECORDS_MAX, TOTAL_MAX_BYTES};
use crate::segment::{Kind, Segment, SegmentError, SegmentWriter};
use crate::units::RECORD_PAYLOAD_MAX_BYTES;

const MIB: u64 = 1 << 20;

#[test]
fn a_segment_never_passes_its_largest_size() {
    for level in [None, Some(-7)] {
        let mut writer = SegmentWriter::new(Kind::Log, level);
        // What xorshift makes does not compress.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes: Vec<u8> = (0..MIB)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let refused =
            (1..=64).map(|seq| writer.push(&record(seq, Op::Write, seq * MIB, MIB), &bytes)).find(Result::is_err);
        assert!(matches!(refused, Some(Err(SegmentError::Limit { what: "total_len", max: TOTAL_MAX_BYTES, .. }))));
        let taken = writer.record_count() as u64;
        assert!(taken >= 62, "only {taken} MiB fit");
        let small = record(taken + 1, Op::Flush, 0, 0);
        writer.push(&small, &[]).unwrap();
        let stamp = crate::segment::Stamp { first_seq: Seq(1), last_seq: Seq(taken + 1), ..stamp(&[]) };
        let sealed = writer.seal(stamp).unwrap();
        assert!(sealed.bytes.len() as u64 <= TOTAL_MAX_BYTES);
        assert_eq!(Segment::parse(Bytes::from(sealed.bytes)).unwrap().index().records().len() as u64, taken + 1);
    }
}

#[test]
fn a_segment_never_holds_more_than_its_records() {
    let mut writer = SegmentWriter::new(Kind::Log, Some(1));
    for seq in 1..=RECORDS_MAX {
        writer.push(&record(seq, Op::Flush, 0, 0), &[]).unwrap();
    }
    let refused = writer.push(&record(RECORDS_MAX + 1, Op::Flush, 0, 0), &[]);
    assert!(matches!(refused, Err(SegmentError::Limit { what: "records", max: RECORDS_MAX, .. })));
    let stamp = crate::segment::Stamp { first_seq: Seq(1), last_seq: Seq(RECORDS_MAX), ..stamp(&[]) };
    let sealed = writer.seal(stamp).unwrap();
    assert_eq!(Segment::parse(Bytes::from(sealed.bytes)).unwrap().index().records().len() as u64, RECORDS_MAX);
}

#[test]
fn the_largest_block_is_one_that_was_not_closed_and_the_largest_payload() {
    let almost = u64::from(BLOCK_CLOSES_AT_BYTES) - 512;
    let largest = u64::from(RECORD_PAYLOAD_MAX_BYTES);
    let entries: Vec<_> = [(1, almost), (2, largest), (3, 512)]
        .map(|(seq, len)| (record(seq, Op::Write, 0, len), payload(seq, len)))
        .into();
    let bytes = super::samples::sealed(Kind::Log, Some(1), &entries);
    let segment = Segment::parse(Bytes::from(bytes)).unwrap();
    assert_eq!(segment.index().block_count(), 2);
    assert_eq!(segment.open_block(0).unwrap().len() as u64, almost + largest);
    assert!(almost + largest <= u64::from(BLOCK_RAW_MAX_BYTES));
    assert_eq!(segment.index().records()[2].block, 1);
    assert_eq!(segment.index().records()[2].position, 0);
}

#[test]
fn a_block_is_closed_once_it_is_full() {
    let full = u64::from(BLOCK_CLOSES_AT_BYTES);
    let entries: Vec<_> =
        [(1, full), (2, 512)].map(|(seq, len)| (record(seq, Op::Write, 0, len), payload(seq, len))).into();
    let segment = Segment::parse(Bytes::from(super::samples::sealed(Kind::Log, None, &entries))).unwrap();
    assert_eq!(segment.index().block_range(0), 256..256 + full);
    assert_eq!(segment.index().block_range(1), 256 + full..256 + full + 512);
}
