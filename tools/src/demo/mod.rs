//! `farshore demo`: the main job on one machine, with real processes and a real load.
//!
//! - [`site`]: the folder, the disk, the processes
//! - [`load`]: the writes through the NBD socket
//! - [`watch`]: the live view, and the worst recovery point objective seen

pub mod load;
pub mod site;
pub mod watch;
