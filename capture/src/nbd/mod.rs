//! The NBD front end: a server for the fixed newstyle protocol, and a small client.
//!
//! What the protocol says is decided without I/O ([`handshake`], [`request`], [`reply`]); `conn` moves the bytes of one
//! connection through the lane's engine; [`client`] is a blocking client for the demonstration and for tests.

pub mod client;
mod client_wire;
pub(crate) mod conn;
pub mod consts;
pub mod export;
pub(crate) mod greeting;
pub mod handshake;
mod inbox;
mod intake;
mod option_reply;
mod options;
mod outbox;
pub mod outcome;
mod pending;
pub mod reply;
pub mod request;
pub(crate) mod securing;
pub(crate) mod socket;
mod wire;
