//! The cache store: where the sealed segments of every group lie, and what source and target agree on through it.
//!
//! - [`keys`]: the key grammar of `docs/format.md`, as a type, both ways
//! - [`objects`]: the small JSON objects (vault, epoch, request, hash plan)
//! - [`vault`]: [`Vault`], made by `init` and `open`
//! - [`group`]: [`GroupVault`], one group's segments and requests
//! - `hashes`: the hashes of the target's images, for a resync
//! - `claims`: which target follows a group
//! - [`announced`]: that a group was begun
//! - [`epoch`]: opening an epoch, reading the line of epochs
//! - `seal`: ending an epoch
//! - [`store`]: put-if-absent, bounded gets, retries, over any `object_store` backend
//! - `url`: which store a URL names; `cloud`: the buckets among them
//! - [`crypt`]: encryption at the source, and the keys
//! - `condition`: proof that a store honours put-if-absent
//! - `folder`: what a folder needs beyond `object_store` to be durable
//! - [`retry`]: backoff, and how often an operation is tried
//! - [`fault`]: a store double that fails before, fails after, or takes its time; for tests of every stage
//! - [`count`]: a store that counts what is asked of it
//! - [`error`]: what can go wrong and what to do then

pub mod announced;
mod claims;
mod cloud;
mod condition;
pub mod count;
pub mod crypt;
pub mod epoch;
pub mod error;
pub mod fault;
mod folder;
pub mod group;
mod hashes;
pub mod keys;
pub mod objects;
pub mod retry;
mod seal;
pub mod store;
mod url;
pub mod vault;

pub use claims::Claim;
pub use cloud::Variables;
pub use count::{CountingStore, Requests};
pub use crypt::{Access, DataKey, Encryption, Fingerprint, KeyError, KeyRing, KeySource, SourceKey, VaultKey};
pub use epoch::Opened;
pub use error::VaultError;
pub use fault::FaultStore;
pub use group::{GroupVault, PUT_AHEAD_MAX};
pub use objects::{DiskRange, EpochDisk, EpochObject, HashPlan, HashedDisk, Nonce, Reason, Request};
pub use store::Put;
pub use vault::Vault;
