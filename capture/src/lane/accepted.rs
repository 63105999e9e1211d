//! The one place where a lane takes ownership of a descriptor that the engine has accepted.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Owns the connection that an accept's completion gave as `value`; `None` when it is no descriptor.
pub(crate) fn own(value: u64) -> Option<OwnedFd> {
    let fd = RawFd::try_from(value).ok()?;
    // SAFETY: the kernel made this descriptor for the accept whose completion is being handled, which is handled once; nobody
    // else knows it. It is not negative, because it came from a u64 that fits.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
