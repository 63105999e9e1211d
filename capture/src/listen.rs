//! Where exports listen: unix sockets that only their owner can reach, or TCP when it is asked for.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_changelog::clock;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::access::{Access, beyond_this_host};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Most addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 64;
/// How long another process may hold a socket's folder while it listens there itself.
const FOLDER_LOCK_MAX: Duration = Duration::from_secs(5);
/// How long an address may be in use before that is an error.
const IN_USE_MAX: Duration = Duration::from_secs(2);
/// Pause between two tries at it.
const IN_USE_RETRY: Duration = Duration::from_millis(20);
/// Pause between two tries at the folder's lock.
const FOLDER_LOCK_RETRY: Duration = Duration::from_millis(20);

/// Where an export listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A unix socket, mode 0600.
    Unix(PathBuf),
    /// Host and port. Beyond this host only when that is allowed: there is no password.
    Tcp(String),
}

impl Listen {
    /// Reads `unix:PATH` (a relative path is relative to `base`) or `tcp:HOST:PORT`.
    ///
    /// # Errors
    /// [`ListenError::Address`].
    pub fn parse(text: &str, base: &Path) -> Result<Self, ListenError> {
        let refused = || ListenError::Address { text: text.to_owned() };
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(base.join(path))),
            Some(("tcp", address)) => {
                let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
                port.parse::<u16>().map_err(|_| refused())?;
                if host.is_empty() { Err(refused()) } else { Ok(Self::Tcp(address.to_owned())) }
            }
            _ => Err(refused()),
        }
    }
}

impl Listen {
    /// Whether it may be listened at, without doing so: what can be refused is refused before anything else is begun.
    ///
    /// # Errors
    /// [`ListenError::PlainTcp`], or that the host has no address.
    pub fn check(&self, access: &Access) -> Result<(), ListenError> {
        match self {
            Self::Unix(_) => Ok(()),
            Self::Tcp(address) => allowed(self, address, access).map(drop),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Why an export cannot listen where it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error("{text:?} is not unix:PATH or tcp:HOST:PORT")]
    Address {
        /// What was given.
        text: String,
    },
    /// Whoever reaches the address could read and write the disks.
    #[error(
        "{at} can be reached from other hosts ({address}), where whoever connects could read and write the disks, in plain text"
    )]
    PlainTcp {
        /// Where it was to listen.
        at: Listen,
        /// The address that is not this host's alone.
        address: SocketAddr,
    },
    /// A host name without an address.
    #[error("{at} names no address")]
    NoAddress {
        /// Where it was to listen.
        at: Listen,
    },
    /// Another process serves clients there.
    #[error("another process listens on {}: stop it, or choose another path", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket has the name.
    #[error("{} exists and is not a socket: remove it, or choose another path", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {at}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    fn is_in_use(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::Address { .. } | Self::PlainTcp { .. } | Self::NoAddress { .. } | Self::NotASocket { .. } => false,
        }
    }
}

/// A listening socket, in blocking mode.
pub(crate) struct Bound {
    pub fd: OwnedFd,
    /// Where it listens; a port that the system chose is named.
    pub at: Listen,
    /// The socket's file, which its owner removes at the end.
    pub file: Option<SocketFile>,
}

/// A socket's file; dropping it removes it, unless another has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == (self.device, self.inode));
        if ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "a socket file could not be removed");
        }
    }
}

/// Listens at `at`. The kernel keeps the listening socket of a process that was killed for as long as it cancels the accept
/// that was under way, so an address in use is tried again for a moment.
///
/// # Errors
/// [`ListenError`].
pub(crate) fn open(at: &Listen, access: &Access) -> Result<Bound, ListenError> {
    let deadline = clock::mono() + IN_USE_MAX;
    loop {
        match open_now(at, access) {
            Err(e) if e.is_in_use() && clock::mono() < deadline => clock::sleep(IN_USE_RETRY),
            opened => return opened,
        }
    }
}

fn open_now(at: &Listen, access: &Access) -> Result<Bound, ListenError> {
    match at {
        Listen::Unix(path) => open_unix(path),
        Listen::Tcp(address) => {
            let failed = |source| ListenError::Io { what: "listen on", at: at.to_string(), source };
            let addresses = allowed(at, address, access)?;
            // What was looked at, and not the name: it may mean something else by now.
            let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
            let at = Listen::Tcp(listener.local_addr().map_err(failed)?.to_string());
            Ok(Bound { fd: listener.into(), at, file: None })
        }
    }
}

