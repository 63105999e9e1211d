//! A process that is measured: started, waited for, and what it uses, as `/proc` says.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use farshore_changelog::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for something to begin.
const BEGIN_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks.
pub const LOOK: Duration = Duration::from_millis(200);

/// A child that is told to end with this.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it has said.
    said: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to files of that name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, dir: &Path, name: &str) -> Result<Self> {
        let to = |ending: &str| dir.join(format!("{name}.{ending}"));
        let said = to("stdout");
        command.stdin(Stdio::piped()).stdout(File::create(&said)?).stderr(File::create(to("stderr"))?);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, said })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a line, and gives the line that it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn ask(&mut self) -> Result<String> {
        let lines = || std::fs::read_to_string(&self.said).map_or(0, |said| said.lines().count());
        let before = lines();
        self.child.stdin.as_mut().context("its input is closed")?.write_all(b"\n")?;
        wait("the process answers", || lines() > before)?;
        let said = std::fs::read_to_string(&self.said)?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _gone = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let _status = self.child.wait();
    }
}

/// Waits for something that must happen.
///
/// # Errors
/// When it does not.
pub fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = clock::mono() + BEGIN_MAX;
    while !done() {
        ensure!(clock::mono() < until, "waited {BEGIN_MAX:?} in vain: {what}");
        clock::sleep(LOOK);
    }
    Ok(())
}

/// The shipper of an agent.
///
/// # Errors
/// When it has none.
pub fn shipper_of(agent: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    // Threads start it too: then it is among all whose parent is the agent.
    if let Some(first) = children.split_whitespace().next() {
        return Ok(first.parse()?);
    }
    for entry in std::fs::read_dir("/proc")? {
        let path: PathBuf = entry?.path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.is_some_and(|parent| parent == agent.to_string()) {
            return Ok(path.file_name().and_then(|n| n.to_str()).unwrap_or_default().parse()?);
        }
    }
    Err(anyhow!("the agent has no shipper"))
}

/// Seconds of processor time that the threads of the processes have used, and how often they were woken.
///
/// # Errors
/// When one of them is gone.
pub fn used(pids: &[u32]) -> Result<(f64, f64)> {
    let (mut seconds, mut woken) = (0.0, 0.0);
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds = schedstat.split_whitespace().next().context("no time in schedstat")?;
            seconds += nanoseconds.parse::<f64>()? / 1e9;
            let status = std::fs::read_to_string(task.join("status"))?;
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            woken += switches.context("no voluntary_ctxt_switches")?.trim().parse::<f64>()?;
        }
    }
    Ok((seconds, woken))
}

/// Their anonymous memory, in MiB: the ring is shared memory.
///
/// # Errors
/// When one of them is gone.
pub fn memory(pids: &[u32]) -> Result<f64> {
    let mut all = 0.0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        all += line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0;
    }
    Ok(all)
}

/// Files, sockets and the like that a process has open.
///
/// # Errors
/// When it is gone.
pub fn open_files(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
