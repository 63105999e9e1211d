//! Bytes on their way to a client: answers in the order they were given, sent in batches.

use std::collections::VecDeque;

use crate::engine::{HeapBuf, IoBuf, Piece, Pieces, SEND_PIECES_MAX};

/// Bytes of answers without data that are put together into one piece.
const HEAD_BYTES: usize = 4096;
/// Head buffers kept for the next answers: as many as a batch can have. An answer without data shares one with its neighbours.
const SPARE_HEADS_MAX: usize = SEND_PIECES_MAX;

/// What a client is charged for a request until its answer has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    pub requests: usize,
    pub bytes: u64,
}

impl Cost {
    pub(super) fn add(&mut self, other: Cost) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }

    pub(super) fn sub(&mut self, other: Cost) {
        self.requests -= other.requests;
        self.bytes -= other.bytes;
    }
}

enum Body {
    /// Bytes of answers; more may be put behind them.
    Head(Piece),
    /// Data of a read.
    Data(Piece),
    /// In the engine's hands.
    Lent { head: bool },
}

struct Out {
    body: Body,
    /// Released once this entry is sent.
    cost: Cost,
}

/// The queue. At most one batch is in the engine's hands.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Out>,
    lent: usize,
    /// The list of the last batch, for the next one.
    batch: Pieces,
    spare: Vec<HeapBuf>,
}

impl Outbox {
    /// Whether everything has been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a batch is in the engine's hands.
    pub(super) fn sending(&self) -> bool {
        self.lent > 0
    }

    /// Queues an answer: `head`, then `data`; `cost` is released once all of it is sent.
    pub(super) fn push(&mut self, head: &[u8], data: Pieces, cost: Cost) {
        let own = if data.is_empty() { cost } else { Cost::default() };
        if let Some(Out { body: Body::Head(piece), cost: sum }) = self.queue.back_mut()
            && append(piece, head)
        {
            sum.add(own);
        } else {
            let head = self.head(head);
            self.queue.push_back(Out { body: Body::Head(head), cost: own });
        }
        let last = data.len().wrapping_sub(1);
        for (n, piece) in data.into_iter().enumerate() {
            let cost = if n == last { cost } else { Cost::default() };
            self.queue.push_back(Out { body: Body::Data(piece), cost });
        }
    }

    /// A piece of its own for a head.
    fn head(&mut self, head: &[u8]) -> Piece {
        let spare = self.spare.pop().filter(|_| head.len() <= HEAD_BYTES);
        let buf = spare.unwrap_or_else(|| HeapBuf::new(head.len().max(HEAD_BYTES)));
        let mut piece = Piece { buf: IoBuf::Heap(buf), range: 0..head.len() };
        piece.as_mut_slice().copy_from_slice(head);
        piece
    }

    /// The next batch to send; empty when there is nothing, or one is being sent.
    pub(super) fn lend(&mut self) -> Pieces {
        if self.sending() || self.is_empty() {
            return Pieces::new();
        }
        let mut pieces = std::mem::take(&mut self.batch);
        for out in self.queue.iter_mut().take(SEND_PIECES_MAX) {
            let head = !matches!(out.body, Body::Data(_));
            match std::mem::replace(&mut out.body, Body::Lent { head }) {
                Body::Head(piece) | Body::Data(piece) => pieces.push(piece),
                Body::Lent { .. } => unreachable!("nothing is lent while no batch is sent"),
            }
        }
        self.lent = pieces.len();
        pieces
    }

