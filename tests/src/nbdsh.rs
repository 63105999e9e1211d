//! `nbdsh`: Python over libnbd, the reference client with every command and flag.

use std::process::Command;
use std::time::Duration;

use crate::deps;
use crate::process::{Finished, run};

/// Longest run of one script.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Runs a script in which `h` is connected to `uri`.
///
/// # Panics
/// When nbdsh cannot be started or does not end.
#[must_use]
pub fn connected(uri: &str, script: &str) -> Finished {
    let mut command = shell();
    command.args(["--base-allocation", "-u", uri, "-c", script]);
    run("nbdsh", command, RUN_MAX)
}

/// Runs a script in which `h` is not connected yet.
///
/// # Panics
/// As [`connected`].
#[must_use]
pub fn unconnected(script: &str) -> Finished {
    let mut command = shell();
    command.args(["-c", script]);
    run("nbdsh", command, RUN_MAX)
}

fn shell() -> Command {
    deps::ensure();
    let mut command = Command::new("nbdsh");
    // nbdsh runs the first python3 of the path, and Debian's is the one that has libnbd.
    command.env("PATH", "/usr/bin:/bin");
    command
}
