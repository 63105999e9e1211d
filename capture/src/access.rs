//! Who may connect to the exports of a server.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, geteuid};

use crate::tls::files::TlsServer;

/// Who may connect to the listeners of a server, and how.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Users that unix sockets let in, beside root and this process's own.
    pub users: Vec<Uid>,
    /// TCP is served over TLS, and over nothing else. Unix sockets, whose users the kernel knows, are not.
    pub tls: Option<Arc<TlsServer>>,
    /// TCP may be served beyond this host, in plain text and to whoever asks.
    pub plain_tcp: bool,
}

/// The first address that can be reached from another host.
pub(crate) fn beyond_this_host(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    // An IPv4 address in IPv6's form is the same address.
    addresses.iter().copied().find(|address| !address.ip().to_canonical().is_loopback())
}

/// Whether the peer of a unix socket's connection is let in; if not, who it is. The kernel noted that when it connected, so a
/// peer that has changed since is judged by what it was. A user of another namespace has no number here and is let in nowhere.
///
/// # Errors
/// The user that may not connect; none when the kernel does not say.
pub fn admits(users: &[Uid], connection: &impl AsFd) -> Result<(), Option<Uid>> {
    let peer = getsockopt(connection, sockopt::PeerCredentials).map_err(|_| None)?;
    let user = Uid::from_raw(peer.uid());
    if lets_in(users, user, geteuid()) { Ok(()) } else { Err(Some(user)) }
}

fn lets_in(users: &[Uid], user: Uid, own: Uid) -> bool {
    user.is_root() || user == own || users.contains(&user)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn root_the_own_user_and_those_named_are_let_in() {
        let (own, named, other) = (Uid::from_raw(1000), Uid::from_raw(64_055), Uid::from_raw(65_534));
        for (user, nobody_named, one_named) in
            [(Uid::from_raw(0), true, true), (own, true, true), (named, false, true), (other, false, false)]
        {
            assert_eq!(lets_in(&[], user, own), nobody_named, "{user}");
            assert_eq!(lets_in(&[named], user, own), one_named, "{user}");
        }
    }

    #[test]
    fn the_kernel_says_who_a_peer_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(admits(&[], &ours), Ok(()));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(admits(&[], &tcp).is_err(), "who is not known is not let in");
    }

    #[test]
    fn only_loopback_is_this_host() {
        for (addresses, beyond) in [
            (&["127.0.0.1:1", "127.9.8.7:1", "[::1]:1", "[::ffff:127.0.0.1]:1"][..], None),
            (&["0.0.0.0:1"], Some(0)),
            (&["[::]:1"], Some(0)),
            (&["[::1]:1", "192.0.2.7:1"], Some(1)),
            (&["[::ffff:192.0.2.7]:1"], Some(0)),
            (&["[fe80::1]:1"], Some(0)),
        ] {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!(beyond_this_host(&addresses), beyond.map(|n: usize| addresses[n]), "{addresses:?}");
        }
    }
}
