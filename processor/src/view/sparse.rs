//! Holes of files: where they are, and how they are made.

use std::fs::File;
use std::io;

use farshore_changelog::medium;
use farshore_changelog::units::ByteRange;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::unistd::{Whence, lseek};

/// Zeroes written at a time where holes cannot be punched, in bytes.
const ZEROES_BYTES: usize = 1 << 20;

/// Calls `each` with the stretches of `range` in order and whether each is a hole, until it answers `false`. Where the file
/// system does not say, everything is data.
///
/// # Errors
/// Of the file system.
pub fn walk(file: &File, range: ByteRange, each: &mut dyn FnMut(ByteRange, bool) -> bool) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let data = match seek(file, at, Whence::SeekData) {
            Ok(data) => data.clamp(at, range.end),
            Err(Errno::ENXIO) => range.end, // no data from here on
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        if data > at && !each(ByteRange { start: at, end: data }, true) {
            return Ok(());
        }
        if data >= range.end {
            return Ok(());
        }
        let hole = match seek(file, data, Whence::SeekHole) {
            // The hole was just filled: always go forward.
            Ok(hole) if hole > data => hole.min(range.end),
            Ok(_) | Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP) => range.end,
            Err(e) => return Err(e.into()),
        };
        if !each(ByteRange { start: data, end: hole }, false) {
            return Ok(());
        }
        at = hole;
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EINVAL)?;
    lseek(file, at, whence).map(|found| u64::try_from(found).unwrap_or(0))
}

/// Makes `range` of `file` read as zeroes, as a hole where the file system can. The file's size stays.
///
/// # Errors
/// Of the file system.
pub fn punch(file: &File, range: ByteRange) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match medium::fallocate(file, flags, range.start, range.len()) {
        Ok(()) => Ok(()),
        Err(e) => match e.raw_os_error().map(Errno::from_raw) {
            // EINVAL: a block device whose sectors are larger than the range's.
            Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => write_zeroes(file, range),
            _ => Err(e),
        },
    }
}

fn write_zeroes(file: &File, range: ByteRange) -> io::Result<()> {
    let zeroes = vec![0; ZEROES_BYTES.min(usize::try_from(range.len()).unwrap_or(ZEROES_BYTES))];
    let mut at = range.start;
    while at < range.end {
        let len = zeroes.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        medium::write_all_at(file, &zeroes[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_and_data_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[7; 65536], 1 << 20).unwrap();
        let mut seen = Vec::new();
        walk(&file, ByteRange { start: 0, end: 4 << 20 }, &mut |r, hole| {
            seen.push((r, hole));
            true
        })
        .unwrap();
        let covered: u64 = seen.iter().map(|(r, _)| r.len()).sum();
        assert_eq!(covered, 4 << 20);
        for (range, hole) in seen {
            let data = ByteRange { start: 1 << 20, end: (1 << 20) + 65536 };
            assert!(!(hole && range.overlaps(data)), "{range} is said to be a hole");
        }
    }

    #[test]
    fn a_punched_range_reads_as_zeroes_to_the_byte() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        punch(&file, ByteRange { start: 100, end: 9_000 }).unwrap();
        let mut back = vec![0; 10_000];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back[100..9_000].iter().all(|b| *b == 0));
        assert!(back[..100].iter().chain(&back[9_000..]).all(|b| *b == 7));
    }
}
