//! The agent's control socket: a unix stream (mode 0600) in the run folder, one length-prefixed bincode message each way.
//! It is how `mark` and `status` reach a running agent. Both ends are this binary; a version mismatch is an error, not a guess.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, bail};
use bincode::{Decode, Encode};
use farshore_changelog::ids::GroupName;
use farshore_changelog::message::{self, MESSAGE_MAX_BYTES};
use serde::Serialize;

use crate::door::Door;
use crate::failure::{Next, fail};

/// Changes with every change of the messages below.
const PROTOCOL: u32 = 3;
/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked of an agent.
#[derive(Debug, Encode, Decode)]
pub enum Ask {
    /// How it is.
    Status,
    /// To put a mark of this name into the log.
    Mark {
        /// The mark's name.
        name: String,
    },
}

/// What an agent answers.
#[derive(Debug, Encode, Decode)]
pub enum Reply {
    /// How it is.
    Status(AgentStatus),
    /// The mark is in the log.
    Marked(Marked),
    /// It could not do it.
    Refused {
        /// Why.
        why: String,
    },
}

/// Where a mark was put.
#[derive(Debug, Clone, Encode, Decode, Serialize)]
pub struct Marked {
    /// The mark's name.
    pub name: String,
    /// Epoch of its position.
    pub epoch: u64,
    /// Seq of its position.
    pub seq: u64,
}

/// How an agent is.
#[derive(Debug, Clone, Encode, Decode, Serialize)]
pub struct AgentStatus {
    /// The group.
    pub group: String,
    /// Its current epoch.
    pub epoch: u64,
    /// `protected`, `initial replication`, `resync`, `overflow`, `throttled`, `shipper stopped`, `fenced`, or
    /// `disk failed`.
    pub state: String,
    /// How disk and socket I/O is done.
    pub engine: String,
    /// The newest seq that was taken.
    pub last_seq: u64,
    /// Every seq below it lies in the spool or the vault.
    pub read_seq: u64,
    /// Every seq up to it is confirmed in the vault.
    pub confirmed_seq: u64,
    /// What the shipper does.
    pub shipper: String,
    /// The process id of the shipper, or of its service, when it runs.
    pub shipper_pid: Option<u32>,
    /// Seconds since its last sign of life.
    pub shipper_seen_seconds: f64,
    /// Bytes in sealed segments that the vault has not confirmed.
    pub spool_bytes: u64,
    /// Bytes of lost regions that are not in the log yet.
    pub resync_left_bytes: u64,
    /// Bytes of them read back a second.
    pub resync_bytes_per_second: u64,
    /// How long that will take, in seconds, at this rate.
    pub resync_seconds_left: Option<u64>,
    /// How often the log had no room since the agent started.
    pub overflows: u64,
    /// What it and one target ask of the store; `None` until the agent has run for a minute.
    pub month: Option<Box<MonthStatus>>,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
}

/// A month of requests, at the pace since the agent started.
#[derive(Debug, Clone, Encode, Decode, Serialize)]
pub struct MonthStatus {
    /// For how long that pace was kept, in seconds.
    pub over_seconds: f64,
    /// Puts.
    pub puts: f64,
    /// Gets.
    pub gets: f64,
    /// Pages of listings.
    pub lists: f64,
    /// Deletes.
    pub deletes: f64,
    /// Whose list prices they are reckoned with; `None` of a folder, where they cost nothing.
    pub prices: Option<String>,
    /// Dollars of the source's requests.
    pub source_dollars: f64,
    /// Dollars of one target's.
    pub target_dollars: f64,
}

/// How one disk is.
#[derive(Debug, Clone, Encode, Decode, Serialize)]
pub struct DiskStatus {
    /// Its name.
    pub name: String,
    /// The source.
    pub source: String,
    /// Its size.
    pub size_bytes: u64,
    /// Where its export is reached.
    pub uri: String,
    /// Bytes of regions that the log does not have, or whose copy the vault has not confirmed.
    pub lost_bytes: u64,
    /// Regions that are read again after a power cut.
    pub open_regions: u64,
    /// Lost regions that could not be read at the last try.
    pub unreadable_regions: u64,
    /// Changes done without the log since the agent started.
    pub unlogged_changes: u64,
}

