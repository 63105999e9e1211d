//! The binary under test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `farshore` binary: `$FARSHORE_BIN`, or the one that cargo built next to this test program.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn path() -> PathBuf {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let path = match std::env::var_os("FARSHORE_BIN") {
            Some(path) => PathBuf::from(path),
            None => {
                // target/<profile>/deps/<test>
                let test = std::env::current_exe().expect("a test program knows its path");
                let profile = test.parent().and_then(|deps| deps.parent()).expect("cargo's folders");
                profile.join("farshore")
            }
        };
        assert!(
            path.is_file(),
            "{} is not there: build it with `cargo build -p farshore`, or name another in FARSHORE_BIN",
            path.display()
        );
        path
    })
    .clone()
}

/// Where the keys of the vaults that tests make are left: not among those of whoever runs the tests.
#[must_use]
pub fn config_home() -> PathBuf {
    let profile = path().parent().map(PathBuf::from).expect("the binary lies in a folder");
    profile.join("../tmp/config")
}

/// The binary with these arguments.
#[must_use]
pub fn farshore<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(path());
    command.args(args).env("XDG_CONFIG_HOME", config_home());
    command
}
