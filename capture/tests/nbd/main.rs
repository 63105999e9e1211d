//! The NBD front end from outside, in process: real sockets, both engines, a disk in memory.

mod commands;
mod limits;
mod malformed;
mod memory;
mod negotiation;
mod stop;
mod support;
mod tls;
mod tls_support;
