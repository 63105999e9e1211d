//! A source, a vault and a target in one temporary folder, and the verbs run on them.
//!
//! The source's host is lost with [`Site::lose_source`], its agent alone with [`Site::kill_agent`]; what the target has is
//! seen through the same verbs and files that a person would use.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Position, Seq};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bin;
use crate::durable::{self, Standing};
use crate::process::{Finished, Process, run};
use crate::site_config;

pub use crate::site_config::SiteSpec;

/// The longest a verb may take that does not move much data.
pub const VERB_MAX: Duration = Duration::from_secs(60);
/// The longest that shipping or replaying what a test wrote may take on a busy machine.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(300);
/// The group of every site; what tells sites apart is their folder.
pub const GROUP: &str = "web01";

/// One disk of a site.
#[derive(Debug, Clone)]
pub struct SiteDisk {
    /// Its name and export name.
    pub name: String,
    /// The source disk.
    pub source: PathBuf,
    /// The socket of its export, when it listens on one.
    pub socket: PathBuf,
    /// `listen` in the configuration.
    pub listen: String,
    /// Its size in bytes.
    pub size: u64,
}

impl SiteDisk {
    /// The URI of its export.
    #[must_use]
    pub fn uri(&self) -> String {
        uri(&self.socket, &self.name)
    }
}

/// The NBD URI of an export on a unix socket.
#[must_use]
pub fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// A recovery point, as `farshore points --json` prints it.
#[derive(Debug, Clone)]
pub struct Point {
    /// What `--point` takes.
    pub id: String,
    /// Its place in the log.
    pub position: Position,
    /// The name of a mark.
    pub name: Option<String>,
}

/// An attached point: a server with one export a disk.
pub struct Attached {
    /// The server.
    pub server: Process,
    /// Its socket.
    pub socket: PathBuf,
    /// The position that it says it serves.
    pub position: Position,
}

impl Attached {
    /// The URI of a disk's export.
    #[must_use]
    pub fn uri(&self, disk: &str) -> String {
        uri(&self.socket, disk)
    }
}

/// The whole arrangement.
pub struct Site {
    dir: tempfile::TempDir,
    _ring_dir: tempfile::TempDir,
    /// The ring's file.
    pub ring: PathBuf,
    /// The configuration of the source.
    pub config: PathBuf,
    /// The vault's folder.
    pub vault: PathBuf,
    /// The target's folder.
    pub target: PathBuf,
    /// The disks.
    pub disks: Vec<SiteDisk>,
    spec: SiteSpec,
    agent: Option<Process>,
    processor: Option<Process>,
    killed: Vec<Process>,
    attached: u32,
}

