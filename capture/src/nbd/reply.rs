//! Answers of the transmission phase as bytes. Data of a read is not copied here: only what stands before it is written.

use std::io;

use super::consts::*;
use super::wire::Put;
use crate::device::Extent;

/// Most extents of one block status answer. The text allows to answer for less than was asked.
pub const EXTENTS_MAX: usize = 8192;
/// Longest message of an error chunk, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 512;

/// A simple reply; the data of a read follows it when `error` is 0.
pub fn simple(out: &mut Vec<u8>, handle: u64, error: u32) {
    out.u32(SIMPLE_REPLY_MAGIC);
    out.u32(error);
    out.u64(handle);
}

fn chunk(out: &mut Vec<u8>, handle: u64, kind: u16, len: usize) {
    out.u32(STRUCTURED_REPLY_MAGIC);
    out.u16(REPLY_FLAG_DONE);
    out.u16(kind);
    out.u64(handle);
    out.u32(u32::try_from(len).expect("a chunk is bounded by the largest request"));
}

/// What stands before the data of a read in a structured reply: the only and last chunk, since the data is there already and
/// no error can come any more. `len` is at least 1.
pub fn data_head(out: &mut Vec<u8>, handle: u64, offset: u64, len: usize) {
    chunk(out, handle, REPLY_TYPE_OFFSET_DATA, 8 + len);
    out.u64(offset);
}

/// A structured reply without content: success.
pub fn none(out: &mut Vec<u8>, handle: u64) {
    chunk(out, handle, REPLY_TYPE_NONE, 0);
}

/// A structured reply with an error and a text for people, cut to [`MESSAGE_MAX_BYTES`].
pub fn error(out: &mut Vec<u8>, handle: u64, error: u32, message: &str) {
    let message = &message[..message.floor_char_boundary(MESSAGE_MAX_BYTES)];
    chunk(out, handle, REPLY_TYPE_ERROR, 4 + 2 + message.len());
    out.u32(error);
    out.u16(message.len() as u16);
    out.bytes(message.as_bytes());
}

/// A structured reply with the status of the `len` bytes from the request's offset. Neighbours of equal state become one, what
/// passes `len` is cut off, and with `one` a single extent is sent. Without any extent, the whole range is called allocated,
/// which is always allowed.
pub fn block_status(out: &mut Vec<u8>, handle: u64, extents: &[Extent], len: u32, one: bool) {
    let most = if one { 1 } else { EXTENTS_MAX };
    let descriptors = descriptors(extents, len, most);
    chunk(out, handle, REPLY_TYPE_BLOCK_STATUS, 4 + 8 * descriptors.len());
    out.u32(CONTEXT_ID_BASE_ALLOCATION);
    for (bytes, state) in descriptors {
        out.u32(bytes);
        out.u32(state);
    }
}

fn descriptors(extents: &[Extent], len: u32, most: usize) -> Vec<(u32, u32)> {
    let mut left = len;
    let mut found: Vec<(u32, u32)> = Vec::new();
    for extent in extents {
        let bytes = u32::try_from(extent.len).unwrap_or(u32::MAX).min(left);
        let state = if extent.hole { STATE_HOLE } else { 0 } | if extent.zero { STATE_ZERO } else { 0 };
        let room = found.len() < most;
        match found.last_mut() {
            _ if bytes == 0 => {}
            Some((before, same)) if *same == state => *before += bytes,
            _ if room => found.push((bytes, state)),
            _ => break,
        }
        left -= bytes;
    }
    if found.is_empty() {
        found.push((len, 0));
    }
    found
}

/// The protocol's value for an error of the system ("Error values").
///
/// `ENOTSUP` has a meaning for a fast zero request alone; elsewhere it becomes `EINVAL`.
#[must_use]
pub fn error_value(error: &io::Error, fast_zero: bool) -> u32 {
    use io::ErrorKind as Kind;
    let unsupported = if fast_zero { ENOTSUP } else { EINVAL };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::EROFS) => EPERM,
        Some(libc::ENOMEM) => ENOMEM,
        Some(libc::EINVAL | libc::EOVERFLOW) => EINVAL,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ENOSPC,
        Some(libc::EOPNOTSUPP) => unsupported,
        Some(libc::ESHUTDOWN) => ESHUTDOWN,
        Some(_) => EIO,
        None => match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => EPERM,
            Kind::OutOfMemory => ENOMEM,
            Kind::InvalidInput => EINVAL,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => ENOSPC,
            Kind::Unsupported => unsupported,
            _ => EIO,
        },
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
