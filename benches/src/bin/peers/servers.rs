//! The servers that are compared. Each has a disk of its own, of the same size and content; all run at once and do nothing while another
//! is measured.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use farshore_changelog::clock;
use serde_json::Value;

use farshore_benches::group::{Group, fill, ours};
use farshore_benches::load::Target;

/// The longest that a server may take to begin; for ours, initial replication is over then.
const BEGIN_MAX: Duration = Duration::from_secs(180);
/// The longest that one may take to end.
const END_MAX: Duration = Duration::from_secs(60);
/// Room for the peer's log, in MiB.
const LOG_MIB: u64 = 16 << 10;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// No server: the file.
    Raw,
    /// Passes through and captures nothing: what everything is compared with.
    QemuNbd,
    /// The peer that logs every write.
    QemuNbdLog,
    /// Our lanes without a log.
    Through,
    /// Our lanes with a log that is read and dropped.
    Drained,
    /// All of it, into a folder vault.
    Shipping,
}

impl Server {
    pub const ALL: [Server; 6] =
        [Server::Raw, Server::QemuNbd, Server::QemuNbdLog, Server::Through, Server::Drained, Server::Shipping];

    pub fn name(self) -> &'static str {
        match self {
            Server::Raw => "raw file",
            Server::QemuNbd => "qemu-nbd",
            Server::QemuNbdLog => "qemu-nbd + blklogwrites",
            Server::Through => "farshore, no log",
            Server::Drained => "farshore, log drained",
            Server::Shipping => "farshore, shipping",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Server::Raw => "raw",
            Server::QemuNbd => "qemu",
            Server::QemuNbdLog => "qemulog",
            Server::Through => "through",
            Server::Drained => "drained",
            Server::Shipping => "shipping",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All servers, running.
pub struct Site {
    dir: PathBuf,
    running: Vec<(Server, Child)>,
}

impl Site {
    /// Makes the disks and starts every server.
    ///
    /// # Errors
    /// When one does not begin.
    pub fn start(dir: &Path, disk_mib: u64) -> Result<Self> {
        let mut site = Self { dir: dir.to_path_buf(), running: Vec::new() };
        for server in Server::ALL {
            fill(&site.path(server, "img"), disk_mib)?;
        }
        // Room that is written already, as a block device's is: a peer must not pay for the growth of a file.
        fill(&site.path(Server::QemuNbdLog, "log"), LOG_MIB)?;
        for server in Server::ALL.into_iter().filter(|server| *server != Server::Raw) {
            let child = site.command(server)?.spawn().with_context(|| format!("{server} cannot be started"))?;
            site.running.push((server, child));
        }
        for server in Server::ALL.into_iter().filter(|server| *server != Server::Raw) {
            site.wait_ready(server)?;
        }
        Ok(site)
    }

    fn path(&self, server: Server, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", server.file()))
    }

    fn command(&self, server: Server) -> Result<Command> {
        let (image, socket) = (self.path(server, "img"), self.path(server, "sock"));
        let (image, socket) = (image.display(), socket.display());
        let mut command = match server {
            Server::Raw => bail!("the file needs no server"),
            Server::QemuNbd => {
                let mut qemu = Command::new("qemu-nbd");
                qemu.args(["-f", "raw", "--cache=none", "--aio=io_uring"]).arg(image.to_string());
                qemu
            }
            Server::QemuNbdLog => {
                let log = self.path(server, "log");
                let options = format!(
                    "driver=blklogwrites,log-sector-size=4096,file.driver=file,file.filename={image},file.cache.direct=on,\
                     file.aio=io_uring,log.driver=file,log.filename={},log.cache.direct=on,log.aio=io_uring",
                    log.display()
                );
                let mut qemu = Command::new("qemu-nbd");
                qemu.args(["--image-opts", &options]);
                qemu
            }
            Server::Through | Server::Drained | Server::Shipping => return self.farshore(server),
        };
        command.args(["-t", "-x", "vda", "-e", "4", "-k"]).arg(socket.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    fn farshore(&self, server: Server) -> Result<Command> {
        let group = Group::set_up(&self.dir, server.file())?;
        let log = File::create(self.path(server, "stderr"))?;
        let mut command = match server {
            Server::Through => lane("through")?,
            Server::Drained => lane("drained")?,
            _ => {
                let mut run = Command::new(ours("farshore")?);
                run.arg("run");
                run
            }
        };
        command
            .arg(group.config())
            .stdin(Stdio::piped())
            .stdout(File::create(self.path(server, "stdout"))?)
            .stderr(log);
        Ok(command)
    }

    fn wait_ready(&mut self, server: Server) -> Result<()> {
        let until = clock::mono() + BEGIN_MAX;
        while !self.is_ready(server)? {
            self.expect_alive(server)?;
            ensure!(clock::mono() < until, "{server} has not begun within {BEGIN_MAX:?}");
            clock::sleep(LOOK);
        }
        Ok(())
    }

    fn is_ready(&self, server: Server) -> Result<bool> {
        Ok(match server {
            Server::Raw => true,
            Server::QemuNbd | Server::QemuNbdLog => {
                std::os::unix::net::UnixStream::connect(self.path(server, "sock")).is_ok()
            }
            Server::Through | Server::Drained => {
                std::fs::read_to_string(self.path(server, "stdout"))?.contains("ready")
            }
            Server::Shipping => self.status().is_some_and(|status| status["state"] == "protected"),
        })
    }

    /// What the shipping group says of itself.
    fn status(&self) -> Option<Value> {
        Some(Group::at(&self.dir, Server::Shipping.file()).status()?["source"].clone())
    }

    fn expect_alive(&mut self, server: Server) -> Result<()> {
        let Some((_, child)) = self.running.iter_mut().find(|(who, _)| *who == server) else { return Ok(()) };
        match child.try_wait()? {
            Some(status) => bail!("{server} has ended ({status})"),
            None => Ok(()),
        }
    }

    /// Where a load for a server goes.
    pub fn target(&self, server: Server) -> Target {
        match server {
            Server::Raw => Target::File(self.path(server, "img").display().to_string()),
            _ => Target::Nbd(format!("nbd+unix:///vda?socket={}", self.path(server, "sock").display())),
        }
    }

    /// Whether what was just measured counts.
    ///
    /// # Errors
    /// When the server has ended, or its log is not in order.
    pub fn check(&mut self, server: Server) -> Result<()> {
        self.expect_alive(server)?;
        if server == Server::Shipping {
            let status = self.status().context("the shipping group says nothing")?;
            let in_order = status["overflows"] == 0 && status["disks"][0]["lost_bytes"] == 0;
            ensure!(in_order, "the shipping group's log is not in order, so its rounds do not count: {status}");
        }
        Ok(())
    }

    /// Ends all servers.
    ///
    /// # Errors
    /// When one of ours does not end well.
    pub fn stop(&mut self) -> Result<()> {
        for (server, mut child) in std::mem::take(&mut self.running) {
            drop(child.stdin.take());
            if !matches!(server, Server::Through | Server::Drained) {
                let pid = i32::try_from(child.id())?;
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
            }
            let until: Instant = clock::mono() + END_MAX;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if clock::mono() > until {
                    child.kill()?;
                    bail!("{server} does not end");
                }
                clock::sleep(LOOK);
            };
            let ours = matches!(server, Server::Through | Server::Drained | Server::Shipping);
            ensure!(status.success() || !ours, "{server} ended badly ({status})");
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

fn lane(mode: &str) -> Result<Command> {
    let mut command = Command::new(ours("lane")?);
    command.arg(mode);
    Ok(command)
}
