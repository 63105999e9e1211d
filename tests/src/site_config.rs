//! What a site is to be, and the text of its configuration.

use std::path::{Path, PathBuf};

use crate::site::{GROUP, SiteDisk};

/// How a site differs from the usual one.
#[derive(Debug, Clone)]
pub struct SiteSpec {
    /// Size of each disk in bytes; they are named `vda`, `vdb` …
    pub disks: Vec<u64>,
    /// Where the exports listen: on TCP, at a port the system chose, instead of on unix sockets.
    pub tcp: bool,
    /// More lines for the configuration, before its disks; they go before what a site sets by itself.
    pub config: String,
    /// More arguments of `farshore process`.
    pub process: Vec<String>,
    /// Where its folder is made, when not in the folder for temporary files.
    pub under: Option<PathBuf>,
    /// The vault is not encrypted: for tests that read or write its objects themselves.
    pub plain: bool,
    /// The vault's URL, and what the environment of whoever opens it must say, when it is not a folder of the site.
    pub store: Option<(String, Vec<(String, String)>)>,
}

impl Default for SiteSpec {
    fn default() -> Self {
        Self {
            disks: vec![64 << 20],
            tcp: false,
            config: String::new(),
            process: Vec::new(),
            under: None,
            plain: false,
            store: None,
        }
    }
}

/// A configuration of these disks, with its state in the folder `dir` and its ring in `rings`. What `lines` say counts; for the rest
/// it is as the tests want it, small and quick.
#[must_use]
pub fn text(vault: &str, dir: &Path, rings: &Path, lines: &str, disks: &[SiteDisk]) -> String {
    let (dir, rings) = (dir.display(), rings.display());
    let mut text = format!("group = \"{GROUP}\"\nvault = \"{vault}\"\n{lines}\n");
    let usual = [
        ("state_dir", format!("{dir}/state")),
        ("run_dir", format!("{dir}/run")),
        ("ring_dir", rings.to_string()),
        ("ring_size", "32MiB".to_owned()),
        ("max_delay", "100ms".to_owned()),
        ("heartbeat", "500ms".to_owned()),
    ];
    for (key, value) in usual {
        if !lines.lines().any(|line| line.starts_with(key)) {
            text.push_str(&format!("{key} = \"{value}\"\n"));
        }
    }
    for disk in disks {
        text.push_str(&format!(
            "\n[[disk]]\nname = \"{}\"\nsource = \"{}\"\nlisten = \"{}\"\n",
            disk.name,
            disk.source.display(),
            disk.listen
        ));
    }
    text
}

/// `tcp:` and an address on which nobody listens now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_tcp() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("tcp:{}", listener.local_addr().expect("a bound socket has an address"))
}
