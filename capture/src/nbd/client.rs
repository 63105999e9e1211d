//! A small blocking NBD client, for the demonstration and for tests. It can have several requests in flight.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::client_wire::{Granted, Stream, Wire};
use super::consts::*;
use super::pending::Pending;
use super::request::Header;
use super::wire::{Put, Reader};
use crate::device::Extent;
use crate::listen::Listen;

/// How long a client waits for the server, unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What a client asks for in the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientOptions {
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation`, for block status; needs structured replies.
    pub allocation: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { structured: true, allocation: true }
    }
}

/// What went wrong on the client's side of a connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("cannot {what} over the NBD connection")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The server broke the protocol.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server does not give the export.
    #[error("the NBD server refuses export {export:?}: {message}")]
    Refused {
        /// The export.
        export: String,
        /// The server's words.
        message: String,
    },
    /// The server answered a request with an error.
    #[error(transparent)]
    Server(#[from] ServerRefusal),
}

/// An error that the server answered to one request. The connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the NBD server answered error {error}: {message}")]
pub struct ServerRefusal {
    /// The protocol's error value.
    pub error: u32,
    /// The server's words; empty without structured replies.
    pub message: String,
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// The bytes read.
    Data(Vec<u8>),
    /// The extents from the request's offset.
    Extents(Vec<Extent>),
}

/// The end of one request.
pub type Outcome = Result<Reply, ServerRefusal>;

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    granted: Granted,
    next_handle: u64,
    pending: HashMap<u64, Pending>,
    ready: VecDeque<(u64, Outcome)>,
}

impl Client {
    /// Connects to export `name` (empty: the default one) on a unix socket.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, or the server refuses.
    pub fn connect_unix(path: &Path, name: &str) -> Result<Self, ClientError> {
        Self::connect(&Listen::Unix(path.to_owned()), name, ClientOptions::default())
    }

    /// Connects to export `name` (empty: the default one) at `host:port`.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, or the server refuses.
    pub fn connect_tcp(address: &str, name: &str) -> Result<Self, ClientError> {
        Self::connect(&Listen::Tcp(address.to_owned()), name, ClientOptions::default())
    }

    /// Connects to export `name` (empty: the default one), asking for `options`.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, or the server refuses.
    pub fn connect(at: &Listen, name: &str, options: ClientOptions) -> Result<Self, ClientError> {
        Self::negotiate(dial(at)?, name, options)
    }

    /// As [`Client::connect`], over a stream that is connected.
    ///
    /// # Errors
    /// As there.
    pub fn over(stream: UnixStream, name: &str, options: ClientOptions) -> Result<Self, ClientError> {
        Self::negotiate(Wire::new(Stream::Unix(stream)), name, options)
    }

    fn negotiate(mut wire: Wire, name: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let granted = wire.go(name, options)?;
        Ok(Self { wire, granted, next_handle: 1, pending: HashMap::new(), ready: VecDeque::new() })
    }

    /// The names of all exports.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, or the server refuses.
    pub fn list(at: &Listen) -> Result<Vec<String>, ClientError> {
        dial(at)?.list()
    }

    /// As [`Client::list`], over a stream that is connected.
    ///
    /// # Errors
    /// As there.
    pub fn list_over(stream: UnixStream) -> Result<Vec<String>, ClientError> {
        Wire::new(Stream::Unix(stream)).list()
    }

    /// How long to wait for the server from now on; `None`: without limit.
    ///
    /// # Errors
    /// [`ClientError::Io`] when the system refuses the time.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let set = self.wire.stream().set_timeout(timeout);
        set.map_err(|source| ClientError::Io { what: "set the timeout", source })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.granted.size_bytes
    }

    /// The export's transmission flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.granted.flags
    }

    /// Whether structured replies and `base:allocation` were granted.
    #[must_use]
    pub fn granted(&self) -> (bool, bool) {
        (self.granted.structured, self.granted.context.is_some())
    }

    /// Preferred block size and longest request in bytes, when the server said so.
    #[must_use]
    pub fn block_bytes(&self) -> (Option<u32>, Option<u32>) {
        (self.granted.preferred_block_bytes, self.granted.max_request_bytes)
    }

    /// Requests that have not been answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Sends a request and does not wait; gives the handle that [`Client::receive`] names. The caller bounds what it has in
    /// flight: a server stops receiving at its own limits, and this call then waits.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn submit(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<u64, ClientError> {
        let handle = self.next_handle;
        self.next_handle += 1;
        let mut out = Vec::with_capacity(REQUEST_BYTES);
        out.u32(REQUEST_MAGIC);
        out.u16(flags);
        out.u16(command);
        out.u64(handle);
        out.u64(offset);
        out.u32(len);
        self.wire.send(&out)?;
        self.wire.send(payload)?;
        let header = Header { flags, command, handle, offset, len };
        self.pending.insert(handle, Pending::new(header));
        Ok(handle)
    }

    /// Waits for the next answer and gives the request's handle with it.
    ///
    /// # Errors
    /// [`ClientError::Io`], or [`ClientError::Protocol`]: the connection is of no use any more.
    pub fn receive(&mut self) -> Result<(u64, Outcome), ClientError> {
        if let Some(ready) = self.ready.pop_front() {
            return Ok(ready);
        }
        self.receive_from_wire()
    }

    fn receive_from_wire(&mut self) -> Result<(u64, Outcome), ClientError> {
        loop {
            let magic = u32::from_be_bytes(self.wire.receive_array()?);
            let done = match magic {
                SIMPLE_REPLY_MAGIC => Some(self.simple()?),
                STRUCTURED_REPLY_MAGIC if self.granted.structured => self.chunk()?,
                _ => return Err(ClientError::Protocol("a reply without its magic number")),
            };
            let Some(handle) = done else { continue };
            let request = self.pending.remove(&handle).ok_or(UNKNOWN_HANDLE)?;
            return Ok((handle, request.outcome()?));
        }
    }

    /// A simple reply; gives its handle.
    fn simple(&mut self) -> Result<u64, ClientError> {
        let head: [u8; SIMPLE_REPLY_BYTES - 4] = self.wire.receive_array()?;
        let mut fields = Reader::new(&head);
        let error = fields.u32().unwrap_or_default();
        let handle = fields.u64().unwrap_or_default();
        let request = self.pending.get_mut(&handle).ok_or(UNKNOWN_HANDLE)?;
        if error != 0 {
            request.refusal = Some(ServerRefusal { error, message: String::new() });
        } else if request.header.command == CMD_READ {
            if self.granted.structured {
                return Err(ClientError::Protocol("a read was answered with a simple reply"));
            }
            request.data = vec![0; request.header.len as usize];
            self.wire.receive(&mut request.data)?;
            request.come = request.data.len();
        }
        Ok(handle)
    }

    /// A structured chunk; gives its handle when it is the last one.
    fn chunk(&mut self) -> Result<Option<u64>, ClientError> {
        let head: [u8; STRUCTURED_REPLY_BYTES - 4] = self.wire.receive_array()?;
        let mut fields = Reader::new(&head);
        let (flags, kind) = (fields.u16().unwrap_or_default(), fields.u16().unwrap_or_default());
        let (handle, len) = (fields.u64().unwrap_or_default(), fields.u32().unwrap_or_default());
        let request = self.pending.get_mut(&handle).ok_or(UNKNOWN_HANDLE)?;
        if len > CHUNK_MAX_BYTES {
            return Err(ClientError::Protocol("a chunk is too long"));
        }
        let reads = request.header.command == CMD_READ;
        match kind {
            REPLY_TYPE_NONE if len == 0 => {}
            REPLY_TYPE_OFFSET_DATA if reads && len > 8 => {
                let offset = u64::from_be_bytes(self.wire.receive_array()?);
                let part = request.part(offset, len - 8)?;
                self.wire.receive(part)?;
            }
            REPLY_TYPE_OFFSET_HOLE if reads && len == 12 => {
                let offset = u64::from_be_bytes(self.wire.receive_array()?);
                let hole = u32::from_be_bytes(self.wire.receive_array()?);
                request.part(offset, hole)?.fill(0);
            }
            _ => {
                let mut body = vec![0; len as usize];
                self.wire.receive(&mut body)?;
                match kind {
                    REPLY_TYPE_BLOCK_STATUS => request.block_status(&body, self.granted.context)?,
                    _ if kind & REPLY_TYPE_FLAG_ERROR != 0 => request.error(&body)?,
                    _ => return Err(ClientError::Protocol("a chunk of an unknown type")),
                }
            }
        }
        Ok((flags & REPLY_FLAG_DONE != 0).then_some(handle))
    }

    /// Waits for the answer to `handle`; answers to others are kept for [`Client::receive`].
    ///
    /// # Errors
    /// As [`Client::receive`], and [`ClientError::Server`] when the server answered an error.
    pub fn wait(&mut self, handle: u64) -> Result<Reply, ClientError> {
        if let Some(at) = self.ready.iter().position(|(h, _)| *h == handle)
            && let Some((_, outcome)) = self.ready.remove(at)
        {
            return Ok(outcome?);
        }
        loop {
            match self.receive_from_wire()? {
                (h, outcome) if h == handle => return Ok(outcome?),
                other => self.ready.push_back(other),
            }
        }
    }

    fn run(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> Result<Reply, ClientError> {
        let handle = self.submit(command, flags, offset, len, payload)?;
        self.wait(handle)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ClientError> {
        match self.run(CMD_READ, 0, offset, length(buf.len())?, &[])? {
            Reply::Data(data) => buf.copy_from_slice(&data),
            Reply::Done | Reply::Extents(_) => return Err(ClientError::Protocol("a read was answered without data")),
        }
        Ok(())
    }

    /// Writes `data` at `offset`; with `fua` it is durable when this returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), ClientError> {
        let len = length(data.len())?;
        self.run(CMD_WRITE, if fua { CMD_FLAG_FUA } else { 0 }, offset, len, data).map(drop)
    }

    /// Makes every answered write durable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.run(CMD_FLUSH, 0, 0, 0, &[]).map(drop)
    }

    /// Gives up `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.run(CMD_TRIM, 0, offset, len, &[]).map(drop)
    }

    /// Zeroes `len` bytes at `offset`; `flags` are `CMD_FLAG_FUA`, `NO_HOLE` and `FAST_ZERO`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write_zeroes(&mut self, offset: u64, len: u32, flags: u16) -> Result<(), ClientError> {
        self.run(CMD_WRITE_ZEROES, flags, offset, len, &[]).map(drop)
    }

    /// Asks the server to have `len` bytes at `offset` at hand.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cache(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.run(CMD_CACHE, 0, offset, len, &[]).map(drop)
    }

    /// What is allocated of `len` bytes at `offset`; the server may answer for fewer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn block_status(&mut self, offset: u64, len: u32, one: bool) -> Result<Vec<Extent>, ClientError> {
        match self.run(CMD_BLOCK_STATUS, if one { CMD_FLAG_REQ_ONE } else { 0 }, offset, len, &[])? {
            Reply::Extents(extents) => Ok(extents),
            Reply::Done | Reply::Data(_) => Err(ClientError::Protocol("a block status was answered without extents")),
        }
    }

    /// Takes leave. Requests in flight are ended by the server; their answers are thrown away.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.submit(CMD_DISC, 0, 0, 0, &[])?;
        Ok(())
    }
}

/// Longest chunk that is taken, in bytes: the largest read that a client may ask without having asked for block sizes.
const CHUNK_MAX_BYTES: u32 = DEFAULT_MAX_PAYLOAD_BYTES + 8;
const UNKNOWN_HANDLE: ClientError = ClientError::Protocol("an answer to a request that was not asked");

fn dial(at: &Listen) -> Result<Wire, ClientError> {
    let stream = match at {
        Listen::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        Listen::Tcp(address) => TcpStream::connect(address).map(Stream::Tcp),
    };
    let tuned = stream.and_then(|stream| {
        if let Stream::Tcp(tcp) = &stream {
            tcp.set_nodelay(true)?;
        }
        stream.set_timeout(Some(TIMEOUT))?;
        Ok(stream)
    });
    Ok(Wire::new(tuned.map_err(|source| ClientError::Io { what: "connect", source })?))
}

fn length(bytes: usize) -> Result<u32, ClientError> {
    u32::try_from(bytes)
        .map_err(|_| ClientError::Io { what: "ask for that much", source: io::ErrorKind::InvalidInput.into() })
}