    /// Takes a batch back of which the first `sent` bytes went out. Gives what is released, and hands data that was sent to `spent`.
    pub(super) fn sent(&mut self, mut pieces: Pieces, mut sent: u64, spent: &mut dyn FnMut(Piece)) -> Cost {
        debug_assert_eq!(pieces.len(), self.lent, "an engine gives back what it was given");
        self.lent = 0;
        let mut released = Cost::default();
        let mut kept = 0;
        for mut piece in pieces.drain(..) {
            let Some(out) = self.queue.get_mut(kept) else { break };
            let head = matches!(out.body, Body::Lent { head: true });
            if kept == 0 && sent >= piece.len() as u64 {
                sent -= piece.len() as u64;
                released.add(out.cost);
                self.queue.pop_front();
                if head {
                    self.keep_spare(piece)
                } else {
                    spent(piece)
                }
                continue;
            }
            piece.range.start += sent as usize;
            sent = 0;
            out.body = if head { Body::Head(piece) } else { Body::Data(piece) };
            kept += 1;
        }
        self.batch = pieces;
        released
    }

    /// Throws away what is not in the engine's hands: the client is gone.
    pub(super) fn clear(&mut self) {
        self.queue.truncate(self.lent);
    }

    fn keep_spare(&mut self, piece: Piece) {
        if let IoBuf::Heap(buf) = piece.buf
            && buf.as_slice().len() == HEAD_BYTES
            && self.spare.len() < SPARE_HEADS_MAX
        {
            self.spare.push(buf);
        }
    }
}

/// Puts a head behind those in `piece`, if there is room.
fn append(piece: &mut Piece, head: &[u8]) -> bool {
    let end = piece.range.end;
    let Some(room) = piece.buf.as_mut_slice().get_mut(end..end + head.len()) else { return false };
    room.copy_from_slice(head);
    piece.range.end += head.len();
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(bytes: &[u8]) -> Piece {
        Piece::whole(IoBuf::Heap(HeapBuf::from(bytes)))
    }

    proptest! {
        /// Whatever the kernel takes at a time, the bytes leave once, in order, and every cost is released once.
        #[test]
        fn short_sends_lose_nothing(
            replies in prop::collection::vec((1_usize..40, prop::collection::vec(1_usize..5000, 0..4)), 1..80),
            takes in prop::collection::vec(0_u64..9000, 1..40),
        ) {
            let mut outbox = Outbox::default();
            let (mut expected, mut owed) = (Vec::new(), Cost::default());
            let (mut lent, mut spent) = (0, 0);
            let mut byte = 0_u8;
            let mut fill = |len: usize| { byte = byte.wrapping_add(1); vec![byte; len] };
            for (head, pieces) in replies {
                let head = fill(head);
                let pieces: Vec<Vec<u8>> = pieces.into_iter().map(&mut fill).collect();
                expected.extend_from_slice(&head);
                pieces.iter().for_each(|p| expected.extend_from_slice(p));
                let cost = Cost { requests: 1, bytes: pieces.iter().map(|p| p.len() as u64).sum() };
                owed.add(cost);
                lent += cost.bytes as usize;
                outbox.push(&head, pieces.iter().map(|p| data(p)).collect(), cost);
            }
            let (mut got, mut takes) = (Vec::new(), takes.into_iter().cycle());
            while !outbox.is_empty() {
                let pieces = outbox.lend();
                prop_assert!(!pieces.is_empty() && pieces.len() <= SEND_PIECES_MAX && outbox.lend().is_empty());
                let all: Vec<u8> = pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect();
                let take = (takes.next().unwrap() + 1).min(all.len() as u64);
                got.extend_from_slice(&all[..take as usize]);
                owed.sub(outbox.sent(pieces, take, &mut |piece| spent += piece.buf.as_slice().len()));
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(owed, Cost::default());
            prop_assert_eq!(spent, lent, "all data is given back");
        }
    }

    #[test]
    fn what_is_in_the_engines_hands_survives_a_clear() {
        let mut outbox = Outbox::default();
        outbox.push(b"abc", [data(b"def")].into(), Cost { requests: 1, bytes: 3 });
        let lent = outbox.lend();
        outbox.push(b"ghi", Pieces::new(), Cost { requests: 1, bytes: 0 });
        outbox.clear();
        assert_eq!(
            outbox.sent(lent, 6, &mut |piece| assert_eq!(piece.as_slice(), b"def")),
            Cost { requests: 1, bytes: 3 }
        );
        assert!(outbox.is_empty());
    }
}
