//! A VM's disk as QEMU has it, without a guest: QEMU's own NBD client holds requests back while its server is away, connects
//! again and repeats them. A load that runs on it sees what a guest would see: a pause.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::deps;
use crate::process::Process;
use crate::site::Site;

/// How long the server may be away before a request fails.
const RECONNECT_S: u32 = 120;
/// The longest the daemon may take to listen.
const START_MAX: Duration = Duration::from_secs(60);

/// A running `qemu-storage-daemon` in front of an export.
pub struct VmDisk {
    daemon: Process,
    /// Where the load connects.
    pub socket: PathBuf,
    /// The export's name there.
    pub export: String,
}

impl VmDisk {
    /// Attaches a disk of the site, whose agent must run.
    ///
    /// # Panics
    /// When the daemon does not listen in time.
    #[must_use]
    pub fn attach(site: &Site, disk: usize) -> Self {
        deps::ensure();
        let disk = &site.disks[disk];
        let socket = site.path(&format!("{}.vm.sock", disk.name));
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!(
            "driver=nbd,node-name=disk,discard=unmap,detect-zeroes=off,export={},reconnect-delay={RECONNECT_S},\
             server.type=unix,server.path={}",
            disk.name,
            disk.socket.display()
        ));
        command.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={},max-connections=0", socket.display()));
        command.arg("--export").arg(format!("type=nbd,id=vm,node-name=disk,name={},writable=on", disk.name));
        let mut daemon = Process::start("qemu-storage-daemon", command);
        daemon.wait_for_socket(&socket, START_MAX);
        Self { daemon, socket, export: disk.name.clone() }
    }

    /// The VM dies, and with it every request that it would have repeated.
    pub fn kill(&mut self) {
        self.daemon.kill_all();
    }

    /// Asserts that it has gone through everything.
    ///
    /// # Panics
    /// When it has ended.
    pub fn assert_alive(&mut self) {
        assert!(self.daemon.ended().is_none(), "the VM's disk is gone\n{}", self.daemon.tail());
    }
}
