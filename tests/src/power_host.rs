//! A source host that can lose its power: a guest that runs farshore on disks of [`PowerDisks`]. Its source disk and its state (dirty
//! map, notes, spool) lie on two disks with a cache, so that flushing the one does not flush the other; the vault lies on a third
//! one, which keeps everything. Loads come from this machine, over TCP.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;
use serde_json::Value;

use crate::bin;
use crate::client::Client;
use crate::guest::{Guest, GuestDisk, GuestSpec};
use crate::pattern::Rng;
use crate::power_disk::PowerDisks;
use crate::process::run;
use crate::root::as_root;
use crate::site::GROUP;

/// Where the agent listens in the guest.
const PORT: u16 = 10809;
/// The longest that something in the guest may take.
const WAIT_MAX: Duration = Duration::from_secs(180);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Size of the disk with state and spool, and of the vault's.
const STATE_BYTES: usize = 48 << 20;
const VAULT_BYTES: usize = 256 << 20;
/// The source disk, state and vault among the disks.
const SOURCE: usize = 0;
const STATE: usize = 1;
const VAULT: usize = 2;

/// What each boot begins with.
const BEGIN: &str = "
mkdir -p /data /vault /dev/shm && mount -t tmpfs shm /dev/shm || exit 1
cat >/tmp/web01.toml <<END
group = \"web01\"
vault = \"file:///vault/v\"
key_file = \"/vault/v.key\"
state_dir = \"/data/state\"
run_dir = \"/tmp/run\"
ring_size = \"8MiB\"
segment_size = \"1MiB\"
spool_size = \"16MiB\"
max_delay = \"100ms\"
heartbeat = \"500ms\"
allow_plain_tcp = true
[[disk]]
name = \"vda\"
source = \"SOURCE\"
listen = \"tcp:0.0.0.0:10809\"
END
";

/// What only the first boot makes.
const MAKE: &str = "mkfs.ext4 -q /dev/vdb && mkfs.ext4 -q /dev/vdc || exit 1";
const INIT: &str = "farshore init --vault file:///vault/v --key-file /vault/v.key >&2 || exit 1";

/// What each boot goes on with: it runs the agent, and what the test asks for.
const MOUNT: &str = "mount -t ext4 /dev/vdb /data && mount -t ext4 /dev/vdc /vault || exit 1";
const SERVE: &str = "
start() { farshore run /tmp/web01.toml >&2 2>&1 & agent=$!; }
start
while read verb rest; do
    case $verb in
    status) echo \"status $(farshore status /tmp/web01.toml --json | tr -d '\\n')\" ;;
    do) if eval \"$rest\" >&2; then echo \"did it\"; else echo \"did not\"; fi ;;
    kill) kill -9 $agent; start; echo killed ;;
    stop) kill $agent; wait $agent || exit 1; break ;;
    esac
done
umount /data && umount /vault && echo stopped
";

/// How a host differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct HostSpec {
    /// Size of its source disk in bytes.
    pub source_bytes: usize,
    /// The device over its source disk that is protected, and the script that makes it at each boot; else the disk itself.
    pub over: Option<(&'static str, String)>,
    /// Programs of this machine that it needs for that.
    pub programs: Vec<PathBuf>,
    /// Kernel modules that it needs for that.
    pub modules: Vec<&'static str>,
}

/// The host.
pub struct PowerHost {
    dir: tempfile::TempDir,
    disks: PowerDisks,
    program: PathBuf,
    port: u16,
    spec: HostSpec,
    boots: u32,
    guest: Option<Guest>,
}

