//! This machine's own file systems on an export: nbdfuse shows the export as a file, a loop device makes a disk of it, and the
//! kernel mounts that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Process;
use crate::root::{BlockDevice, as_root, root_command, unmount};

/// The longest that the export may take to show up.
const SHOWN_MAX: Duration = Duration::from_secs(30);

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A mounted file system, for everybody to write; unmounted when dropped.
pub struct ExportedFs {
    at: PathBuf,
    fuse_at: PathBuf,
    device: Option<BlockDevice>,
    fuse: Process,
}

impl ExportedFs {
    /// Mounts the file system that is on the export at `uri`, with the folders that this takes below `dir`.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn mount(uri: &str, dir: &Path) -> Self {
        let (at, fuse_at) = (dir.join("mounted"), dir.join("export"));
        for folder in [&at, &fuse_at] {
            std::fs::create_dir_all(folder).expect("a mount point");
        }
        let mut fuse = Process::start("nbdfuse", root_command(&["nbdfuse", text(&fuse_at), uri]));
        let file = fuse_at.join("nbd");
        fuse.wait_until("the export as a file", SHOWN_MAX, || {
            as_root(&["test", "-s", text(&file)]).status.success().then_some(())
        });
        let device = BlockDevice::over(&file, 512);
        let _ = as_root(&["mount", "-o", "discard", text(&device.path), text(&at)]).good();
        let _ = as_root(&["chmod", "777", text(&at)]).good();
        Self { at, fuse_at, device: Some(device), fuse }
    }

    /// Its root folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.at
    }

    /// Unmounts it in order.
    ///
    /// # Panics
    /// When something in it stays in use.
    pub fn unmount(mut self) {
        unmount(&self.at);
        self.device = None;
        unmount(&self.fuse_at);
        let _ = self.fuse.wait(SHOWN_MAX);
    }
}

impl Drop for ExportedFs {
    fn drop(&mut self) {
        if self.device.take().is_some() {
            let _ = as_root(&["umount", "-l", text(&self.at)]);
            let _ = as_root(&["umount", "-l", text(&self.fuse_at)]);
        }
    }
}
