//! Where things lie by default: the system's folders for root, the XDG base directories for everybody else.

use std::path::PathBuf;

use farshore_changelog::ids::GroupName;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn xdg(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// Durable state of a group at the source: `/var/lib/farshore/GROUP`, or `$XDG_STATE_HOME/farshore/GROUP`.
#[must_use]
pub fn state_dir(group: &GroupName) -> PathBuf {
    let base = if is_root() {
        PathBuf::from("/var/lib/farshore")
    } else {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        xdg("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("farshore")
    };
    base.join(group.as_str())
}

/// Sockets: `/run/farshore`, or `$XDG_RUNTIME_DIR/farshore`, or a folder of the user under `/tmp`.
#[must_use]
pub fn run_dir() -> PathBuf {
    if is_root() {
        return PathBuf::from("/run/farshore");
    }
    xdg("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from(format!("/tmp/farshore-{}", nix::unistd::geteuid())), |p| p.join("farshore"))
}