/// The addresses of a host and port, unless one is not to be listened at.
fn allowed(at: &Listen, address: &str, access: &Access) -> Result<Vec<SocketAddr>, ListenError> {
    let found = address.to_socket_addrs();
    let found = found.map_err(|source| ListenError::Io { what: "find the address of", at: at.to_string(), source })?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(ListenError::NoAddress { at: at.clone() });
    }
    match beyond_this_host(&addresses) {
        Some(address) if !access.plain_tcp && access.tls.is_none() => {
            Err(ListenError::PlainTcp { at: at.clone(), address })
        }
        _ => Ok(addresses),
    }
}

fn open_unix(path: &Path) -> Result<Bound, ListenError> {
    let failed = |what| move |source: io::Error| ListenError::Io { what, at: path.display().to_string(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let address = UnixAddr::new(path).map_err(|e| failed("use the path")(e.into()))?;
    // Two processes that both found a stale file would each remove what the other has just made.
    let _alone = lock_folder(folder).map_err(failed("lock the folder of"))?;
    remove_stale(path, &address)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| failed("make a socket for")(e.into()))?;
    // On Linux the file takes its mode from the socket, so there is no moment at which others could connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed("set the mode of")(e.into()))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| failed("bind")(e.into()))?;
    let made = fs::symlink_metadata(path).map_err(failed("look at"))?;
    let file = SocketFile { path: path.to_owned(), device: made.dev(), inode: made.ino() };
    let backlog = Backlog::new(BACKLOG).map_err(|e| failed("listen on")(e.into()))?;
    listen(&fd, backlog).map_err(|e| failed("listen on")(e.into()))?;
    Ok(Bound { fd, at: Listen::Unix(path.to_owned()), file: Some(file) })
}

fn lock_folder(folder: &Path) -> io::Result<Flock<File>> {
    let mut file = File::open(folder)?;
    let deadline = clock::mono() + FOLDER_LOCK_MAX;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if clock::mono() < deadline => file = again,
            Err((_, e)) => return Err(e.into()),
        }
        clock::sleep(FOLDER_LOCK_RETRY);
    }
}

/// Removes the socket file of a process that is gone.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), ListenError> {
    let failed = |what| move |source: io::Error| ListenError::Io { what, at: path.display().to_string(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at")(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|e| failed("make a socket for")(e.into()))?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("remove the stale socket")),
        // EAGAIN: somebody listens and has no time.
        Ok(()) | Err(Errno::EAGAIN) => Err(ListenError::Busy { path: path.to_owned() }),
        Err(e) => Err(failed("ask who listens on")(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let base = Path::new("/etc/farshore");
        for (text, expected) in [
            ("unix:/run/a.sock", Listen::Unix("/run/a.sock".into())),
            ("unix:a.sock", Listen::Unix("/etc/farshore/a.sock".into())),
            ("tcp:127.0.0.1:10809", Listen::Tcp("127.0.0.1:10809".into())),
            ("tcp:[::1]:1", Listen::Tcp("[::1]:1".into())),
        ] {
            let listen = Listen::parse(text, base).unwrap();
            assert_eq!(listen, expected);
            assert_eq!(Listen::parse(&listen.to_string(), base).unwrap(), expected);
        }
        for bad in ["", "/run/a.sock", "unix:", "tcp:", "tcp:host", "tcp::1", "tcp:host:99999", "udp:host:1"] {
            assert!(Listen::parse(bad, base).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_socket_is_for_its_owner_and_goes_away_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/a.sock");
        let bound = open(&Listen::Unix(path.clone()), &Access::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(bound.file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let bound = open(&Listen::Unix(path.clone()), &Access::default()).unwrap();
        assert!(matches!(open(&Listen::Unix(path.clone()), &Access::default()), Err(ListenError::Busy { .. })));
        // A successor that took the name keeps it.
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(bound.file);
        assert!(path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, b"precious").unwrap();
        assert!(matches!(open(&Listen::Unix(path.clone()), &Access::default()), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn plain_tcp_is_for_this_host_unless_it_is_allowed() {
        let allowed = Access { plain_tcp: true, ..Access::default() };
        for (text, local) in [("tcp:127.0.0.1:0", true), ("tcp:localhost:0", true), ("tcp:0.0.0.0:0", false)] {
            let at = Listen::parse(text, Path::new("/")).unwrap();
            assert_eq!(at.check(&Access::default()).is_ok(), local, "{text}");
            let opened = open(&at, &Access::default());
            match opened {
                Ok(_) => assert!(local, "{text} was served"),
                Err(ListenError::PlainTcp { .. }) => assert!(!local, "{text} was refused"),
                Err(e) => panic!("{text}: {e}"),
            }
            assert!(open(&at, &allowed).is_ok(), "{text}");
        }
    }
}
