//! Reads and questions: they leave no record and take no lock. A client that reads what it is writing at the same time gets
//! either, as from any disk.

use std::io;
use std::sync::{Arc, OnceLock};

use farshore_changelog::units::{ByteRange, align_down};

use crate::device::{Answer, Extent, RequestId};
use crate::disk::space::{self, EXTENTS_MAX};
use crate::engine::{Completion, Io, IoBuf, Piece, Pieces};

use super::{Cx, Pending, Tap, os_error};

/// A read on its way.
pub(super) struct Reading {
    id: RequestId,
    /// What was asked for.
    range: ByteRange,
    /// Whole blocks around it.
    blocks: ByteRange,
    /// Bytes of the blocks read.
    done: u64,
}

/// A block status request on its way: the helper thread leaves the extents where the lane finds them.
pub(super) struct Query {
    id: RequestId,
    found: Arc<OnceLock<Vec<Extent>>>,
}

impl Query {
    pub fn done(self, cx: &mut Cx<'_>, result: io::Result<u64>) {
        let found = self.found.get().cloned().unwrap_or_default();
        cx.answer(self.id, result.map(|_| Answer::Extents(found)));
    }
}

impl Tap {
    pub(super) fn start_read(&mut self, cx: &mut Cx<'_>, id: RequestId, range: ByteRange) {
        if range.is_empty() {
            return cx.answer(id, Ok(Answer::Data(Pieces::new())));
        }
        let blocks = range.grow_to(self.block_bytes);
        let reading = self.reads.insert(Reading { id, range, blocks, done: 0 });
        let buf = self.spares.take(blocks.len() as usize); // a request's length: far below the address space
        self.go_on_reading(cx, reading, IoBuf::Heap(buf));
    }

    fn go_on_reading(&mut self, cx: &mut Cx<'_>, key: usize, buf: IoBuf) {
        let Reading { blocks, done, .. } = self.reads[key];
        let piece = Piece { buf, range: done as usize..blocks.len() as usize };
        let io = Io::Read { fd: self.disk.fd(), offset: blocks.start + done, piece };
        self.push(cx, Pending::Read { reading: key }, io);
    }

    pub(super) fn read_done(&mut self, cx: &mut Cx<'_>, key: usize, mut completion: Completion) {
        let block = self.block_bytes;
        let reading = &mut self.reads[key];
        let (id, before, len) = (reading.id, reading.done, reading.blocks.len());
        let result = match (completion.result, completion.pieces.pop()) {
            (Ok(n), Some(mut piece)) => {
                reading.done = if before + n >= len { len } else { align_down(before + n, block) };
                if reading.done == len {
                    let at = |offset: u64| (offset - reading.blocks.start) as usize;
                    piece.range = at(reading.range.start)..at(reading.range.end);
                    Ok(Answer::Data([piece].into()))
                } else if reading.done > before {
                    return self.go_on_reading(cx, key, piece.buf);
                } else {
                    Err(os_error(libc::EIO)) // the disk has become shorter
                }
            }
            (Ok(_), None) => Err(os_error(libc::EIO)),
            (Err(e), _) => Err(e),
        };
        self.reads.remove(key);
        cx.answer(id, result);
    }

    pub(super) fn start_query(&mut self, cx: &mut Cx<'_>, id: RequestId, range: ByteRange, one: bool) {
        let found = Arc::new(OnceLock::new());
        let (file, filled) = (Arc::clone(self.disk.file()), Arc::clone(&found));
        let max = if one { 1 } else { EXTENTS_MAX };
        let ask = move || {
            let extents = space::extents(&file, range, max)?;
            filled.get_or_init(|| extents);
            Ok(0)
        };
        self.push(cx, Pending::Query(Query { id, found }), Io::Call(Box::new(move || (ask(), Pieces::new()))));
    }
}
