//! The receiving side of a connection: which part of which request comes next.

use std::ops::Range;
use std::time::Instant;

use super::inbox::Inbox;
use super::request::{Header, Refusal};
use crate::device::{Payload, Request};
use crate::engine::{Piece, Pieces};

/// What is received now.
#[expect(clippy::large_enum_variant, reason = "there is one a connection, and a box would be taken for each request")]
pub(super) enum Intake {
    /// A header.
    Header,
    /// Nothing: a request is held until the connection's limits allow it.
    OverLimit { header: Header, request: Request },
    /// Nothing: a write is held until the device has memory for its payload.
    NoRoom { header: Header, request: Request },
    /// A payload.
    Payload(Incoming),
    /// A payload that nobody wants; the refusal is answered once `left` bytes have come.
    Drain { header: Header, left: u32, refusal: Refusal },
    /// Nothing any more.
    Over,
}

/// A write whose payload is being received into the device's memory.
pub(super) struct Incoming {
    pub header: Header,
    pub request: Request,
    pub since: Instant,
    full: Pieces,
    /// What follows, the next one last.
    rest: Pieces,
    /// The range of the next of `rest` (or of the lent piece) before anything was received into it.
    whole: Option<Range<usize>>,
}

impl Incoming {
    pub(super) fn new(header: Header, request: Request, payload: Payload, since: Instant) -> Self {
        let mut rest = payload.pieces;
        rest.reverse();
        Self { header, request, since, full: Pieces::new(), rest, whole: None }
    }

    /// The piece to receive into next; `None` once the payload is whole. It comes back through [`Incoming::took`].
    pub(super) fn lend(&mut self) -> Option<Piece> {
        loop {
            let piece = self.rest.pop()?;
            if self.whole.is_none() && piece.is_empty() {
                self.full.push(piece);
                continue;
            }
            self.whole.get_or_insert_with(|| piece.range.clone());
            return Some(piece);
        }
    }

    /// Takes what of the payload lies in `inbox`.
    pub(super) fn absorb(&mut self, inbox: &mut Inbox) {
        while let Some(mut piece) = self.lend() {
            let bytes = inbox.fill(piece.as_mut_slice());
            self.took(piece, bytes);
            if bytes == 0 {
                return;
            }
        }
    }

    /// Takes a lent piece back, into which `bytes` were received.
    pub(super) fn took(&mut self, mut piece: Piece, bytes: usize) {
        piece.range.start += bytes;
        if piece.is_empty() {
            piece.range = self.whole.take().unwrap_or(piece.range);
            self.full.push(piece);
        } else {
            self.rest.push(piece);
        }
    }

    /// Whether all bytes have come.
    pub(super) fn is_whole(&self) -> bool {
        self.rest.iter().all(Piece::is_empty)
    }

    /// The device's memory as it was handed out. No piece may be lent.
    pub(super) fn into_payload(mut self) -> Payload {
        if let (Some(whole), Some(first)) = (self.whole.take(), self.rest.last_mut()) {
            first.range = whole;
        }
        self.full.extend(self.rest.into_iter().rev());
        Payload { pieces: self.full }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{HeapBuf, IoBuf};

    proptest! {
        /// However the bytes arrive, they fill the pieces' ranges in order, and the ranges come back as they were.
        #[test]
        fn payloads_fill_their_ranges(
            shapes in prop::collection::vec((0_usize..8, 0_usize..40, 0_usize..8), 1..12),
            takes in prop::collection::vec(1_usize..30, 1..10),
            give_up_after in 0_usize..400,
        ) {
            let header = Header { flags: 0, command: 1, handle: 7, offset: 0, len: 0 };
            let pieces: Pieces = shapes.iter().map(|(before, len, after)| {
                Piece { buf: IoBuf::Heap(HeapBuf::new(before + len + after)), range: *before..before + len }
            }).collect();
            let ranges: Vec<_> = pieces.iter().map(|p| p.range.clone()).collect();
            let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
            let now = farshore_changelog::clock::mono();
            let mut incoming = Incoming::new(header, Request::Flush, Payload { pieces }, now);
            let (mut next, mut takes) = (0_usize, takes.into_iter().cycle());
            while next < give_up_after && let Some(mut piece) = incoming.lend() {
                let n = takes.next().unwrap().min(piece.len());
                piece.as_mut_slice()[..n].iter_mut().for_each(|b| { *b = (next % 251) as u8 + 1; next += 1; });
                incoming.took(piece, n);
            }
            prop_assert_eq!(incoming.is_whole(), next == total);
            let payload = incoming.into_payload();
            prop_assert_eq!(payload.pieces.iter().map(|p| p.range.clone()).collect::<Vec<_>>(), ranges);
            let bytes: Vec<u8> = payload.pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect();
            let expected: Vec<u8> = (0..total).map(|n| if n < next { (n % 251) as u8 + 1 } else { 0 }).collect();
            prop_assert_eq!(bytes, expected);
            for piece in &payload.pieces {
                let around = piece.buf.as_slice();
                prop_assert!(around[..piece.range.start].iter().chain(&around[piece.range.end..]).all(|b| *b == 0));
            }
        }
    }
}
