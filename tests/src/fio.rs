//! `fio` over NBD.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::deps;
use crate::process::{Finished, Process, run};

/// What one fio does.
#[derive(Debug, Clone, Default)]
pub struct Job {
    arguments: Vec<String>,
}

impl Job {
    /// A job on the unix socket's export.
    #[must_use]
    pub fn on(socket: &Path, export: &str) -> Self {
        let uri = format!("--uri=nbd+unix:///{export}?socket={}", socket.display());
        let arguments = [
            "--name=load",
            "--ioengine=nbd",
            "--output-format=normal",
            "--randrepeat=1",
            "--verify_state_save=0",
            &uri,
        ];
        Self { arguments: arguments.map(str::to_owned).to_vec() }
    }

    /// Adds an option, without its two dashes.
    #[must_use]
    pub fn with(mut self, option: &str) -> Self {
        self.arguments.push(format!("--{option}"));
        self
    }

    fn command(&self) -> Command {
        deps::ensure();
        let mut command = Command::new("fio");
        command.args(&self.arguments);
        command
    }

    /// Runs it to its end; it must succeed.
    ///
    /// # Panics
    /// When it fails, verifies badly, or does not end within `time`.
    #[track_caller]
    pub fn run(&self, time: Duration) -> Finished {
        let finished = run("fio", self.command(), time).good();
        assert!(!finished.err.contains("verify:"), "fio read what was not written: {}", finished.err);
        finished
    }

    /// Starts it.
    #[must_use]
    pub fn start(&self) -> Process {
        Process::start("fio", self.command())
    }
}