/// The socket of a group's agent.
#[must_use]
pub fn socket_path(run_dir: &Path, group: &GroupName) -> PathBuf {
    run_dir.join(format!("{group}.control"))
}

/// Sends one message: protocol, length, and what bincode makes of it.
///
/// # Errors
/// When it is too long, or of the stream.
pub fn send<T: Encode>(stream: &mut impl Write, what: &T) -> Result<()> {
    let bytes = message::encode(what)?;
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend_from_slice(&PROTOCOL.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
    frame.extend_from_slice(&bytes);
    Ok(stream.write_all(&frame)?)
}

/// Receives one message.
///
/// # Errors
/// When it is of another protocol, too long, or not what was expected; or of the stream.
pub fn receive<T: Decode<()>>(stream: &mut impl Read) -> Result<T> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [protocol, len] = [&head[..4], &head[4..]].map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
    if protocol != PROTOCOL {
        bail!(
            "the other end speaks control protocol {protocol}, this is {PROTOCOL}: restart the agent with this version"
        );
    }
    let len = len as usize;
    if len > MESSAGE_MAX_BYTES {
        bail!("a control message of {len} bytes is longer than the {MESSAGE_MAX_BYTES} allowed");
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok(message::decode(&bytes)?)
}

/// Asks the agent of `group`.
///
/// # Errors
/// When no agent answers, or it refuses.
pub fn ask(run_dir: &Path, group: &GroupName, what: &Ask) -> Result<Reply> {
    let path = socket_path(run_dir, group);
    let mut stream = UnixStream::connect(&path).what(
        format!("no agent of group {group} answers on {}", path.display()),
        "start it with `farshore run CONFIG`, or give the configuration file instead of the group's name if it sets run_dir",
    )?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send(&mut stream, what)?;
    match receive(&mut stream)? {
        Reply::Refused { why } => {
            Err(fail(format!("the agent of group {group} refused")).because(anyhow::anyhow!("{why}")).into())
        }
        reply => Ok(reply),
    }
}

/// The listening end.
pub struct Control(Door);

impl Control {
    /// Listens for the group. The caller holds the group's lock, so no other agent lives.
    ///
    /// # Errors
    /// Of the file system.
    pub fn listen(run_dir: &Path, group: &GroupName) -> Result<Self> {
        Door::listen(socket_path(run_dir, group)).map(Self)
    }

    /// Answers one connection after the other until `stop` is set.
    pub fn serve(self, stop: &AtomicBool, answer: impl Fn(Ask) -> Reply) {
        while let Some(mut stream) = self.0.accept(stop) {
            let done = (|| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let asked = receive(&mut stream)?;
                send(&mut stream, &answer(asked))
            })();
            if let Err(error) = done {
                tracing::warn!("a client of the control socket was not served: {error:#}");
            }
        }
    }
}

/// Serves on a thread of its own.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    control: Control,
    stop: Arc<AtomicBool>,
    answer: impl Fn(Ask) -> Reply + Send + 'static,
) -> Result<std::thread::JoinHandle<()>> {
    Ok(std::thread::Builder::new().name("control".into()).spawn(move || control.serve(&stop, answer))?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn an_ask_is_answered_and_a_broken_client_disturbs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupName::new("g").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let control = Control::listen(dir.path(), &group).unwrap();
        let thread = spawn(control, Arc::clone(&stop), |ask| match ask {
            Ask::Mark { name } => Reply::Marked(Marked { name, epoch: 1, seq: 7 }),
            Ask::Status => Reply::Refused { why: "not now".into() },
        })
        .unwrap();
        UnixStream::connect(socket_path(dir.path(), &group)).unwrap().write_all(&[9; 64]).unwrap();
        let reply = ask(dir.path(), &group, &Ask::Mark { name: "m".into() }).unwrap();
        assert!(matches!(reply, Reply::Marked(Marked { seq: 7, .. })));
        assert!(format!("{:#}", ask(dir.path(), &group, &Ask::Status).unwrap_err()).contains("not now"));
        stop.store(true, Ordering::Release);
        thread.join().unwrap();
        assert!(!socket_path(dir.path(), &group).exists());
    }
}
