//! Segments whose hash is right and whose content is not: what is behind the hash is checked all the same.

use bytes::Bytes;

use super::samples::{Entry, every_op, group, record, sealed};
use crate::ids::{Epoch, Hash, SegmentNo};
use crate::op::Op;
use crate::segment::layout::{Field, block, footer, header, record as entry};
use crate::segment::{Kind, Segment, SegmentError, SegmentWriter};
use crate::units::UnixMicros;

/// Changes a stored (not compressed) segment and gives it a right hash again.
fn forge(mut bytes: Vec<u8>, change: impl FnOnce(&mut Parts<'_>)) -> Result<Segment, SegmentError> {
    let footer_at = bytes.len() - footer::BYTES;
    let index_at = footer::INDEX_OFFSET.u64(&bytes[footer_at..]) as usize;
    let (head, rest) = bytes.split_at_mut(header::BYTES);
    let (blocks, rest) = rest.split_at_mut(index_at - header::BYTES);
    let (index, foot) = rest.split_at_mut(footer_at - index_at);
    change(&mut Parts { head, blocks, index, foot });
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(index).update(&foot[..footer::HASHED_BYTES]);
    footer::HASH.put(foot, hasher.finalize().as_bytes());
    Segment::parse(Bytes::from(bytes))
}

struct Parts<'a> {
    head: &'a mut [u8],
    blocks: &'a mut [u8],
    index: &'a mut [u8],
    foot: &'a mut [u8],
}

impl Parts<'_> {
    /// The entry of record `n`; the specimens have one block.
    fn record(&mut self, n: usize) -> &mut [u8] {
        &mut self.index[block::BYTES + n * entry::BYTES..][..entry::BYTES]
    }
}

fn add(field: Field, bytes: &mut [u8], by: u8) {
    let mut value = field.get(bytes).to_vec();
    value[0] = value[0].wrapping_add(by);
    field.put(bytes, &value);
}

