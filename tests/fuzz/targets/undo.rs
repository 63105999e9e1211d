//! An undo journal of foreign bytes: a run of batches, read one after the other until one is refused or none is left.
#![no_main]

use farshore_changelog::segment::Index;
use farshore_fuzz::journal;
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    let mut at = bytes;
    let mut offset = 0;
    while let Ok(index) = Index::read(&mut at, offset, None) {
        let mut payload = 0;
        for block in 0..u32::try_from(index.block_count()).expect("a block count has 32 bits") {
            let range = index.block_range(block);
            assert!(range.end <= index.total_len());
            let Ok(raw) = index.read_block(&mut at, offset, block) else { return };
            for entry in index.records().iter().filter(|r| r.block == block && r.record.payload_len() > 0) {
                payload += raw[entry.payload_range()].len() as u64;
            }
        }
        assert_eq!(payload, index.payload_bytes());
        offset += index.total_len();
        assert!(offset <= bytes.len() as u64);
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut whole = data.to_vec();
    journal(&mut whole);
    read(&whole);
});
