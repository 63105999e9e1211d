//! What is written is what is read.

use bytes::Bytes;
use proptest::prelude::*;

use super::samples::{Entry, every_op, group, log_entries, sealed, stamp, undo_entries, write};
use crate::ids::{Epoch, Hash, SegmentNo};
use crate::segment::layout::COUNTER_MAX;
use crate::segment::{Codec, Index, Kind, Segment, SegmentError, SegmentWriter};
use crate::units::UnixMicros;

fn levels() -> impl Strategy<Value = Option<i32>> {
    prop_oneof![Just(None), Just(Some(1)), Just(Some(3))]
}

fn read_back(segment: &Segment) -> Vec<Entry> {
    let mut found = Vec::new();
    segment
        .for_each(|record, payload| {
            found.push((*record, payload.to_vec().into()));
            Ok::<_, SegmentError>(())
        })
        .unwrap();
    found
}

fn holds(kind: Kind, level: Option<i32>, entries: &[Entry]) {
    let writer = write(kind, level, entries).unwrap();
    let payload_bytes: usize = entries.iter().map(|(_, payload)| payload.len()).sum();
    assert_eq!(writer.payload_bytes(), payload_bytes as u64);
    assert_eq!(writer.record_count(), entries.len());
    let sealed = writer.seal(stamp(entries)).unwrap();

    let segment = Segment::parse(Bytes::from(sealed.bytes.clone())).unwrap();
    let index = segment.index();
    assert_eq!(read_back(&segment), entries);
    assert_eq!((index.head(), index.hash()), (&sealed.head, sealed.hash));
    assert_eq!(index.codec(), if level.is_some() { Codec::Zstd } else { Codec::Stored });
    assert_eq!((index.total_len(), index.payload_bytes()), (sealed.bytes.len() as u64, payload_bytes as u64));
    let times: Vec<UnixMicros> = entries.iter().map(|(record, _)| record.time).collect();
    let created = index.head().created;
    assert_eq!(index.head().min_time, times.iter().copied().min().unwrap_or(created));
    assert_eq!(index.head().max_time, times.iter().copied().max().unwrap_or(created));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn log_segments(entries in log_entries(), level in levels()) {
        holds(Kind::Log, level, &entries);
    }

    #[test]
    fn undo_batches(entries in undo_entries(), level in levels()) {
        holds(Kind::Undo, level, &entries);
    }

    #[test]
    fn seals(epoch in 1..COUNTER_MAX, number in 1..=COUNTER_MAX, nonce: [u8; 16], created: u64) {
        let (epoch, next) = (Epoch(epoch), Epoch(epoch + 1));
        let number = SegmentNo(number);
        let seal = SegmentWriter::seal_object(group(), epoch, number, next, nonce, UnixMicros(created));
        let read = Segment::parse(Bytes::from(seal.bytes)).unwrap();
        let head = read.index().head();
        prop_assert_eq!(head, &seal.head);
        prop_assert_eq!(read.index().hash(), seal.hash);
        prop_assert_eq!((head.kind, head.successor, head.nonce, head.prev), (Kind::Seal, next, nonce, Hash::ZERO));
        prop_assert!(read.index().records().is_empty());
    }

    #[test]
    fn a_journal_is_read_batch_by_batch(batches in prop::collection::vec(undo_entries(), 1..5), level in levels()) {
        let mut journal = Vec::new();
        for entries in &batches {
            journal.extend(sealed(Kind::Undo, level, entries));
        }
        let mut offset = 0;
        for entries in &batches {
            let mut at = &journal[..];
            let index = Index::read(&mut at, offset, None).unwrap();
            prop_assert_eq!(index.records().len(), entries.len());
            for (entry, (record, payload)) in index.records().iter().zip(entries) {
                prop_assert_eq!(&entry.record, record);
                if !payload.is_empty() {
                    let block = index.read_block(&mut at, offset, entry.block).unwrap();
                    prop_assert_eq!(&block[entry.payload_range()], &payload[..]);
                }
            }
            offset += index.total_len();
        }
        prop_assert_eq!(offset, journal.len() as u64);
        let end = Index::read(&mut &journal[..], offset, None);
        let ended = matches!(end, Err(SegmentError::TooShort { found: 0, .. }));
        prop_assert!(ended);
    }
}

#[test]
fn every_operation_comes_back() {
    for level in [None, Some(1)] {
        holds(Kind::Log, level, &every_op());
    }
}

#[test]
fn one_list_gives_the_same_bytes_twice() {
    for level in [None, Some(1)] {
        assert_eq!(sealed(Kind::Log, level, &every_op()), sealed(Kind::Log, level, &every_op()));
    }
}

#[test]
fn a_file_is_read_as_bytes_in_memory_are() {
    use std::io::Write;
    let bytes = sealed(Kind::Undo, Some(1), &[]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    file.write_all(&bytes).unwrap();
    let from_file = Index::read(&mut &file, 6, Some(bytes.len() as u64)).unwrap();
    assert_eq!(from_file.hash(), Segment::parse(Bytes::from(bytes)).unwrap().index().hash());
}
