//! Child processes: their output is captured line by line, every wait has a deadline, and none outlives its handle.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use farshore_changelog::clock;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How often a wait without an event of its own looks again.
const POLL: Duration = Duration::from_millis(10);
/// Lines of output that a failure shows.
const SHOWN_LINES: usize = 60;
/// Lines kept of one process; a test that makes more than this is wrong.
const KEPT_LINES_MAX: usize = 200_000;

/// What a process wrote, from which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

#[derive(Default)]
struct Lines {
    lines: Vec<(Stream, String)>,
    open_streams: usize,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A child process, the leader of a process group of its own. Dropping it kills the whole group.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; `name` is what failures call it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        let mut process = Self { name: name.to_owned(), child, log: Arc::default(), status: None };
        process.log.lock().open_streams = 2;
        let (out, err) = (process.child.stdout.take(), process.child.stderr.take());
        process.follow(Stream::Out, out.expect("stdout is piped"));
        process.follow(Stream::Err, err.expect("stderr is piped"));
        process
    }

    fn follow(&self, stream: Stream, from: impl std::io::Read + Send + 'static) {
        let log = Arc::clone(&self.log);
        let name = self.name.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                let mut lines = log.lock();
                assert!(lines.lines.len() < KEPT_LINES_MAX, "{name} writes without end: {text}");
                lines.lines.push((stream, text));
                log.grown.notify_all();
            }
            log.lock().open_streams -= 1;
            log.grown.notify_all();
        });
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn output(&self, stream: Stream) -> Vec<String> {
        self.log.lock().lines.iter().filter(|(s, _)| *s == stream).map(|(_, line)| line.clone()).collect()
    }

    /// The last lines of both streams, for a failure's message.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.log.lock();
        let from = lines.lines.len().saturating_sub(SHOWN_LINES);
        let mut text = format!("--- {} wrote (last {SHOWN_LINES} lines):\n", self.name);
        for (_, line) in &lines.lines[from..] {
            text.push_str("    ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Waits for a line at or after line `from` (counted over both streams) that `wanted` takes, and gives its number and
    /// what `wanted` made of it. `None` when the process has closed its output without one.
    ///
    /// # Panics
    /// When the deadline passes.
    pub fn next_line<T>(
        &self,
        from: usize,
        within: Duration,
        what: &str,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<(usize, T)> {
        let deadline = clock::mono() + within;
        let mut at = from;
        let mut lines = self.log.lock();
        loop {
            while at < lines.lines.len() {
                if let Some(found) = wanted(&lines.lines[at].1) {
                    return Some((at, found));
                }
                at += 1;
            }
            if lines.open_streams == 0 {
                return None;
            }
            let left = deadline.saturating_duration_since(clock::mono());
            if left.is_zero() {
                drop(lines);
                panic!("{} did not say {what} within {within:?}\n{}", self.name, self.tail());
            }
            lines = self.log.grown.wait_timeout(lines, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits until it has written a line that contains `text`.
    ///
    /// # Panics
    /// When the deadline passes or it ends without.
    pub fn expect_line(&self, text: &str, within: Duration) -> String {
        let found = self.next_line(0, within, text, |line| line.contains(text).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("{} ended without saying {text:?}\n{}", self.name, self.tail())).1
    }

    /// Waits until `ready` gives something.
    ///
    /// # Panics
    /// When the deadline passes or the process ends first.
    pub fn wait_until<T>(&mut self, what: &str, within: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = clock::mono() + within;
        loop {
            if let Some(found) = ready() {
                return found;
            }
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before {what}\n{}", self.name, self.tail());
            }
            assert!(clock::mono() < deadline, "{}: no {what} within {within:?}\n{}", self.name, self.tail());
            clock::sleep(POLL);
        }
    }

    /// Waits until something listens on the unix socket at `path`.
    ///
    /// # Panics
    /// When the deadline passes or the process ends first.
    pub fn wait_for_socket(&mut self, path: &Path, within: Duration) {
        let what = format!("listener on {}", path.display());
        self.wait_until(&what, within, || std::os::unix::net::UnixStream::connect(path).ok());
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When it no longer reads.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        let said = stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush());
        assert!(said.is_ok(), "{} does not read {line:?}: {said:?}\n{}", self.name, self.tail());
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Panics
    /// When the deadline passes.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = clock::mono() + within;
        loop {
            if let Some(status) = self.ended()
                && (self.log.lock().open_streams == 0 || clock::mono() >= deadline)
            {
                return status;
            }
            assert!(clock::mono() < deadline, "{} did not end within {within:?}\n{}", self.name, self.tail());
            clock::sleep(POLL);
        }
    }

    /// Sends a signal to the process alone.
    ///
    /// # Panics
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "{} has ended already\n{}", self.name, self.tail());
        let sent = kill(Pid::from_raw(self.pid()), signal);
        assert!(sent.is_ok(), "cannot signal {}: {sent:?}", self.name);
    }

    /// SIGKILL to the process and everything it started, as when the machine lost it.
    pub fn kill_all(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        self.status = self.child.wait().ok();
    }

    /// SIGKILL to the process alone: its children live on, and must see for themselves.
    pub fn kill_alone(&mut self) {
        self.signal(Signal::SIGKILL);
        self.status = self.child.wait().ok();
    }

    /// SIGTERM, then its exit status.
    ///
    /// # Panics
    /// When it has not ended within the deadline.
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(within)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let lived = self.ended().is_none();
        // The group may outlive its leader.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        if lived {
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed.
    pub out: String,
    /// What it complained about.
    pub err: String,
}

impl Finished {
    /// The same, which must have succeeded.
    ///
    /// # Panics
    /// When it has not.
    #[must_use]
    #[track_caller]
    pub fn good(self) -> Self {
        assert!(self.status.success(), "{}\nout: {}\nerr: {}", self.status, self.out, self.err);
        self
    }

    /// The same, which must have failed with an exit code of its own (not a signal, not a panic).
    ///
    /// # Panics
    /// When it has not.
    #[must_use]
    #[track_caller]
    pub fn bad(self) -> Self {
        let code = self.status.code();
        let orderly = self.status.signal().is_none() && code.is_some_and(|c| c != 0 && c != 101);
        assert!(orderly, "it should have failed in order: {}\nout: {}\nerr: {}", self.status, self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// What it printed as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {}\nerr: {}", self.out, self.err))
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started or does not end within the deadline.
#[must_use]
pub fn run(name: &str, command: Command, within: Duration) -> Finished {
    let mut process = Process::start(name, command);
    drop(process.child.stdin.take());
    let status = process.wait(within);
    let join = |stream| process.output(stream).join("\n");
    Finished { status, out: join(Stream::Out), err: join(Stream::Err) }
}
