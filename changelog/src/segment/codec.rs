//! Blocks and index to stored bytes and back.

use std::cell::RefCell;
use std::io::{self, Cursor};

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::{Codec, SegmentError};

/// Most bytes that `raw_len` bytes can take once encoded.
pub(super) fn bound_bytes(codec: Codec, raw_len: u64) -> u64 {
    match codec {
        Codec::Stored => raw_len,
        Codec::Zstd => zstd_safe::compress_bound(usize::try_from(raw_len).unwrap_or(usize::MAX)) as u64,
    }
}

/// Encodes pieces one after the other with one codec, and keeps the compressor's memory between them.
pub(super) struct Encoder {
    level: Option<i32>,
    zstd: Option<Compressor<'static>>,
}

impl Encoder {
    /// `level` is zstd's; `None` stores the bytes as they are.
    pub(super) fn new(level: Option<i32>) -> Self {
        Self { level, zstd: None }
    }

    /// The level of what comes; of an encoder that compresses.
    pub(super) fn set_level(&mut self, level: i32) -> io::Result<()> {
        if self.level.is_none_or(|before| before == level) {
            return Ok(());
        }
        self.level = Some(level);
        self.zstd.as_mut().map_or(Ok(()), |zstd| zstd.set_compression_level(level))
    }

    pub(super) fn codec(&self) -> Codec {
        if self.level.is_some() { Codec::Zstd } else { Codec::Stored }
    }

    /// Appends `raw`, encoded, to `out` and gives the count of bytes appended.
    pub(super) fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        let Some(level) = self.level else {
            out.extend_from_slice(raw);
            return Ok(raw.len());
        };
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Compressor::new(level)?),
        };
        out.reserve(zstd_safe::compress_bound(raw.len()));
        let mut tail = Cursor::new(out);
        tail.set_position(start as u64);
        zstd.compress_to_buffer(raw, &mut tail)
    }
}

thread_local! {
    /// Its memory is as large as a block, so it is not made for each of them.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The outer error: there is no memory for it.
fn decompress(stored: &[u8], raw: &mut Vec<u8>) -> io::Result<io::Result<usize>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        Ok(decompressor.decompress_to_buffer(stored, raw))
    })
}

/// Decodes `stored` into exactly `raw_len` bytes, which the caller has held against a limit.
pub(super) fn decode(codec: Codec, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, SegmentError> {
    let wrong_len = SegmentError::Damaged { what: "a block or the index does not have the length it claims" };
    match codec {
        Codec::Stored if stored.len() == raw_len => Ok(stored.to_vec()),
        Codec::Stored => Err(wrong_len),
        Codec::Zstd => {
            let frame = zstd_safe::find_frame_compressed_size(stored);
            if frame != Ok(stored.len()) {
                return Err(SegmentError::Damaged { what: "a block or the index is not exactly one zstd frame" });
            }
            let mut raw = Vec::with_capacity(raw_len);
            // A frame that holds more than there is room for fails here; the room is never grown.
            decompress(stored, &mut raw)?
                .map_err(|_| SegmentError::Damaged { what: "a block or the index cannot be decompressed" })?;
            if raw.len() == raw_len { Ok(raw) } else { Err(wrong_len) }
        }
    }
}