impl PowerHost {
    /// A host that is not booted yet.
    ///
    /// # Panics
    /// When something that it needs cannot be made.
    #[must_use]
    pub fn new(spec: HostSpec) -> Self {
        let dir = tempfile::Builder::new().prefix("farshore-power-").tempdir().expect("a temporary folder");
        let disks = PowerDisks::serve(dir.path(), &[spec.source_bytes, STATE_BYTES, VAULT_BYTES]);
        // Without its symbols the program is small enough for an initrd.
        let program = dir.path().join("farshore");
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&program).arg(bin::path());
        let _ = run("strip", strip, WAIT_MAX).good();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        Self { dir, disks, program, port, spec, boots: 0, guest: None }
    }

    /// Boots, starts the agent, and waits until it serves the disk.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn boot(&mut self) {
        let (make, init) = if self.boots == 0 { (MAKE, INIT) } else { ("", "") };
        let (source, over) = self.spec.over.clone().unwrap_or(("/dev/vda", String::new()));
        let begin = BEGIN.replace("SOURCE", source);
        let script = [&begin, &over, make, MOUNT, init, SERVE].join("\n");
        let disk = |n| GuestDisk { socket: self.disks.socket(n), export: String::new(), reconnect_delay_s: 0 };
        let spec = GuestSpec {
            disks: [SOURCE, STATE, VAULT].map(disk).to_vec(),
            script,
            network: true,
            forward: Some((self.port, PORT)),
            programs: [&self.spec.programs, std::slice::from_ref(&self.program)].concat(),
            modules: self.spec.modules.clone(),
            ..GuestSpec::default()
        };
        self.boots += 1;
        self.guest = Some(Guest::boot(&format!("the host's boot {}", self.boots), &spec));
        self.wait_served();
    }

    /// Waits until the agent serves the disk.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_served(&mut self) {
        let deadline = clock::mono() + WAIT_MAX;
        while self.connect().is_err() {
            assert!(clock::mono() < deadline, "the disk is not served\n{}", self.guest().story());
            clock::sleep(LOOK);
        }
    }

    fn guest(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("the host was booted")
    }

    /// A connection to the export.
    ///
    /// # Errors
    /// When it is not served now.
    pub fn connect(&self) -> std::io::Result<Client<TcpStream>> {
        connect(self.port)
    }

    /// What others need to connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn ask(&mut self, verb: &str, answer: &str) -> String {
        self.guest().say(verb);
        self.guest().expect(answer, WAIT_MAX)
    }

    /// What the agent says of itself.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn status(&mut self) -> Value {
        let said = self.ask("status", "status ");
        let groups: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("not JSON ({e}): {said}"));
        groups[0]["source"].clone()
    }

    /// Waits until the agent's status is as `wanted`, and gives it.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = clock::mono() + WAIT_MAX;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(clock::mono() < deadline, "no {what} within {WAIT_MAX:?}: {status}\n{}", self.guest().story());
            clock::sleep(LOOK);
        }
    }

    /// Names the position that the log has now.
    pub fn mark(&mut self, name: &str) {
        self.shell(&format!("farshore mark /tmp/web01.toml --name {name}"));
    }

    /// The shipper stands still until the next boot.
    ///
    /// # Panics
    /// When none runs.
    pub fn hold_shipper(&mut self) {
        let pid = self.status()["shipper_pid"].as_u64().expect("a shipper runs");
        self.shell(&format!("kill -STOP {pid}"));
    }

    /// Runs a line of shell.
    ///
    /// # Panics
    /// When it fails.
    pub fn shell(&mut self, line: &str) {
        let did = self.ask(&format!("do {line}"), "did ");
        assert_eq!(did, "it", "in the guest, this failed: {line}\n{}", self.guest().story());
    }

    /// SIGKILL to the agent, and another is started at once.
    pub fn kill_agent(&mut self) {
        self.ask("kill", "killed");
    }

    /// The power fails: source and state disk keep some of what they were not asked to flush, the guest is gone.
    ///
    /// # Panics
    /// When the host was not booted.
    pub fn cut(&mut self, rng: &mut Rng) {
        self.disks.cut(&[SOURCE, STATE], rng);
        let mut guest = self.guest.take().expect("the host was booted");
        guest.kill();
    }

    /// Stops in order.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(&mut self) {
        self.ask("stop", "stopped");
        let _ = self.guest().finish(WAIT_MAX);
        self.guest = None;
    }

    /// What the source disk holds.
    #[must_use]
    pub fn source(&self) -> Vec<u8> {
        self.disks.content(SOURCE)
    }

    /// The vault as it is now, for this machine to read.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn vault(&self) -> MountedVault {
        let (image, at) = (self.dir.path().join("vault.img"), self.dir.path().join("vault"));
        std::fs::write(&image, self.disks.content(VAULT)).expect("room for the vault's disk");
        std::fs::create_dir_all(&at).expect("a mount point");
        let words = ["mount", "-o", "loop", image.to_str().expect("a plain path"), at.to_str().expect("a plain path")];
        let _ = as_root(&words).good();
        let _ = as_root(&["chmod", "-R", "a+rwX", at.to_str().expect("a plain path")]).good();
        // A key that others may read is refused.
        let mounted = MountedVault { at };
        let key = std::fs::read(mounted.key()).expect("init left a key");
        std::fs::remove_file(mounted.key()).expect("it may be replaced");
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(mounted.key());
        made.and_then(|mut file| file.write_all(&key)).expect("room for a key");
        mounted
    }
}

/// Connects to the export at a port of this machine.
///
/// # Errors
/// When it is not served now.
pub fn connect(port: u16) -> std::io::Result<Client<TcpStream>> {
    let mut client = Client::greet(TcpStream::connect(("127.0.0.1", port))?)?;
    client.go("vda")?;
    Ok(client)
}

/// A vault's disk, mounted here until dropped.
pub struct MountedVault {
    at: PathBuf,
}

impl MountedVault {
    /// The vault's folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.at.join("v")
    }

    fn key(&self) -> PathBuf {
        self.at.join("v.key")
    }

    /// `farshore` with these arguments and the vault's key.
    #[must_use]
    pub fn farshore(&self, args: &[&str]) -> Command {
        let mut command = bin::farshore(args);
        command.env("FARSHORE_VAULT_KEY_FILE", self.key());
        command
    }

    /// Replays all of it into `target`, and gives the image.
    ///
    /// # Panics
    /// When replay does not come to the end.
    #[must_use]
    pub fn replay(&self, target: &Path) -> Vec<u8> {
        let url = format!("file://{}", self.folder().display());
        let target_text = target.display().to_string();
        let args = ["process", "--vault", &url, "--target", &target_text, "--gap-patience", "1s", "--once"];
        let _ = run("farshore process --once", self.farshore(&args), WAIT_MAX).good();
        std::fs::read(target.join(GROUP).join("vda.raw")).expect("replay made an image")
    }
}

impl Drop for MountedVault {
    fn drop(&mut self) {
        let _ = as_root(&["umount", "-l", self.at.to_str().expect("a plain path")]);
    }
}
