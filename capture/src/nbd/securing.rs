//! A connection whose TLS handshake is under way in its relay: the lane waits for the word that it is done, within the time
//! that its whole negotiation has.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::greeting::HANDSHAKE_MAX;
use super::handshake::Handshake;
use super::socket::Socket;
use crate::engine::{Completion, Engine, Piece};
use crate::tls::identity::Identity;
use crate::tls::relay::SECURED;

/// One such connection.
pub(crate) struct Securing {
    /// The negotiation as it was in plain text.
    machine: Handshake,
    /// Since when the client negotiates.
    since: Instant,
    client: Arc<OnceLock<Identity>>,
    secured: bool,
}

impl Securing {
    pub(crate) fn new(machine: Handshake, since: Instant, client: Arc<OnceLock<Identity>>) -> Self {
        Self { machine, since, client, secured: false }
    }

    /// A receive has ended: the relay's one byte, or its end.
    pub(crate) fn received(&mut self, socket: &mut Socket, completion: Completion) {
        match socket.received(completion) {
            Some((piece, 1)) if piece.as_slice() == [SECURED] => self.secured = true,
            _ => socket.cut(),
        }
    }

    /// Starts the one receive.
    pub(crate) fn advance(&mut self, socket: &mut Socket, engine: &mut dyn Engine) {
        if !socket.dead() && !socket.receiving() && !self.secured {
            socket.receive(engine, Piece::heap(1));
        }
    }

    /// Whether the handshake is done and nothing is under way.
    pub(crate) fn done(&self, socket: &Socket) -> bool {
        self.secured && socket.idle() && !socket.dead()
    }

    /// The negotiation as it goes on with the client that is known now, and when it began; `None` when nobody is known.
    pub(crate) fn into_parts(self) -> Option<(Handshake, Instant)> {
        let client = self.client.get()?.clone();
        Some((self.machine.secured(client), self.since))
    }

    /// When the negotiation must be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + HANDSHAKE_MAX
    }
}
