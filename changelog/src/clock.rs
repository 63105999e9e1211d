//! The only place in which clocks, randomness and sleeps are read; `clippy.toml` bans them elsewhere, so that a whole
//! pipeline can later be driven from one seed.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use crate::units::UnixMicros;

/// The wall clock now.
#[must_use]
pub fn wall() -> UnixMicros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The monotonic clock now; for durations and deadlines.
#[must_use]
pub fn mono() -> Instant {
    Instant::now()
}

/// Blocks this thread for `time`.
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Sixteen random bytes, for nonces and identities.
///
/// # Panics
/// When the kernel has no randomness to give, which Linux does not do once it has booted.
#[must_use]
pub fn nonce() -> [u8; 16] {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .expect("/dev/urandom gives sixteen bytes");
    bytes
}
