//! Programs the tests need. What is missing is installed by `scripts/install-test-deps.sh`; a test that cannot get what it
//! needs fails, it never skips.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// The folder with what the script unpacked for guests: `kernel`, `busybox`, `nbd-client`.
///
/// # Panics
/// When something is missing and could not be installed; the script's output says what and why.
#[must_use]
pub fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let script = repository().join("scripts/install-test-deps.sh");
        let status = Command::new(&script).status();
        let status = status.unwrap_or_else(|e| panic!("cannot run {}: {e}", script.display()));
        assert!(status.success(), "{} failed: {status}", script.display());
        match std::env::var_os("FARSHORE_TEST_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => repository().join("target/test-cache"),
        }
    })
}

/// Sees to it that every program is there. Called by whatever starts one.
pub fn ensure() {
    let _ = cache();
}
