//! A connection in the negotiation: moves the bytes of a [`Handshake`] through the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::export::Export;
use super::handshake::{Ended, Handshake, Negotiated, Progress};
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
    /// Begins the negotiation on a fresh connection; with `tls`, one that serves over TLS only.
    pub(crate) fn new(exports: Arc<[Export]>, tls: bool, socket: &mut Socket, now: Instant) -> Self {
        let mut out = Vec::new();
        let machine = if tls { Handshake::over_tls(exports, &mut out) } else { Handshake::new(exports, &mut out) };
        socket.outbox.push(&out, Pieces::new(), Cost::default());
        Self { machine, buffer: Some(Piece::heap(BUFFER_BYTES)), since: now, progress: Progress::More }
    }

    /// Goes on with one that began at `since`.
    pub(crate) fn resumed(machine: Handshake, since: Instant) -> Self {
        Self { machine, buffer: None, since, progress: Progress::More }
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
            if progress == Progress::StartTls && socket.has_more() {
                // A client waits for the answer before it begins TLS. What is here already may be somebody else's, and would be
                // taken for the client's; nothing is answered to it.
                self.progress = Progress::Ended(Ended::PlainAfterStartTls);
                out.clear();
            }
            socket.outbox.push(&out, Pieces::new(), Cost::default());
            if let Progress::Ended(why) = self.progress {
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
            Progress::More | Progress::StartTls | Progress::Chosen(_) => {}
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

    /// Whether TLS begins now: it was asked for, and the answer has been sent.
    pub(crate) fn starts_tls(&self, socket: &Socket) -> bool {
        self.progress == Progress::StartTls && socket.drained() && socket.idle() && !socket.dead()
    }

    /// What it was, for what follows: the negotiation, and when it began.
    pub(crate) fn into_parts(self) -> (Handshake, Instant) {
        (self.machine, self.since)
    }

    /// When the negotiation must be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + HANDSHAKE_MAX
    }
}
