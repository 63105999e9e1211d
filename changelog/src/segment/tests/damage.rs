//! Bytes that are not exactly those that were sealed are refused.

use bytes::Bytes;
use proptest::prelude::*;

use super::samples::{every_op, group, log_entries, sealed, undo_entries};
use crate::ids::{Epoch, SegmentNo};
use crate::segment::{Index, Kind, Segment, SegmentError, SegmentWriter};
use crate::units::UnixMicros;

fn parse(bytes: &[u8]) -> Result<Segment, SegmentError> {
    Segment::parse(Bytes::copy_from_slice(bytes))
}

/// Small segments of every kind and codec.
fn specimens() -> Vec<Vec<u8>> {
    let undo = vec![(super::samples::record(4, crate::op::Op::Write, 512, 512), vec![7; 512].into())];
    let seal = SegmentWriter::seal_object(
        group(),
        Epoch(2),
        SegmentNo(9),
        Epoch(3),
        [5; 16],
        UnixMicros(1_700_000_000_000_000),
    );
    let mut specimens = vec![seal.bytes];
    for level in [None, Some(1)] {
        specimens.push(sealed(Kind::Log, level, &every_op()));
        specimens.push(sealed(Kind::Log, level, &[]));
        specimens.push(sealed(Kind::Undo, level, &undo));
    }
    specimens
}

#[test]
fn a_flipped_bit_in_any_byte_is_refused() {
    for good in specimens() {
        parse(&good).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(parse(&bad).is_err(), "byte {at} of {} was flipped and not noticed", good.len());
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for good in specimens() {
        for len in 0..good.len() {
            assert!(matches!(parse(&good[..len]), Err(SegmentError::TooShort { .. })), "{len} of {} bytes", good.len());
            let in_journal = Index::read(&mut &good[..len], 0, None);
            assert!(matches!(in_journal, Err(SegmentError::TooShort { .. })), "{len} of {} bytes", good.len());
        }
    }
}

#[test]
fn appended_bytes_are_refused() {
    for good in specimens() {
        for tail in [&[0][..], &[0; 88], &good[..]] {
            let longer = [&good[..], tail].concat();
            assert!(matches!(parse(&longer), Err(SegmentError::Damaged { .. })));
            assert!(Index::read(&mut &longer[..], 0, None).is_ok(), "in a journal others follow");
        }
    }
}

#[test]
fn an_object_shorter_than_its_file_is_not_read_past_its_end() {
    let good = specimens().remove(0);
    let read = Index::read(&mut &good[..], 0, Some(good.len() as u64 - 1));
    assert!(matches!(read, Err(SegmentError::TooShort { .. })));
    let read = Index::read(&mut &good[..], u64::MAX, None);
    assert!(matches!(read, Err(SegmentError::TooShort { .. })));
}

#[test]
fn a_torn_tail_of_zeroes_is_refused() {
    for good in specimens() {
        for kept in [1, 8, 255, 256, good.len() - 88, good.len() - 1] {
            let mut bad = good.clone();
            bad[kept..].fill(0);
            assert!(parse(&bad).is_err());
            assert!(Index::read(&mut &bad[..], 0, None).is_err());
        }
    }
}

fn levels() -> impl Strategy<Value = Option<i32>> {
    prop_oneof![Just(None), Just(Some(1))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_in_a_log_segment(entries in log_entries(), level in levels(), at: prop::sample::Index, mask in 1..=255u8) {
        let mut bytes = sealed(Kind::Log, level, &entries);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_byte_in_an_undo_batch(entries in undo_entries(), level in levels(), at: prop::sample::Index, mask in 1..=255u8) {
        let mut bytes = sealed(Kind::Undo, level, &entries);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_length(entries in log_entries(), level in levels(), cut: prop::sample::Index, tail in prop::collection::vec(any::<u8>(), 1..600)) {
        let good = sealed(Kind::Log, level, &entries);
        prop_assert!(parse(&good[..cut.index(good.len())]).is_err());
        prop_assert!(parse(&[&good[..], &tail].concat()).is_err());
    }

    #[test]
    fn bytes_that_were_never_a_segment(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(Index::read(&mut &bytes[..], 0, None).is_err());
    }
}
