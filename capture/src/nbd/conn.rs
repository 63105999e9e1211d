//! A connection in the transmission phase, over the lane's engine and one device.
//!
//! Small requests are received many at a time, a large payload straight into the device's memory ([`Inbox`]). Answers leave in
//! batches. What a client is charged for a request is released when the answer has been sent: a client that never reads its answers stalls
//! itself and nobody else.

use std::time::{Duration, Instant};

use farshore_changelog::clock;
use slab::Slab;

use super::consts::{EIO, REQUEST_BYTES};
use super::inbox::Inbox;
use super::intake::{Incoming, Intake};
use super::outbox::Cost;
use super::reply;
use super::request::{Agreed, Checked, Header, Refusal, check};
use super::socket::Socket;
use crate::device::{Answer, Device, Finished, Request, RequestId};
use crate::engine::{Completion, Engine, Piece, Pieces};

/// Most requests of one connection that are not answered, or whose answer is not sent.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// Most bytes of payload and read data of one connection's requests that are not answered, or whose answer is not sent.
pub const BYTES_PER_CONNECTION_MAX: u64 = 64 << 20;
/// Longest payload that is received and thrown away so that an error can be answered; before a longer one the connection
/// is cut. The text names 32 MiB as what no server should take for an attack.
pub const DRAIN_MAX_BYTES: u32 = 64 << 20;
/// How long a payload may be incomplete while others wait for its lane's memory.
pub const PAYLOAD_STALL_MAX: Duration = Duration::from_secs(2);

/// What a block status is charged: its longest answer.
const STATUS_COST_BYTES: u64 = 8 * reply::EXTENTS_MAX as u64;

/// What a connection needs of its lane for one step.
pub(crate) struct Ctx<'a> {
    /// The lane's engine.
    pub engine: &'a mut dyn Engine,
    /// The connection's device.
    pub device: &'a mut dyn Device,
    /// Where the device puts what it has finished.
    pub finished: &'a mut Vec<Finished>,
    /// Others wait for the device's memory already: get in line.
    pub crowded: bool,
}

/// What must be known of a request to answer it.
struct InFlight {
    handle: u64,
    request: Request,
    cost: Cost,
}

/// One connection.
pub(crate) struct Conn {
    /// The upper half of this connection's request ids.
    key: u32,
    /// The device's place on the lane.
    pub device: usize,
    agreed: Agreed,
    intake: Intake,
    inbox: Inbox,
    requests: Slab<InFlight>,
    charged: Cost,
    /// The head of an answer while it is made.
    head: Vec<u8>,
    /// No further request is taken; the connection is closed when the last answer has been sent.
    leaving: bool,
}

impl Conn {
    /// A connection whose request ids bear `key`.
    pub(crate) fn new(key: u32, device: usize, agreed: Agreed) -> Self {
        Self {
            key,
            device,
            agreed,
            intake: Intake::Header,
            inbox: Inbox::new(),
            requests: Slab::new(),
            charged: Cost::default(),
            head: Vec::new(),
            leaving: false,
        }
    }

    /// Which connection and which of its requests an id means.
    pub(crate) fn split(id: RequestId) -> (u32, u32) {
        ((id.0 >> 32) as u32, id.0 as u32)
    }

    /// Whether it waits for the device's memory.
    pub(crate) fn wants_room(&self) -> bool {
        matches!(self.intake, Intake::NoRoom { .. })
    }

    /// Since when a payload has been incomplete.
    pub(crate) fn incomplete_since(&self) -> Option<Instant> {
        match &self.intake {
            Intake::Payload(incoming) => Some(incoming.since),
            _ => None,
        }
    }

    /// Takes no further request. The answers of those in flight are still sent.
    pub(crate) fn leave(&mut self, socket: &mut Socket) {
        if !self.leaving {
            self.leaving = true;
            socket.stop_receiving();
        }
    }

    /// Whether nothing is left to do and the connection can be closed.
    pub(crate) fn over(&self, socket: &Socket) -> bool {
        let quiet = self.requests.is_empty() && socket.idle() && matches!(self.intake, Intake::Over);
        quiet && (socket.dead() || socket.drained())
    }

    /// A receive has ended.
    pub(crate) fn received(&mut self, socket: &mut Socket, ctx: &mut Ctx<'_>, completion: Completion) {
        let Some((piece, bytes)) = socket.received(completion) else { return };
        if bytes == 0 || socket.dead() {
            // The client will send nothing more (it may still read), or is gone.
            self.leaving = true;
        }
        match &mut self.intake {
            Intake::Payload(incoming) => incoming.took(piece, bytes),
            Intake::Header | Intake::Drain { .. } | Intake::OverLimit { .. } | Intake::NoRoom { .. } | Intake::Over => {
                self.inbox.took(piece, bytes)
            }
        }
        self.take_in(socket, ctx);
    }

