//! A listening socket on a lane: accepts one connection after the other, within its limit.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::LaneHandle;
use super::accepted;
use crate::access::{self, Access};
use crate::device::DeviceTokens;
use crate::engine::{Completion, Engine, Io};
use crate::nbd::export::Export;
use crate::tls::files::TlsServer;

/// Most connections of one listener, negotiating or serving; a further one is closed at once.
pub const CONNECTIONS_PER_LISTENER_MAX: usize = 100;
/// Pause after an accept that failed (no descriptor or memory left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The right to be one of a listener's connections; when the last copy is dropped, there is room for another.
#[derive(Clone)]
pub(crate) struct Permit {
    /// Held, and not looked at.
    _place: Arc<Place>,
}

/// One of a listener's connections, in their count.
struct Place(Arc<AtomicUsize>);

impl Permit {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let below = |n: usize| (n < CONNECTIONS_PER_LISTENER_MAX).then_some(n + 1);
        // Relaxed: a count and nothing else hangs on it.
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(Self { _place: Arc::new(Place(Arc::clone(count))) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where an export's device is.
pub(crate) struct Route<D> {
    /// The lane's number.
    pub lane: usize,
    /// The way to it.
    pub handle: LaneHandle<D>,
    /// The device's place on it.
    pub device: usize,
}

/// What a listener offers: the exports and, in the same order, where their devices are.
pub(crate) struct Offer<D> {
    /// The exports; the first is the default one.
    pub exports: Arc<[Export]>,
    /// Their devices.
    pub routes: Arc<[Route<D>]>,
    /// With what they are served over TLS, and over nothing else.
    pub tls: Option<Secure>,
}

/// What a relay is started with.
#[derive(Clone)]
pub(crate) struct Secure {
    /// Certificates and key.
    pub server: Arc<TlsServer>,
    /// Each relay holds a copy to its end: so the server's stop knows when the last one has ended.
    pub _running: Sender<Infallible>,
}

impl<D> Clone for Offer<D> {
    fn clone(&self) -> Self {
        Self { exports: Arc::clone(&self.exports), routes: Arc::clone(&self.routes), tls: self.tls.clone() }
    }
}

/// A listening socket on its lane.
pub(crate) struct Listener<D> {
    fd: OwnedFd,
    tcp: bool,
    pub offer: Offer<D>,
    access: Arc<Access>,
    connections: Arc<AtomicUsize>,
    accepting: bool,
    stopped: bool,
    pause_until: Option<Instant>,
}

impl<D> Listener<D> {
    /// A listener that does not accept yet.
    pub(crate) fn new(fd: OwnedFd, tcp: bool, offer: Offer<D>, access: Arc<Access>) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        Self { fd, tcp, offer, access, connections, accepting: false, stopped: false, pause_until: None }
    }

    /// Starts the next accept, unless one is under way or a pause is.
    pub(super) fn advance(&mut self, engine: &mut dyn Engine, tokens: DeviceTokens, now: Instant) {
        let paused = self.pause_until.is_some_and(|until| now < until);
        if !self.accepting && !self.stopped && !paused {
            self.pause_until = None;
            self.accepting = true;
            engine.push(tokens.token(0), Io::Accept { fd: self.fd.as_raw_fd() });
        }
    }

    /// An accept has ended. Gives the connection, when there is one and the limit has room for it.
    pub(super) fn accepted(&mut self, completion: &Completion, now: Instant) -> Option<(OwnedFd, Permit)> {
        self.accepting = false;
        let fd = match &completion.result {
            Ok(value) => accepted::own(*value)?,
            Err(_) if self.stopped => return None,
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted; the next is in a second");
                self.pause_until = Some(now + ACCEPT_PAUSE);
                return None;
            }
        };
        if self.stopped {
            return None;
        }
        // Before it counts: who may not connect takes no place from those who may.
        if !self.tcp
            && let Err(user) = access::admits(&self.access.users, &fd)
        {
            let user = user.map_or_else(|| "unknown".to_owned(), |user| user.to_string());
            tracing::warn!(user, "a connection was closed: its user may not use the disks; listen_uids lists who may");
            return None;
        }
        let Some(permit) = Permit::take(&self.connections) else {
            tracing::warn!(most = CONNECTIONS_PER_LISTENER_MAX, "a connection beyond the limit was closed");
            return None;
        };
        if self.tcp {
            // Answers are batched here, so nothing is gained by waiting; a peer that vanished without a word is found out.
            let tuned = setsockopt(&fd, sockopt::TcpNoDelay, &true).and(setsockopt(&fd, sockopt::KeepAlive, &true));
            if let Err(e) = tuned {
                tracing::debug!(error = %e, "a connection's TCP options could not be set");
            }
        }
        Some((fd, permit))
    }

    /// Accepts nothing any more; the accept that is under way ends soon.
    pub(super) fn stop(&mut self) {
        if !self.stopped {
            self.stopped = true;
            // Shutting a listening socket down makes its accepts return.
            let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Both);
        }
    }

    /// When it wants to be looked at again, although nothing completes.
    pub(super) fn wants(&self) -> Option<Instant> {
        self.pause_until
    }

    /// Whether it has stopped and nothing of it is under way.
    pub(super) fn over(&self) -> bool {
        self.stopped && !self.accepting
    }
}
