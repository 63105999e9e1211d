//! A connection in the negotiation: moves the bytes of a [`Handshake`] through the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::export::Export;
use super::handshake::{Handshake, Negotiated, Progress};
use super::outbox::Cost;
use super::socket::Socket;
use crate::engine::{Completion, Engine, Piece, Pieces};

/// Longest negotiation: a client that has not chosen an export by then is cut off.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Bytes received at a time.
const BUFFER_BYTES: usize = 4096;

/// One connection in the negotiation.
pub(crate) struct Greeting {
    machine: Handshake,
    buffer: Option<Piece>,
    since: Instant,
    progress: Progress,
}

impl Greeting {
    /// Begins the negotiation on a fresh connection.
    pub(crate) fn new(exports: Arc<[Export]>, socket: &mut Socket, now: Instant) -> Self {
        let mut out = Vec::new();
        let machine = Handshake::new(exports, &mut out);
        socket.outbox.push(&out, Pieces::new(), Cost::default());
        Self { machine, buffer: Some(Piece::heap(BUFFER_BYTES)), since: now, progress: Progress::More }
    }

    /// A receive has ended.
    pub(crate) fn received(&mut self, socket: &mut Socket, completion: Completion) {
        let Some((mut piece, bytes)) = socket.received(completion) else { return };
        if bytes == 0 {
            socket.cut();
        } else {
            let mut out = Vec::new();
            piece.range.end = piece.range.start + bytes;
            let (_, progress) = self.machine.feed(piece.as_slice(), &mut out);
            self.progress = progress;
            socket.outbox.push(&out, Pieces::new(), Cost::default());
            if let Progress::Ended(why) = progress {
                tracing::debug!(%why, "a negotiation ended");
            }
        }
        self.buffer = Some(piece);
    }

    /// A send has ended.
    pub(crate) fn sent(&mut self, socket: &mut Socket, completion: Completion) {
        let _no_cost = socket.sent(completion, &mut drop);
    }

    /// Starts what can be started: a send first, and a receive once everything is sent, so that no more than the answer to
    /// one option is held for a client that does not read.
    pub(crate) fn advance(&mut self, socket: &mut Socket, engine: &mut dyn Engine) {
        if socket.dead() {
            return;
        }
        socket.send(engine);
        if !socket.drained() {
            return;
        }
        match self.progress {
            Progress::More if !socket.receiving() => {
                let mut piece = self.buffer.take().unwrap_or_else(|| Piece::heap(BUFFER_BYTES));
                piece.range = 0..self.machine.wants().min(BUFFER_BYTES);
                socket.receive(engine, piece);
            }
            Progress::More | Progress::Chosen(_) => {}
            Progress::Ended(_) => socket.cut(),
        }
    }

    /// What was agreed, once everything has been sent.
    pub(crate) fn chosen(&self, socket: &Socket) -> Option<Negotiated> {
        match self.progress {
            Progress::Chosen(negotiated) if socket.drained() && socket.idle() && !socket.dead() => Some(negotiated),
            _ => None,
        }
    }

    /// When the negotiation must be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + HANDSHAKE_MAX
    }
}
