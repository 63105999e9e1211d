//! The one language of all stages of farshore: what an operation is, how a record of it lies in the ring and in a
//! segment, and the few durable-write helpers every stage shares. No network and no async runtime live here.
//!
//! - [`ids`]: names and numbers (group, disk, epoch, segment number, seq) as types of their own
//! - [`units`]: quantities: time, byte ranges, alignment
//! - [`op`]: the operation enum and the [`op::Record`] that every stage passes on
//! - [`segment`]: the sealed, hashed container of records (log, undo journal, seal); layout in `docs/format.md`
//! - [`hashes`]: hashes of the target's images, by which a resync leaves out what both sides have
//! - [`ring`]: the shared-memory ring between capture and shipper, and the recovery of its slots
//! - [`crashsafe`]: write, fsync, rename, fsync the folder, in one audited place
//! - [`medium`]: the system calls that change files, which a simulation can take over
//! - [`message`]: the pinned bincode configuration for messages between our own processes and catalogue entries
//! - [`clock`]: the only file in which clocks, randomness and sleeps are read

pub mod clock;
pub mod crashsafe;
pub mod hashes;
pub mod ids;
pub mod medium;
pub mod message;
pub mod op;
pub mod ring;
pub mod segment;
pub mod units;
