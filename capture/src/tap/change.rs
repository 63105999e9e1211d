//! A change of the disk, from the range lock to the answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use farshore_changelog::ids::Seq;
use farshore_changelog::op::RecordFlags;
use farshore_changelog::ring::Slot;
use farshore_changelog::units::{ByteRange, align_down};
use smallvec::SmallVec;

use crate::device::{Answer, RequestId};
use crate::disk::space;
use crate::engine::{Completion, Io, IoBuf, Piece, Pieces};
use crate::range_lock::Ticket;

use super::plan::{PartOp, Plan, Zeroing};
use super::{Cx, Holder, Memory, Pending, Tap, os_error};

/// A change that has its memory.
pub(super) struct Change {
    id: RequestId,
    fua: bool,
    plan: Plan,
    parts: SmallVec<[PartRun; 1]>,
    ticket: Option<Ticket>,
    /// The last of its seqs, once it has its place in the order.
    seq: Option<Seq>,
    /// Its regions are entered in the dirty map.
    entered: bool,
    /// Operations in flight of the step it is in.
    left: usize,
    error: Option<io::Error>,
}

/// One part on its way.
struct PartRun {
    /// `None` while an operation owns it, and of zeroes that are not logged.
    memory: Option<IoBuf>,
    /// Bytes written.
    done: u64,
    end: End,
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The disk has it.
    Good,
    /// The disk refused it, or a part of it.
    Failed,
    /// It failed, and the memory holds what the disk now has.
    Reread,
    /// It failed, and nobody knows what the disk now has.
    Lost,
}

impl Change {
    fn slots(&mut self) -> impl Iterator<Item = (&mut Slot, &super::plan::Part)> {
        self.parts.iter_mut().zip(&self.plan.parts).filter_map(|(run, part)| match run.memory.as_mut()? {
            IoBuf::Slot(slot) => Some((slot, part)),
            IoBuf::Heap(_) => None,
        })
    }
}

impl Tap {
    /// Starts a change whose payload is there.
    pub(super) fn start_change(&mut self, cx: &mut Cx<'_>, id: RequestId, plan: Plan, memory: Memory, fua: bool) {
        let locked = plan.locked;
        let parts = memory.into_iter().map(|memory| PartRun { memory, done: 0, end: End::Good }).collect();
        let change = Change { id, fua, plan, parts, ticket: None, seq: None, entered: false, left: 0, error: None };
        let key = self.changes.insert(change);
        let (ticket, held) = self.take_range(locked, Holder::Change(key));
        self.changes[key].ticket = Some(ticket);
        if held {
            self.begin_change(cx, key);
        }
    }

    /// The range is held: reads the edges.
    pub(super) fn begin_change(&mut self, cx: &mut Cx<'_>, key: usize) {
        let blocks: Vec<_> = self.changes[key].plan.edges.iter().map(|edge| edge.block).collect();
        if blocks.is_empty() {
            return self.enter_change(cx, key);
        }
        self.changes[key].left = blocks.len();
        for (edge, block) in blocks.into_iter().enumerate() {
            let len = block.len() as usize;
            let piece = Piece { buf: IoBuf::Heap(self.spares.take(len)), range: 0..len };
            let io = Io::Read { fd: self.disk.fd(), offset: block.start, piece };
            self.push(cx, Pending::Edge { change: key, edge }, io);
        }
    }

    /// An edge was read: what is to stay of it goes into the payload.
    pub(super) fn edge_read(&mut self, cx: &mut Cx<'_>, key: usize, edge: usize, mut completion: Completion) {
        let read = completion.pieces.pop();
        let change = &mut self.changes[key];
        change.left -= 1;
        let edge = &change.plan.edges[edge];
        match (completion.result, &read) {
            (Ok(n), Some(piece)) if n == edge.block.len() => {
                let start = change.plan.parts[edge.part].range.start;
                if let Some(memory) = &mut change.parts[edge.part].memory {
                    for keep in &edge.keep {
                        // Distances within a payload and within a block.
                        let (to, from) = ((keep.start - start) as usize, (keep.start - edge.block.start) as usize);
                        let len = keep.len() as usize;
                        memory.as_mut_slice()[to..to + len].copy_from_slice(&piece.as_slice()[from..from + len]);
                    }
                }
            }
            (Ok(_), _) => change.error = Some(os_error(libc::EIO)),
            (Err(e), _) => change.error = Some(e),
        }
        let (left, failed) = (change.left, change.error.is_some());
        if let Some(piece) = read {
            self.keep_spare(piece);
        }
        if left > 0 {
            return;
        }
        if failed {
            // Nothing was changed and nothing has a seq: the slots give themselves back.
            self.note_failure(key);
            return self.end_change(cx, key);
        }
        self.enter_change(cx, key);
    }

