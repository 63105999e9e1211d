//! What is known of a segment without its payload: header, index and footer, proved by the hash of the segment.

use std::ops::Range;

use super::codec::decode;
use super::error::Part;
use super::footer::{Footer, prove};
use super::head::UnverifiedHead;
use super::layout::{
    BLOCK_RAW_MAX_BYTES, FOOTER_BYTES, HEADER_BYTES, TOTAL_MIN_BYTES, VERSION_1, VERSION_2, block, footer, header,
    record,
};
use super::validate::Run;
use super::{Codec, ReadAt, SegmentError, SegmentHead};
use crate::ids::{DiskIndex, Hash, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::units::UnixMicros;

/// A record and the place of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRecord {
    /// The record.
    pub record: Record,
    /// The block that holds its payload; 0 when it has none.
    pub block: u32,
    /// Where its payload begins in the raw block, in bytes; 0 when it has none.
    pub position: u32,
}

impl IndexRecord {
    /// Where its payload lies in the raw block; empty when it has none.
    #[must_use]
    pub fn payload_range(&self) -> Range<usize> {
        let start = self.position as usize;
        start..start + usize::try_from(self.record.payload_len()).expect("a checked payload is at most 1 MiB")
    }
}

/// A block as the index names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockEntry {
    pub(super) stored_len: u32,
    pub(super) raw_len: u32,
    pub(super) hash: Hash,
}

/// Header, index and footer of a segment, verified: every field was proved by the segment's hash and checked against the
/// rules of the format. The payload is not here; a block is verified when it is opened.
#[derive(Debug, Clone)]
pub struct Index {
    head: SegmentHead,
    codec: Codec,
    hash: Hash,
    total_len: u64,
    payload_raw_len: u64,
    records: Vec<IndexRecord>,
    blocks: Vec<BlockEntry>,
    /// Where each block begins in the object; one more for the end of the last.
    block_offsets: Vec<u64>,
}

impl Index {
    /// Reads the index of the segment that begins at `offset`. `len` is the length of the object where the segment must
    /// fill it to the last byte; `None` where others may follow (the undo journal).
    ///
    /// # Errors
    /// [`SegmentError::TooShort`] when `at` ends before the segment does; any other kind when it is not a segment, is
    /// damaged, or could not be read.
    pub fn read(at: &mut dyn ReadAt, offset: u64, len: Option<u64>) -> Result<Index, SegmentError> {
        let found = at.len()?.saturating_sub(offset).min(len.unwrap_or(u64::MAX));
        long_enough(TOTAL_MIN_BYTES, found)?;
        let mut header_bytes = [0; header::BYTES];
        at.read_exact_at(&mut header_bytes, offset)?;
        let unverified = UnverifiedHead::parse(&header_bytes)?;
        let total_len = unverified.total_len();
        long_enough(total_len, found)?;
        if len.is_some_and(|len| len != total_len) {
            return Err(SegmentError::Damaged { what: "bytes follow after its end" });
        }
        // From here no sum can overflow: offset + total_len lies within the source.
        let mut footer_bytes = [0; footer::BYTES];
        at.read_exact_at(&mut footer_bytes, offset + total_len - FOOTER_BYTES)?;
        let footer = Footer::parse(&footer_bytes, total_len)?;
        let mut stored_index = vec![0; footer.index_stored_len as usize];
        at.read_exact_at(&mut stored_index, offset + footer.index_offset)?;
        let proof = prove(&header_bytes, &stored_index, &footer_bytes)?;
        let (head, codec, version) = unverified.verified(&proof);
        let raw = decode(codec, &stored_index, footer.index_raw_len as usize)?;
        let (blocks, records) = decode_index(&raw, footer.block_count as usize)?;
        let block_offsets = block_offsets(&blocks, &footer)?;
        check_version(version, &records)?;
        check_records(&head, &blocks, &records)?;
        Ok(Index {
            head,
            codec,
            hash: proof.hash(),
            total_len,
            payload_raw_len: footer.payload_raw_len,
            records,
            blocks,
            block_offsets,
        })
    }

    /// What the segment says of itself.
    #[must_use]
    pub fn head(&self) -> &SegmentHead {
        &self.head
    }

