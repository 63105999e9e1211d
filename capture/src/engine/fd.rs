//! The one place where an engine turns a raw descriptor into a borrowed one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Borrows `fd` for the time of one operation.
///
/// # Errors
/// `EBADF` for a negative number, which is no descriptor.
pub(super) fn borrow(fd: RawFd) -> io::Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: not -1, and whoever pushed the operation keeps the descriptor open until its completion (see `Io`); the borrow
    // does not leave the operation.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
