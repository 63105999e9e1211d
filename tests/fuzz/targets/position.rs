//! A target's position file of foreign bytes: refused, or one of its two slots.
#![no_main]

use farshore_fuzz::{Scratch, put};
use farshore_processor::position::{PositionFile, ReplayPosition};
use libfuzzer_sys::fuzz_target;

const SLOT_BYTES: usize = 4096;
const HASH: usize = 224;
const WHOLE_HASH: usize = 296;

fn read(bytes: &[u8]) {
    Scratch::with(bytes, bytes.len() as u64, |path| {
        let read = ReplayPosition::read(path).map(|position| position.expect("there is a file"));
        match (read, PositionFile::open(path)) {
            (Ok(read), Ok(mut opened)) => {
                assert_eq!(opened.current(), &read);
                let next = ReplayPosition { undo_end: 1, ..read };
                opened.advance(next).expect("the temporary file can be written");
                let written = ReplayPosition::read(path).expect("what was written is whole");
                assert_eq!(written.as_ref(), Some(opened.current()));
            }
            (Err(_), Err(_)) => {}
            (read, opened) => panic!("read {read:?}, opened {opened:?}"),
        }
    });
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut whole = data.to_vec();
    for slot in whole.chunks_mut(SLOT_BYTES).filter(|slot| slot.len() >= WHOLE_HASH + 32) {
        for at in [HASH, WHOLE_HASH] {
            let hash = blake3::hash(&slot[..at]);
            put(slot, at, hash.as_bytes());
        }
    }
    read(&whole);
});