    /// The payload is whole and the range is held: the regions' bits come next, as long as anything is logged at all.
    fn enter_change(&mut self, cx: &mut Cx<'_>, key: usize) {
        if self.logging().is_none() || self.repair.is_none() {
            return self.order_change(cx, key);
        }
        self.changes[key].entered = true;
        let (range, unlogged) = self.entered(key);
        self.open_regions(cx, key, range, unlogged);
    }

    /// What a change has entered in the dirty map, and whether the log does not get it.
    pub(super) fn entered(&self, key: usize) -> (ByteRange, bool) {
        let change = &self.changes[key];
        let logged = change.parts.iter().any(|run| matches!(run.memory, Some(IoBuf::Slot(_))));
        (change.plan.locked, !logged)
    }

    /// It must not be done: its regions' bits cannot be made durable.
    pub(super) fn refuse_change(&mut self, cx: &mut Cx<'_>, key: usize, error: io::Error) {
        // Nothing was changed and nothing has a seq: the slots give themselves back.
        self.changes[key].error = Some(error);
        self.note_failure(key);
        self.end_change(cx, key);
    }

    /// The bits are durable: the seqs are taken, and the disk is written.
    pub(super) fn order_change(&mut self, cx: &mut Cx<'_>, key: usize) {
        let (disk, log) = (self.index, self.log.clone());
        let change = &mut self.changes[key];
        let fua = if change.fua { RecordFlags::FUA } else { RecordFlags::NONE };
        let record = |(slot, part): (_, &super::plan::Part)| {
            let keep = matches!(part.op, PartOp::Zeroes(Zeroing::Write { keep: true }));
            let flags = if keep { fua.with(RecordFlags::NO_HOLE) } else { fua };
            (slot, part.record_op(), flags, part.range)
        };
        // Slots come from this log, so it is there when they are.
        if let Some(log) = log {
            change.seq = log.borrow_mut().order(disk, change.slots().map(record));
        }
        change.left = change.parts.len();
        for part in 0..self.changes[key].parts.len() {
            self.run_part(cx, key, part);
        }
    }

    /// Pushes a part, or what is left of it.
    fn run_part(&mut self, cx: &mut Cx<'_>, key: usize, part: usize) {
        let change = &mut self.changes[key];
        let (range, run) = (change.plan.parts[part].range, &mut change.parts[part]);
        let io = match change.plan.parts[part].op {
            PartOp::Data { .. } => {
                let buf = run.memory.take().expect("a part with data has memory while nothing is in flight");
                let piece = Piece { buf, range: run.done as usize..range.len() as usize };
                Io::Write { fd: self.disk.fd(), offset: range.start + run.done, piece }
            }
            PartOp::Zeroes(how) => {
                let file = Arc::clone(self.disk.file());
                let keep = matches!(how, Zeroing::Write { keep: true });
                Io::Call(Box::new(move || (space::zero(&file, range, keep).map(|()| 0), Pieces::new())))
            }
        };
        self.push(cx, Pending::Part { change: key, part }, io);
    }

    /// A part's operation has ended. A short write goes on with the rest.
    pub(super) fn part_done(&mut self, cx: &mut Cx<'_>, key: usize, part: usize, mut completion: Completion) {
        let block = self.block_bytes;
        let change = &mut self.changes[key];
        let (len, run) = (change.plan.parts[part].range.len(), &mut change.parts[part]);
        if let Some(piece) = completion.pieces.pop() {
            run.memory = Some(piece.buf);
        }
        let is_data = matches!(change.plan.parts[part].op, PartOp::Data { .. });
        match completion.result {
            Ok(n) if is_data => {
                // Direct I/O goes on at a whole block.
                let done = if run.done + n >= len { len } else { align_down(run.done + n, block) };
                if done < len && done > run.done {
                    run.done = done;
                    return self.run_part(cx, key, part);
                }
                if done < len {
                    run.end = End::Failed;
                    change.error.get_or_insert_with(|| os_error(libc::EIO));
                }
            }
            Ok(_) => {}
            Err(e) => {
                run.end = End::Failed;
                change.error.get_or_insert(e);
            }
        }
        change.left -= 1;
        if change.left == 0 {
            self.written(cx, key);
        }
    }

