//! Which sockets a process and its children open: strace's account of them, by program rather than by thread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deps;

/// A command under strace. The command stays the direct child of whoever starts it, and can be signalled and killed as ever.
#[must_use]
pub fn traced(command: &Command, into: &Path) -> Command {
    deps::ensure();
    let mut strace = Command::new("strace");
    // Where a thread or a process begins and what it runs is needed to tell programs apart.
    strace.args(["-D", "-f", "-q", "-s", "4096", "-e", "signal=none"]);
    strace.args(["-e", "trace=socket,connect,bind,listen,clone,clone3,fork,vfork,execve"]);
    strace.arg("-o").arg(into).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// What one process, all its threads together, did.
#[derive(Debug, Default, Clone)]
pub struct Program {
    /// The arguments it was started with, as strace writes them; empty for one that ran nothing of its own.
    pub arguments: String,
    /// Its sockets, and what it did with them: lines of strace.
    pub sockets: Vec<String>,
}

impl Program {
    /// The lines that are not of a unix socket. What a socket is opened for says which it is, so nothing else can follow.
    #[must_use]
    pub fn network(&self) -> Vec<&str> {
        let of_network = |line: &&str| !line.contains("AF_UNIX") && !line.starts_with("listen(");
        self.sockets.iter().map(String::as_str).filter(of_network).collect()
    }
}

/// Reads an account.
///
/// # Panics
/// When there is none, or nothing in it.
#[must_use]
pub fn programs(account: &Path) -> Vec<Program> {
    let text = std::fs::read_to_string(account).unwrap_or_else(|e| panic!("no {}: {e}", account.display()));
    let mut reader = Reader::default();
    for line in text.lines() {
        reader.line(line);
    }
    assert!(!reader.programs.is_empty(), "{} is empty: strace saw nothing", account.display());
    reader.programs
}

#[derive(Default)]
struct Reader {
    programs: Vec<Program>,
    /// Which program a thread is of.
    of: HashMap<u32, usize>,
    /// The beginning of a call that another thread's line has cut.
    cut: HashMap<u32, String>,
    /// Lines of threads whose parent has not come back from `clone` yet.
    orphans: HashMap<u32, Vec<String>>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        let Some((thread, call)) = line.split_once(' ') else { return };
        let Ok(thread) = thread.parse() else { return };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            self.cut.insert(thread, begun.trim_end().to_owned());
        } else if let Some(rest) = call.strip_prefix("<... ") {
            let begun = self.cut.remove(&thread).unwrap_or_default();
            let rest = rest.split_once("resumed>").map_or("", |(_, rest)| rest);
            self.call(thread, format!("{begun}{rest}"));
        } else {
            self.call(thread, call.to_owned());
        }
    }

    fn call(&mut self, thread: u32, call: String) {
        if self.of.is_empty() {
            self.programs.push(Program::default());
            self.of.insert(thread, 0);
        }
        let Some(&program) = self.of.get(&thread) else {
            self.orphans.entry(thread).or_default().push(call);
            return;
        };
        let result = call.rsplit_once(" = ").map_or("", |(_, result)| result);
        if call.starts_with("clone") || call.starts_with("fork") || call.starts_with("vfork") {
            let Ok(child) = result.trim().parse() else { return };
            let its = if call.contains("CLONE_THREAD") {
                program
            } else {
                self.programs.push(Program::default());
                self.programs.len() - 1
            };
            self.of.insert(child, its);
            for call in self.orphans.remove(&child).unwrap_or_default() {
                self.call(child, call);
            }
        } else if call.starts_with("execve") {
            if result == "0" {
                self.programs[program].arguments = call;
            }
        } else if !call.starts_with('+') && !call.starts_with('-') {
            self.programs[program].sockets.push(call);
        }
    }
}

/// What listens on TCP or UDP, with the processes that do: lines of `ss`.
///
/// # Panics
/// When `ss` cannot be run.
#[must_use]
pub fn listeners() -> Vec<String> {
    deps::ensure();
    let said = Command::new("ss").arg("-lntupH").output().expect("ss is installed");
    assert!(said.status.success(), "ss: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
}

/// The processes in a process group, its leader first.
///
/// # Panics
/// When /proc cannot be read.
#[must_use]
pub fn of_group(leader: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be listed");
    let mut all: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| group_of(&PathBuf::from(format!("/proc/{pid}/stat"))) == Some(leader))
        .collect();
    all.sort_unstable_by_key(|pid| (*pid != leader, *pid));
    all
}

/// The fifth field of `stat`; the second is a name in brackets, with anything in it.
fn group_of(stat: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}
