//! Blocking work on a disk's ranges: whole reads, zeroing, holes. It runs on helper threads and at start-up, never on a lane
//! thread.
//!
//! Files and block devices take the same path: fallocate(2) on a block device zeroes with the device's own command, or with
//! writes, so that what was given up reads as zeroes on both.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use farshore_changelog::medium;
use farshore_changelog::units::ByteRange;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::unistd::{Whence, lseek};

use crate::device::Extent;
use crate::engine::HeapBuf;

/// Most extents of one answer; what lies beyond is asked for again.
pub const EXTENTS_MAX: usize = 1024;
/// Beyond it no disk goes.
const HOLE_END_MAX: u64 = 1 << 60;
/// Bytes written or read at once where a range has to be gone through.
const STEP_BYTES: u64 = 1 << 20;

/// Reads `buf` in full at `offset`. For direct I/O all three of memory, offset and length must be aligned.
///
/// # Errors
/// Of the disk; `UnexpectedEof` where it ends.
pub fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(buf, offset)
}

/// Makes `range` (whole blocks) read as zeroes: by a hole, or with `keep_allocated` by allocated zeroes; where the file
/// system has neither, by writing.
///
/// # Errors
/// Of the disk; the range may then be zeroed in part.
pub fn zero(file: &File, range: ByteRange, keep_allocated: bool) -> io::Result<()> {
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let zeroes = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let ways: &[FallocateFlags] = if keep_allocated { &[zeroes] } else { &[punch, zeroes] };
    for way in ways {
        match allocate(file, *way, range) {
            Ok(()) => return Ok(()),
            Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
                _ => return Err(e),
            },
        }
    }
    write_zeroes(file, range)
}

/// Whether holes can be punched into `file`, which ends at `size_bytes`: asked beyond its end, where there is nothing to lose.
/// Only for regular files.
#[must_use]
pub fn punches_holes(file: &File, size_bytes: u64) -> bool {
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    ByteRange::at(size_bytes, STEP_BYTES).is_some_and(|beyond| allocate(file, punch, beyond).is_ok())
}

fn allocate(file: &File, way: FallocateFlags, range: ByteRange) -> io::Result<()> {
    loop {
        match medium::fallocate(file, way, range.start, range.len()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn write_zeroes(file: &File, range: ByteRange) -> io::Result<()> {
    let zeroes = HeapBuf::new(STEP_BYTES.min(range.len()) as usize);
    for_each_step(range, |step| medium::write_all_at(file, &zeroes.as_slice()[..step.len() as usize], step.start))
}

/// Whether `range` (whole blocks) reads as zeroes.
///
/// # Errors
/// Of the disk.
pub fn reads_as_zeroes(file: &File, range: ByteRange) -> io::Result<bool> {
    let mut buf = HeapBuf::new(STEP_BYTES.min(range.len()) as usize);
    let mut zero = true;
    for_each_step(range, |step| {
        if zero {
            let bytes = &mut buf.as_mut_slice()[..step.len() as usize];
            read_full(file, step.start, bytes)?;
            zero = is_zero(bytes);
        }
        Ok(())
    })?;
    Ok(zero)
}

fn for_each_step(range: ByteRange, mut f: impl FnMut(ByteRange) -> io::Result<()>) -> io::Result<()> {
    let mut start = range.start;
    while start < range.end {
        let end = (start + STEP_BYTES).min(range.end);
        f(ByteRange { start, end })?;
        start = end;
    }
    Ok(())
}

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // In chunks, so that it becomes wide comparisons with an early end.
    let chunks = bytes.chunks_exact(64);
    chunks.remainder().iter().all(|b| *b == 0) && chunks.into_iter().all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

/// Whether nothing at all is allocated in `range`. A disk that cannot say has data everywhere.
///
/// # Errors
/// Of the disk.
pub fn is_hole(file: &File, range: ByteRange) -> io::Result<bool> {
    Ok(hole_end(file, range.start)? >= range.end)
}

/// Where the hole that `at` lies in ends, at the latest 2^60; `at` itself when it lies in none, or when the disk cannot say.
///
/// # Errors
/// Of the disk.
pub fn hole_end(file: &File, at: u64) -> io::Result<u64> {
    Ok(next_data(file, at)?.map_or(HOLE_END_MAX, |data| data.min(HOLE_END_MAX)))
}

/// What is allocated in `range`, from its start: at most `max` extents, which then cover only its first part.
///
/// # Errors
/// Of the disk.
pub fn extents(file: &File, range: ByteRange, max: usize) -> io::Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end && found.len() < max {
        let data = next_data(file, at)?.unwrap_or(range.end).clamp(at, range.end);
        if data > at {
            found.push(Extent { len: data - at, hole: true, zero: true });
            at = data;
            continue;
        }
        let hole = next_hole(file, at)?.unwrap_or(range.end).clamp(at, range.end);
        // A hole that begins where data was just found: someone changes the file; call it data and go on.
        let end = if hole > at { hole } else { range.end };
        found.push(Extent { len: end - at, hole: false, zero: false });
        at = end;
    }
    Ok(found)
}

/// First data at or after `at`; `None` when there is none up to the end. A disk without the notion has data everywhere.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    seek(file, at, Whence::SeekData, Some(at))
}

/// First hole at or after `at`; `None` when the disk does not know holes.
fn next_hole(file: &File, at: u64) -> io::Result<Option<u64>> {
    seek(file, at, Whence::SeekHole, None)
}

fn seek(file: &File, at: u64, whence: Whence, unknown: Option<u64>) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    match lseek(file, from, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(unknown),
        Err(e) => Err(e.into()),
    }
}
