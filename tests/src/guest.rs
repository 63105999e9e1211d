//! A Linux guest in QEMU (software emulation): Debian's kernel, an initrd of our own, disks over NBD, one script to run.
//!
//! The kernel talks on the first serial port, which goes to a file; the script talks on the second one, which is
//! [`Guest`]'s lines in and out, so that neither garbles the other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::deps;
use crate::initrd::Initrd;
use crate::process::Process;

/// A boot takes two or three seconds; a busy machine with two cores may take many times that.
const BOOT_MAX: Duration = Duration::from_secs(120);
/// Guest memory.
const MEMORY_MIB: u32 = 512;
/// Modules a guest always loads.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "nbd"];

/// `/init`: devices, modules, network, then the job on the second serial port.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /usr/bin
/bin/busybox --install -s /usr/bin
export PATH=/bin:/usr/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for m in /modules/*.ko; do insmod $m || echo "init: insmod $m failed"; done
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
fi
stty -F /dev/ttyS1 raw -echo
sh /job.sh </dev/ttyS1 >/dev/ttyS1 2>/dev/ttyS0
echo "guest: the job ended with $?" >/dev/ttyS1
sleep 0.1
poweroff -fn
"#;

/// A disk of the guest: the n-th is `/dev/vda`, `/dev/vdb` …
#[derive(Debug, Clone)]
pub struct GuestDisk {
    /// The NBD server's unix socket.
    pub socket: PathBuf,
    /// The export's name.
    pub export: String,
    /// Seconds for which a vanished server is waited for, with the guest's requests on hold.
    pub reconnect_delay_s: u32,
}

/// What to boot.
#[derive(Debug, Clone, Default)]
pub struct GuestSpec {
    /// Its disks, in order.
    pub disks: Vec<GuestDisk>,
    /// What it runs (busybox sh).
    pub script: String,
    /// Whether it has a network card; the host is then 10.0.2.2 to it.
    pub network: bool,
    /// A port of this machine and the guest's port that it leads to; needs the network card.
    pub forward: Option<(u16, u16)>,
    /// Network interfaces of this machine (`tap`) that are its cards, besides that.
    pub taps: Vec<String>,
    /// Programs of this machine that it has in `/bin`, with their libraries.
    pub programs: Vec<PathBuf>,
    /// Kernel modules that it loads beside the usual ones.
    pub modules: Vec<&'static str>,
}

/// A running guest.
pub struct Guest {
    qemu: Process,
    console: PathBuf,
    read: usize,
    _dir: tempfile::TempDir,
}

fn base_initrd() -> &'static Vec<u8> {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let cache = deps::cache();
        let mut initrd = Initrd::default();
        let busybox = std::fs::read(cache.join("busybox/bin/busybox")).expect("busybox was unpacked");
        initrd.file("/bin/busybox", busybox, 0o755);
        initrd.link("/bin/sh", "busybox");
        initrd.file("/init", INIT, 0o755);
        for program in ["e2fsck", "mkfs.ext4"] {
            let host = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program)).into_iter().find(|p| p.exists());
            initrd.program(&host.unwrap_or_else(|| panic!("{program} comes with e2fsprogs")));
        }
        initrd.program(&cache.join("nbd-client/sbin/nbd-client"));
        initrd.file("/etc/mke2fs.conf", std::fs::read("/etc/mke2fs.conf").unwrap_or_default(), 0o644);
        initrd.modules(&cache.join("kernel/lib/modules"), &MODULES);
        initrd.bytes()
    })
}

fn kernel() -> PathBuf {
    let boot = deps::cache().join("kernel/boot");
    let mut names = std::fs::read_dir(&boot).expect("the kernel was unpacked").filter_map(|e| Some(e.ok()?.path()));
    names.find(|p| p.to_string_lossy().contains("vmlinuz")).expect("a kernel package holds a vmlinuz")
}

impl Guest {
    /// Boots a guest; returns as soon as QEMU runs.
    ///
    /// # Panics
    /// When something it needs is missing or QEMU does not start.
    #[must_use]
    pub fn boot(name: &str, spec: &GuestSpec) -> Self {
        let dir = tempfile::Builder::new().prefix("farshore-guest-").tempdir().expect("a temporary folder");
        // The kernel unpacks concatenated archives one after the other.
        let mut archive = base_initrd().clone();
        let mut job = Initrd::default();
        job.file("/job.sh", spec.script.as_bytes(), 0o755);
        spec.programs.iter().for_each(|program| job.program(program));
        job.modules(&deps::cache().join("kernel/lib/modules"), &spec.modules);
        archive.extend(job.bytes());
        let initrd = dir.path().join("initrd");
        std::fs::write(&initrd, archive).expect("room for the initrd");
        let console = dir.path().join("console");

        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-reboot", "-display", "none"]);
        qemu.args(["-m", &MEMORY_MIB.to_string()]);
        qemu.arg("-kernel").arg(kernel()).arg("-initrd").arg(&initrd);
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0"]);
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        for (n, disk) in spec.disks.iter().enumerate() {
            qemu.arg("-blockdev").arg(format!(
                "driver=nbd,node-name=disk{n},discard=unmap,detect-zeroes=off,export={},reconnect-delay={},\
                 server.type=unix,server.path={}",
                disk.export,
                disk.reconnect_delay_s,
                disk.socket.display()
            ));
            qemu.args(["-device", &format!("virtio-blk-pci,drive=disk{n},discard=on,write-zeroes=on")]);
        }
        if spec.network {
            let forward = spec.forward.map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-10.0.2.15:{there}"));
            qemu.args(["-netdev", &format!("user,id=net0{}", forward.unwrap_or_default())]);
            qemu.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        for (n, tap) in spec.taps.iter().enumerate() {
            // Packets as they would be on a wire, not put together by whoever has them.
            qemu.args(["-netdev", &format!("tap,id=tap{n},ifname={tap},script=no,downscript=no,vnet_hdr=off")]);
            qemu.args(["-device", &format!("virtio-net-pci,netdev=tap{n},romfile=")]);
        }
        Self { qemu: Process::start(name, qemu), console, read: 0, _dir: dir }
    }

    /// The next line that begins with `prefix`, without the prefix. Lines before it are passed over. `None` when the job
    /// has ended or QEMU is gone.
    ///
    /// # Panics
    /// When the deadline passes.
    pub fn next(&mut self, prefix: &str, within: Duration) -> Option<String> {
        let what = format!("a line that begins with {prefix:?}");
        let wanted = |line: &str| {
            let found = line.strip_prefix(prefix).map(|rest| Some(rest.to_owned()));
            found.or_else(|| line.starts_with("guest: the job ended").then_some(None))
        };
        let (at, line) = self.qemu.next_line(self.read, within + BOOT_MAX, &what, wanted)?;
        // The end line is left for `finish`.
        self.read = if line.is_some() { at + 1 } else { at };
        line
    }

    /// As [`Guest::next`], but the line must come.
    ///
    /// # Panics
    /// When it does not.
    pub fn expect(&mut self, prefix: &str, within: Duration) -> String {
        let line = self.next(prefix, within);
        line.unwrap_or_else(|| panic!("the guest ended without saying {prefix:?}\n{}", self.story()))
    }

    /// Writes a line that the script can `read`.
    pub fn say(&mut self, line: &str) {
        self.qemu.say(line);
    }

    /// Waits until the job has ended well, and gives all lines it wrote.
    ///
    /// # Panics
    /// When it ended badly or the deadline passes.
    pub fn finish(&mut self, within: Duration) -> Vec<String> {
        self.qemu.wait(within + BOOT_MAX);
        let lines = self.qemu.output(crate::process::Stream::Out);
        let good = lines.iter().any(|l| l == "guest: the job ended with 0");
        assert!(good, "the guest's job failed\n{}", self.story());
        lines
    }

    /// The guest loses its power.
    pub fn kill(&mut self) {
        self.qemu.kill_all();
    }

    /// What it said, and its kernel, for a failure's message.
    #[must_use]
    pub fn story(&self) -> String {
        let console = std::fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let from = lines.len().saturating_sub(60);
        format!("{}--- its console:\n    {}", self.qemu.tail(), lines[from..].join("\n    "))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
    }
}