    /// The hash of the segment.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// How its blocks and index are encoded.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// Bytes of all payloads, decoded.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_raw_len
    }

    /// Its records in the order of the log.
    #[must_use]
    pub fn records(&self) -> &[IndexRecord] {
        &self.records
    }

    /// Count of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Where the stored bytes of `block` lie within the object.
    ///
    /// # Panics
    /// When there is no such block; those that its records name are all there.
    #[must_use]
    pub fn block_range(&self, block: u32) -> Range<u64> {
        let block = block as usize;
        self.block_offsets[block]..self.block_offsets[block + 1]
    }

    /// Verifies the stored bytes of `block` by their hash.
    ///
    /// # Errors
    /// [`SegmentError::HashMismatch`] when they are not the bytes that were sealed.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn verify_block(&self, block: u32, stored: &[u8]) -> Result<(), SegmentError> {
        if Hash::of(stored) == self.blocks[block as usize].hash {
            Ok(())
        } else {
            Err(SegmentError::HashMismatch { part: Part::Block(block) })
        }
    }

    /// Verifies the stored bytes of `block` and decodes them; at most 1.25 MiB.
    ///
    /// # Errors
    /// [`SegmentError::HashMismatch`] when they are not the bytes that were sealed, [`SegmentError::Damaged`] when these are
    /// not what the index says.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn open_block(&self, block: u32, stored: &[u8]) -> Result<Vec<u8>, SegmentError> {
        self.verify_block(block, stored)?;
        self.decode_block(block, stored)
    }

    /// Decodes the stored bytes of `block`, which were verified.
    pub(super) fn decode_block(&self, block: u32, stored: &[u8]) -> Result<Vec<u8>, SegmentError> {
        decode(self.codec, stored, self.blocks[block as usize].raw_len as usize)
    }

    /// Reads `block` of the segment that begins at `offset` of `at`, verifies and decodes it.
    ///
    /// # Errors
    /// As [`Index::open_block`], and [`SegmentError::Io`] when it could not be read.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn read_block(&self, at: &mut dyn ReadAt, offset: u64, block: u32) -> Result<Vec<u8>, SegmentError> {
        let range = self.block_range(block);
        let mut stored = vec![0; self.blocks[block as usize].stored_len as usize];
        at.read_exact_at(&mut stored, offset + range.start)?;
        self.open_block(block, &stored)
    }
}

fn long_enough(needed: u64, found: u64) -> Result<(), SegmentError> {
    if found >= needed { Ok(()) } else { Err(SegmentError::TooShort { needed, found }) }
}

/// Where each block begins, after proving that they follow each other from the header to the index.
fn block_offsets(blocks: &[BlockEntry], footer: &Footer) -> Result<Vec<u64>, SegmentError> {
    let mut offsets = Vec::with_capacity(blocks.len() + 1);
    let (mut end, mut raw_sum) = (HEADER_BYTES, 0);
    for block in blocks {
        if block.raw_len == 0 || block.raw_len > BLOCK_RAW_MAX_BYTES {
            return Err(SegmentError::Damaged { what: "a block is empty or larger than a block may be" });
        }
        offsets.push(end);
        // Up to 2^20 blocks of less than 2^32 bytes each: no sum passes 64 bits.
        end += u64::from(block.stored_len);
        raw_sum += u64::from(block.raw_len);
    }
    offsets.push(end);
    if end != footer.index_offset {
        return Err(SegmentError::Damaged { what: "the blocks do not end where the index begins" });
    }
    if raw_sum != footer.payload_raw_len {
        return Err(SegmentError::Damaged { what: "payload_raw_len is not the sum of the blocks" });
    }
    Ok(offsets)
}

/// Holds the records against the rules, and the blocks against what the records' payloads make of them.
fn check_records(head: &SegmentHead, blocks: &[BlockEntry], records: &[IndexRecord]) -> Result<(), SegmentError> {
    let mut run = Run::new(head.kind);
    let mut raw_lens = blocks.iter().map(|block| block.raw_len);
    let other_blocks = SegmentError::Damaged { what: "the blocks are not what the payloads of the records make" };
    for entry in records {
        let place = run.take(&entry.record)?;
        if (entry.block, entry.position) != (place.block, place.position) {
            return Err(SegmentError::Record { seq: entry.record.seq, what: "its payload is not where it belongs" });
        }
        if place.closes_at.is_some() && raw_lens.next() != place.closes_at {
            return Err(other_blocks);
        }
    }
    let open = run.open_block_raw_len();
    if (open.is_some() && raw_lens.next() != open) || raw_lens.next().is_some() {
        return Err(other_blocks);
    }
    run.finish(head, records)
}

