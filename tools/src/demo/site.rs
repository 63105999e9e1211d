//! The demo's two sites: a folder with a vault, a disk, a target, and the real processes that work on them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farshore_changelog::clock;
use farshore_changelog::ids::{GroupName, Hash};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::demo::load::Numbers;
use crate::stop::POLL;

/// The demo's group.
pub const GROUP: &str = "demo";
/// The demo's disk.
pub const DISK: &str = "vda";
/// Pause between two recovery points of the demo.
pub const POINT_INTERVAL: &str = "3s";
/// How long a process may take to end before it is killed.
const END_MAX: Duration = Duration::from_secs(25);
/// Pieces in which the disk's first content is written.
const FILL_BYTES: usize = 1 << 20;

/// The folder and what is in it.
pub struct Site {
    dir: PathBuf,
    keep: bool,
    children: Vec<(&'static str, Child)>,
}

impl Site {
    /// A folder of its own under `parent`, removed again unless `keep`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn new(parent: &Path, keep: bool) -> Result<Self> {
        let dir = parent.join(format!("farshore-demo-{}", std::process::id()));
        for made in [&dir, &ring_dir(&dir)] {
            std::fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
        }
        Ok(Self { dir, keep, children: Vec::new() })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The vault's URL.
    #[must_use]
    pub fn vault(&self) -> String {
        format!("file://{}", self.dir.join("vault").display())
    }

    /// The target folder.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.dir.join("target")
    }

    /// The source disk.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        self.dir.join("vda.raw")
    }

    /// The export under the VM.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("vda.sock")
    }

    /// The source's configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("demo.toml")
    }

    /// Where the agent's control socket lies.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupName {
        GroupName::new(GROUP).expect("a good name")
    }

    /// Makes a sparse disk of `size` bytes whose first `filled` bytes hold data, and the configuration.
    ///
    /// # Errors
    /// Of the file system.
    pub fn prepare(&self, size: u64, filled: u64) -> Result<()> {
        let mut disk = File::create(self.source())?;
        disk.set_len(size)?;
        let mut numbers = Numbers::new(1);
        let mut bytes = vec![0; FILL_BYTES];
        for _ in 0..filled / FILL_BYTES as u64 {
            numbers.fill(&mut bytes);
            disk.write_all(&bytes)?;
        }
        disk.sync_all()?;
        let text = format!(
            "group = \"{GROUP}\"\nvault = \"{}\"\nstate_dir = \"state\"\nring_dir = \"{}\"\nrun_dir = \"run\"\nring_size = \"64MiB\"\n\
             max_delay = \"500ms\"\nheartbeat = \"1s\"\n\n[[disk]]\nname = \"{DISK}\"\nsource = \"vda.raw\"\nlisten = \"unix:vda.sock\"\n",
            self.vault(),
            ring_dir(&self.dir).display(),
        );
        Ok(std::fs::write(self.config(), text)?)
    }

    /// Runs `farshore` to its end and gives its standard output.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn farshore(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.output()?;
        if !output.status.success() {
            bail!("`farshore {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `farshore` in the background; what it says goes to `NAME.log` in the folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, name: &'static str, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.log(name))?;
        let child = self
            .command(arguments)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start `farshore {name}`"))?;
        self.children.push((name, child));
        Ok(())
    }

    /// `farshore`, with the keys of the demo's vault in its folder and nowhere else.
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env("XDG_CONFIG_HOME", self.dir.join("config"));
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Waits until `there` says so.
    ///
    /// # Errors
    /// When `limit` passes, or a background process has ended; with what it said last.
    pub fn wait(&mut self, what: &str, limit: Duration, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = clock::mono() + limit;
        loop {
            if there()? {
                return Ok(());
            }
            self.check()?;
            if clock::mono() > until {
                bail!("{what} did not happen within {limit:?}; the logs are in {}", self.dir.display());
            }
            clock::sleep(POLL);
        }
    }

    /// Looks whether the background processes live.
    ///
    /// # Errors
    /// When one has ended; with what it said last.
    pub fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
                self.keep = true;
                bail!("`farshore {name}` ended ({status}): {}", log.lines().last().unwrap_or("it said nothing"));
            }
        }
        Ok(())
    }

    /// Ends the background processes in order, last started first.
    pub fn stop(&mut self) {
        while let Some((_, mut child)) = self.children.pop() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            let _ = kill(pid, Signal::SIGTERM);
            let until = clock::mono() + END_MAX;
            while matches!(child.try_wait(), Ok(None)) && clock::mono() < until {
                clock::sleep(POLL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
        let ring = farshore_changelog::ring::path_in(&ring_dir(&self.dir), &self.group());
        let _ = std::fs::remove_file(ring);
        let _ = std::fs::remove_dir(ring_dir(&self.dir));
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A ring folder of the demo's own, so that it meets no other group of the same name.
fn ring_dir(dir: &Path) -> PathBuf {
    Path::new("/dev/shm").join(dir.file_name().unwrap_or_default())
}

/// Hash of a whole file, or of an export read through `read_at` (offset, buffer), of `size` bytes.
///
/// # Errors
/// Those of `read_at`.
pub fn digest(size: u64, mut read_at: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = vec![0; FILL_BYTES];
    let mut offset = 0;
    while offset < size {
        let len = usize::try_from((size - offset).min(FILL_BYTES as u64))?;
        read_at(offset, &mut bytes[..len])?;
        hasher.update(&bytes[..len]);
        offset += len as u64;
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}

/// Hash of a file's content.
///
/// # Errors
/// Of the file system.
pub fn digest_file(path: &Path) -> Result<Hash> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    digest(file.metadata()?.len(), |offset, bytes| Ok(file.read_exact_at(bytes, offset)?))
}

/// Bytes of all files under `dir`.
#[must_use]
pub fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
