//! Hashes of the target's images, unit by unit, which spare a resync what both sides have. The target publishes them in chunks
//! (`docs/format.md`, "Region hashes"), the shipper fetches these into the state folder, capture reads them there.
//!
//! - [`Chunk`]: a run of hashes of one disk, encoded and proved
//! - [`Hashes`]: what the shipper has fetched for an epoch, as capture reads it
//! - [`folder`], [`chunk_file_name`], [`PLAN_FILE`]: where it lies

mod chunk;
mod fetched;

pub use chunk::{
    CHUNK_MAX_BYTES, CHUNK_UNITS_MAX, Chunk, ChunkError, UNIT_BYTES_MAX, UNIT_BYTES_MIN, VERSION, check_unit_bytes,
};
pub use fetched::{Hashes, PLAN_FILE, chunk_file_name, folder};
