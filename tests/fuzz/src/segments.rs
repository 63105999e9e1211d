//! Segments with right hashes around whatever the fuzzer put into them.

use farshore_changelog::op::Record;
use farshore_changelog::segment::{Codec, Index, Kind, SegmentHead, SegmentWriter, Stamp};

use crate::{put, u32_at, u64_at};

const HEADER_BYTES: usize = 256;
const TOTAL_LEN: usize = 16;
const FOOTER_BYTES: usize = 88;
const FOOTER_HASH: usize = 48;
const BLOCK_ENTRY_BYTES: usize = 40;
const BLOCK_ENTRY_HASH: usize = 8;

/// Makes `bytes` one segment as far as lengths and hashes go; `false` when they are too few.
pub fn whole_segment(bytes: &mut [u8]) -> bool {
    let Some(footer) = bytes.len().checked_sub(FOOTER_BYTES).filter(|footer| *footer >= HEADER_BYTES) else {
        return false;
    };
    let total = bytes.len() as u64;
    put(bytes, TOTAL_LEN, &total.to_le_bytes());
    let index = usize::try_from(u64_at(bytes, footer)).unwrap_or(usize::MAX).clamp(HEADER_BYTES, footer);
    put(bytes, footer, &(index as u64).to_le_bytes());
    put(bytes, footer + 8, &((footer - index) as u32).to_le_bytes());
    let stored = bytes[11] == 0;
    if stored {
        put(bytes, footer + 12, &((footer - index) as u32).to_le_bytes());
        block_hashes(bytes, index, footer);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..HEADER_BYTES]).update(&bytes[index..footer + FOOTER_HASH]);
    put(bytes, footer + FOOTER_HASH, hasher.finalize().as_bytes());
    true
}

/// Right hashes in the block entries of an index that is stored as it is.
fn block_hashes(bytes: &mut [u8], index: usize, footer: usize) {
    let blocks = u32_at(bytes, footer + 20) as usize;
    let mut start = HEADER_BYTES;
    for entry in (index..footer).step_by(BLOCK_ENTRY_BYTES).take(blocks) {
        let end = start.saturating_add(u32_at(bytes, entry) as usize);
        if end > index || entry + BLOCK_ENTRY_BYTES > footer {
            return;
        }
        let hash = blake3::hash(&bytes[start..end]);
        put(bytes, entry + BLOCK_ENTRY_HASH, hash.as_bytes());
        start = end;
    }
}

/// Makes `bytes` a run of segments: each as long as its header says, the last takes the rest.
pub fn journal(bytes: &mut [u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let claimed = usize::try_from(u64_at(rest, TOTAL_LEN)).unwrap_or(usize::MAX);
        let fits = claimed >= HEADER_BYTES + FOOTER_BYTES && claimed <= rest.len();
        let (segment, after) = rest.split_at_mut(if fits { claimed } else { rest.len() });
        whole_segment(segment);
        rest = after;
    }
}

/// What the writer makes of what the reader has read; `None` where that need not be the same bytes (another release of
/// zstd gives other ones).
#[must_use]
pub fn rewrite(index: &Index, entries: &[(Record, Vec<u8>)]) -> Option<Vec<u8>> {
    if index.codec() != Codec::Stored {
        return None;
    }
    let SegmentHead { kind, epoch, number, created, .. } = *index.head();
    let head = index.head().clone();
    if kind == Kind::Seal {
        let seal = SegmentWriter::seal_object(head.group, epoch, number, head.successor, head.nonce, created);
        return Some(seal.bytes);
    }
    let mut writer = SegmentWriter::new(kind, None);
    for (record, payload) in entries {
        writer.push(record, payload).expect("what the reader took, the writer takes");
    }
    let stamp = Stamp {
        group: head.group,
        epoch,
        number,
        first_seq: head.first_seq,
        last_seq: head.last_seq,
        created,
        watermark: head.watermark,
        prev: head.prev,
    };
    Some(writer.seal(stamp).expect("what the reader took, the writer seals").bytes)
}
