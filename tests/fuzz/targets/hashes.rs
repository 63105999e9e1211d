//! `hashes::Chunk::parse` on foreign bytes: refused, or exactly what the writer would have written.
#![no_main]

use farshore_changelog::hashes::Chunk;
use farshore_fuzz::{put, u32_at};
use libfuzzer_sys::fuzz_target;

/// Bytes before the hashes, and of one hash.
const HEADER_BYTES: usize = 128;
const HASH_BYTES: usize = 32;

fn read(bytes: &[u8]) {
    if let Ok(chunk) = Chunk::parse(bytes) {
        assert!(chunk.encode() == bytes, "the writer gives other bytes than the reader took");
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    // Made whole again: the length that the count says, and the right hash.
    let mut whole = data.to_vec();
    put(&mut whole, 0, b"FARSHHSH");
    let count = u32_at(&whole, 108) as usize % 64;
    whole.resize(HEADER_BYTES + count * HASH_BYTES, 7);
    put(&mut whole, 108, &(count as u32).to_le_bytes());
    let sum = blake3::hash(&whole);
    whole.extend(sum.as_bytes());
    read(&whole);
});
