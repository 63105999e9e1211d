//! What takes root's rights: file systems and block devices of their own, on loop devices. As another user the tests use sudo.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farshore_changelog::clock;

use crate::deps;
use crate::process::{Finished, run};

/// The longest that such a command may take.
const ROOT_MAX: Duration = Duration::from_secs(60);

/// A command that runs as root.
#[must_use]
pub fn root_command(words: &[&str]) -> Command {
    let mut command = Command::new(if nix::unistd::geteuid().is_root() { "env" } else { "sudo" });
    command.args(words).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command
}

/// Runs a command as root.
///
/// # Panics
/// When it does not end in time.
#[must_use]
pub fn as_root(words: &[&str]) -> Finished {
    run(words[0], root_command(words), ROOT_MAX)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Unmounts what is mounted at `at`. A program that another thread is just starting has this one's files open for a moment.
///
/// # Panics
/// When it stays in use for [`ROOT_MAX`].
pub fn unmount(at: &Path) {
    let deadline = clock::mono() + ROOT_MAX;
    loop {
        let tried = as_root(&["umount", text(at)]);
        if tried.status.success() {
            return;
        }
        assert!(clock::mono() < deadline, "{} stays in use: {}", at.display(), tried.err);
        clock::sleep(Duration::from_millis(100));
    }
}

/// A small file system of its own, unmounted when dropped.
pub struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    /// Makes an ext4 of `bytes` in the file `image` and mounts it at `at`, for everybody to write.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn mount(image: &Path, at: &Path, bytes: u64) -> Self {
        Self::mount_as("ext4", image, at, bytes)
    }

    /// As [`SmallFileSystem::mount`], of another kind: `ext2` knows holes, and zeroes only where they are written.
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn mount_as(kind: &str, image: &Path, at: &Path, bytes: u64) -> Self {
        deps::ensure();
        std::fs::create_dir_all(at).expect("a mount point");
        File::create(image).and_then(|f| f.set_len(bytes)).expect("room for an image");
        let _ = as_root(&[&format!("mkfs.{kind}"), "-q", "-F", "-m", "0", text(image)]).good();
        let _ = as_root(&["mount", "-o", "loop", text(image), text(at)]).good();
        let _ = as_root(&["chmod", "777", text(at)]).good();
        Self(at.to_path_buf())
    }

    /// Mounts what is in the file `image` at `at`: the kernel recovers it.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn mount_again(image: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("a mount point");
        let _ = as_root(&["mount", "-o", "loop", text(image), text(at)]).good();
        Self(at.to_path_buf())
    }

    /// Unmounts it: everything of it is in its file then.
    ///
    /// # Panics
    /// When it stays in use.
    pub fn unmount(self) {
        unmount(&self.0);
        std::mem::forget(self);
    }

    /// It meets an error, and does what ext4 does then: it refuses everything from here on.
    ///
    /// # Panics
    /// When the kernel cannot be asked for that.
    pub fn fail(&self) {
        let at = text(&self.0);
        let device = as_root(&["findmnt", "-n", "-o", "SOURCE", at]).good().out.trim().to_owned();
        let device = device.trim_start_matches("/dev/");
        let trigger =
            format!("mount -o remount,errors=remount-ro {at} && echo test > /sys/fs/ext4/{device}/trigger_fs_error");
        let _ = as_root(&["sh", "-c", &trigger]).good();
    }

    /// Unmounts it, repairs it, and mounts it again.
    ///
    /// # Panics
    /// When that does not succeed within [`ROOT_MAX`]: somebody may hold a file of it open.
    #[must_use]
    pub fn repaired(self, image: &Path) -> Self {
        let at = self.0.clone();
        drop(self);
        let deadline = clock::mono() + ROOT_MAX;
        while !as_root(&["sh", "-c", &format!("e2fsck -p {}; test $? -lt 4", text(image))]).status.success() {
            assert!(clock::mono() < deadline, "it cannot be repaired");
            clock::sleep(Duration::from_millis(200));
        }
        Self::mount_again(image, &at)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = as_root(&["umount", "-l", text(&self.0)]);
    }
}

/// A block device over a file, for everybody to use; detached when dropped.
pub struct BlockDevice {
    /// Its node.
    pub path: PathBuf,
}

impl BlockDevice {
    /// A loop device over `file` with sectors of `sector_bytes`.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn over(file: &Path, sector_bytes: u32) -> Self {
        deps::ensure();
        let sector = sector_bytes.to_string();
        let attached = as_root(&["losetup", "--find", "--show", "--sector-size", &sector, text(file)]).good();
        let path = PathBuf::from(attached.out.trim());
        let _ = as_root(&["chmod", "666", text(&path)]).good();
        Self { path }
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        let _ = as_root(&["losetup", "--detach", text(&self.path)]);
    }
}
