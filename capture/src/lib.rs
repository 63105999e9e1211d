//! The block device under a VM: front end, source disk, and the tap that writes disk and log from one buffer.
//!
//! The way of a request: a front end receives it on a lane thread and gives it to a [`device::Device`]; the captured device
//! is [`tap::Tap`]. The lane's [`engine`] runs its operations.
//!
//! - [`engine`]: operations in, completions out: io_uring, or poll and threads
//! - [`device`]: what a front end sees of a disk
//! - [`nbd`]: the NBD front end: protocol, connections, a client
//! - [`lane`]: the I/O thread that owns an engine, devices and connections; [`server`] starts and stops lanes, [`listen`] has
//!   their sockets, [`access`] who may use them
//! - [`sync_device`]: a device over anything with blocking reads and writes
//! - [`disk`]: the source disk: opening, locking, direct I/O, zeroing, extents
//! - [`range_lock`]: the fair lock of byte ranges that serialises overlapping changes
//! - [`tap`]: the captured device: every change of the source disk becomes a record of the ring
//! - [`regions`]: the dirty map, which remembers across a crash which regions the log does not have
//! - [`resync`]: the state of the log (in order, overflow, resync): initial replication and every repair; [`pace`] holds it back
//! - [`tls`]: TLS between a client on the network and a lane
//! - [`settle`]: what the recovery of a ring asks of the disks

pub mod access;
pub mod device;
pub mod disk;
pub mod engine;
pub mod lane;
pub mod listen;
pub mod nbd;
pub mod pace;
pub mod range_lock;
pub mod regions;
pub mod resync;
pub mod server;
pub mod settle;
pub mod sync_device;
pub mod tap;
pub mod tls;
