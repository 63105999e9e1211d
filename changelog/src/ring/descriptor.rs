//! A slot's descriptor: how an operation lies in a slot, and the proof of one that was read. Pure but for the loads and
//! stores of one slot.

use std::sync::atomic::Ordering::Relaxed;

use crate::ids::{DiskIndex, MARK_NAME_MAX_BYTES, Seq};
use crate::op::{Op, Record, RecordFlags};
use crate::units::{ByteRange, RECORD_PAYLOAD_MAX_BYTES, SECTOR_BYTES, UnixMicros};

use super::layout::{
    Geometry, S_CRC, S_DISK, S_FLAGS, S_LEN, S_OFFSET, S_OP, S_POSITION, S_RESERVED, S_SEQ, S_TIME, SlotWords,
};
use super::spec::DiskEntry;

/// What a slot is. The codes are those of `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(super) enum State {
    Free = 0,
    Reserved = 1,
    Committed = 2,
    Aborted = 3,
    Void = 4,
    Consumed = 5,
}

impl State {
    /// Every state, each at the index that is its code.
    pub const ALL: [State; 6] =
        [State::Free, State::Reserved, State::Committed, State::Aborted, State::Void, State::Consumed];

    pub const fn code(self) -> u32 {
        self as u32
    }

    /// `None` for a code that no version wrote.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}

/// The fields that the checksum covers, as they lie in the slot: not proved to be an operation yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub seq: u64,
    pub offset: u64,
    pub time: u64,
    pub len: u64,
    pub position: u64,
    pub reserved: u32,
    /// Disk (low 16 bits), op, flags (high 8 bits).
    pub kind: u32,
}

impl Descriptor {
    /// The descriptor of `record`, whose slot has `reserved` payload bytes around `position`.
    pub fn of(record: &Record, position: u64, reserved: u32) -> Self {
        let Record { seq, time, disk, op, flags, offset, len } = *record;
        let kind = u32::from(disk.0) | u32::from(op.code()) << 16 | u32::from(flags.0) << 24;
        Self { seq: seq.0, offset, time: time.0, len, position, reserved, kind }
    }

    /// Stores everything but the seq, which is stored after it. `n` is the slot's number.
    pub fn store(&self, slot: &SlotWords, n: u64) {
        slot.offset.store(self.offset, Relaxed);
        slot.time.store(self.time, Relaxed);
        slot.len.store(self.len, Relaxed);
        slot.position.store(self.position, Relaxed);
        slot.reserved.store(self.reserved, Relaxed);
        slot.kind.store(self.kind, Relaxed);
        slot.crc.store(self.checksum(n), Relaxed);
    }

    /// Loads a descriptor and says whether its checksum is right for a slot of number `n`.
    pub fn load(slot: &SlotWords, n: u64) -> (Self, bool) {
        let descriptor = Self {
            seq: slot.seq.load(Relaxed),
            offset: slot.offset.load(Relaxed),
            time: slot.time.load(Relaxed),
            len: slot.len.load(Relaxed),
            position: slot.position.load(Relaxed),
            reserved: slot.reserved.load(Relaxed),
            kind: slot.kind.load(Relaxed),
        };
        let good = slot.crc.load(Relaxed) == descriptor.checksum(n);
        (descriptor, good)
    }

    /// CRC-32 of slot bytes 0–47 and of the slot's number.
    fn checksum(&self, n: u64) -> u32 {
        let mut bytes = [0; S_CRC + 8];
        bytes[S_SEQ..S_SEQ + 8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[S_OFFSET..S_OFFSET + 8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[S_TIME..S_TIME + 8].copy_from_slice(&self.time.to_le_bytes());
        bytes[S_LEN..S_LEN + 8].copy_from_slice(&self.len.to_le_bytes());
        bytes[S_POSITION..S_POSITION + 8].copy_from_slice(&self.position.to_le_bytes());
        bytes[S_RESERVED..S_RESERVED + 4].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[S_DISK..S_CRC].copy_from_slice(&self.kind.to_le_bytes());
        bytes[S_CRC..].copy_from_slice(&n.to_le_bytes());
        crc32fast::hash(&bytes)
    }

    /// The operation it describes, when it is one that this ring can hold; else what is wrong with it. The checksum is the
    /// caller's to check first.
    pub fn prove(&self, disks: &[DiskEntry], geometry: Geometry) -> Result<Record, String> {
        let [_, _, op, flags] = self.kind.to_le_bytes();
        let record = Record {
            seq: Seq(self.seq),
            time: UnixMicros(self.time),
            disk: DiskIndex(self.kind as u16),
            op: Op::from_code(op).ok_or_else(|| format!("unknown operation {op}"))?,
            flags: RecordFlags::from_bits(flags).ok_or_else(|| format!("unknown flags {flags:#x}"))?,
            offset: self.offset,
            len: self.len,
        };
        check_record(&record, disks)?;
        let payload = record.payload_len();
        if payload > u64::from(self.reserved) || !geometry.payload_fits(self.position, payload) {
            return Err(format!(
                "payload of {payload} bytes at {} leaves the {} bytes reserved for it or its lane",
                self.position, self.reserved
            ));
        }
        Ok(record)
    }
}

const _: () = assert!(S_OP == S_DISK + 2 && S_FLAGS == S_DISK + 3, "kind is disk, op and flags in this order");

/// Whether a ring with these disks can hold `record`: the table of operations in `docs/format.md` "Records". Whatever this
/// lets pass, a segment takes too; beyond a segment's rules it knows the disks.
pub(super) fn check_record(record: &Record, disks: &[DiskEntry]) -> Result<(), String> {
    check_flags(record)?;
    let Record { seq: _, time: _, disk, op, flags: _, offset, len } = *record;
    if op.has_payload() && len > u64::from(RECORD_PAYLOAD_MAX_BYTES) {
        return Err(format!("{op:?} with a payload of {len} bytes, where {RECORD_PAYLOAD_MAX_BYTES} are possible"));
    }
    let of_group = disk.0 == 0 && offset == 0;
    let fits = match op {
        Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes | Op::Digest => {
            let size = disks.get(usize::from(disk.0)).map_or(0, |d| d.size_bytes);
            offset.is_multiple_of(SECTOR_BYTES)
                && len.is_multiple_of(SECTOR_BYTES)
                && ByteRange::at(offset, len).is_some_and(|range| !range.is_empty() && range.end <= size)
        }
        Op::Flush => usize::from(disk.0) < disks.len() && offset == 0 && len == 0,
        Op::Mark => of_group && (1..=MARK_NAME_MAX_BYTES as u64).contains(&len),
        Op::ResyncBegin => of_group,
        Op::ResyncEnd | Op::Overflow => of_group && len == 0,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{op:?} of {len} bytes at {offset} of disk {disk}, which has no such range"))
    }
}

fn check_flags(record: &Record) -> Result<(), String> {
    let Record { op, flags, .. } = *record;
    let of_changes = RecordFlags::FUA.with(RecordFlags::MORE).with(RecordFlags::REREAD);
    let allowed = match op {
        Op::WriteZeroes => of_changes.with(RecordFlags::NO_HOLE),
        Op::Write | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => of_changes,
        Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => RecordFlags::NONE,
    };
    let unfit = flags.without(allowed);
    if unfit == RecordFlags::NONE { Ok(()) } else { Err(format!("{op:?} with flags {:#x}", unfit.0)) }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
