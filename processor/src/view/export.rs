//! A disk into a raw sparse file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::medium::{self, Create};
use farshore_changelog::units::ByteRange;

use super::read_disk::ReadDisk;

/// Bytes read at a time.
const STEP_BYTES: u64 = 1 << 20;
/// What is all zeroes in this grain becomes a hole.
const GRAIN_BYTES: usize = 4096;

/// Why a disk could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file is there already.
    #[error("{path} exists: give another name, or overwrite it with --force")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is no plain file.
    #[error("{path} is not a plain file: give the name of a file to be made")]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The disk could not be read; nothing is left at the file's name.
    #[error("the point cannot be read at byte {offset}")]
    Read {
        /// Where on the disk.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be written; nothing is left at the file's name.
    #[error("cannot {doing} {path}")]
    Write {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Bytes of it that are data; the rest is hole.
    pub data_bytes: u64,
}

/// Copies `disk` to `path`, durably and with its holes. `progress` hears the bytes done so far. The file gets its name once it
/// is whole; `force` lets it replace one that is there.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    disk: &dyn ReadDisk,
    path: &Path,
    force: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    refuse(path, force)?;
    let mut name = path.file_name().ok_or_else(|| ExportError::NotAFile { path: path.to_path_buf() })?.to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let done = copy(disk, &partial, progress).and_then(|data_bytes| {
        // Somebody may have made the file while we copied.
        refuse(path, force)?;
        medium::rename(&partial, path).map_err(of("put in place", path))?;
        crashsafe::sync_parent(path).map_err(of("fsync the folder of", path))?;
        Ok(Exported { size_bytes: disk.size_bytes(), data_bytes })
    });
    if done.is_err()
        && let Err(e) = medium::remove(&partial)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %partial.display(), error = %e, "an export that failed left its partial file");
    }
    done
}

fn refuse(path: &Path, force: bool) -> Result<(), ExportError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(of("look at", path)(e)),
        Ok(meta) if !meta.is_file() => Err(ExportError::NotAFile { path: path.to_path_buf() }),
        Ok(_) if force => Ok(()),
        Ok(_) => Err(ExportError::Exists { path: path.to_path_buf() }),
    }
}

fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |source| ExportError::Write { doing, path, source }
}

/// Fills `partial`; bytes of data written.
fn copy(disk: &dyn ReadDisk, partial: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64, ExportError> {
    let size = disk.size_bytes();
    let file = medium::create(partial, Create::Emptied).map_err(of("create", partial))?;
    medium::set_len(&file, size).map_err(of("size", partial))?;
    let (mut at, mut data_bytes, mut buf) = (0, 0, Vec::new());
    while at < size {
        let rest = ByteRange { start: at, end: size };
        let extents = disk.extents(rest).map_err(|source| ExportError::Read { offset: at, source })?;
        for extent in extents {
            let mut start = extent.range.start;
            while !extent.hole && start < extent.range.end {
                let len = STEP_BYTES.min(extent.range.end - start);
                buf.resize(len as usize, 0);
                disk.read_at(&mut buf, start).map_err(|source| ExportError::Read { offset: start, source })?;
                data_bytes += write_data(&file, &buf, start).map_err(of("write", partial))?;
                start += len;
                progress(start);
            }
            at = extent.range.end;
            progress(at);
        }
    }
    medium::sync_all(&file).map_err(of("fsync", partial))?;
    Ok(data_bytes)
}

/// Writes what of `buf` is not zero.
fn write_data(file: &File, buf: &[u8], offset: u64) -> io::Result<u64> {
    let (mut written, mut run) = (0, None::<usize>);
    let mut put = |from: usize, to: usize| -> io::Result<()> {
        written += (to - from) as u64;
        medium::write_all_at(file, &buf[from..to], offset + from as u64)
    };
    for from in (0..buf.len()).step_by(GRAIN_BYTES) {
        let to = buf.len().min(from + GRAIN_BYTES);
        let zero = buf[from..to].iter().all(|b| *b == 0);
        match (zero, run) {
            (false, None) => run = Some(from),
            (true, Some(start)) => {
                put(start, from)?;
                run = None;
            }
            (false, Some(_)) | (true, None) => {}
        }
    }
    if let Some(start) = run {
        put(start, buf.len())?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::view::read_disk::RawDisk;

    #[test]
    fn a_disk_is_copied_with_its_holes_and_never_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[5; 10_000], 3 << 20).unwrap();
        file.write_all_at(&[0; 200_000], 9 << 20).unwrap();
        file.write_all_at(&[6; 512], (64 << 20) - 512).unwrap();
        let disk = RawDisk::open(&from).unwrap();
        let mut heard = 0;
        let done = export(&disk, &to, false, &mut |at| heard = at).unwrap();
        assert_eq!((heard, done.size_bytes), (64 << 20, 64 << 20));
        assert!(done.data_bytes < 40_000, "{done:?}");
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        let again = export(&disk, &to, false, &mut |_| {}).unwrap_err();
        assert!(matches!(again, ExportError::Exists { .. }));
        export(&disk, &to, true, &mut |_| {}).unwrap();
        assert!(matches!(export(&disk, dir.path(), true, &mut |_| {}), Err(ExportError::NotAFile { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
