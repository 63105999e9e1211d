//! What a client has sent and nobody has read yet. Small requests share one receive: what there is comes into one buffer, and headers and
//! small payloads are taken out of it. A large payload is received straight into the device's memory, and after one only the next
//! header is asked for, so that the payload that probably follows is not copied either.
//!
//! More at once is not better: a client whose whole queue is taken at once, and answered at once, and the disk then wait for each
//! other by turns. A few requests are enough to share the submission to the disk; reads, which come as bare headers, gain nothing
//! by it (docs/performance.md has the figures).

use super::consts::REQUEST_BYTES;
use crate::engine::{HeapBuf, IoBuf, Piece};

/// Bytes received at once: eight writes of a page.
const INBOX_BYTES: usize = 8 * (4096 + REQUEST_BYTES);
/// Headers received at once after a request without a payload.
const HEADERS: usize = 2;
/// A payload from this length on is worth a receive of its own.
const LARGE_BYTES: usize = 16 << 10;

/// The buffer of one connection.
pub(super) struct Inbox {
    /// Away while it is received into.
    buf: Option<HeapBuf>,
    start: usize,
    end: usize,
    /// Bytes of the last request's payload.
    last: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buf: Some(HeapBuf::new(INBOX_BYTES)), start: 0, end: 0, last: LARGE_BYTES }
    }

    /// Bytes that have come and were not taken.
    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Takes the next header, once it is there.
    pub(super) fn header(&mut self) -> Option<[u8; REQUEST_BYTES]> {
        let bytes = self.buf.as_ref()?.as_slice();
        let header = bytes[self.start..self.end].first_chunk().copied()?;
        self.start += REQUEST_BYTES;
        Some(header)
    }

    /// Says how long the payload is that follows the header that was taken last.
    pub(super) fn payload(&mut self, bytes: usize) {
        self.last = bytes;
    }

    /// Moves what is there into `into`, as far as it goes. Gives how many bytes that were.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> usize {
        let Some(buf) = &self.buf else { return 0 };
        let bytes = into.len().min(self.len());
        into[..bytes].copy_from_slice(&buf.as_slice()[self.start..self.start + bytes]);
        self.start += bytes;
        bytes
    }

    /// Throws away at most `bytes` of what is there. Gives how many that were.
    pub(super) fn skip(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.len());
        self.start += bytes;
        bytes
    }

    /// Room for the next header, and for what may come with it; it comes back through [`Inbox::took`]. `None` while it is away.
    pub(super) fn lend(&mut self) -> Option<Piece> {
        self.lend_until(match self.last {
            0 => HEADERS * REQUEST_BYTES,
            small if small < LARGE_BYTES => INBOX_BYTES,
            _ => REQUEST_BYTES,
        })
    }

    /// All there is, for what is only thrown away.
    pub(super) fn lend_whole(&mut self) -> Option<Piece> {
        self.lend_until(INBOX_BYTES)
    }

    /// The free part of the buffer before `until`.
    fn lend_until(&mut self, until: usize) -> Option<Piece> {
        let mut buf = self.buf.take()?;
        // Less than a header is left, or nothing: requests are taken before more is asked for.
        buf.as_mut_slice().copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.len());
        debug_assert!(self.end < until, "a header that is there is taken first");
        Some(Piece { buf: IoBuf::Heap(buf), range: self.end..until })
    }

    /// Takes the buffer back, with `bytes` more in it.
    pub(super) fn took(&mut self, piece: Piece, bytes: usize) {
        if let IoBuf::Heap(buf) = piece.buf {
            self.buf = Some(buf);
            self.end += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes arrive, headers and payloads come out of it as they were sent.
        #[test]
        fn what_was_sent_comes_out_in_order(
            payloads in prop::collection::vec(prop_oneof![0_usize..300, 30_000_usize..70_000], 1..20),
            takes in prop::collection::vec(1_usize..70_000, 1..20),
        ) {
            let byte = |n: usize| (n % 251) as u8;
            let sent: Vec<u8> = (0..payloads.iter().map(|p| p + REQUEST_BYTES).sum()).map(byte).collect();
            let (mut inbox, mut taken, mut takes) = (Inbox::new(), 0, takes.into_iter().cycle());
            let (mut at, mut receive) = (0, |inbox: &mut Inbox, at: &mut usize| {
                let mut piece = inbox.lend().unwrap();
                let bytes = piece.len().min(takes.next().unwrap()).min(sent.len() - *at);
                assert!(bytes > 0, "nothing is asked for that was not sent");
                piece.as_mut_slice()[..bytes].copy_from_slice(&sent[*at..*at + bytes]);
                *at += bytes;
                inbox.took(piece, bytes);
            });
            for payload in payloads {
                let header = loop {
                    if let Some(header) = inbox.header() {
                        break header;
                    }
                    receive(&mut inbox, &mut at);
                };
                prop_assert_eq!(&header[..], &sent[taken..taken + REQUEST_BYTES]);
                taken += REQUEST_BYTES;
                inbox.payload(payload);
                let (mut got, mut filled) = (vec![0; payload], 0);
                while filled < payload {
                    let more = inbox.fill(&mut got[filled..]);
                    filled += more;
                    if more == 0 {
                        receive(&mut inbox, &mut at);
                    }
                }
                prop_assert_eq!(&got[..], &sent[taken..taken + payload]);
                taken += payload;
            }
            prop_assert_eq!(inbox.len(), 0);
        }
    }
}
