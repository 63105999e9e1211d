//! The footer of a segment, and the hash that proves header, index and footer.

use super::SegmentError;
use super::error::{Part, limit};
use super::layout::{
    FOOTER_BYTES, FOOTER_MAGIC, HEADER_BYTES, INDEX_RAW_MAX_BYTES, RECORDS_MAX, block, footer, header, record,
};
use crate::ids::Hash;

/// What the footer says of the index. After [`Footer::parse`] it is consistent in itself and with `total_len`, and not
/// yet proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index_offset: u64,
    pub(super) index_stored_len: u32,
    pub(super) index_raw_len: u32,
    pub(super) record_count: u32,
    pub(super) block_count: u32,
    pub(super) payload_raw_len: u64,
}

/// That the hash of header, index and footer was compared and is right.
pub(super) struct Proof(Hash);

impl Proof {
    /// The hash of the segment.
    pub(super) fn hash(&self) -> Hash {
        self.0
    }
}

impl Footer {
    /// Parses the last bytes of a segment of `total_len` bytes.
    pub(super) fn parse(bytes: &[u8; footer::BYTES], total_len: u64) -> Result<Self, SegmentError> {
        if footer::MAGIC.get(bytes) != FOOTER_MAGIC {
            return Err(SegmentError::BadMagic);
        }
        if !footer::RESERVED.is_zero(bytes) {
            return Err(SegmentError::Damaged { what: "a reserved byte of the footer is not zero" });
        }
        let parsed = Self {
            index_offset: footer::INDEX_OFFSET.u64(bytes),
            index_stored_len: footer::INDEX_STORED_LEN.u32(bytes),
            index_raw_len: footer::INDEX_RAW_LEN.u32(bytes),
            record_count: footer::RECORD_COUNT.u32(bytes),
            block_count: footer::BLOCK_COUNT.u32(bytes),
            payload_raw_len: footer::PAYLOAD_RAW_LEN.u64(bytes),
        };
        let end = parsed.index_offset.checked_add(u64::from(parsed.index_stored_len) + FOOTER_BYTES);
        if parsed.index_offset < HEADER_BYTES || end != Some(total_len) {
            return Err(SegmentError::Damaged { what: "the index does not lie between header and footer" });
        }
        limit("records", u64::from(parsed.record_count), RECORDS_MAX)?;
        limit("index_raw_len", u64::from(parsed.index_raw_len), INDEX_RAW_MAX_BYTES)?;
        if u64::from(parsed.index_raw_len) != index_raw_len(parsed.block_count.into(), parsed.record_count.into()) {
            return Err(SegmentError::Damaged { what: "index_raw_len is not what its blocks and records take" });
        }
        Ok(parsed)
    }

    /// The footer's bytes, closed with the hash of `header`, `stored_index` and itself.
    pub(super) fn encode(&self, header: &[u8; header::BYTES], stored_index: &[u8]) -> ([u8; footer::BYTES], Hash) {
        let mut bytes = [0; footer::BYTES];
        footer::INDEX_OFFSET.put(&mut bytes, &self.index_offset.to_le_bytes());
        footer::INDEX_STORED_LEN.put(&mut bytes, &self.index_stored_len.to_le_bytes());
        footer::INDEX_RAW_LEN.put(&mut bytes, &self.index_raw_len.to_le_bytes());
        footer::RECORD_COUNT.put(&mut bytes, &self.record_count.to_le_bytes());
        footer::BLOCK_COUNT.put(&mut bytes, &self.block_count.to_le_bytes());
        footer::PAYLOAD_RAW_LEN.put(&mut bytes, &self.payload_raw_len.to_le_bytes());
        let hash = segment_hash(header, stored_index, &bytes);
        footer::HASH.put(&mut bytes, &hash.0);
        footer::MAGIC.put(&mut bytes, &FOOTER_MAGIC);
        (bytes, hash)
    }
}

/// Bytes of a raw index.
pub(super) fn index_raw_len(blocks: u64, records: u64) -> u64 {
    blocks * block::BYTES as u64 + records * record::BYTES as u64
}

/// Compares the hash in the footer with that of the bytes it covers.
pub(super) fn prove(
    header: &[u8; header::BYTES],
    stored_index: &[u8],
    footer: &[u8; footer::BYTES],
) -> Result<Proof, SegmentError> {
    let hash = segment_hash(header, stored_index, footer);
    if hash.0 == footer::HASH.array(footer) {
        Ok(Proof(hash))
    } else {
        Err(SegmentError::HashMismatch { part: Part::Index })
    }
}

fn segment_hash(header: &[u8; header::BYTES], stored_index: &[u8], footer: &[u8; footer::BYTES]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(stored_index).update(&footer[..footer::HASHED_BYTES]);
    Hash(*hasher.finalize().as_bytes())
}
