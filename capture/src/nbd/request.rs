//! A request of the transmission phase: 28 foreign bytes in, a checked request or the protocol's error out.

use super::consts::*;
use super::wire::Reader;
use crate::device::{DeviceInfo, Request};

/// The fields of a request, not checked against anything but their magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// `CMD_*`.
    pub command: u16,
    /// The client's name for the request; given back with the answer.
    pub handle: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Header {
    /// Reads a request's header; `None` without the magic number: nothing after it can be told apart any more.
    #[must_use]
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut fields = Reader::new(bytes);
        if fields.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            handle: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }

    /// Bytes of payload that follow it, whether or not it is valid.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        if self.command == CMD_WRITE { self.len } else { 0 }
    }
}

/// What a connection has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation`.
    pub allocation: bool,
}

/// An error that is answered instead of running the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The protocol's error value.
    pub error: u32,
    /// Why, for people.
    pub why: &'static str,
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Give it to the device.
    Run(Request),
    /// It is about no byte: answer success.
    Nothing,
    /// Answer the error, after the payload has been received and thrown away.
    Refuse(Refusal),
    /// The client leaves.
    Disconnect,
}

const fn refuse(error: u32, why: &'static str) -> Checked {
    Checked::Refuse(Refusal { error, why })
}

/// The flags that may come with a command; `None` for a command that does not exist.
fn allowed_flags(command: u16, agreed: Agreed) -> Option<u16> {
    // "FUA ... is valid for all commands".
    Some(match command {
        CMD_READ if agreed.structured => CMD_FLAG_FUA | CMD_FLAG_DF,
        CMD_READ | CMD_WRITE | CMD_FLUSH | CMD_TRIM | CMD_CACHE => CMD_FLAG_FUA,
        CMD_WRITE_ZEROES => CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
        CMD_BLOCK_STATUS => CMD_FLAG_FUA | CMD_FLAG_REQ_ONE,
        CMD_DISC => u16::MAX,
        _ => return None,
    })
}

/// Checks a request against the device and what was negotiated. Sources of the errors: "Request types" and "Error values".
#[must_use]
pub fn check(header: &Header, info: &DeviceInfo, agreed: Agreed) -> Checked {
    let Header { flags, command, offset, len, .. } = *header;
    let Some(allowed) = allowed_flags(command, agreed) else {
        return refuse(EINVAL, "unknown command");
    };
    if flags & !allowed != 0 {
        return refuse(EINVAL, "a flag that does not belong to the command");
    }
    match command {
        CMD_DISC => return Checked::Disconnect,
        CMD_FLUSH if offset != 0 || len != 0 => return refuse(EINVAL, "offset and length of a flush must be zero"),
        CMD_FLUSH => return Checked::Run(Request::Flush),
        _ => {}
    }
    let writes = matches!(command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
    if writes && info.read_only {
        return refuse(EPERM, "the export is read-only");
    }
    if offset.checked_add(u64::from(len)).is_none_or(|end| end > info.size_bytes) {
        // "ENOSPC if it receives a write request including one or more sectors beyond the size"; a trim gets EINVAL.
        let error = if matches!(command, CMD_WRITE | CMD_WRITE_ZEROES) { ENOSPC } else { EINVAL };
        return refuse(error, "the range passes the end of the export");
    }
    if matches!(command, CMD_READ | CMD_WRITE) && len > info.max_request_bytes {
        let error = if flags & CMD_FLAG_DF != 0 { EOVERFLOW } else { EINVAL };
        return refuse(error, "the request is longer than the export's maximum block size");
    }
    if command == CMD_BLOCK_STATUS && !agreed.allocation {
        return refuse(EINVAL, "no metadata context was negotiated for this export");
    }
    if len == 0 {
        // Unspecified by the text. A block status has no answer without an extent; the others have nothing to do.
        return match command {
            CMD_BLOCK_STATUS => refuse(EINVAL, "a block status of no bytes"),
            _ => Checked::Nothing,
        };
    }
    run(header, info)
}

/// The device's request of a checked header with `len > 0`.
fn run(header: &Header, info: &DeviceInfo) -> Checked {
    let Header { flags, command, offset, len, .. } = *header;
    let fua = flags & CMD_FLAG_FUA != 0;
    let long = u64::from(len);
    Checked::Run(match command {
        CMD_READ => Request::Read { offset, len },
        CMD_WRITE => Request::Write { offset, len, fua },
        CMD_TRIM => Request::Trim { offset, len: long, fua },
        CMD_CACHE => Request::Cache { offset, len: long },
        CMD_BLOCK_STATUS => Request::BlockStatus { offset, len: long, one: flags & CMD_FLAG_REQ_ONE != 0 },
        CMD_WRITE_ZEROES => {
            let fast = flags & CMD_FLAG_FAST_ZERO != 0;
            if fast && !info.fast_zero {
                return refuse(ENOTSUP, "zeroing is no quicker than writing here");
            }
            Request::WriteZeroes { offset, len: long, fua, no_hole: flags & CMD_FLAG_NO_HOLE != 0, fast }
        }
        _ => return refuse(EINVAL, "unknown command"),
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
