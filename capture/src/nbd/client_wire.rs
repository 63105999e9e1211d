//! The client's side of the wire: the negotiation, and one reply at a time.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::client::{ClientError, ClientOptions};
use super::consts::*;
use super::wire::{Put, Reader};

/// Longest option reply or error message that a client takes, in bytes.
const REPLY_MAX_BYTES: u32 = 64 << 10;
/// Most replies to one option: a list of so many exports is no list.
const REPLIES_MAX: usize = 65_536;
/// Bytes received at a time; longer data bypasses the buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// A connected stream of either kind.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
            Stream::Tcp(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buf),
            Stream::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(buf),
            Stream::Tcp(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the server granted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Granted {
    pub size_bytes: u64,
    pub flags: u16,
    pub structured: bool,
    pub context: Option<u32>,
    pub preferred_block_bytes: Option<u32>,
    pub max_request_bytes: Option<u32>,
}

/// A stream with the reading side buffered.
#[derive(Debug)]
pub(super) struct Wire {
    stream: BufReader<Stream>,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream) }
    }

    pub(super) fn stream(&self) -> &Stream {
        self.stream.get_ref()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.get_mut().write_all(bytes).map_err(|source| ClientError::Io { what: "send", source })
    }

    pub(super) fn receive(&mut self, buf: &mut [u8]) -> Result<(), ClientError> {
        self.stream.read_exact(buf).map_err(|source| ClientError::Io { what: "receive", source })
    }

    pub(super) fn receive_array<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        let mut bytes = [0; N];
        self.receive(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the server's greeting and answers it.
    pub(super) fn greet(&mut self) -> Result<(), ClientError> {
        let greeting: [u8; 18] = self.receive_array()?;
        let mut fields = Reader::new(&greeting);
        let (Some(INIT_MAGIC), Some(OPTION_MAGIC), Some(flags)) = (fields.u64(), fields.u64(), fields.u16()) else {
            return Err(ClientError::Protocol("the peer is no NBD server of the newstyle protocol"));
        };
        if flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Protocol("the server does not speak fixed newstyle"));
        }
        let no_zeroes = if flags & FLAG_NO_ZEROES != 0 { FLAG_C_NO_ZEROES } else { 0 };
        self.send(&(FLAG_C_FIXED_NEWSTYLE | no_zeroes).to_be_bytes())
    }

    /// Sends an option and hands each reply before the last to `each`; gives the error of the last one as text.
    pub(super) fn option(
        &mut self,
        option: u32,
        data: &[u8],
        mut each: impl FnMut(u32, &[u8]),
    ) -> Result<Result<(), (u32, String)>, ClientError> {
        let mut out = Vec::with_capacity(16 + data.len());
        out.u64(OPTION_MAGIC);
        out.u32(option);
        out.u32(data.len() as u32);
        out.bytes(data);
        self.send(&out)?;
        for _ in 0..REPLIES_MAX {
            let head: [u8; 20] = self.receive_array()?;
            let mut fields = Reader::new(&head);
            let (magic, about, kind, len) = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
            if magic != Some(OPTION_REPLY_MAGIC) || about != Some(option) {
                return Err(ClientError::Protocol("an option was answered with something else"));
            }
            let (kind, len) = (kind.unwrap_or_default(), len.unwrap_or_default());
            if len > REPLY_MAX_BYTES {
                return Err(ClientError::Protocol("an option reply is too long"));
            }
            let mut data = vec![0; len as usize];
            self.receive(&mut data)?;
            if kind & REP_FLAG_ERROR != 0 {
                return Ok(Err((kind, String::from_utf8_lossy(&data).into_owned())));
            }
            if kind == REP_ACK {
                return Ok(Ok(()));
            }
            each(kind, &data);
        }
        Err(ClientError::Protocol("an option has replies without end"))
    }

    /// Negotiates up to the transmission phase of `export`.
    pub(super) fn go(&mut self, export: &str, wanted: ClientOptions) -> Result<Granted, ClientError> {
        self.greet()?;
        let mut granted = Granted::default();
        if wanted.structured {
            granted.structured = self.option(OPT_STRUCTURED_REPLY, &[], |_, _| {})?.is_ok();
        }
        if granted.structured && wanted.allocation {
            let mut data = name_field(export);
            data.u32(1);
            data.extend(name_field(CONTEXT_BASE_ALLOCATION));
            let context = &mut granted.context;
            // A refusal leaves the context away, as an older server would.
            let _refusal = self.option(OPT_SET_META_CONTEXT, &data, |kind, data| {
                if kind == REP_META_CONTEXT {
                    *context = Reader::new(data).u32();
                }
            })?;
        }
        let mut data = name_field(export);
        data.u16(1);
        data.u16(INFO_BLOCK_SIZE);
        let mut exported = false;
        let end = self.option(OPT_GO, &data, |kind, data| {
            let mut fields = Reader::new(data);
            match (kind, fields.u16()) {
                (REP_INFO, Some(INFO_EXPORT)) => {
                    exported = true;
                    granted.size_bytes = fields.u64().unwrap_or_default();
                    granted.flags = fields.u16().unwrap_or_default();
                }
                (REP_INFO, Some(INFO_BLOCK_SIZE)) => {
                    let _minimum = fields.u32();
                    granted.preferred_block_bytes = fields.u32();
                    granted.max_request_bytes = fields.u32();
                }
                _ => {} // the text: ignore information that is not known
            }
        })?;
        match end {
            Err((_, message)) => Err(ClientError::Refused { export: export.to_owned(), message }),
            Ok(()) if !exported => Err(ClientError::Protocol("the server did not describe the export")),
            Ok(()) => Ok(granted),
        }
    }

    /// The names of all exports.
    pub(super) fn list(&mut self) -> Result<Vec<String>, ClientError> {
        self.greet()?;
        let mut names = Vec::new();
        let end = self.option(OPT_LIST, &[], |kind, data| {
            let mut fields = Reader::new(data);
            let name = fields.u32().and_then(|len| fields.take(len as usize));
            if let (REP_SERVER, Some(name)) = (kind, name) {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        })?;
        if let Err((_, message)) = end {
            return Err(ClientError::Refused { export: String::new(), message });
        }
        // The server answers and closes; some close without an answer.
        let _ = self.option(OPT_ABORT, &[], |_, _| {});
        Ok(names)
    }
}

/// A string with its length before it.
fn name_field(text: &str) -> Vec<u8> {
    let mut field = Vec::with_capacity(4 + text.len());
    field.u32(text.len() as u32);
    field.bytes(text.as_bytes());
    field
}
