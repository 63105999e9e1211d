//! A points catalogue of foreign bytes: refused, or points that survive being written.
#![no_main]

use farshore_fuzz::{Scratch, put};
use farshore_processor::points;
use libfuzzer_sys::fuzz_target;

const HASH_BYTES: usize = 32;

fn read(bytes: &[u8]) {
    Scratch::with(bytes, bytes.len() as u64, |path| {
        let Ok(read) = points::read(path) else { return };
        points::write(path, &read).expect("the temporary file can be written");
        assert_eq!(points::read(path).expect("what was written is whole"), read);
    });
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Some(at) = data.len().checked_sub(HASH_BYTES) {
        let mut whole = data.to_vec();
        let hash = blake3::hash(&whole[..at]);
        put(&mut whole, at, hash.as_bytes());
        read(&whole);
    }
});
