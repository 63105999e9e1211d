//! A slot as its producer holds it: the right to its payload, and the transitions of its state.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use crate::ids::{DiskIndex, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::units::UnixMicros;

use super::descriptor::{Descriptor, State};
use super::doorbell;
use super::layout::SlotWords;
use super::mapping::{Lane, Region};

/// An operation before it has its seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// The source's wall clock now.
    pub time: UnixMicros,
    /// The disk, 0 for operations of the whole group.
    pub disk: DiskIndex,
    /// What is done.
    pub op: Op,
    /// How. [`RecordFlags::MORE`] is set by the ring; [`RecordFlags::BOUNDARY`] does not belong in one.
    pub flags: RecordFlags,
    /// First byte on the disk; 0 where the operation has no range.
    pub offset: u64,
    /// Bytes on the disk, of the mark's name, or of lost regions.
    pub len: u64,
}

impl Draft {
    /// The record it becomes with this seq and these flags.
    pub(super) fn with(&self, seq: Seq, flags: RecordFlags) -> Record {
        let Draft { time, disk, op, flags: _, offset, len } = *self;
        Record { seq, time, disk, op, flags, offset, len }
    }
}

/// A reserved slot. Until it is committed, aborted or given back, its payload belongs to this handle alone; the address of
/// the payload does not change when the handle moves.
///
/// A slot that is dropped is settled, so that nothing can block the records behind it: without a seq it is given back,
/// with one it is aborted (and a warning is logged, because the caller then owes the log a range). While its thread panics it is
/// left as it is: what became of its operation is not known, and recovery settles it as it does a killed process's.
pub struct Slot {
    region: Region,
    number: u64,
    position: u64,
    reserved: u32,
    record: Option<Record>,
    open: bool,
}

impl Slot {
    /// Wraps slot `number`, which the producer has just reserved.
    pub(super) fn new(lane: &Arc<Lane>, number: u64, position: u64, reserved: u32, payload_bytes: u32) -> Self {
        let region = Region::new(lane, position, payload_bytes);
        Self { region, number, position, reserved, record: None, open: true }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.region.bytes()
    }

    /// The payload, to be filled; it begins on a multiple of 4096 bytes of the address space.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut()
    }

    /// Bytes of payload that were asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Whether it has no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its seq, once it is in the order.
    #[must_use]
    pub fn seq(&self) -> Option<Seq> {
        self.record.map(|record| record.seq)
    }

    /// Its record, once it is in the order.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        self.record
    }

    /// The operation is done on the source disk: the record may be shipped. Wakes the shipper if it sleeps.
    ///
    /// # Panics
    /// When the slot has no seq.
    pub fn commit(mut self) {
        assert!(self.record.is_some(), "a slot without a seq cannot be committed");
        self.settle(State::Committed);
    }

    /// As [`Slot::commit`], for a payload that was read back from the disk after the operation failed or was cut short.
    ///
    /// # Panics
    /// When the slot has no seq.
    pub fn commit_reread(mut self) {
        let record = self.record.as_mut().expect("a slot without a seq cannot be committed");
        record.flags = record.flags.with(RecordFlags::REREAD);
        let descriptor = Descriptor::of(record, self.position, self.reserved);
        descriptor.store(self.words(), self.number);
        self.settle(State::Committed);
    }

    /// The operation did not happen, or its range is lost: its seq is passed over.
    ///
    /// # Panics
    /// When the slot has no seq: give it back then.
    pub fn abort(mut self) {
        assert!(self.record.is_some(), "a slot without a seq is given back, not aborted");
        self.settle(State::Aborted);
    }

    /// The request never became whole: the slot leaves no trace.
    ///
    /// # Panics
    /// When the slot has a seq: its place in the order must be settled.
    pub fn give_back(mut self) {
        assert!(self.record.is_none(), "a slot with a seq cannot be given back");
        self.settle(State::Void);
    }

    /// Puts the slot in the order. Everything else of the descriptor is stored before the seq.
    pub(super) fn place(&mut self, record: Record) {
        Descriptor::of(&record, self.position, self.reserved).store(self.words(), self.number);
        self.words().seq.store(record.seq.0, Release);
        self.record = Some(record);
    }

    /// Leaves the slot as it is, as a process does that dies.
    #[cfg(test)]
    pub(super) fn leave(mut self) {
        self.open = false;
    }

    /// Whether it lies in this lane of this mapping.
    pub(super) fn is_of(&self, lane: &Lane) -> bool {
        std::ptr::eq(self.region.lane(), lane)
    }

    fn words(&self) -> &SlotWords {
        self.region.lane().slot(self.number)
    }

    fn settle(&mut self, state: State) {
        self.open = false;
        self.words().state.store(state.code(), Release);
        // A slot that never had a place in the order is nothing the shipper waits for.
        if self.record.is_some() {
            doorbell::ring(&self.region.lane().header().doorbell);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.open || std::thread::panicking() {
            return;
        }
        match self.record {
            None => self.settle(State::Void),
            Some(record) => {
                tracing::warn!(
                    lane = self.region.lane().index(),
                    ?record,
                    "a slot in the order was dropped unsettled: aborted"
                );
                self.settle(State::Aborted);
            }
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("lane", &self.region.lane().index())
            .field("number", &self.number)
            .field("len", &self.len())
            .field("record", &self.record)
            .finish()
    }
}
