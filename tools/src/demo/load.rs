//! The demo's load: random writes through the NBD socket, half of each compressible, flushed now and then, at a steady rate.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_capture::nbd::client::Client;
use farshore_changelog::clock;

use crate::stop::POLL;

/// Sizes of the writes, in bytes, drawn evenly.
const WRITE_BYTES: [usize; 4] = [4 << 10, 8 << 10, 16 << 10, 64 << 10];
/// Writes between two flushes.
const WRITES_PER_FLUSH: u64 = 64;
/// Rate that is not passed, in bytes a second: a busy VM's, not a benchmark's.
const RATE_BYTES_PER_SECOND: u64 = 40 << 20;

/// What the load and the ones who watch it share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Bytes written so far.
    pub written: AtomicU64,
    /// Writes so far.
    pub writes: AtomicU64,
    /// Asks the load to hold still after its next flush.
    pub hold: AtomicBool,
    /// The load holds still: everything it wrote is flushed.
    pub held: AtomicBool,
    /// Asks the load to end.
    pub stop: AtomicBool,
}

/// A small generator of numbers, the same for the same seed (Steele and others, SplitMix64).
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Begins at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fills the first half of `bytes` with noise and the other with one repeated number.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let (noise, plain) = bytes.split_at_mut(bytes.len() / 2);
        for chunk in noise.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        plain.fill(self.next() as u8);
    }
}

/// Writes until told to stop.
///
/// # Errors
/// When the export cannot be reached or refuses a request.
pub fn run(socket: &Path, seed: u64, shared: &Shared) -> Result<()> {
    let mut client = Client::connect_unix(socket, "").context("the load cannot connect to the export")?;
    let size = client.size_bytes();
    let mut numbers = Numbers::new(seed);
    let mut bytes = vec![0; WRITE_BYTES[WRITE_BYTES.len() - 1]];
    let started = clock::mono();
    let mut held = Duration::ZERO;
    while !shared.stop.load(Ordering::Acquire) {
        let len = WRITE_BYTES[(numbers.next() % WRITE_BYTES.len() as u64) as usize];
        let offset = numbers.next() % (size / len as u64) * len as u64;
        numbers.fill(&mut bytes[..len]);
        client.write(offset, &bytes[..len], false)?;
        let written = shared.written.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        let writes = shared.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if writes.is_multiple_of(WRITES_PER_FLUSH) {
            client.flush()?;
        }
        if shared.hold.load(Ordering::Acquire) {
            client.flush()?;
            let since = clock::mono();
            shared.held.store(true, Ordering::Release);
            while shared.hold.load(Ordering::Acquire) && !shared.stop.load(Ordering::Acquire) {
                clock::sleep(POLL);
            }
            shared.held.store(false, Ordering::Release);
            held += since.elapsed();
        }
        let due = Duration::from_secs_f64(written as f64 / RATE_BYTES_PER_SECOND as f64);
        let now = started.elapsed().saturating_sub(held);
        if due > now {
            clock::sleep(due - now);
        }
    }
    client.flush()?;
    Ok(client.disconnect()?)
}
