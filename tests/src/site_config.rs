//! The text of a site's configuration.

use std::path::Path;

use crate::site::{GROUP, SiteDisk};

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