/// The lowest version that has the operations of `records`: the one that a segment bears.
pub(super) fn version_of(records: &[IndexRecord]) -> u16 {
    let newer = records.iter().any(|entry| matches!(entry.record.op, Op::Overflow | Op::Digest));
    if newer { VERSION_2 } else { VERSION_1 }
}

fn check_version(version: u16, records: &[IndexRecord]) -> Result<(), SegmentError> {
    if version == version_of(records) {
        Ok(())
    } else {
        Err(SegmentError::Damaged { what: "its version is not the lowest that has its operations" })
    }
}

/// The raw index.
pub(super) fn encode_index(blocks: &[BlockEntry], records: &[IndexRecord]) -> Vec<u8> {
    let mut raw = vec![0; blocks.len() * block::BYTES + records.len() * record::BYTES];
    let (block_bytes, record_bytes) = raw.split_at_mut(blocks.len() * block::BYTES);
    for (bytes, entry) in block_bytes.chunks_exact_mut(block::BYTES).zip(blocks) {
        block::STORED_LEN.put(bytes, &entry.stored_len.to_le_bytes());
        block::RAW_LEN.put(bytes, &entry.raw_len.to_le_bytes());
        block::HASH.put(bytes, &entry.hash.0);
    }
    for (bytes, entry) in record_bytes.chunks_exact_mut(record::BYTES).zip(records) {
        let r = &entry.record;
        record::SEQ.put(bytes, &r.seq.0.to_le_bytes());
        record::TIME.put(bytes, &r.time.0.to_le_bytes());
        record::OFFSET.put(bytes, &r.offset.to_le_bytes());
        record::LEN.put(bytes, &r.len.to_le_bytes());
        record::BLOCK.put(bytes, &entry.block.to_le_bytes());
        record::POSITION.put(bytes, &entry.position.to_le_bytes());
        record::DISK.put(bytes, &r.disk.0.to_le_bytes());
        record::OP.put(bytes, &[r.op.code()]);
        record::FLAGS.put(bytes, &[r.flags.0]);
    }
    raw
}

/// The entries of a raw index; its length was proved to be that of `block_count` blocks and some records.
fn decode_index(raw: &[u8], block_count: usize) -> Result<(Vec<BlockEntry>, Vec<IndexRecord>), SegmentError> {
    let (block_bytes, record_bytes) = raw.split_at(block_count * block::BYTES);
    let blocks = block_bytes.chunks_exact(block::BYTES).map(|bytes| BlockEntry {
        stored_len: block::STORED_LEN.u32(bytes),
        raw_len: block::RAW_LEN.u32(bytes),
        hash: Hash(block::HASH.array(bytes)),
    });
    let records = record_bytes.chunks_exact(record::BYTES).map(decode_record);
    Ok((blocks.collect(), records.collect::<Result<_, _>>()?))
}

fn decode_record(bytes: &[u8]) -> Result<IndexRecord, SegmentError> {
    let unknown = |what, found| SegmentError::Unknown { what, found };
    let (op, flags) = (record::OP.u8(bytes), record::FLAGS.u8(bytes));
    if !record::RESERVED.is_zero(bytes) {
        return Err(SegmentError::Damaged { what: "a reserved byte of a record is not zero" });
    }
    let record = Record {
        seq: Seq(record::SEQ.u64(bytes)),
        time: UnixMicros(record::TIME.u64(bytes)),
        disk: DiskIndex(record::DISK.u16(bytes)),
        op: Op::from_code(op).ok_or(unknown("operation", op))?,
        flags: RecordFlags::from_bits(flags).ok_or(unknown("set of record flags", flags))?,
        offset: record::OFFSET.u64(bytes),
        len: record::LEN.u64(bytes),
    };
    Ok(IndexRecord { record, block: record::BLOCK.u32(bytes), position: record::POSITION.u32(bytes) })
}
