//! What a front end (NBD now) sees of a disk: a device takes requests and answers them later.
//!
//! Two devices exist: the captured source disk ([`crate::tap::Tap`]) and [`crate::sync_device::SyncDevice`], which serves anything with
//! blocking reads and writes, such as a point's view. A lane thread owns the device and drives it; nothing here locks.

use crate::engine::{Completion, Engine, Piece, Pieces, Token};

/// What a front end may tell its client about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Export name.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Smallest request that needs no read-modify-write, in bytes. Smaller and unaligned ones are served all the same.
    pub preferred_block_bytes: u32,
    /// Largest payload of one request, in bytes.
    pub max_request_bytes: u32,
    /// Refuses every change.
    pub read_only: bool,
    /// Whether write zeroes is quicker than writing zeroes (NBD `FAST_ZERO`).
    pub fast_zero: bool,
}

/// A request of a client, checked by the front end: in range, not longer than the device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read `len` bytes at `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the payload that lies in the request's [`Payload`].
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Durable before it is answered.
        fua: bool,
        /// Keep the range allocated.
        no_hole: bool,
        /// Fail with `ENOTSUP` unless it is quicker than writing zeroes.
        fast: bool,
    },
    /// The range is no longer needed.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Everything answered before is durable once this is answered.
    Flush,
    /// Read the range into the cache.
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Which parts of the range are allocated.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// One extent is enough.
        one: bool,
    },
}

/// Memory for the payload of a write, handed out by the device before the payload is received: the pieces' ranges, in
/// order, are filled with the request's bytes. Whatever lies around those ranges belongs to the device.
pub struct Payload {
    /// The pieces, in the order of the disk.
    pub pieces: Pieces,
}

/// One extent of a block status answer (`base:allocation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Nothing is allocated.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

/// What a request brought.
pub enum Answer {
    /// Done, nothing to hand over.
    Done,
    /// The bytes read: the pieces' ranges in order.
    Data(Pieces),
    /// The extents, in order, from the request's offset.
    Extents(Vec<Extent>),
}

/// Names a request to the front end that submitted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// A request's end. Errors are `std::io::Error`s with an OS error code where one is known.
pub struct Finished {
    /// Which request.
    pub id: RequestId,
    /// What came of it.
    pub result: std::io::Result<Answer>,
}

/// A disk that answers requests. Completions of operations it pushed come back through [`Device::completed`]: their tokens
/// have been made with [`DeviceTokens`], so that the lane knows whom they belong to.
pub trait Device {
    /// What a client may know.
    fn info(&self) -> &DeviceInfo;

    /// Memory for a write's payload; `None` when there is no room now (the front end stops receiving on that connection
    /// and asks again after [`Device::completed`] or [`Device::tick`]).
    fn payload(&mut self, offset: u64, len: u32) -> Option<Payload>;

    /// Takes memory back whose payload never came whole (the client went away).
    fn give_back(&mut self, payload: Payload);

    /// Takes the memory back in which the data of a read lay, once it has been sent: the next read may use it.
    fn sent(&mut self, data: Piece) {
        drop(data);
    }

    /// Starts a request; `payload` is the filled memory of a write, `None` for all others. Its end comes through `finished`,
    /// at once or later.
    fn submit(
        &mut self,
        engine: &mut dyn Engine,
        id: RequestId,
        request: Request,
        payload: Option<Payload>,
        finished: &mut Vec<Finished>,
    );

    /// An operation this device pushed has completed.
    fn completed(&mut self, engine: &mut dyn Engine, completion: Completion, finished: &mut Vec<Finished>);

    /// Called at least every [`TICK`]: time-driven work (resync, waiting for ring room). Gives the time until it wants to be
    /// called again, `None` when it has nothing to wait for.
    fn tick(&mut self, engine: &mut dyn Engine, finished: &mut Vec<Finished>) -> Option<std::time::Duration>;

    /// No request will come any more: begin no further work of its own (resync), so that [`Device::busy`] falls to 0.
    fn stop(&mut self) {}

    /// Whether requests that it has taken wait for the memory that [`Device::payload`] hands out.
    fn waits_for_room(&self) -> bool {
        false
    }

    /// Requests in flight, its own background work included; a lane stops only once it is 0.
    fn busy(&self) -> usize;
}

/// The longest a device waits between two ticks while it has said that it wants one.
pub const TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// Makes the tokens of one device: the upper half says whose, the lower half is the device's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTokens {
    /// The owner's number on its lane.
    pub owner: u32,
}

impl DeviceTokens {
    /// The token of this owner's operation `own`.
    #[must_use]
    pub fn token(self, own: u32) -> Token {
        Token((u64::from(self.owner) << 32) | u64::from(own))
    }

    /// Splits a token into owner and own part.
    #[must_use]
    pub fn split(token: Token) -> (u32, u32) {
        ((token.0 >> 32) as u32, token.0 as u32)
    }
}
