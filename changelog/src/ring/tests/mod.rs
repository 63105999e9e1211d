//! Tests of the ring as a whole.

mod kill;
mod model;
mod open;
mod settle;
mod stress;

use std::path::PathBuf;

use super::*;
use crate::ids::{DiskIndex, DiskName, Epoch, GroupName};
use crate::op::{Op, RecordFlags};

/// A ring in a folder of its own, both gone when dropped.
pub(super) struct Bench {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub ring: Ring,
}

pub(super) const SLOTS: u32 = SLOTS_PER_LANE_MIN;
pub(super) const PAYLOAD_BYTES: u64 = PAYLOAD_BYTES_PER_LANE_MIN;

pub(super) fn spec(lanes: u32) -> RingSpec {
    let disk = |name: &str| DiskEntry {
        name: DiskName::new(name).unwrap(),
        size_bytes: 1 << 50,
        identity: DiskIdentity { kind: DiskKind::File, device: 1, inode: 2 },
        block_bytes: 512,
    };
    RingSpec {
        group: GroupName::new("g").unwrap(),
        epoch: Epoch(1),
        boot_id: boot_id().unwrap(),
        lanes,
        slots_per_lane: SLOTS,
        payload_bytes_per_lane: PAYLOAD_BYTES,
        created: UnixMicros(1),
        disks: vec![disk("a"), disk("b")],
    }
}

pub(super) fn bench(lanes: u32) -> Bench {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = spec(lanes);
    let path = path_in(dir.path(), &spec.group);
    let ring = Ring::create(&path, &spec).unwrap();
    Bench { _dir: dir, path, ring }
}

/// Another handle to the same mapping, whose ends were not taken yet.
pub(super) fn handle(ring: &Ring) -> Ring {
    Ring(Arc::new(Inner {
        map: Arc::clone(&ring.0.map),
        spec: Arc::clone(&ring.0.spec),
        path: ring.0.path.clone(),
        produced: AtomicU64::new(0),
        consumed: AtomicBool::new(false),
    }))
}

pub(super) fn draft(op: Op, offset: u64, len: u64) -> Draft {
    Draft { time: UnixMicros(5), disk: DiskIndex(0), op, flags: RecordFlags::NONE, offset, len }
}

/// The bytes that "write `len` bytes at `offset`" writes in these tests.
pub(super) fn pattern(offset: u64, len: usize) -> Vec<u8> {
    let mut word = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A small generator with a seed, so that a failure can be had again.
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// Reserves, fills and sequences one write.
pub(super) fn write(producer: &mut Producer, offset: u64, len: u32) -> Slot {
    let mut slot = producer.reserve(len).unwrap();
    slot.payload_mut().copy_from_slice(&pattern(offset, len as usize));
    producer.sequence(&mut [(&mut slot, draft(Op::Write, offset, len.into()))]);
    slot
}
