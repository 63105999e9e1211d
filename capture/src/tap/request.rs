//! Requests as they come: checked, planned, and sent on their ways.

use std::io;

use farshore_changelog::units::ByteRange;

use crate::device::{Answer, Payload, Request, RequestId};
use crate::engine::Piece;

use super::plan::{self, PartOp, Plan, Zeroing};
use super::{Cx, Tap, Waiting, os_error};

impl Tap {
    /// Checks a range and refuses changes of a disk whose fsync failed.
    fn check(&self, request: &Request) -> io::Result<()> {
        let (range, changes) = match *request {
            Request::Read { offset, len } => (ByteRange::at(offset, len.into()), false),
            Request::Cache { offset, len } | Request::BlockStatus { offset, len, .. } => {
                (ByteRange::at(offset, len), false)
            }
            Request::Write { offset, len, .. } => (ByteRange::at(offset, len.into()), true),
            Request::WriteZeroes { offset, len, .. } | Request::Trim { offset, len, .. } => {
                (ByteRange::at(offset, len), true)
            }
            Request::Flush => (Some(ByteRange::default()), true),
        };
        if !range.is_some_and(|range| self.disk.range().contains(range)) {
            return Err(os_error(libc::EINVAL));
        }
        if changes && self.flushes.failed() {
            return Err(os_error(libc::EIO));
        }
        Ok(())
    }

    pub(super) fn start(&mut self, cx: &mut Cx<'_>, id: RequestId, request: Request, payload: Option<Payload>) {
        if let Err(e) = self.check(&request) {
            return cx.answer(id, Err(e));
        }
        let range = |offset: u64, len: u64| ByteRange { start: offset, end: offset + len }; // checked just before
        match request {
            Request::Read { offset, len } => self.start_read(cx, id, range(offset, len.into())),
            Request::Write { offset, len, fua } => self.start_write(cx, id, range(offset, len.into()), fua, payload),
            Request::WriteZeroes { fast: true, .. } if !self.info.fast_zero => {
                cx.answer(id, Err(os_error(libc::EOPNOTSUPP)));
            }
            Request::WriteZeroes { offset, len, fua, no_hole, fast: _ } => {
                let range = range(offset, len);
                let plan = (!range.is_empty()).then(|| plan::write_zeroes(range, self.block_bytes, no_hole));
                self.start_zeroes(cx, id, plan, fua);
            }
            Request::Trim { offset, len, fua } => {
                self.start_zeroes(cx, id, plan::trim(range(offset, len), self.block_bytes), fua);
            }
            Request::Flush => self.wait_for_room(cx, Waiting::Flush { id }),
            // With direct I/O there is no cache to read into.
            Request::Cache { .. } => cx.answer(id, Ok(Answer::Done)),
            Request::BlockStatus { offset, len, one } => self.start_query(cx, id, range(offset, len), one),
        }
    }

    fn start_zeroes(&mut self, cx: &mut Cx<'_>, id: RequestId, plan: Option<Plan>, fua: bool) {
        match plan {
            Some(plan) => self.wait_for_room(cx, Waiting::Zeroes { id, plan, fua }),
            None if fua => self.sync_for(cx, id),
            None => cx.answer(id, Ok(Answer::Done)),
        }
    }

    fn start_write(&mut self, cx: &mut Cx<'_>, id: RequestId, range: ByteRange, fua: bool, payload: Option<Payload>) {
        if range.is_empty() {
            return cx.answer(id, Ok(Answer::Done));
        }
        let plan = plan::write(range, self.block_bytes);
        let pieces = payload.map(|p| p.pieces).unwrap_or_default();
        let fits = |(part, piece): (&plan::Part, &Piece)| {
            piece.buf.as_slice().len() as u64 == part.range.len() && Some(&piece.range) == wanted(part).as_ref()
        };
        if plan.parts.len() != pieces.len() || !plan.parts.iter().zip(&pieces).all(fits) {
            // Not the memory that was handed out for this request.
            return cx.answer(id, Err(os_error(libc::EINVAL)));
        }
        let memory = pieces.into_iter().map(|piece| Some(piece.buf)).collect();
        self.start_change(cx, id, plan, memory, fua);
    }

    pub(super) fn try_zeroes(&mut self, cx: &mut Cx<'_>, id: RequestId, plan: Plan, fua: bool) -> Option<Waiting> {
        if self.flushes.failed() {
            cx.answer(id, Err(os_error(libc::EIO)));
            return None;
        }
        let Some(mut memory) = self.memory(&plan) else { return Some(Waiting::Zeroes { id, plan, fua }) };
        for buf in memory.iter_mut().flatten() {
            buf.as_mut_slice().fill(0); // a slot still holds what was logged in it before
        }
        self.start_change(cx, id, plan, memory, fua);
        None
    }
}

/// The bytes of a part's payload that come from the request.
pub(super) fn wanted(part: &plan::Part) -> Option<std::ops::Range<usize>> {
    match part.op {
        PartOp::Data { wanted } => {
            let at = |offset: u64| (offset - part.range.start) as usize; // within a payload
            Some(at(wanted.start)..at(wanted.end))
        }
        PartOp::Zeroes(Zeroing::Write { .. } | Zeroing::Trim) => None,
    }
}
