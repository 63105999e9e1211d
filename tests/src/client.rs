//! A small NBD client, written from the protocol's text and sharing no code with the server: it speaks the fixed newstyle
//! handshake and simple replies, one request at a time or several in flight, and its parts can be used to misbehave.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins an answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Client flags: fixed newstyle, no zeroes.
pub const CLIENT_FLAGS: u32 = 3;

/// Options of the handshake.
pub mod option {
    /// The one without an answer.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the handshake.
    pub const ABORT: u32 = 2;
    /// Names of the exports.
    pub const LIST: u32 = 3;
    /// An export's properties.
    pub const INFO: u32 = 6;
    /// The same, and transmission begins.
    pub const GO: u32 = 7;
    /// Structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Chooses metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's property.
    pub const INFO: u32 = 3;
    /// The server does not know the option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// The option's data is not what it should be.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The option's data is too long.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Commands of the transmission phase.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Goodbye.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Block status.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Errors of replies.
pub mod error {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// Invalid argument.
    pub const EINVAL: u32 = 22;
    /// No space left, or past the end.
    pub const ENOSPC: u32 = 28;
    /// Too long.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported.
    pub const ENOTSUP: u32 = 95;
}

/// How long any single read or write may take before the test calls the server dead.
const STUCK: Duration = Duration::from_secs(60);

/// A stream socket to a server.
pub trait Socket: Read + Write {
    /// Sets how long a read may wait.
    ///
    /// # Errors
    /// Of the socket.
    fn patience(&self, time: Duration) -> io::Result<()>;
}

impl Socket for UnixStream {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Socket for TcpStream {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// A connection.
pub struct Client<S = UnixStream> {
    /// The socket, for those who want to misbehave.
    pub stream: S,
    /// The export's size in bytes, once it is known.
    pub size: u64,
    /// The export's transmission flags, once they are known.
    pub flags: u16,
    cookie: u64,
}

/// An answer to an option: its kind and data.
pub type OptionReply = (u32, Vec<u8>);

impl Client {
    /// Connects to a unix socket and goes to transmission of `export`.
    ///
    /// # Errors
    /// Of the socket, or when the server does not answer as the protocol says.
    pub fn open(socket: &Path, export: &str) -> io::Result<Self> {
        let mut client = Self::greet(UnixStream::connect(socket)?)?;
        client.go(export)?;
        Ok(client)
    }

    /// Connects to a unix socket and ends after the greetings.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn greeted(socket: &Path) -> io::Result<Self> {
        Self::greet(UnixStream::connect(socket)?)
    }
}

impl<S: Socket> Client<S> {
    /// Exchanges greetings.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn greet(stream: S) -> io::Result<Self> {
        stream.patience(STUCK)?;
        let mut client = Self { stream, size: 0, flags: 0, cookie: 0 };
        expect(client.u64()?, MAGIC, "NBDMAGIC")?;
        expect(client.u64()?, OPTION_MAGIC, "IHAVEOPT")?;
        expect(client.u16()? & 1, 1, "fixed newstyle")?;
        client.stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        Ok(client)
    }

    /// Sends an option.
    ///
    /// # Errors
    /// Of the socket.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes)
    }

