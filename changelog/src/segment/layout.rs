//! Where every field of a segment lies, and every limit. `docs/format.md` has the same tables; each offset here is
//! derived from the field before it, so that none can drift, and the sums are compared with the specified sizes.

use crate::units::RECORD_PAYLOAD_MAX_BYTES;

/// First bytes of every segment.
pub const HEADER_MAGIC: [u8; 8] = *b"FARSHSEG";
/// Last bytes of every segment.
pub const FOOTER_MAGIC: [u8; 8] = *b"GESHSRAF";
/// The version of a segment all of whose operations [`VERSION_1`] knows.
pub const VERSION_1: u16 = 1;
/// Version 1 with the operations overflow and digest. A segment bears the lowest version that has its operations, so that an
/// older reader refuses just what it could not apply.
pub const VERSION_2: u16 = 2;

/// Largest epoch, number and seq of a segment: readers count on from them.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Largest segment, in bytes.
pub const TOTAL_MAX_BYTES: u64 = 64 << 20;
/// Largest raw index, in bytes.
pub const INDEX_RAW_MAX_BYTES: u64 = 32 << 20;
/// Most records in a segment.
pub const RECORDS_MAX: u64 = 500_000;
/// A block is closed once it holds this many bytes of payload.
pub const BLOCK_CLOSES_AT_BYTES: u32 = 256 << 10;
/// Largest raw block, in bytes: one that was not yet closed, and the largest payload.
pub const BLOCK_RAW_MAX_BYTES: u32 = BLOCK_CLOSES_AT_BYTES + RECORD_PAYLOAD_MAX_BYTES;

/// A field of a fixed layout: where it begins and how long it is, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    at: usize,
    len: usize,
}

impl Field {
    const fn first(len: usize) -> Self {
        Self { at: 0, len }
    }

    const fn then(self, len: usize) -> Self {
        Self { at: self.end(), len }
    }

    pub(super) const fn at(self) -> usize {
        self.at
    }

    pub(super) const fn end(self) -> usize {
        self.at + self.len
    }

    /// The field's bytes in a structure whose length was proved.
    pub(super) fn get(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at..self.end()]
    }

    /// The field as an array of its own length.
    pub(super) fn array<const N: usize>(self, bytes: &[u8]) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.get(bytes));
        array
    }

    pub(super) fn u64(self, bytes: &[u8]) -> u64 {
        u64::from_le_bytes(self.array(bytes))
    }

    pub(super) fn u32(self, bytes: &[u8]) -> u32 {
        u32::from_le_bytes(self.array(bytes))
    }

    pub(super) fn u16(self, bytes: &[u8]) -> u16 {
        u16::from_le_bytes(self.array(bytes))
    }

    pub(super) fn u8(self, bytes: &[u8]) -> u8 {
        u8::from_le_bytes(self.array(bytes))
    }

    pub(super) fn is_zero(self, bytes: &[u8]) -> bool {
        self.get(bytes).iter().all(|b| *b == 0)
    }

    /// Writes a value of the field's own length.
    pub(super) fn put(self, bytes: &mut [u8], value: &[u8]) {
        bytes[self.at..self.end()].copy_from_slice(value);
    }
}

/// The header.
pub(super) mod header {
    use super::Field;
    use crate::ids::GROUP_NAME_MAX_BYTES;

    pub const MAGIC: Field = Field::first(8);
    pub const VERSION: Field = MAGIC.then(2);
    pub const KIND: Field = VERSION.then(1);
    pub const CODEC: Field = KIND.then(1);
    pub const RESERVED_A: Field = CODEC.then(4);
    pub const TOTAL_LEN: Field = RESERVED_A.then(8);
    pub const GROUP: Field = TOTAL_LEN.then(GROUP_NAME_MAX_BYTES);
    pub const EPOCH: Field = GROUP.then(8);
    pub const NUMBER: Field = EPOCH.then(8);
    pub const FIRST_SEQ: Field = NUMBER.then(8);
    pub const LAST_SEQ: Field = FIRST_SEQ.then(8);
    pub const MIN_TIME: Field = LAST_SEQ.then(8);
    pub const MAX_TIME: Field = MIN_TIME.then(8);
    pub const CREATED: Field = MAX_TIME.then(8);
    pub const WATERMARK: Field = CREATED.then(8);
    pub const PREV: Field = WATERMARK.then(32);
    pub const SUCCESSOR: Field = PREV.then(8);
    pub const NONCE: Field = SUCCESSOR.then(16);
    pub const RESERVED_B: Field = NONCE.then(48);
    pub const BYTES: usize = RESERVED_B.end();
}

/// A block entry of the index.
pub(super) mod block {
    use super::Field;

    pub const STORED_LEN: Field = Field::first(4);
    pub const RAW_LEN: Field = STORED_LEN.then(4);
    pub const HASH: Field = RAW_LEN.then(32);
    pub const BYTES: usize = HASH.end();
}

/// A record entry of the index.
pub(super) mod record {
    use super::Field;

    pub const SEQ: Field = Field::first(8);
    pub const TIME: Field = SEQ.then(8);
    pub const OFFSET: Field = TIME.then(8);
    pub const LEN: Field = OFFSET.then(8);
    pub const BLOCK: Field = LEN.then(4);
    pub const POSITION: Field = BLOCK.then(4);
    pub const DISK: Field = POSITION.then(2);
    pub const OP: Field = DISK.then(1);
    pub const FLAGS: Field = OP.then(1);
    pub const RESERVED: Field = FLAGS.then(4);
    pub const BYTES: usize = RESERVED.end();
}

/// The footer.
pub(super) mod footer {
    use super::Field;

    pub const INDEX_OFFSET: Field = Field::first(8);
    pub const INDEX_STORED_LEN: Field = INDEX_OFFSET.then(4);
    pub const INDEX_RAW_LEN: Field = INDEX_STORED_LEN.then(4);
    pub const RECORD_COUNT: Field = INDEX_RAW_LEN.then(4);
    pub const BLOCK_COUNT: Field = RECORD_COUNT.then(4);
    pub const PAYLOAD_RAW_LEN: Field = BLOCK_COUNT.then(8);
    pub const RESERVED: Field = PAYLOAD_RAW_LEN.then(16);
    pub const HASH: Field = RESERVED.then(32);
    pub const MAGIC: Field = HASH.then(8);
    pub const BYTES: usize = MAGIC.end();
    /// The bytes of the footer that its hash covers.
    pub const HASHED_BYTES: usize = HASH.at();
}

/// Where a segment says its kind ([`super::Kind`], one byte).
pub const KIND_AT: usize = header::KIND.at();
/// Bytes of the header; block 0 begins after it.
pub const HEADER_BYTES: u64 = header::BYTES as u64;
/// Bytes of the footer.
pub const FOOTER_BYTES: u64 = footer::BYTES as u64;
/// The smallest segment: no block and an empty index.
pub const TOTAL_MIN_BYTES: u64 = HEADER_BYTES + FOOTER_BYTES;

// The sizes that docs/format.md names.
const _: () = assert!(header::BYTES == 256 && block::BYTES == 40 && record::BYTES == 48);
const _: () = assert!(footer::BYTES == 88 && footer::HASHED_BYTES == 48);
const _: () = assert!(BLOCK_RAW_MAX_BYTES == (1 << 20) + (1 << 18));
