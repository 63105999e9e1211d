//! TLS for clients on the network, as `NBD_OPT_STARTTLS` begins it. The lanes know nothing of it: a thread a connection
//! ([`relay`]) stands between the client's socket and a pair of local sockets, the other end of which a lane serves like any
//! client's. So the way of an unencrypted request is as it was, and what TLS costs (a thread, two more copies, two more
//! switches) is paid by the connection that wants it.
//!
//! - [`files`]: the folder with certificates and key, read again when it changes
//! - [`identity`]: who a client is, by its certificate; [`dn`]: distinguished names as text
//! - [`relay`]: the thread; [`flow`]: its decisions, without I/O

pub mod dn;
pub mod files;
mod flow;
pub mod identity;
pub(crate) mod relay;
