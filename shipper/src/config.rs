//! What a shipper needs to know, and which values cannot work.

use std::path::PathBuf;
use std::time::Duration;

use farshore_changelog::ids::GroupName;
use farshore_vault::Access;

use crate::bandwidth::Bandwidth;
use crate::error::ShipError;
use crate::level::Compression;
pub use crate::uploads::{UPLOADS, UPLOADS_MAX};

/// Smallest payload at which segments can be told to be sealed, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest: with the largest request (32 MiB) on top, a segment stays below the format's limit of 64 MiB.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// Most threads that compress.
pub const THREADS_MAX: usize = 16;

/// What a shipper needs to know.
#[derive(Debug, Clone)]
pub struct ShipperConfig {
    /// The group.
    pub group: GroupName,
    /// Its ring.
    pub ring_path: PathBuf,
    /// The vault.
    pub vault_url: String,
    /// Credentials and keys for it.
    pub access: Access,
    /// The group's state folder; the agent has noted its epoch there.
    pub state_dir: PathBuf,
    /// Where sealed segments wait.
    pub spool_dir: PathBuf,
    /// Payload at which a segment is sealed, in bytes: [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// Age of the oldest record at which a segment is sealed.
    pub max_delay: Duration,
    /// Time without a segment after which an empty one is sealed.
    pub heartbeat: Duration,
    /// Bytes that may wait in the spool, at least twice `segment_bytes`. At the limit nothing is taken from the ring.
    pub spool_limit_bytes: u64,
    /// How segments are compressed.
    pub compression: Compression,
    /// Threads that compress, at most 16, and one more that writes the spool. With 0 the thread that fills the spool does all of
    /// it, one after the other.
    pub threads: usize,
    /// Uploads at once, 1 to [`UPLOADS_MAX`].
    pub uploads: usize,
    /// How fast they go at most.
    pub bandwidth: Bandwidth,
}

impl ShipperConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ShipError::Config`], with the value and what is possible.
    pub fn check(&self) -> Result<(), ShipError> {
        let refused = |what: String| Err(ShipError::Config { what });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return refused(format!(
                "a segment of {} bytes is not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            ));
        }
        if self.spool_limit_bytes < 2 * self.segment_bytes {
            return refused(format!(
                "a spool of {} bytes does not hold two segments of {}",
                self.spool_limit_bytes, self.segment_bytes
            ));
        }
        if self.threads > THREADS_MAX {
            return refused(format!("{} threads that compress are more than {THREADS_MAX}", self.threads));
        }
        if !(1..=UPLOADS_MAX).contains(&self.uploads) {
            return refused(format!("{} uploads at once are not between 1 and {UPLOADS_MAX}", self.uploads));
        }
        if self.heartbeat.is_zero() {
            return refused("a heartbeat of 0 s would never end".to_owned());
        }
        Ok(())
    }
}