impl Site {
    /// Makes empty source disks, a configuration and a vault. Nothing runs yet.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new(spec: SiteSpec) -> Self {
        let under = spec.under.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("farshore-site-").tempdir_in(under).expect("a temporary folder");
        let ring_dir = tempfile::Builder::new().prefix("farshore-test-").tempdir_in("/dev/shm").expect("/dev/shm");
        let at = |name: &str| dir.path().join(name);
        let mut disks = Vec::new();
        for (n, size) in spec.disks.iter().enumerate() {
            let name = format!("vd{}", char::from(b'a' + n as u8));
            let source = at(&format!("{name}.source"));
            File::create(&source).and_then(|f| f.set_len(*size)).expect("room for a source disk");
            let socket = at(&format!("{name}.sock"));
            let listen = if spec.tcp { site_config::free_tcp() } else { format!("unix:{}", socket.display()) };
            disks.push(SiteDisk { name, source, socket, listen, size: *size });
        }
        let site = Self {
            ring: ring_dir.path().join(format!("farshore-{GROUP}.ring")),
            config: at("web01.toml"),
            vault: at("vault"),
            target: at("target"),
            _ring_dir: ring_dir,
            dir,
            disks,
            spec,
            agent: None,
            processor: None,
            killed: Vec::new(),
            attached: 0,
        };
        site.write_config();
        site.make_vault();
        site
    }

    /// Makes the vault.
    ///
    /// # Panics
    /// When that fails.
    pub fn make_vault(&self) {
        let url = self.vault_url();
        let args = ["init", "--vault", &url, "--no-encryption"];
        let _ = self.verb(&args[..if self.spec.plain { 4 } else { 3 }]).good();
    }

    /// Writes the configuration anew, with these lines before its disks; where they say again what a site says, they count.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn reconfigure(&mut self, lines: &str) {
        self.spec.config = lines.to_owned();
        self.write_config();
    }

    /// Writes the configuration anew, from the spec and the disks as they are now.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_config(&self) {
        let rings = self.ring.parent().expect("the ring lies in a folder");
        let plain = if self.spec.plain { "encryption = \"off\"\n" } else { "" };
        let lines = format!("{plain}{}", self.spec.config);
        let text = site_config::text(&self.vault_url(), self.dir.path(), rings, &lines, &self.disks);
        std::fs::write(&self.config, text).expect("room for a configuration");
    }

    /// A path in the site's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The vault's URL.
    #[must_use]
    pub fn vault_url(&self) -> String {
        self.spec.store.as_ref().map_or_else(|| format!("file://{}", self.vault.display()), |(url, _)| url.clone())
    }

    /// `farshore` with these arguments, in the environment that the vault needs.
    fn farshore<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = bin::farshore(args);
        command.envs(self.spec.store.iter().flat_map(|(_, environment)| environment.iter().cloned()));
        command
    }

    /// The target image of a disk.
    #[must_use]
    pub fn image(&self, disk: usize) -> PathBuf {
        self.target.join(GROUP).join(format!("{}.raw", self.disks[disk].name))
    }

    /// Runs a verb to its end.
    #[must_use]
    pub fn verb<I, S>(&self, args: I) -> Finished
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        run(&format!("farshore {}", args[0].to_string_lossy()), self.farshore(args), VERB_MAX)
    }

    /// The command that starts the agent.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        self.farshore([OsString::from("run"), self.config.clone().into()])
    }

    /// Starts the agent and waits until every export can be reached.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start_agent(&mut self) {
        self.start_agent_as(self.agent_command());
    }

    /// As [`Site::start_agent`], by a command that ends in it.
    ///
    /// # Panics
    /// As there.
    pub fn start_agent_as(&mut self, command: Command) {
        let mut agent = Process::start("farshore run", command);
        // A killed predecessor's sockets may still be there for a moment: its successor says when it listens itself.
        let _ = agent.expect_line("is served", VERB_MAX);
        for disk in &self.disks {
            match disk.listen.strip_prefix("tcp:") {
                Some(address) => {
                    agent.wait_until("a listener", VERB_MAX, || std::net::TcpStream::connect(address).ok());
                }
                None => agent.wait_for_socket(&disk.socket, VERB_MAX),
            }
        }
        self.agent = Some(agent);
    }

    /// The running agent.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent was started")
    }

    /// Asks the agent to end in order: its shipper drains.
    ///
    /// # Panics
    /// When it ends badly or not in time.
    pub fn stop_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent was started");
        let status = agent.terminate(VERB_MAX);
        assert!(status.success(), "the agent ended with {status}\n{}", agent.tail());
    }

    /// SIGKILL to the agent alone. Its shipper sees it die and ends by itself, which the next agent has to stand.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent was started");
        agent.kill_alone();
        // A dropped handle would kill the shipper too.
        self.killed.push(agent);
    }

    /// SIGKILL to the shipper; the agent is to start another. Waits for one to kill.
    ///
    /// # Panics
    /// When none is started in time.
    pub fn kill_shipper(&mut self) {
        self.signal_shipper(Signal::SIGKILL);
    }

    /// A signal to the shipper, which the agent must have started. Gives its process id.
    ///
    /// # Panics
    /// When none is started in time.
    pub fn signal_shipper(&mut self, signal: Signal) -> i32 {
        let config = self.config.to_string_lossy().into_owned();
        let pid = self.agent().wait_until("shipper", VERB_MAX, || shipper_of(&config));
        let _ = kill(Pid::from_raw(pid), signal);
        pid
    }

    /// SIGKILL to the shipper that runs now, if one does, whether or not its agent lives.
    pub fn kill_shipper_if_any(&self) {
        if let Some(pid) = shipper_of(&self.config.to_string_lossy()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// The source's host is gone: agent and shipper at once, without a chance to say anything.
    pub fn lose_source(&mut self) {
        self.agent().kill_all();
        self.agent = None;
    }

    /// Starts a processor that follows the vault.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_processor(&mut self) {
        self.start_processor_as(&[]);
    }

    /// As [`Site::start_processor`], with more in its environment.
    pub fn start_processor_as(&mut self, environment: &[(String, String)]) {
        let mut command = self.farshore(self.processor_args());
        command.envs(environment.iter().cloned());
        self.processor = Some(Process::start("farshore process", command));
    }

    fn processor_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["process".into(), "--vault".into(), self.vault_url().into()];
        args.extend([OsString::from("--target"), self.target.clone().into()]);
        // A minute for a late segment is for stores, not for tests of one that never comes.
        args.extend(["--gap-patience", "3s"].map(OsString::from));
        args.extend(self.spec.process.iter().map(OsString::from));
        args
    }

    /// The running processor.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn processor(&mut self) -> &mut Process {
        self.processor.as_mut().expect("the processor was started")
    }

    /// SIGKILL to the processor.
    pub fn kill_processor(&mut self) {
        self.processor().kill_all();
        self.processor = None;
    }

    /// Asks the processor to end in order.
    pub fn stop_processor(&mut self) -> ExitStatus {
        self.processor.take().expect("the processor was started").terminate(VERB_MAX)
    }

    /// Replays what the vault holds, and ends. Its outcome is the caller's to judge.
    #[must_use]
    pub fn process_once(&self) -> Finished {
        let mut args = self.processor_args();
        args.push("--once".into());
        run("farshore process --once", self.farshore(args), CATCH_UP_MAX)
    }

    /// The newest position that the ring has given out.
    #[must_use]
    pub fn newest(&self) -> Position {
        durable::ring_newest(&self.ring)
    }

    /// Waits until the vault holds everything up to `position`.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_shipped(&mut self, position: Position) {
        let ring = self.ring.clone();
        self.agent().wait_until(&format!("confirmation of {position} by the vault"), CATCH_UP_MAX, || {
            (durable::ring_confirmed(&ring) >= position).then_some(())
        });
    }

    /// Waits until initial replication or resync is over.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_protected(&mut self) {
        let deadline = clock::mono() + CATCH_UP_MAX;
        loop {
            let status = self.agent_status();
            if status["state"] == "protected" {
                return;
            }
            assert!(clock::mono() < deadline, "not protected in {CATCH_UP_MAX:?}: {status}\n{}", self.agent().tail());
            clock::sleep(Duration::from_millis(100));
        }
    }

    /// What the agent says of itself.
    #[must_use]
    pub fn agent_status(&self) -> Value {
        let groups = self.verb([OsString::from("status"), self.config.clone().into(), "--json".into()]).good().json();
        groups[0]["source"].clone()
    }

    /// Where replay stands; `None` when nothing was replayed yet.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        durable::standing(&self.target.join(GROUP).join("position"))
    }

    /// Waits until a running processor has replayed up to `position`.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_replayed(&mut self, position: Position) {
        let path = self.target.join(GROUP).join("position");
        self.processor().wait_until(&format!("replay of {position}"), CATCH_UP_MAX, || {
            durable::standing(&path).filter(|s| s.position >= position && !s.resync)
        });
    }

    /// Names a position, and gives it.
    ///
    /// # Panics
    /// When the agent refuses.
    #[must_use]
    pub fn mark(&self, name: &str) -> Position {
        let args = [OsString::from("mark"), self.config.clone().into(), "--name".into(), name.into(), "--json".into()];
        position_of(&self.verb(args).good().json())
    }

    /// The recovery points, oldest first.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let target = self.target.clone();
        let args = [OsString::from("points"), GROUP.into(), "--target".into(), target.into(), "--json".into()];
        let listed = self.verb(args).good().json();
        let rows = listed.as_array().unwrap_or_else(|| panic!("points are a list, not {listed}"));
        rows.iter()
            .map(|row| Point {
                id: row["id"].as_str().expect("a point has an id").to_owned(),
                position: position_of(row),
                name: row["name"].as_str().map(str::to_owned),
            })
            .collect()
    }

    /// Attaches a point and waits until it can be reached.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[must_use]
    pub fn attach(&mut self, point: &str) -> Attached {
        self.attached += 1;
        let socket = self.path(&format!("attached-{}.sock", self.attached));
        let mut args: Vec<OsString> =
            vec!["attach".into(), GROUP.into(), "--target".into(), self.target.clone().into()];
        args.extend(["--point".into(), point.into(), "--listen".into()]);
        args.extend([format!("unix:{}", socket.display()).into(), "--json".into()]);
        let mut server = Process::start(&format!("farshore attach {point}"), self.farshore(args));
        server.wait_for_socket(&socket, VERB_MAX);
        let said = server.expect_line("{", VERB_MAX);
        let served: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("not JSON ({e}): {said}"));
        Attached { position: position_of(&served["point"]), server, socket }
    }

    /// Asserts that every target image is its source disk, byte for byte.
    ///
    /// # Panics
    /// When one is not; it says where.
    pub fn assert_equal(&self) {
        for (n, disk) in self.disks.iter().enumerate() {
            if durable::digest(&disk.source) != durable::digest(&self.image(n)) {
                let at = durable::first_difference(&disk.source, &self.image(n));
                panic!("disk {}: source and target image differ first at byte {at:?}", disk.name);
            }
        }
    }
}

fn position_of(row: &Value) -> Position {
    let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} is a number in {row}"));
    Position { epoch: Epoch(number("epoch")), seq: Seq(number("seq")) }
}

/// The process id of `farshore ship --child CONFIG`, from /proc.
fn shipper_of(config: &str) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be listed");
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
        // An ended process that nobody has waited for has an empty command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        [b"ship".as_slice(), b"--child", config.as_bytes()].iter().all(|word| words.contains(word))
    })
}
