//! Encryption at the source (`docs/format.md`, "Encryption"): what lies in an encrypted vault is sealed before it is put, and proved when
//! it is got, so that the rest of this crate, and every stage, sees the same bytes as in a plain one.
//!
//! - `secret`: thirty-two secret bytes, and others made from them
//! - [`keys`]: the keys of a vault, of a source, of an epoch
//! - [`ring`]: what a process holds of them, and how they are written down
//! - [`held`]: where they come from: a file, a command, the environment
//! - `envelope`: the layout around an object (pure)
//! - `opening`: what a vault object says of it, and who may go on
//! - `group`: sealing and opening the objects of a group
//! - [`error`]: a key that is missing, that is another's, that cannot be read

mod envelope;
pub mod error;
mod group;
pub mod held;
pub mod keys;
pub(crate) mod opening;
pub mod ring;
mod secret;

pub(crate) use envelope::OVERHEAD;
pub use error::KeyError;
pub(crate) use group::{Closed, GroupCrypt, VaultCrypt};
pub use held::{Access, Encryption, KeySource, file_name};
pub use keys::{DataKey, Fingerprint, SourceKey, VaultKey};
pub use ring::KeyRing;
