//! The sealed, hashed container of records: the log in the vault and in the spool, the undo journal, and seals. Its
//! layout is specified in `docs/format.md`, section "Segment"; golden files of each version lie in `tests/golden/`.
//!
//! - `layout`: every offset and every limit, each offset derived from its neighbour
//! - `kind`: what a segment is for ([`Kind`]) and how its bytes are encoded ([`Codec`])
//! - `head`: the header, verified ([`SegmentHead`]) and not yet verified (a type of its own)
//! - `footer`: the footer, and the hash of the segment
//! - `validate`: the rules for records, their order and their heads; writer and reader call the same functions
//! - `codec`: blocks and index to stored bytes and back
//! - `press`: [`BlockPress`], one block encoded and hashed; [`Press`], who does it for a writer
//! - `pool`: [`PressPool`], threads that do it
//! - `writer`: [`SegmentWriter`], records in, a [`Sealed`] object out
//! - `index`: [`Index`], what is known of a segment without its payload
//! - `reader`: [`Segment`], a whole object in memory, every byte verified
//! - `read_at`: [`ReadAt`], where the bytes come from
//! - `error`: [`SegmentError`]
//!
//! Nothing of a segment is believed before its hash was compared: header and footer only say where the hash and the
//! index lie, with every length checked against the limits and against the length of the object.

mod codec;
mod error;
mod footer;
mod head;
mod index;
mod kind;
pub mod layout;
mod pool;
mod press;
mod read_at;
mod reader;
mod validate;
mod writer;

pub use error::{Part, SegmentError};
pub use head::{SegmentHead, Stamp};
pub use index::{Index, IndexRecord};
pub use kind::{Codec, Kind};
pub use pool::PressPool;
pub use press::{BlockPress, Press, Pressed, Pressing};
pub use read_at::ReadAt;
pub use reader::Segment;
pub use writer::{Sealed, SegmentWriter};

#[cfg(test)]
mod tests;