    /// Takes what has been received, as far as it goes and the limits allow.
    fn take_in(&mut self, socket: &mut Socket, ctx: &mut Ctx<'_>) {
        while !self.leaving && !socket.dead() {
            match &mut self.intake {
                Intake::Header => {
                    if !self.within_limits() {
                        return;
                    }
                    let Some(header) = self.inbox.header() else { return };
                    self.header_whole(socket, ctx, &header);
                }
                Intake::Payload(incoming) => {
                    incoming.absorb(&mut self.inbox);
                    if !incoming.is_whole() {
                        return;
                    }
                    self.payload_whole(ctx);
                }
                Intake::Drain { header, left, refusal } => {
                    *left -= self.inbox.skip(*left as usize) as u32;
                    if *left > 0 {
                        return;
                    }
                    let (handle, refusal) = (header.handle, *refusal);
                    self.intake = Intake::Header;
                    self.refuse(socket, handle, refusal);
                }
                Intake::OverLimit { .. } | Intake::NoRoom { .. } | Intake::Over => return,
            }
        }
    }

    /// A send has ended.
    pub(crate) fn sent(&mut self, socket: &mut Socket, device: &mut dyn Device, completion: Completion) {
        self.charged.sub(socket.sent(completion, &mut |data| device.sent(data)));
    }

    fn header_whole(&mut self, socket: &mut Socket, ctx: &mut Ctx<'_>, header: &[u8; REQUEST_BYTES]) {
        let Some(header) = Header::parse(header) else {
            tracing::debug!("a request without its magic number: the connection is cut");
            socket.cut();
            return;
        };
        let payload = header.payload_bytes();
        self.inbox.payload(payload as usize);
        match check(&header, ctx.device.info(), self.agreed) {
            Checked::Disconnect => self.leaving = true,
            Checked::Nothing => self.answer_empty(socket, &header),
            Checked::Run(request) => self.begin(ctx, header, request),
            Checked::Refuse(refusal) if payload == 0 => self.refuse(socket, header.handle, refusal),
            Checked::Refuse(_) if payload > DRAIN_MAX_BYTES => {
                tracing::debug!(bytes = payload, "a payload beyond every limit: the connection is cut");
                socket.cut();
            }
            Checked::Refuse(refusal) => self.intake = Intake::Drain { header, left: payload, refusal },
        }
    }

    /// Starts a checked request, or holds it until it may start.
    fn begin(&mut self, ctx: &mut Ctx<'_>, header: Header, request: Request) {
        let cost = Cost { requests: 1, bytes: cost_bytes(&request) };
        if self.charged.bytes > 0 && self.charged.bytes + cost.bytes > BYTES_PER_CONNECTION_MAX {
            self.intake = Intake::OverLimit { header, request };
            return;
        }
        if let Request::Write { offset, len, .. } = request {
            let payload = if ctx.crowded { None } else { ctx.device.payload(offset, len) };
            let Some(payload) = payload else {
                self.intake = Intake::NoRoom { header, request };
                return;
            };
            self.charged.add(cost);
            self.intake = Intake::Payload(Incoming::new(header, request, payload, clock::mono()));
        } else {
            self.charged.add(cost);
            self.intake = Intake::Header;
            let id = self.insert(header.handle, request, cost);
            ctx.device.submit(ctx.engine, id, request, None, ctx.finished);
        }
    }

    fn payload_whole(&mut self, ctx: &mut Ctx<'_>) {
        if let Intake::Payload(incoming) = std::mem::replace(&mut self.intake, Intake::Header) {
            let (handle, request) = (incoming.header.handle, incoming.request);
            let cost = Cost { requests: 1, bytes: cost_bytes(&request) };
            let id = self.insert(handle, request, cost);
            ctx.device.submit(ctx.engine, id, request, Some(incoming.into_payload()), ctx.finished);
        }
    }

    fn insert(&mut self, handle: u64, request: Request, cost: Cost) -> RequestId {
        let own = self.requests.insert(InFlight { handle, request, cost });
        RequestId((u64::from(self.key) << 32) | own as u64)
    }

    /// Tries again for the device's memory. Gives whether it waits no longer.
    pub(crate) fn retry_room(&mut self, ctx: &mut Ctx<'_>) -> bool {
        if let Intake::NoRoom { header, request } = self.intake {
            self.begin(ctx, header, request);
        }
        !self.wants_room()
    }

