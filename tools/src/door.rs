//! A unix socket (mode 0600) in the run folder, by which the programs of one source reach each other.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_capture::access::admits;
use farshore_changelog::clock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Pause after an accept that failed (no descriptor or memory left).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often the listener looks whether it is to stop.
const ACCEPT_POLL_MS: u16 = 500;

/// The listening end; dropped, its file is removed.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens at `path`, whose folder is made if need be. A stale socket is replaced: the caller holds a lock, so nobody else listens there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn listen(path: PathBuf) -> Result<Self> {
        let listener = (|| {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(listener)
        })();
        Ok(Self { listener: listener.with_context(|| format!("cannot listen on {}", path.display()))?, path })
    }

    /// The next connection of root or this process's own user; `None` once `stop` is set.
    pub fn accept(&self, stop: &AtomicBool) -> Option<UnixStream> {
        while !stop.load(Ordering::Acquire) {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::from(ACCEPT_POLL_MS)), Ok(n) if n > 0) {
                continue;
            }
            let accepted =
                self.listener.accept().and_then(|(stream, _)| stream.set_nonblocking(false).map(|()| stream));
            match accepted {
                Ok(stream) => match admits(&[], &stream) {
                    Ok(()) => return Some(stream),
                    Err(who) => tracing::warn!("{}: user {who:?} is not let in", self.path.display()),
                },
                Err(error) => {
                    // Without a descriptor it stays ready, and is not to be asked in a circle.
                    tracing::warn!("{} cannot accept: {error}", self.path.display());
                    clock::sleep(ACCEPT_PAUSE);
                }
            }
        }
        None
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
