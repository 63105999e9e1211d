//! The thread between a client that speaks TLS and the lane that serves it.
//!
//! It ends when the lane closes its side (the lane decides about deadlines and stops, as for every connection) or the client
//! is gone. There are never more than connections: each holds its listener's permit until its thread ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::ServerConnection;

use super::files::TlsServer;
use super::flow::{Flow, Step, Wants};
use super::identity::Identity;

/// Bytes taken at once from either side.
const CHUNK_BYTES: usize = 64 << 10;
/// Encrypted bytes that may wait for the client: a chunk, with what TLS adds to it.
const SEALED_MAX_BYTES: usize = 2 * CHUNK_BYTES;
/// A relay's stack; it calls nothing deep.
const STACK_BYTES: usize = 512 << 10;
/// How long a client may take to receive its last answers, once its lane has ended the connection.
pub const LAST_ANSWERS_MAX: Duration = Duration::from_secs(10);

/// The byte that the lane receives before anything else, once the handshake is done and the client's identity is known.
pub(crate) const SECURED: u8 = 1;

/// What a lane has of a relay.
pub(crate) struct Relayed {
    /// What the lane serves.
    pub fd: OwnedFd,
    /// Who the client is; set before [`SECURED`] is received.
    pub client: Arc<OnceLock<Identity>>,
}

/// Starts the thread, which takes the client's socket and begins the handshake. It keeps `held` to its end.
///
/// # Errors
/// When there is no descriptor or thread to be had; the client's connection is closed then.
pub(crate) fn start(client: OwnedFd, server: Arc<TlsServer>, held: impl Send + 'static) -> io::Result<Relayed> {
    let (ours, lanes) = UnixStream::pair()?;
    let identity = Arc::new(OnceLock::new());
    let known = Arc::clone(&identity);
    Builder::new().name("farshore-tls".into()).stack_size(STACK_BYTES).spawn(move || {
        let _held = held;
        let client = TcpStream::from(client);
        let from = client.peer_addr().map_or_else(|_| "a client that is gone".to_owned(), |from| from.to_string());
        match Relay::new(client, ours, &server, known).map(|mut relay| (relay.run(), relay.flow)) {
            Ok((Ok(()), _)) => {}
            // A client that has said that it goes need not wait for the answer to that.
            Ok((Err(error), flow)) if flow.lane_ended => tracing::debug!(from, %error, "a TLS connection ended"),
            Ok((Err(error), flow)) if flow.handshaking => {
                tracing::warn!(from, %error, "a client was refused: TLS could not begin")
            }
            Ok((Err(error), _)) => tracing::info!(from, %error, "a TLS connection broke"),
            Err(error) => tracing::warn!(from, %error, "a client was closed: TLS could not begin"),
        }
    })?;
    Ok(Relayed { fd: lanes.into(), client: identity })
}

struct Relay {
    tls: ServerConnection,
    client: TcpStream,
    lane: UnixStream,
    identity: Arc<OnceLock<Identity>>,
    /// Decrypted bytes for the lane, and how many of them it has taken.
    inward: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
    flow: Flow,
    /// When the client must have taken its last answers.
    until: Option<Instant>,
}