fn refused(bytes: Vec<u8>, what: &str, change: impl FnOnce(&mut Parts<'_>)) {
    match forge(bytes, change) {
        Ok(_) => panic!("{what}: was taken"),
        Err(SegmentError::HashMismatch { part }) => panic!("{what}: refused only by the hash of the {part}"),
        Err(e) => assert!(e.to_string().contains(what), "{what}: refused for another reason: {e}"),
    }
}

fn log() -> Vec<u8> {
    sealed(Kind::Log, None, &every_op())
}

fn undo() -> Vec<u8> {
    let entries: Vec<Entry> = [512, 2048].map(|offset| (record(4, Op::Write, offset, 512), vec![3; 512].into())).into();
    sealed(Kind::Undo, None, &entries)
}

fn seal() -> Vec<u8> {
    SegmentWriter::seal_object(group(), Epoch(2), SegmentNo(9), Epoch(3), [5; 16], UnixMicros(1)).bytes
}

#[test]
fn the_forgery_itself_is_sound() {
    for good in [log(), undo(), seal()] {
        forge(good, |_| ()).unwrap();
    }
}

#[test]
fn heads() {
    refused(log(), "magic", |p| add(header::MAGIC, p.head, 1));
    refused(log(), "version 3", |p| add(header::VERSION, p.head, 1));
    refused(log(), "not the lowest", |p| header::VERSION.put(p.head, &[1, 0]));
    refused(log(), "unknown kind 9", |p| add(header::KIND, p.head, 8));
    refused(log(), "unknown codec 2", |p| add(header::CODEC, p.head, 2));
    refused(log(), "zstd frame", |p| add(header::CODEC, p.head, 1));
    refused(log(), "reserved byte of the header", |p| add(header::RESERVED_A, p.head, 1));
    refused(log(), "reserved byte of the header", |p| p.head[header::RESERVED_B.end() - 1] = 1);
    refused(log(), "too short", |p| add(header::TOTAL_LEN, p.head, 1));
    refused(log(), "total_len is 68157440", |p| header::TOTAL_LEN.put(p.head, &(65_u64 << 20).to_le_bytes()));
    refused(log(), "less than a header", |p| header::TOTAL_LEN.put(p.head, &343_u64.to_le_bytes()));
    refused(log(), "not a valid name", |p| p.head[header::GROUP.at()] = b'/');
    refused(log(), "not a valid name", |p| p.head[header::GROUP.end() - 1] = b'x');
    refused(log(), "not a valid name", |p| header::GROUP.put(p.head, &[0; 64]));
    refused(log(), "begin at 1", |p| header::EPOCH.put(p.head, &[0; 8]));
    refused(log(), "begin at 1", |p| header::NUMBER.put(p.head, &[0; 8]));
    refused(log(), "below the first_seq", |p| add(header::FIRST_SEQ, p.head, 1));
    refused(log(), "above the last_seq", |p| add(header::LAST_SEQ, p.head, 255));
    refused(log(), "first_seq - 1", |p| {
        header::LAST_SEQ.put(p.head, &[0; 8]);
        add(header::FIRST_SEQ, p.head, 5);
    });
    refused(log(), "min_time", |p| add(header::MIN_TIME, p.head, 1));
    refused(log(), "max_time", |p| add(header::MAX_TIME, p.head, 1));
    refused(log(), "watermark", |p| add(header::WATERMARK, p.head, 2));
    refused(log(), "only a seal", |p| add(header::SUCCESSOR, p.head, 4));
    refused(log(), "only a seal", |p| add(header::NONCE, p.head, 1));
    refused(log(), "undo batch", |p| add(header::KIND, p.head, 1));
    refused(log(), "a seal holds no record", |p| add(header::KIND, p.head, 2));
    refused(seal(), "next epoch", |p| add(header::SUCCESSOR, p.head, 1));
    refused(seal(), "covers no operation", |p| add(header::LAST_SEQ, p.head, 1));
    refused(seal(), "covers no operation", |p| {
        add(header::LAST_SEQ, p.head, 1);
        add(header::FIRST_SEQ, p.head, 1);
    });
    refused(seal(), "confirms none", |p| add(header::WATERMARK, p.head, 1));
    refused(seal(), "no predecessor", |p| add(header::PREV, p.head, 1));
}

#[test]
fn footers() {
    refused(log(), "magic", |p| add(footer::MAGIC, p.foot, 1));
    refused(log(), "reserved byte of the footer", |p| add(footer::RESERVED, p.foot, 1));
    refused(log(), "between header and footer", |p| add(footer::INDEX_OFFSET, p.foot, 1));
    refused(log(), "between header and footer", |p| add(footer::INDEX_STORED_LEN, p.foot, 1));
    refused(log(), "between header and footer", |p| footer::INDEX_OFFSET.put(p.foot, &[255; 8]));
    refused(log(), "index_raw_len", |p| add(footer::INDEX_RAW_LEN, p.foot, 1));
    refused(log(), "passes a limit: index_raw_len", |p| footer::INDEX_RAW_LEN.put(p.foot, &[255; 4]));
    refused(log(), "passes a limit: records", |p| footer::RECORD_COUNT.put(p.foot, &[255; 4]));
    refused(log(), "index_raw_len", |p| footer::BLOCK_COUNT.put(p.foot, &[255; 4]));
    refused(log(), "index_raw_len", |p| add(footer::RECORD_COUNT, p.foot, 255));
    refused(log(), "sum of the blocks", |p| add(footer::PAYLOAD_RAW_LEN, p.foot, 1));
}

#[test]
fn blocks() {
    refused(log(), "end where the index begins", |p| add(block::STORED_LEN, p.index, 1));
    refused(log(), "empty or larger", |p| block::RAW_LEN.put(p.index, &[0; 4]));
    refused(log(), "empty or larger", |p| block::RAW_LEN.put(p.index, &[255; 4]));
    refused(log(), "what the payloads", |p| {
        add(block::RAW_LEN, p.index, 1);
        add(footer::PAYLOAD_RAW_LEN, p.foot, 1);
    });
    let wrong_hash = forge(log(), |p| add(block::HASH, p.index, 1));
    assert!(matches!(wrong_hash, Err(SegmentError::HashMismatch { .. })));
    let wrong_bytes = forge(log(), |p| p.blocks[0] ^= 1);
    assert!(matches!(wrong_bytes, Err(SegmentError::HashMismatch { .. })));
}

#[test]
fn records() {
    refused(log(), "reserved byte of a record", |p| add(entry::RESERVED, p.record(1), 1));
    refused(log(), "unknown operation 12", |p| entry::OP.put(p.record(1), &[12]));
    refused(log(), "unknown operation 0", |p| entry::OP.put(p.record(1), &[0]));
    refused(log(), "unknown set of record flags 32", |p| entry::FLAGS.put(p.record(1), &[32]));
    refused(log(), "not where it belongs", |p| add(entry::BLOCK, p.record(1), 1));
    refused(log(), "not where it belongs", |p| add(entry::POSITION, p.record(1), 1));
    refused(log(), "not where it belongs", |p| add(entry::POSITION, p.record(2), 1));
    refused(log(), "whole sectors", |p| add(entry::OFFSET, p.record(1), 1));
    refused(log(), "not where it belongs", |p| entry::LEN.put(p.record(1), &1024_u64.to_le_bytes()));
    refused(log(), "disk", |p| add(entry::DISK, p.record(1), 32));
    refused(log(), "must not fall", |p| add(entry::SEQ, p.record(2), 254));
    refused(log(), "must be a boundary", |p| entry::FLAGS.put(p.record(10), &[0]));
    refused(undo(), "one seq", |p| add(entry::SEQ, p.record(1), 1));
    refused(undo(), "bear its last_seq", |p| add(header::LAST_SEQ, p.head, 1));
    refused(undo(), "overlap", |p| entry::OFFSET.put(p.record(1), &512_u64.to_le_bytes()));
}

#[test]
fn a_mark_whose_name_is_not_text_is_refused_when_it_is_read() {
    let segment = forge(log(), |p| {
        let last = p.blocks.len() - 1;
        p.blocks[last] = 0xff;
        let hash = Hash::of(p.blocks);
        block::HASH.put(p.index, &hash.0);
    })
    .unwrap();
    let read = segment.for_each(|_, _| Ok::<_, SegmentError>(()));
    assert!(matches!(read, Err(SegmentError::Record { .. })));
}
