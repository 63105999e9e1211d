//! A whole segment in memory.

use bytes::Bytes;

use super::{Index, SegmentError, validate};
use crate::op::Record;

/// A segment in memory of which every stored byte was verified. Blocks are decoded as they are asked for.
#[derive(Debug, Clone)]
pub struct Segment {
    index: Index,
    bytes: Bytes,
}

impl Segment {
    /// Takes an object and verifies it: header, index and footer, and the hash of every block.
    ///
    /// # Errors
    /// [`SegmentError`] of any kind when the bytes are not exactly one whole, undamaged segment of this version.
    pub fn parse(bytes: Bytes) -> Result<Segment, SegmentError> {
        let index = Index::read(&mut &bytes[..], 0, Some(bytes.len() as u64))?;
        let segment = Segment { index, bytes };
        for block in segment.block_numbers() {
            segment.index.verify_block(block, segment.stored(block))?;
        }
        Ok(segment)
    }

    /// Everything but the payload.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The object, as it is stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes `block`, at most 1.25 MiB.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] when it was sealed with other bytes than the index says.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn open_block(&self, block: u32) -> Result<Vec<u8>, SegmentError> {
        self.index.decode_block(block, self.stored(block))
    }

    /// Calls `f` with each record and its payload (empty where it has none), in the order of the log. One block at a time is
    /// decoded.
    ///
    /// # Errors
    /// The first error of `f`; a [`SegmentError`] when a block cannot be decoded or a payload breaks a rule.
    pub fn for_each<E: From<SegmentError>>(&self, mut f: impl FnMut(&Record, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut open: Option<(u32, Vec<u8>)> = None;
        for entry in self.index.records() {
            let range = entry.payload_range();
            if range.is_empty() {
                f(&entry.record, &[])?;
                continue;
            }
            let raw = match &mut open {
                Some((block, raw)) if *block == entry.block => raw,
                other => &mut other.insert((entry.block, self.open_block(entry.block)?)).1,
            };
            let payload = &raw[range];
            validate::payload(&entry.record, payload)?;
            f(&entry.record, payload)?;
        }
        Ok(())
    }

    fn block_numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.index.block_count()).expect("the block count of a segment has 32 bits")
    }

    /// The stored bytes of `block`; the index was proved to lie within the object.
    fn stored(&self, block: u32) -> &[u8] {
        let range = self.index.block_range(block);
        &self.bytes[range.start as usize..range.end as usize]
    }
}