impl Relay {
    fn new(
        client: TcpStream,
        lane: UnixStream,
        server: &TlsServer,
        identity: Arc<OnceLock<Identity>>,
    ) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        lane.set_nonblocking(true)?;
        let mut tls = ServerConnection::new(server.config()).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(SEALED_MAX_BYTES));
        let flow = Flow {
            handshaking: true,
            inward: false,
            sealed: false,
            client_ended: false,
            lane_deaf: false,
            lane_hung: false,
            lane_ended: false,
            notified: false,
        };
        let chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        Ok(Self { tls, client, lane, identity, inward: Vec::new(), taken: 0, chunk, flow, until: None })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            self.flow.inward = self.taken < self.inward.len();
            self.flow.sealed = self.tls.wants_write();
            match self.flow.step() {
                Step::EndInward => {
                    self.flow.lane_deaf = true;
                    // ENOTCONN: the lane was quicker.
                    let _ = self.lane.shutdown(Shutdown::Write);
                }
                Step::Notify => {
                    self.flow.notified = true;
                    self.tls.send_close_notify();
                }
                Step::Over => {
                    // The client reads an end and not a reset, unless it still sends.
                    let _ = self.client.shutdown(Shutdown::Write);
                    return Ok(());
                }
                Step::Wait(wants) => self.wait(wants)?,
            }
        }
    }

    fn wait(&mut self, wants: Wants) -> io::Result<()> {
        if self.until.is_none() && (self.flow.lane_hung || self.flow.lane_ended) {
            self.until = Some(clock::mono() + LAST_ANSWERS_MAX);
        }
        let flags = |read, write| {
            let read = if read { PollFlags::POLLIN } else { PollFlags::empty() };
            read | if write { PollFlags::POLLOUT } else { PollFlags::empty() }
        };
        let (client, lane) = (flags(wants.client_in, wants.client_out), flags(wants.lane_in, wants.lane_out));
        let mut fds = vec![PollFd::new(self.client.as_fd(), client)];
        if !lane.is_empty() || wants.lane_watch {
            fds.push(PollFd::new(self.lane.as_fd(), lane));
        }
        match poll(&mut fds, self.patience()?) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let found = |n: usize| fds.get(n).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let (client, lane) = (found(0), found(1));
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        self.flow.lane_hung |= lane.intersects(gone);
        if wants.client_out && client.intersects(PollFlags::POLLOUT | gone) {
            self.send()?;
        }
        if wants.client_in && client.intersects(PollFlags::POLLIN | gone) {
            self.receive()?;
        } else if client.intersects(gone) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if wants.lane_out && lane.intersects(PollFlags::POLLOUT | gone) {
            self.hand_in()?;
        }
        if wants.lane_in && lane.intersects(PollFlags::POLLIN | gone) {
            self.fetch_out()?;
        }
        Ok(())
    }

    /// How long poll may wait.
    fn patience(&self) -> io::Result<PollTimeout> {
        let Some(until) = self.until else { return Ok(PollTimeout::NONE) };
        let left = until.saturating_duration_since(clock::mono());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "the client did not take its last answers"));
        }
        // Rounded up, so that it does not turn in circles within the last millisecond.
        Ok(PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX))
    }

    /// From the client into TLS, and what comes out of it to where the lane takes it.
    fn receive(&mut self) -> io::Result<()> {
        let Some(bytes) = unless_blocked((&self.client).read(&mut self.chunk))? else { return Ok(()) };
        self.inward.clear();
        self.taken = 0;
        if bytes == 0 {
            // Also without the word of TLS that this is the end: requests say how long they are, so half of one is never run.
            self.flow.client_ended = true;
            return Ok(());
        }
        // Lent out for the while, for the steps below are steps of the whole relay.
        let chunk = std::mem::take(&mut self.chunk);
        let received = self.open_sealed(&chunk[..bytes]);
        self.chunk = chunk;
        received?;
        if self.taken < self.inward.len() { self.hand_in() } else { Ok(()) }
    }

    /// Decrypts what was received.
    fn open_sealed(&mut self, mut sealed: &[u8]) -> io::Result<()> {
        while !sealed.is_empty() {
            if self.tls.read_tls(&mut sealed)? == 0 {
                // What follows the word of the end is nobody's.
                self.flow.client_ended = true;
                return Ok(());
            }
            let state = self.tls.process_new_packets().map_err(|error| {
                // The alert says to the client what is wrong; if it cannot be sent at once, it is not.
                let _ = self.tls.write_tls(&mut &self.client);
                io::Error::other(error)
            })?;
            if self.flow.handshaking && !self.tls.is_handshaking() {
                self.know_client()?;
            }
            self.flow.client_ended |= state.peer_has_closed();
            if state.plaintext_bytes_to_read() > 0 {
                let start = self.inward.len();
                self.inward.resize(start + state.plaintext_bytes_to_read(), 0);
                self.tls.reader().read_exact(&mut self.inward[start..])?;
            }
        }
        Ok(())
    }

    /// The handshake is done: the certificate was proved to be of the authority, and the client to have its key.
    fn know_client(&mut self) -> io::Result<()> {
        self.flow.handshaking = false;
        let certificate = self.tls.peer_certificates().and_then(|chain| chain.first());
        let identity = certificate.and_then(Identity::of);
        let identity = identity.ok_or_else(|| io::Error::other("the client's certificate cannot be read"))?;
        // Nobody else sets it.
        let _ = self.identity.set(identity);
        self.inward.push(SECURED);
        Ok(())
    }

    fn hand_in(&mut self) -> io::Result<()> {
        match unless_blocked((&self.lane).write(&self.inward[self.taken..])) {
            Ok(bytes) => self.taken += bytes.unwrap_or(0),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.flow.lane_deaf = true;
                self.taken = self.inward.len();
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// From the lane into TLS, and as much of it to the client as it takes.
    fn fetch_out(&mut self) -> io::Result<()> {
        match unless_blocked((&self.lane).read(&mut self.chunk)) {
            Ok(None) => return Ok(()),
            // A lane that closes with something unread resets its side.
            Ok(Some(0)) => self.flow.lane_ended = true,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => self.flow.lane_ended = true,
            Ok(Some(bytes)) => self.tls.writer().write_all(&self.chunk[..bytes])?,
            Err(e) => return Err(e),
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if unless_blocked(self.tls.write_tls(&mut &self.client))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// `None` when the operation would have had to wait.
fn unless_blocked(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}
