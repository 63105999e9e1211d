//! A memory limit for one process, by the kernel's control groups (version 1 or 2, whichever the machine has).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run;

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long a shell that changes them may take.
const CHANGE_MAX: Duration = Duration::from_secs(30);

/// A control group of its own; removed when dropped, when nothing runs in it any more.
pub struct MemoryLimit {
    dir: PathBuf,
    limit: &'static str,
    events: &'static str,
}

impl MemoryLimit {
    /// Makes a group that may have `bytes` of memory.
    ///
    /// # Panics
    /// When the machine has no such thing, or root's rights are not to be had.
    #[must_use]
    pub fn new(name: &str, bytes: u64) -> Self {
        let unified = Path::new(ROOT).join("cgroup.controllers").exists();
        let name = format!("farshore-{name}-{}", std::process::id());
        let made = if unified {
            as_root(&format!("echo +memory > {ROOT}/cgroup.subtree_control || true"));
            Self { dir: Path::new(ROOT).join(name), limit: "memory.max", events: "memory.events" }
        } else {
            let dir = Path::new(ROOT).join("memory").join(name);
            Self { dir, limit: "memory.limit_in_bytes", events: "memory.oom_control" }
        };
        as_root(&format!("mkdir {}", made.dir.display()));
        as_root(&format!("echo {bytes} > {}/{}", made.dir.display(), made.limit));
        made
    }

    /// Puts a process under the limit. Whether it was still there.
    #[must_use]
    pub fn hold(&self, pid: i32) -> bool {
        let command = format!("echo {pid} > {}/cgroup.procs", self.dir.display());
        run("sh", shell(&command), CHANGE_MAX).status.success()
    }

    /// How many processes the kernel killed for want of memory.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let path = self.dir.join(self.events);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        kills.unwrap_or_else(|| panic!("{} does not count kills: {text}", path.display()))
    }
}

fn shell(command: &str) -> Command {
    let mut words = Command::new(if nix::unistd::geteuid().is_root() { "env" } else { "sudo" });
    words.args(["sh", "-c", command]);
    words
}

fn as_root(command: &str) {
    let _ = run("sh", shell(command), CHANGE_MAX).good();
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = run("sh", shell(&format!("rmdir {}", self.dir.display())), CHANGE_MAX);
    }
}