    /// Every part has ended: what failed is read back into its slot, for it may have changed the disk (G3).
    fn written(&mut self, cx: &mut Cx<'_>, key: usize) {
        let change = &mut self.changes[key];
        let failed: Vec<usize> = (0..change.parts.len()).filter(|n| change.parts[*n].end == End::Failed).collect();
        if failed.is_empty() {
            return self.settle_change(cx, key);
        }
        self.note_failure(key);
        let change = &mut self.changes[key];
        if change.seq.is_none() {
            // Its regions are lost already, or nothing is logged.
            return self.end_change(cx, key);
        }
        change.left = failed.len();
        for part in failed {
            let change = &mut self.changes[key];
            let range = change.plan.parts[part].range;
            let io = match (change.plan.parts[part].op, change.parts[part].memory.take()) {
                (PartOp::Data { .. }, Some(buf)) => {
                    Io::Read { fd: self.disk.fd(), offset: range.start, piece: Piece::whole(buf) }
                }
                // Its memory went down with a helper thread; nothing can be read into it.
                (PartOp::Data { .. }, None) => Io::Call(Box::new(|| (Err(os_error(libc::EIO)), Pieces::new()))),
                (PartOp::Zeroes(_), slot) => {
                    change.parts[part].memory = slot;
                    let file = Arc::clone(self.disk.file());
                    let zero =
                        move || space::reads_as_zeroes(&file, range).map(|zero| if zero { range.len() } else { 0 });
                    Io::Call(Box::new(move || (zero(), Pieces::new())))
                }
            };
            self.push(cx, Pending::Reread { change: key, part }, io);
        }
    }

    /// A failed part was read back, or it could not be.
    pub(super) fn part_reread(&mut self, cx: &mut Cx<'_>, key: usize, part: usize, mut completion: Completion) {
        let change = &mut self.changes[key];
        let planned = &change.plan.parts[part];
        let run = &mut change.parts[part];
        if let Some(piece) = completion.pieces.pop() {
            run.memory = Some(piece.buf);
        }
        let whole = completion.result.is_ok_and(|n| n == planned.range.len());
        run.end = match (whole, planned.op) {
            (false, _) => End::Lost,
            (true, PartOp::Data { .. }) => End::Reread,
            (true, PartOp::Zeroes(_)) => End::Good, // its record says zeroes, and zeroes are there
        };
        change.left -= 1;
        if change.left > 0 {
            return;
        }
        let lost: Vec<_> =
            change.parts.iter().zip(&change.plan.parts).filter(|(run, _)| run.end == End::Lost).collect();
        let ranges = lost.into_iter().map(|(_, part)| part.range).collect();
        self.lose(cx, key, ranges);
    }

    /// Nothing is left to be done for it on the disk: its records are committed, or aborted where a range is lost.
    pub(super) fn settle_change(&mut self, cx: &mut Cx<'_>, key: usize) {
        for run in &mut self.changes[key].parts {
            match (run.memory.take(), run.end) {
                (Some(IoBuf::Slot(slot)), End::Good) => slot.commit(),
                (Some(IoBuf::Slot(slot)), End::Reread) => slot.commit_reread(),
                (Some(IoBuf::Slot(slot)), End::Failed | End::Lost) => slot.abort(),
                (Some(IoBuf::Heap(_)) | None, _) => {}
            }
        }
        self.end_change(cx, key);
    }

    /// Releases the range and answers.
    fn end_change(&mut self, cx: &mut Cx<'_>, key: usize) {
        let change = self.changes.remove(key);
        let Change { id, fua, plan, parts, ticket, error, seq, entered, .. } = change;
        drop(parts);
        if entered {
            self.leave_regions(plan.locked, seq);
        }
        match error {
            Some(e) => cx.answer(id, Err(e)),
            None if fua => self.sync_for(cx, id),
            None => cx.answer(id, Ok(Answer::Done)),
        }
        if let Some(ticket) = ticket {
            self.release_range(cx, ticket);
        }
    }

    fn note_failure(&self, key: usize) {
        let change = &self.changes[key];
        self.state.failed_changes.fetch_add(1, Relaxed);
        let error = change.error.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(disk = %self.disk.name(), range = %change.plan.locked, error, "the source disk failed a change");
    }
}