    /// Receives one answer to `option`.
    ///
    /// # Errors
    /// Of the socket, or when it is not one.
    pub fn option_reply(&mut self, option: u32) -> io::Result<OptionReply> {
        expect(self.u64()?, OPTION_REPLY_MAGIC, "magic of an option reply")?;
        expect(self.u32()?, option, "the option that is answered")?;
        let kind = self.u32()?;
        let len = self.u32()? as usize;
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data)?;
        Ok((kind, data))
    }

    /// `NBD_OPT_GO`.
    ///
    /// # Errors
    /// As [`Client::open`]; a refusal is an error of kind `NotFound`.
    pub fn go(&mut self, export: &str) -> io::Result<()> {
        self.send_option(option::GO, &go_data(export))?;
        loop {
            let (kind, data) = self.option_reply(option::GO)?;
            match kind {
                option_reply::ACK => return Ok(()),
                option_reply::INFO if data.len() == 12 && data[..2] == [0, 0] => {
                    self.size = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes"));
                    self.flags = u16::from_be_bytes(data[10..12].try_into().expect("two bytes"));
                }
                option_reply::INFO => {}
                other => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, format!("go was refused with {other:#x}")));
                }
            }
        }
    }

    /// Sends the header of a request, and nothing after it. Gives its cookie.
    ///
    /// # Errors
    /// Of the socket.
    pub fn send_header(&mut self, flags: u16, command: u16, offset: u64, len: u32) -> io::Result<u64> {
        self.cookie += 1;
        self.stream.write_all(&request(flags, command, self.cookie, offset, len))?;
        Ok(self.cookie)
    }

    /// Receives a simple reply without data: its cookie and error.
    ///
    /// # Errors
    /// Of the socket, or when it is not one.
    pub fn simple_reply(&mut self) -> io::Result<(u64, u32)> {
        expect(self.u32()?, SIMPLE_REPLY_MAGIC, "magic of a simple reply")?;
        let error = self.u32()?;
        Ok((self.u64()?, error))
    }

    /// One request without data in its answer, and its error (0: none).
    ///
    /// # Errors
    /// Of the socket, or when the answer is not one.
    pub fn ask(&mut self, flags: u16, command: u16, offset: u64, len: u32, payload: &[u8]) -> io::Result<u32> {
        self.cookie += 1;
        let mut bytes = request(flags, command, self.cookie, offset, len).to_vec();
        bytes.extend(payload);
        self.stream.write_all(&bytes)?;
        let (cookie, error) = self.simple_reply()?;
        expect(cookie, self.cookie, "the cookie")?;
        Ok(error)
    }

    /// Reads.
    ///
    /// # Errors
    /// Of the socket or of the server.
    pub fn read(&mut self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        good(self.ask(0, command::READ, offset, len, &[])?)?;
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    /// Writes.
    ///
    /// # Errors
    /// Of the socket or of the server.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        good(self.ask(0, command::WRITE, offset, data.len() as u32, data)?)
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// Of the socket or of the server.
    pub fn zeroes(&mut self, offset: u64, len: u32) -> io::Result<()> {
        good(self.ask(0, command::WRITE_ZEROES, offset, len, &[])?)
    }

    /// Trims.
    ///
    /// # Errors
    /// Of the socket or of the server.
    pub fn trim(&mut self, offset: u64, len: u32) -> io::Result<()> {
        good(self.ask(0, command::TRIM, offset, len, &[])?)
    }

    /// Flushes.
    ///
    /// # Errors
    /// Of the socket or of the server.
    pub fn flush(&mut self) -> io::Result<()> {
        good(self.ask(0, command::FLUSH, 0, 0, &[])?)
    }

    /// Receives a big-endian number.
    ///
    /// # Errors
    /// Of the socket.
    pub fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// As [`Client::u16`].
    ///
    /// # Errors
    /// Of the socket.
    pub fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// As [`Client::u16`].
    ///
    /// # Errors
    /// Of the socket.
    pub fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the server ends the connection: the next read finds its end.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == io::ErrorKind::ConnectionReset || e.kind() == io::ErrorKind::BrokenPipe,
            }
        }
    }
}

/// The data of `NBD_OPT_GO` and `NBD_OPT_INFO` for an export, with no wishes.
#[must_use]
pub fn go_data(export: &str) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend(0_u16.to_be_bytes());
    data
}

/// The header of a request.
#[must_use]
pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

fn expect<T: PartialEq + std::fmt::LowerHex>(found: T, wanted: T, what: &str) -> io::Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {found:#x} instead of {wanted:#x}")))
}

fn good(error: u32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}
