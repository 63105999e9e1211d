//! What the tests across stages share. They see farshore from outside: its command line, its sockets, the files whose layout
//! `docs/format.md` fixes; and they see it with other people's tools.
//!
//! - [`bin`]: the `farshore` binary under test
//! - [`deps`]: programs the tests need, installed when missing
//! - [`process`]: child processes with captured output and deadlines
//! - [`site`]: a source, a vault and a target in a folder of their own, and the verbs run on them
//! - [`protected`]: a site that is protected, a load that verifies, and what no fault may break
//! - [`site_config`]: what it is to be, and the text of its configuration
//! - [`durable`]: the ring's header, a target's position and the vault's segments, read at their documented offsets
//! - [`sealed`]: the content of a segment, whether its vault is encrypted or not
//! - [`guest`] and [`initrd`]: a Linux guest in QEMU that boots in seconds and runs one script
//! - [`guest_script`]: what those scripts have in common
//! - [`client`]: a small NBD client that can also misbehave
//! - [`chaos`]: a load of overlapping requests that reconnects
//! - [`certificates`]: an authority, as the documentation makes it
//! - [`fio`], [`nbdsh`]: loads and probes by foreign programs
//! - [`vm_disk`]: an export behind QEMU's own client, which waits for a server that is away
//! - [`log_watch`]: what a group's log says, as it grows
//! - [`memory_limit`]: a control group for one process
//! - [`rounds`]: how often a test repeats itself
//! - [`root`]: file systems and block devices on loop devices
//! - [`stores`]: object stores, each a real server
//! - [`mod@line`]: a line with a rate, a delay and losses, for what goes to one of them
//! - [`syscalls`]: which sockets a process and its children open
//! - [`stretches`]: a vault with something to damage and a point before it that must stay good
//! - [`power_disk`], [`power_host`], [`power_load`]: disks that lose what was not flushed, a guest that runs farshore on them, and
//!   writes that tell which of them are left
//! - [`forge`]: durable files changed by hand, with right checksums
//! - [`pattern`]: bytes that are known from a seed

pub mod bin;
pub mod certificates;
pub mod chaos;
pub mod client;
pub mod deps;
pub mod durable;
pub mod exported_fs;
pub mod fio;
pub mod forge;
pub mod guest;
pub mod guest_script;
pub mod initrd;
pub mod line;
pub mod log_replay;
pub mod log_watch;
pub mod memory_limit;
pub mod nbdsh;
pub mod pattern;
pub mod power_disk;
pub mod power_host;
pub mod power_load;
pub mod process;
pub mod protected;
pub mod root;
pub mod rounds;
pub mod sealed;
pub mod site;
pub mod site_config;
pub mod stores;
pub mod stretches;
pub mod syscalls;
pub mod vm_disk;
