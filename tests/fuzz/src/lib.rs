//! What the fuzz targets share: foreign bytes are made whole again where a checksum would otherwise end every attempt at the
//! front door. Offsets are those of `docs/format.md`, written out: a target must not share them with the code it tests.

use std::cell::OnceCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

mod segments;

pub use segments::{journal, rewrite, whole_segment};

/// Writes `value` at `at`, when it lies inside.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// The little-endian integer at `at`; 0 beyond the end.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The little-endian integer at `at`; 0 beyond the end.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A file of this process that every attempt fills anew, in the folder for temporary files (`run.sh` puts it on tmpfs).
pub struct Scratch {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("fuzzed");
        Self { dir, path }
    }

    /// The file of this thread, holding `bytes` in a length of `len` bytes.
    pub fn with<T>(bytes: &[u8], len: u64, f: impl FnOnce(&Path) -> T) -> T {
        thread_local!(static SCRATCH: OnceCell<Scratch> = const { OnceCell::new() });
        SCRATCH.with(|scratch| {
            let scratch = scratch.get_or_init(Scratch::new);
            debug_assert!(scratch.dir.path().exists());
            let file = File::create(&scratch.path).expect("the temporary file can be made");
            file.write_all_at(bytes, 0).and_then(|()| file.set_len(len)).expect("the temporary file can be written");
            f(&scratch.path)
        })
    }

    /// A folder of this thread, which holds nothing but `bytes` in the file `name`.
    pub fn folder<T>(name: &str, bytes: &[u8], f: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("folders can be made");
        std::fs::write(&path, bytes).expect("the temporary file can be written");
        f(dir.path())
    }
}
