//! What the agent and the shipper's service say to each other over a unix socket: one JSON value a line, of bounded length, and
//! waited for no longer than the reader says. Neither believes the other more than that.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use farshore_capture::access::admits;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::agent::look::Question;
use crate::config::Config;
use crate::failure::fail;

/// Longest question that is read, in bytes.
pub const ASK_MAX_BYTES: usize = 4 << 10;
/// How long the other end may take to accept a line.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ_BYTES: usize = 4 << 10;

/// What the agent asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Ask {
    /// A look at the vault. One line is answered: an [`Answer`](crate::agent::look::Answer).
    Look {
        /// What is wanted to be known.
        question: Question,
        /// How long the vault may take, in milliseconds.
        within_ms: u64,
    },
    /// That the ring is shipped for as long as the connection stands, then drained. The service ends the connection once that is done.
    Ship,
    /// On a connection that said [`Ask::Ship`]: what the ring holds is not wanted any more, so the shipper ends at once.
    Discard,
}

/// The socket of a group's service, in a folder of its own: a service that sees no more of the run folder cannot reach the exports.
#[must_use]
pub fn socket_path(run_dir: &Path, group: &GroupName) -> PathBuf {
    run_dir.join("shipper").join(format!("{group}.sock"))
}

/// What is to be done when no service answers.
#[must_use]
pub fn start_it(group: &GroupName) -> String {
    format!("systemctl start farshore-shipper@{group}")
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line, without its end.
    Said(String),
    /// Nothing, in the time it was given.
    Nothing,
    /// The end of the connection.
    End,
}

/// One end of a connection.
pub struct Line {
    stream: UnixStream,
    /// What was read beyond the last line.
    held: Vec<u8>,
    max_bytes: usize,
}

impl Line {
    /// To the service of the configuration's group; its lines have `max_bytes` at most.
    ///
    /// # Errors
    /// When none answers, or it is of a user who has nothing to say to this process.
    pub fn connect(config: &Config, max_bytes: usize) -> Result<Self> {
        let path = socket_path(&config.run_dir, &config.group);
        let stream = UnixStream::connect(&path).map_err(|e| {
            fail(format!("the shipper's service does not run ({})", start_it(&config.group)))
                .because(anyhow!("nobody answers on {}: {e}", path.display()))
                .next(format!("{}, or farshore ship {}", start_it(&config.group), config.path.display()))
        })?;
        admits(&[], &stream)
            .map_err(|who| anyhow!("{} is served by user {who:?}, who is not asked", path.display()))?;
        Ok(Self::new(stream, max_bytes))
    }

    /// Of a connection that was let in.
    #[must_use]
    pub fn new(stream: UnixStream, max_bytes: usize) -> Self {
        Self { stream, held: Vec::new(), max_bytes }
    }

    /// The process at the other end, as the kernel noted it; 0 when that is not known.
    #[must_use]
    pub fn peer(&self) -> u32 {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials);
        peer.ok().and_then(|peer| u32::try_from(peer.pid()).ok()).unwrap_or(0)
    }

    /// Says one line.
    ///
    /// # Errors
    /// Of the connection.
    pub fn say(&mut self, what: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(what)?;
        text.push(b'\n');
        self.stream.set_write_timeout(Some(WRITE_MAX))?;
        self.stream.write_all(&text).context("the other end of the shipper's socket does not listen")
    }

    /// Says nothing more: the other end hears the end.
    ///
    /// # Errors
    /// Of the connection.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// When it is too long, or no text; or of the connection.
    pub fn hear(&mut self, within: Duration) -> Result<Heard> {
        let until = clock::mono() + within;
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.held.drain(..=end).collect();
                line.truncate(end);
                return Ok(Heard::Said(String::from_utf8(line).context("a line on the shipper's socket is no text")?));
            }
            ensure!(
                self.held.len() < self.max_bytes,
                "a line on the shipper's socket is longer than the {} bytes allowed",
                self.max_bytes
            );
            let left = until.saturating_duration_since(clock::mono());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut some = [0; READ_BYTES];
            match self.stream.read(&mut some) {
                Ok(0) => return Ok(Heard::End),
                Ok(n) => self.held.extend_from_slice(&some[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("the shipper's socket cannot be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn pair() -> (Line, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Line::new(ours, 64), theirs)
    }

    #[test]
    fn lines_come_one_by_one_however_they_were_cut() {
        let (mut line, mut theirs) = pair();
        assert_eq!(line.hear(SOON).unwrap(), Heard::Nothing);
        theirs.write_all(b"\"ship\"\n\"dis").unwrap();
        assert_eq!(line.hear(SOON).unwrap(), Heard::Said("\"ship\"".to_owned()));
        assert_eq!(line.hear(SOON).unwrap(), Heard::Nothing);
        theirs.write_all(b"card\"\n").unwrap();
        let Heard::Said(text) = line.hear(SOON).unwrap() else { panic!("a line is there") };
        assert!(matches!(serde_json::from_str(&text), Ok(Ask::Discard)));
        drop(theirs);
        assert_eq!(line.hear(SOON).unwrap(), Heard::End);
    }

    #[test]
    fn a_line_without_end_is_refused_and_so_is_one_that_is_no_text() {
        let (mut line, mut theirs) = pair();
        theirs.write_all(&[b'x'; 64]).unwrap();
        assert!(line.hear(SOON).unwrap_err().to_string().contains("64 bytes"));
        let (mut line, mut theirs) = pair();
        theirs.write_all(b"\xff\xfe\n").unwrap();
        assert!(line.hear(SOON).is_err());
    }

    #[test]
    fn what_is_said_is_heard_and_strange_words_are_not_guessed() {
        let (mut line, theirs) = pair();
        let mut other = Line::new(theirs, ASK_MAX_BYTES);
        other.say(&Ask::Look { question: Question { epoch: true, requests_from: None }, within_ms: 7 }).unwrap();
        let mut there = Line::new(line.stream.try_clone().unwrap(), ASK_MAX_BYTES);
        let Heard::Said(text) = there.hear(SOON).unwrap() else { panic!("a line is there") };
        assert!(matches!(serde_json::from_str(&text), Ok(Ask::Look { within_ms: 7, .. })), "{text}");
        for strange in
            ["\"drop\"", "{\"look\":{}}", "{\"look\":{\"question\":{\"epoch\":true,\"x\":1},\"within_ms\":1}}"]
        {
            assert!(serde_json::from_str::<Ask>(strange).is_err(), "{strange}");
        }
        other.finish().unwrap();
        assert_eq!(line.hear(SOON).unwrap(), Heard::End);
    }
}
