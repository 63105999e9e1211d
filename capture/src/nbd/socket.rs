//! One client's socket on a lane: at most one receive and one send under way, and an end that waits for both.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use super::outbox::{Cost, Outbox};
use crate::device::DeviceTokens;
use crate::engine::{Completion, Engine, Io, Piece};

/// The own part of a receive's token.
pub(crate) const RECEIVE: u32 = 0;
/// The own part of a send's token.
pub(crate) const SEND: u32 = 1;

/// A connected socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    tokens: DeviceTokens,
    pub(super) outbox: Outbox,
    receiving: bool,
    dead: bool,
}

impl Socket {
    /// Takes a connection whose operations bear `owner`'s number.
    pub(crate) fn new(fd: OwnedFd, owner: u32) -> Self {
        let tokens = DeviceTokens { owner };
        Self { fd, tokens, outbox: Outbox::default(), receiving: false, dead: false }
    }

    /// Gives the descriptor up, for another lane. Nothing may be under way.
    pub(crate) fn into_fd(self) -> OwnedFd {
        debug_assert!(self.idle());
        self.fd
    }

    /// Whether a receive is under way.
    pub(super) fn receiving(&self) -> bool {
        self.receiving
    }

    /// Whether the connection has been cut: nothing is sent or received any more.
    pub(crate) fn dead(&self) -> bool {
        self.dead
    }

    /// Whether the engine holds nothing of this socket.
    pub(crate) fn idle(&self) -> bool {
        !self.receiving && !self.outbox.sending()
    }

    /// Whether everything that was queued has been sent.
    pub(crate) fn drained(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether something is here that was not received yet. Never waits.
    pub(super) fn has_more(&self) -> bool {
        let seen = recv(self.fd.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        seen.is_ok_and(|bytes| bytes > 0)
    }

    /// Starts a receive into `piece`.
    pub(super) fn receive(&mut self, engine: &mut dyn Engine, piece: Piece) {
        debug_assert!(!self.receiving, "one receive at a time");
        self.receiving = true;
        engine.push(self.tokens.token(RECEIVE), Io::Recv { fd: self.fd.as_raw_fd(), piece });
    }

    /// A receive has ended: its piece and the bytes in it, 0 when the client has ended the stream or the socket failed.
    pub(super) fn received(&mut self, completion: Completion) -> Option<(Piece, usize)> {
        self.receiving = false;
        let bytes = match completion.result {
            Ok(n) => n as usize,
            Err(e) => {
                tracing::debug!(error = %e, "a connection broke");
                self.cut();
                0
            }
        };
        Some((completion.pieces.into_iter().next()?, bytes))
    }

    /// Sends what is queued, unless a batch is under way.
    pub(super) fn send(&mut self, engine: &mut dyn Engine) {
        let pieces = self.outbox.lend();
        if !pieces.is_empty() {
            engine.push(self.tokens.token(SEND), Io::Send { fd: self.fd.as_raw_fd(), pieces });
        }
    }

    /// A send has ended. Gives what its answers had been charged, and hands data that was sent to `spent`.
    pub(super) fn sent(&mut self, completion: Completion, spent: &mut dyn FnMut(Piece)) -> Cost {
        let sent = match completion.result {
            Ok(n) => n,
            Err(e) => {
                tracing::debug!(error = %e, "a connection broke");
                self.cut();
                0
            }
        };
        let released = self.outbox.sent(completion.pieces, sent, spent);
        if self.dead {
            self.outbox.clear();
        }
        released
    }

    /// Ends the connection now; what is under way ends soon.
    pub(crate) fn cut(&mut self) {
        if !self.dead {
            self.dead = true;
            self.outbox.clear();
            // ENOTCONN: the client was quicker.
            let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Ends the receiving side alone.
    pub(super) fn stop_receiving(&mut self) {
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Read);
    }
}