    /// The device has finished request `own`.
    pub(crate) fn answer(&mut self, socket: &mut Socket, own: u32, result: std::io::Result<Answer>) {
        let Some(done) = self.requests.try_remove(own as usize) else {
            tracing::error!(request = own, "a device finished a request that was not in flight");
            return;
        };
        if socket.dead() {
            self.charged.sub(done.cost);
            return;
        }
        let InFlight { handle, request, cost } = done;
        let (head, structured) = (&mut self.head, self.agreed.structured);
        let mut data = Pieces::new();
        head.clear();
        match (request, result) {
            (_, Err(error)) => {
                let fast = matches!(request, Request::WriteZeroes { fast: true, .. });
                let value = reply::error_value(&error, fast);
                error_head(head, structured, handle, value, &error.to_string());
            }
            (Request::Read { offset, len }, Ok(answer)) => match read_data(answer, len) {
                Some(pieces) => {
                    if structured {
                        reply::data_head(head, handle, offset, len as usize);
                    } else {
                        reply::simple(head, handle, 0);
                    }
                    data = pieces;
                }
                None => {
                    tracing::error!(offset, len, "a device answered a read with another length");
                    error_head(head, structured, handle, EIO, "the device answered another length");
                }
            },
            (Request::BlockStatus { len, one, .. }, Ok(answer)) => {
                let extents = if let Answer::Extents(extents) = answer { extents } else { Vec::new() };
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                reply::block_status(head, handle, &extents, len, one);
            }
            (_, Ok(_)) => reply::simple(head, handle, 0),
        }
        socket.outbox.push(head, data, cost);
    }

    /// Answers an error without having run anything. It counts as a request until it is sent.
    fn refuse(&mut self, socket: &mut Socket, handle: u64, refusal: Refusal) {
        self.head.clear();
        error_head(&mut self.head, self.agreed.structured, handle, refusal.error, refusal.why);
        self.answer_at_once(socket);
    }

    /// Answers a request about no byte.
    fn answer_empty(&mut self, socket: &mut Socket, header: &Header) {
        self.head.clear();
        if self.agreed.structured {
            reply::none(&mut self.head, header.handle);
        } else {
            reply::simple(&mut self.head, header.handle, 0);
        }
        self.answer_at_once(socket);
    }

    /// Queues the head that was just made.
    fn answer_at_once(&mut self, socket: &mut Socket) {
        let cost = Cost { requests: 1, bytes: 0 };
        self.charged.add(cost);
        socket.outbox.push(&self.head, Pieces::new(), cost);
    }

    /// Starts what can be started: the next receive, the next send, a request held by the connection's own limits.
    pub(crate) fn advance(&mut self, socket: &mut Socket, ctx: &mut Ctx<'_>) {
        if (socket.dead() || self.leaving) && !socket.receiving() {
            self.give_up_intake(ctx);
        }
        if socket.dead() {
            return;
        }
        if let Intake::OverLimit { header, request } = self.intake {
            self.begin(ctx, header, request);
        }
        if !socket.receiving() {
            // What came before may go on now that there is room, or fewer requests are in flight.
            self.take_in(socket, ctx);
            let within_limits = self.within_limits();
            let piece = match &mut self.intake {
                Intake::Header if within_limits && !self.leaving => self.inbox.lend(),
                Intake::Header => None,
                Intake::Payload(incoming) => incoming.lend(),
                Intake::Drain { .. } => self.inbox.lend_whole(),
                Intake::OverLimit { .. } | Intake::NoRoom { .. } | Intake::Over => None,
            };
            if let Some(piece) = piece {
                socket.receive(ctx.engine, piece);
            }
        }
        socket.send(ctx.engine);
    }

    fn within_limits(&self) -> bool {
        self.charged.requests < REQUESTS_PER_CONNECTION_MAX && self.charged.bytes < BYTES_PER_CONNECTION_MAX
    }

    /// Receives nothing any more; memory of an incomplete payload goes back to the device.
    fn give_up_intake(&mut self, ctx: &mut Ctx<'_>) {
        if let Intake::Payload(incoming) = std::mem::replace(&mut self.intake, Intake::Over) {
            let cost = Cost { requests: 1, bytes: cost_bytes(&incoming.request) };
            self.charged.sub(cost);
            ctx.device.give_back(incoming.into_payload());
        }
    }
}

/// The answer of an error.
fn error_head(head: &mut Vec<u8>, structured: bool, handle: u64, value: u32, message: &str) {
    if structured {
        reply::error(head, handle, value, message);
    } else {
        reply::simple(head, handle, value);
    }
}

/// What a request is charged in bytes.
fn cost_bytes(request: &Request) -> u64 {
    match request {
        Request::Read { len, .. } | Request::Write { len, .. } => u64::from(*len),
        Request::BlockStatus { .. } => STATUS_COST_BYTES,
        Request::WriteZeroes { .. } | Request::Trim { .. } | Request::Flush | Request::Cache { .. } => 0,
    }
}

/// The pieces of a read's answer, when they are as long as was asked.
fn read_data(answer: Answer, len: u32) -> Option<Pieces> {
    let Answer::Data(pieces) = answer else { return None };
    let total: usize = pieces.iter().map(Piece::len).sum();
    (total == len as usize).then_some(pieces)
}
