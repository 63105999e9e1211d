//! Whether and how a disk takes O_DIRECT.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use farshore_changelog::units::SECTOR_BYTES;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::engine::HeapBuf;
use crate::engine::buffer::BUFFER_ALIGN_BYTES;

/// Largest direct-I/O block that is used; a stricter file system is used through the page cache.
const BLOCK_MAX_BYTES: u32 = BUFFER_ALIGN_BYTES as u32;

/// Switches `file` to direct I/O and gives its block, in bytes: a power of two from 512 to 4096.
///
/// # Errors
/// Why direct I/O cannot be used, in words; the file is then as it was.
pub(super) fn enable(file: &File, size_bytes: u64) -> Result<u32, String> {
    let candidates = match stated_align(file) {
        Some(0) => return Err("its file system does not offer direct I/O for it".to_owned()),
        Some(align) if align > BLOCK_MAX_BYTES || !align.is_power_of_two() => {
            return Err(format!("its file system wants blocks of {align} bytes for direct I/O"));
        }
        Some(align) => vec![align.max(SECTOR_BYTES as u32)],
        None => vec![SECTOR_BYTES as u32, BLOCK_MAX_BYTES], // an older kernel: try
    };
    let flags = status_flags(file).map_err(|e| e.to_string())?;
    set_status_flags(file, flags | OFlag::O_DIRECT).map_err(|e| format!("O_DIRECT is refused: {e}"))?;
    let mut why = String::new();
    for block in candidates {
        if !size_bytes.is_multiple_of(u64::from(block)) {
            why = format!("its size is not a multiple of its direct I/O block of {block} bytes");
            continue;
        }
        let mut trial = HeapBuf::new(block as usize);
        match file.read_exact_at(trial.as_mut_slice(), 0) {
            Ok(()) => return Ok(block),
            Err(e) => why = format!("a direct read of {block} bytes fails: {e}"),
        }
    }
    set_status_flags(file, flags).map_err(|e| format!("{why}; and O_DIRECT cannot be switched off again: {e}"))?;
    Err(why)
}

fn status_flags(file: &File) -> io::Result<OFlag> {
    Ok(OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?))
}

fn set_status_flags(file: &File, flags: OFlag) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// The alignment that the kernel states for direct writes (statx(2), `STATX_DIOALIGN`, Linux 6.1): 0 when there is no direct
/// I/O, `None` when it does not say.
fn stated_align(file: &File) -> Option<u32> {
    // SAFETY: statx is plain data, for which all zeroes is a value.
    let mut stat = unsafe { std::mem::zeroed::<libc::statx>() };
    // SAFETY: the path is an empty C string, `stat` lives through the call.
    let answer = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut stat)
    };
    if answer != 0 || stat.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    if stat.stx_dio_mem_align > BUFFER_ALIGN_BYTES as u32 {
        return Some(0);
    }
    Some(stat.stx_dio_offset_align)
}
