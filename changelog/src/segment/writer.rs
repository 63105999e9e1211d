//! Records in, one sealed object out.

use std::fmt;

use super::codec::bound_bytes;
use super::error::limit;
use super::footer::{Footer, index_raw_len};
use super::index::{BlockEntry, IndexRecord, encode_index, version_of};
use super::layout::{FOOTER_BYTES, HEADER_BYTES, INDEX_RAW_MAX_BYTES, TOTAL_MAX_BYTES, header};
use super::press::{BlockPress, Press, Pressed, Pressing};
use super::validate::{self, Run};
use super::{Kind, SegmentError, SegmentHead, Stamp, head};
use crate::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use crate::op::{Record, RecordFlags};
use crate::units::UnixMicros;

/// A finished segment: the bytes as they are stored, their hash, and what their header says.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The whole object.
    pub bytes: Vec<u8>,
    /// The hash of the segment: `prev` of the one after it.
    pub hash: Hash,
    /// What its header says.
    pub head: SegmentHead,
}

/// Takes records and payloads in order and seals them. Blocks are encoded as they fill, so that the work is spread over the
/// time the records come in; by the writer itself, or by a [`Press`] of its caller.
pub struct SegmentWriter {
    kind: Kind,
    /// For the index; and for the blocks, where nobody else does them.
    own: BlockPress,
    level: i32,
    press: Option<Box<dyn Press>>,
    run: Run,
    records: Vec<IndexRecord>,
    /// The blocks that were closed.
    blocks: Vec<Pressing>,
    /// Most bytes that they can take.
    blocks_bound: u64,
    /// The payloads of the block that is not closed yet.
    open_block: Vec<u8>,
    payload_bytes: u64,
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, records, payload_bytes) = (self.kind, self.records.len(), self.payload_bytes);
        write!(f, "SegmentWriter({kind:?}, {records} records, {payload_bytes} bytes)")
    }
}

impl SegmentWriter {
    /// A writer without records. `level` is zstd's compression level; `None` stores the bytes as they are.
    #[must_use]
    pub fn new(kind: Kind, level: Option<i32>) -> Self {
        Self {
            kind,
            own: BlockPress::new(level),
            level: level.unwrap_or_default(),
            press: None,
            run: Run::new(kind),
            records: Vec::new(),
            blocks: Vec::new(),
            blocks_bound: 0,
            open_block: Vec::new(),
            payload_bytes: 0,
        }
    }

    /// As [`SegmentWriter::new`], compressed at `level`, with blocks that `press` does.
    #[must_use]
    pub fn with_press(kind: Kind, level: i32, press: Box<dyn Press>) -> Self {
        Self { press: Some(press), ..Self::new(kind, Some(level)) }
    }

    /// The compression level of the blocks that come. A writer that stores goes on to store.
    pub fn set_level(&mut self, level: i32) {
        self.level = level;
    }

    /// Adds a record and its payload (empty where the operation has none). Records come in the order of the log; of a
    /// folded one the pieces come in rising order. `BOUNDARY` is taken as given; [`SegmentWriter::seal`] sets it on the last.
    ///
    /// # Errors
    /// [`SegmentError::Record`] when the record breaks a rule, [`SegmentError::Limit`] when the segment could become too
    /// large: the writer is as it was before, and can be sealed. [`SegmentError::Io`] when the compressor has failed: drop the
    /// writer.
    pub fn push(&mut self, record: &Record, payload: &[u8]) -> Result<(), SegmentError> {
        validate::payload(record, payload)?;
        self.room_for(payload.len() as u64)?;
        let place = self.run.take(record)?;
        self.records.push(IndexRecord { record: *record, block: place.block, position: place.position });
        self.open_block.extend_from_slice(payload);
        self.payload_bytes += payload.len() as u64;
        if place.closes_at.is_some() { self.close_block() } else { Ok(()) }
    }

