//! The undo journal: what replay overwrote, so that an older position can be had back and an unfinished batch undone
//! (`docs/format.md`, "Replay and the undo journal").
//!
//! The journal is one stream of undo batches (segments of kind undo) at ever rising *journal offsets*, cut into files.
//! The content of a block at a position with `undo_end` = U is in the first batch at or after U that holds the block, else
//! in the image.
//!
//! - [`files`]: which file holds which journal offset
//! - [`reader`]: [`JournalReader`], the batch at a journal offset, verified; used by replay, views, `inspect`, `verify`
//! - [`index`]: [`UndoIndex`], for a position: where the content of each range is
//! - [`published`]: the offset up to which batches are complete, shared between processes
//! - [`journal`]: [`journal::Journal`], the one writer: append, rotate, cut off what was never finished
//! - [`damage`]: what is known to be damaged, and which positions that spoils; [`scrub`] looks for it, a little at a time
//! - [`plan`]: pure: which ranges a batch changes, and who wins where it changes one twice

pub mod damage;
pub mod files;
pub mod index;
pub mod journal;
pub mod plan;
pub mod published;
pub mod reader;
pub mod scrub;

pub use damage::Damage;
pub use files::UndoFile;
pub use index::{Saved, UndoIndex};
pub use published::Published;
pub use reader::{Found, JournalReader};
