//! A ring file of foreign bytes: refused, or opened, recovered and used. Never a crash, whatever another process left there.
//!
//! Input: the header page, then the bytes from offset 4096 on (the first lane and its slots). The length of the file is made
//! what the header says.
#![no_main]

use std::path::Path;

use farshore_changelog::ring::{Ring, Settled, boot_id};
use farshore_fuzz::{Scratch, put, u32_at, u64_at};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 4096;
const LANE_COUNT: usize = 12;
const SLOTS_PER_LANE: usize = 88;
const PAYLOAD_BYTES: usize = 96;
const BOOT_ID: usize = 104;
const CRC: usize = 128;
const DISK_TABLE: usize = 1024;
const SLOT_BYTES: u64 = 64;
/// Larger rings are refused here, not by the code: they say nothing new and take memory.
const FILE_MAX_BYTES: u64 = 64 << 20;
/// Records taken from one ring.
const TAKEN_MAX: usize = 10_000;

/// A header that passes its checksum and is of this boot; gives the length of its file.
fn whole_header(page: &mut [u8]) -> u64 {
    put(page, BOOT_ID, &boot_id().expect("Linux has a boot id"));
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..CRC]);
    crc.update(&page[DISK_TABLE..]);
    put(page, CRC, &crc.finalize().to_le_bytes());
    let slots = u64::from(u32_at(page, SLOTS_PER_LANE)) * SLOT_BYTES;
    let lane = (HEADER_BYTES as u64 + slots).checked_add(u64_at(page, PAYLOAD_BYTES));
    let lanes = lane.and_then(|lane| lane.checked_mul(u64::from(u32_at(page, LANE_COUNT))));
    lanes.and_then(|lanes| lanes.checked_add(HEADER_BYTES as u64)).unwrap_or(u64::MAX)
}

fn open_and_use(path: &Path) {
    let Ok(ring) = Ring::open(path) else { return };
    let _ = (ring.shipper_state(), ring.shipper_seen(), ring.spool_bytes());
    assert!(ring.confirmed_seq() < ring.next_seq());
    let mut n = 0;
    let recovered = ring.recover(&mut |record, payload| {
        n += 1;
        assert!(payload.is_empty() || payload.len() as u64 == record.payload_len());
        payload.fill(0x5a);
        if n % 3 == 0 { Settled::Unreadable } else { Settled::Reread }
    });
    if recovered.is_err() {
        return;
    }
    let mut consumer = ring.consumer();
    let mut taken = Vec::new();
    while taken.len() < TAKEN_MAX
        && let Ok(Some(next)) = consumer.take()
    {
        assert_eq!(next.payload().len() as u64, next.record().payload_len());
        taken.push(next);
    }
    let upto = consumer.position();
    consumer.release(upto, taken);
    for lane in 0..ring.spec().lanes {
        let mut producer = ring.producer(lane);
        if let Some(mut slot) = producer.reserve(4096) {
            slot.payload_mut().fill(1);
            slot.give_back();
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if data.len() < HEADER_BYTES {
        return Scratch::with(data, data.len() as u64, open_and_use);
    }
    let mut bytes = data.to_vec();
    let len = whole_header(&mut bytes[..HEADER_BYTES]);
    if len <= FILE_MAX_BYTES {
        Scratch::with(&bytes, len, open_and_use);
    } else {
        Scratch::with(&bytes, bytes.len() as u64, open_and_use);
    }
});