    /// Bytes of payload taken so far, before encoding.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Records taken so far.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.records.len()
    }

    /// Ends the segment. The last record of a log segment becomes a boundary.
    ///
    /// # Errors
    /// [`SegmentError::Record`] or [`SegmentError::Damaged`] when stamp and records contradict each other or the format (a
    /// log segment that ends inside a request, seqs outside of the stamp's); [`SegmentError::Io`] when the compressor has
    /// failed.
    pub fn seal(mut self, stamp: Stamp) -> Result<Sealed, SegmentError> {
        if let (Kind::Log, Some(last)) = (self.kind, self.records.last_mut()) {
            if last.record.flags.has(RecordFlags::MORE) {
                return Err(SegmentError::Record {
                    seq: last.record.seq,
                    what: "a segment must not end inside a request",
                });
            }
            last.record.flags = last.record.flags.with(RecordFlags::BOUNDARY);
        }
        let (min_time, max_time) = self.run.times(stamp.created);
        let head = SegmentHead {
            kind: self.kind,
            group: stamp.group,
            epoch: stamp.epoch,
            number: stamp.number,
            first_seq: stamp.first_seq,
            last_seq: stamp.last_seq,
            min_time,
            max_time,
            created: stamp.created,
            watermark: stamp.watermark,
            prev: stamp.prev,
            successor: Epoch(0),
            nonce: [0; 16],
        };
        self.close(head)
    }

    /// The seal of `epoch` at `number`, which makes way for `successor`, opened with `nonce`.
    ///
    /// # Panics
    /// When `epoch` or `number` is 0, or `successor` is not the epoch after `epoch`: a programming error.
    #[must_use]
    pub fn seal_object(
        group: GroupName,
        epoch: Epoch,
        number: SegmentNo,
        successor: Epoch,
        nonce: [u8; 16],
        created: UnixMicros,
    ) -> Sealed {
        let head = SegmentHead {
            kind: Kind::Seal,
            group,
            epoch,
            number,
            first_seq: Seq(1),
            last_seq: Seq(0),
            min_time: created,
            max_time: created,
            created,
            watermark: SegmentNo(0),
            prev: Hash::ZERO,
            successor,
            nonce,
        };
        Self::new(Kind::Seal, None)
            .close(head)
            .expect("a seal of an epoch at a number, for the epoch after it, is valid")
    }

    fn close(mut self, head: SegmentHead) -> Result<Sealed, SegmentError> {
        self.run.finish(&head, &self.records)?;
        if !self.open_block.is_empty() {
            self.close_block()?;
        }
        let blocks = std::mem::take(&mut self.blocks).into_iter().map(Pressing::wait);
        let blocks: Vec<Pressed> = blocks.collect::<Result<_, _>>()?;
        let entries = blocks.iter().map(|block| BlockEntry {
            stored_len: narrow(block.stored.len()),
            raw_len: narrow(block.raw_len),
            hash: block.hash,
        });
        let entries: Vec<BlockEntry> = entries.collect();
        let raw_index = encode_index(&entries, &self.records);
        let index_offset = header::BYTES + blocks.iter().map(|block| block.stored.len()).sum::<usize>();
        let index_bound = usize::try_from(bound_bytes(self.own.codec(), raw_index.len() as u64));
        let mut object = Vec::with_capacity(index_offset + index_bound.unwrap_or_default() + FOOTER_BYTES as usize);
        object.resize(header::BYTES, 0);
        for block in blocks {
            object.extend_from_slice(&block.stored);
        }
        let index_stored_len = self.own.encode(&raw_index, &mut object)?;
        let total_len = object.len() as u64 + FOOTER_BYTES;
        let header = head::encode(&head, version_of(&self.records), self.own.codec(), total_len);
        let footer = Footer {
            index_offset: index_offset as u64,
            index_stored_len: narrow(index_stored_len),
            index_raw_len: narrow(raw_index.len()),
            record_count: narrow(self.records.len()),
            block_count: narrow(entries.len()),
            payload_raw_len: self.payload_bytes,
        };
        let (footer, hash) = footer.encode(&header, &object[index_offset..]);
        object[..header::BYTES].copy_from_slice(&header);
        object.extend_from_slice(&footer);
        Ok(Sealed { bytes: object, hash, head })
    }

    fn close_block(&mut self) -> Result<(), SegmentError> {
        let bound = bound_bytes(self.own.codec(), self.open_block.len() as u64);
        let pressing = match &mut self.press {
            Some(press) => {
                self.blocks_bound += bound;
                press.press(&mut self.open_block, self.level)
            }
            None => {
                self.own.set_level(self.level)?;
                let pressed = self.own.press(&self.open_block)?;
                self.blocks_bound += pressed.stored.len() as u64;
                self.open_block.clear();
                Pressing::Done(Ok(pressed))
            }
        };
        self.blocks.push(pressing);
        Ok(())
    }

    /// Refuses a payload with which the segment could pass a limit, however badly the rest compresses.
    fn room_for(&self, payload_bytes: u64) -> Result<(), SegmentError> {
        let codec = self.own.codec();
        let index_raw = index_raw_len(self.blocks.len() as u64 + 1, self.records.len() as u64 + 1);
        limit("index_raw_len", index_raw, INDEX_RAW_MAX_BYTES)?;
        let open_block = bound_bytes(codec, self.open_block.len() as u64 + payload_bytes);
        let total = HEADER_BYTES + self.blocks_bound + open_block + bound_bytes(codec, index_raw) + FOOTER_BYTES;
        limit("total_len", total, TOTAL_MAX_BYTES)
    }
}

/// A length that the limits keep within 32 bits.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("the limits of a segment fit in 32 bits")
}

const _: () = assert!(TOTAL_MAX_BYTES <= u32::MAX as u64 && HEADER_BYTES < TOTAL_MAX_BYTES);
