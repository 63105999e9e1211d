//! A request of the client between its submission and its last reply.

use super::client::{ClientError, Outcome, Reply, ServerRefusal};
use super::consts::*;
use super::request::Header;
use super::wire::Reader;
use crate::device::Extent;

/// A request that has not been answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub header: Header,
    pub data: Vec<u8>,
    /// Bytes of `data` that have come.
    pub come: usize,
    extents: Option<Vec<Extent>>,
    pub refusal: Option<ServerRefusal>,
}

impl Pending {
    pub(super) fn new(header: Header) -> Self {
        Self { header, data: Vec::new(), come: 0, extents: None, refusal: None }
    }

    /// The part of the answer that a content chunk fills.
    pub(super) fn part(&mut self, offset: u64, len: u32) -> Result<&mut [u8], ClientError> {
        let outside = ClientError::Protocol("a chunk lies outside of its request");
        self.data.resize(self.header.len as usize, 0);
        self.come += len as usize;
        let start = offset.checked_sub(self.header.offset).and_then(|s| usize::try_from(s).ok());
        let part = start.and_then(|s| self.data.get_mut(s..s.checked_add(len as usize)?));
        part.ok_or(outside)
    }

    pub(super) fn block_status(&mut self, body: &[u8], context: Option<u32>) -> Result<(), ClientError> {
        let mut fields = Reader::new(body);
        let id = fields.u32();
        if context.is_none() || id != context || fields.left() == 0 || !fields.left().is_multiple_of(8) {
            return Err(ClientError::Protocol("a malformed block status"));
        }
        let mut extents = Vec::with_capacity(fields.left() / 8);
        while let (Some(len), Some(state)) = (fields.u32(), fields.u32()) {
            if len == 0 {
                return Err(ClientError::Protocol("an extent of no bytes"));
            }
            let (hole, zero) = (state & STATE_HOLE != 0, state & STATE_ZERO != 0);
            extents.push(Extent { len: u64::from(len), hole, zero });
        }
        self.extents = Some(extents);
        Ok(())
    }

    pub(super) fn error(&mut self, body: &[u8]) -> Result<(), ClientError> {
        let mut fields = Reader::new(body);
        let (error, len) = (fields.u32(), fields.u16());
        let message = len.and_then(|len| fields.take(usize::from(len)));
        let (Some(error @ 1..), Some(message)) = (error, message) else {
            return Err(ClientError::Protocol("a malformed error chunk"));
        };
        self.refusal = Some(ServerRefusal { error, message: String::from_utf8_lossy(message).into_owned() });
        Ok(())
    }

    pub(super) fn outcome(self) -> Result<Outcome, ClientError> {
        if let Some(refusal) = self.refusal {
            return Ok(Err(refusal));
        }
        Ok(Ok(match self.header.command {
            CMD_READ if self.come != self.header.len as usize => {
                return Err(ClientError::Protocol("a read was not answered in full"));
            }
            CMD_READ => Reply::Data(self.data),
            CMD_BLOCK_STATUS => {
                let none = ClientError::Protocol("a block status was answered without an extent");
                Reply::Extents(self.extents.ok_or(none)?)
            }
            _ => Reply::Done,
        }))
    }
}
