//! Where everything lies in a ring file: the offsets of `docs/format.md` "Ring", each derived from its neighbour, the
//! atomic words laid over them, and the arithmetic of lanes.

use crate::ids::{DISK_NAME_MAX_BYTES, DISKS_PER_GROUP_MAX, GROUP_NAME_MAX_BYTES};

use super::sync::{AtomicU32, AtomicU64};

// The words below are native integers in memory shared by processes of one machine; the format is little-endian.
const _: () = assert!(cfg!(target_endian = "little"), "the ring's words are mapped as they are: little-endian only");

/// First bytes of the file.
pub(super) const MAGIC: [u8; 8] = *b"FARSHRNG";
/// The version this code reads and writes.
pub(super) const VERSION: u32 = 2;

/// Alignment of lanes, slot tables and payloads: what direct I/O asks of memory, and a page.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Bytes of the header page.
pub(super) const HEADER_BYTES: usize = PAGE_BYTES as usize;
/// Bytes of a lane before its slots.
pub(super) const LANE_HEADER_BYTES: u64 = PAGE_BYTES;
/// Bytes of a slot: one cache line.
pub(super) const SLOT_BYTES: u64 = 64;

/// Most lanes of a ring.
pub const LANES_MAX: u32 = 64;
/// Fewest slots of a lane.
pub const SLOTS_PER_LANE_MIN: u32 = 64;
/// Most slots of a lane.
pub const SLOTS_PER_LANE_MAX: u32 = 1 << 20;
/// Smallest payload area of a lane, in bytes: four records of the largest size.
pub const PAYLOAD_BYTES_PER_LANE_MIN: u64 = 4 << 20;
/// Largest payload area of a lane, in bytes: far more than memory there is, and small enough that sums cannot overflow.
pub const PAYLOAD_BYTES_PER_LANE_MAX: u64 = 1 << 40;

// Header page, the part that never changes.
pub(super) const H_MAGIC: usize = 0;
pub(super) const H_VERSION: usize = H_MAGIC + 8;
pub(super) const H_LANE_COUNT: usize = H_VERSION + 4;
pub(super) const H_GROUP: usize = H_LANE_COUNT + 4;
pub(super) const H_EPOCH: usize = H_GROUP + GROUP_NAME_MAX_BYTES;
pub(super) const H_SLOTS_PER_LANE: usize = H_EPOCH + 8;
pub(super) const H_DISK_COUNT: usize = H_SLOTS_PER_LANE + 4;
pub(super) const H_PAYLOAD_BYTES: usize = H_DISK_COUNT + 4;
pub(super) const H_BOOT_ID: usize = H_PAYLOAD_BYTES + 8;
pub(super) const H_CREATED: usize = H_BOOT_ID + 16;
pub(super) const H_CRC: usize = H_CREATED + 8;
pub(super) const H_RESERVED: usize = H_CRC + 4;
pub(super) const H_WORDS: usize = 256;
pub(super) const H_DISKS: usize = 1024;

// Header page, the atomic words.
pub(super) const H_NEXT_SEQ: usize = H_WORDS;
pub(super) const H_VOID_BELOW: usize = H_NEXT_SEQ + 64;
pub(super) const H_READ_SEQ: usize = H_VOID_BELOW + 64;
pub(super) const H_CONFIRMED_SEQ: usize = H_READ_SEQ + 64;
pub(super) const H_DOORBELL: usize = H_CONFIRMED_SEQ + 64;
pub(super) const H_SHIPPER_STATE: usize = H_DOORBELL + 64;
pub(super) const H_SHIPPER_SEEN: usize = H_SHIPPER_STATE + 8;
pub(super) const H_SPOOL_BYTES: usize = H_SHIPPER_SEEN + 8;
pub(super) const H_RESYNC_END: usize = H_SPOOL_BYTES + 8;
pub(super) const H_DISTRUSTED: usize = H_RESYNC_END + 8;
pub(super) const H_WORDS_END: usize = H_DISTRUSTED + 8;

/// Largest value of a seq, slot number or payload position; a larger one is damage, and arithmetic on smaller ones is safe.
pub(super) const COUNTER_MAX: u64 = 1 << 62;

// Disk table entry.
pub(super) const DISK_BYTES: usize = 96;
pub(super) const D_NAME: usize = 0;
pub(super) const D_SIZE: usize = D_NAME + DISK_NAME_MAX_BYTES;
pub(super) const D_DEVICE: usize = D_SIZE + 8;
pub(super) const D_INODE: usize = D_DEVICE + 8;
pub(super) const D_BLOCK: usize = D_INODE + 8;
pub(super) const D_KIND: usize = D_BLOCK + 4;
pub(super) const D_RESERVED: usize = D_KIND + 4;

// Lane.
pub(super) const L_HEAD: usize = 0;
pub(super) const L_TAIL: usize = L_HEAD + 64;
pub(super) const L_PAYLOAD_HEAD: usize = L_TAIL + 64;
pub(super) const L_PAYLOAD_TAIL: usize = L_PAYLOAD_HEAD + 64;

// Slot.
pub(super) const S_SEQ: usize = 0;
pub(super) const S_OFFSET: usize = S_SEQ + 8;
pub(super) const S_TIME: usize = S_OFFSET + 8;
pub(super) const S_LEN: usize = S_TIME + 8;
pub(super) const S_POSITION: usize = S_LEN + 8;
pub(super) const S_RESERVED: usize = S_POSITION + 8;
pub(super) const S_DISK: usize = S_RESERVED + 4;
pub(super) const S_OP: usize = S_DISK + 2;
pub(super) const S_FLAGS: usize = S_OP + 1;
pub(super) const S_CRC: usize = S_FLAGS + 1;
pub(super) const S_STATE: usize = S_CRC + 4;
pub(super) const S_NUMBER: usize = S_STATE + 4;

const _: () = {
    assert!(H_CRC == 128 && H_RESERVED == 132 && H_RESERVED <= H_WORDS);
    assert!(H_WORDS_END == 616 && H_WORDS_END <= H_DISKS);
    assert!(H_DISKS + DISK_BYTES * DISKS_PER_GROUP_MAX == HEADER_BYTES);
    assert!(D_RESERVED == 64 && D_RESERVED < DISK_BYTES);
    assert!(S_CRC == 48 && S_NUMBER + 8 == SLOT_BYTES as usize);
};

/// The atomic words of the header page, from [`H_WORDS`] on. Each in a cache line of its own, so that lanes that take seqs do
/// not slow the shipper's notes.
#[repr(C)]
pub(super) struct HeaderWords {
    pub next_seq: AtomicU64,
    pub _pad0: [u8; 56],
    pub void_below: AtomicU64,
    pub _pad1: [u8; 56],
    pub read_seq: AtomicU64,
    pub _pad2: [u8; 56],
    pub confirmed_seq: AtomicU64,
    pub _pad3: [u8; 56],
    pub doorbell: AtomicU32,
    pub _pad4: [u8; 60],
    pub shipper_state: AtomicU32,
    pub _pad5: [u8; 4],
    pub shipper_seen: AtomicU64,
    pub spool_bytes: AtomicU64,
    pub resync_end: AtomicU64,
    pub distrusted: AtomicU64,
}

/// The atomic words at the start of a lane.
#[repr(C)]
pub(super) struct LaneWords {
    pub head: AtomicU64,
    pub _pad0: [u8; 56],
    pub tail: AtomicU64,
    pub _pad1: [u8; 56],
    pub payload_head: AtomicU64,
    pub _pad2: [u8; 56],
    pub payload_tail: AtomicU64,
}

/// A slot as atomic words. All of them are atomic, because a reader may look at a slot while its owner reuses it.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub(super) struct SlotWords {
    pub seq: AtomicU64,
    pub offset: AtomicU64,
    pub time: AtomicU64,
    pub len: AtomicU64,
    pub position: AtomicU64,
    pub reserved: AtomicU32,
    /// Disk (low 16 bits), op, flags (high 8 bits) in one word.
    pub kind: AtomicU32,
    pub crc: AtomicU32,
    pub state: AtomicU32,
    pub number: AtomicU64,
}

// The model's words are larger, and lie in no file.
#[cfg(not(loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(offset_of!(HeaderWords, next_seq) == H_NEXT_SEQ - H_WORDS);
    assert!(offset_of!(HeaderWords, void_below) == H_VOID_BELOW - H_WORDS);
    assert!(offset_of!(HeaderWords, read_seq) == H_READ_SEQ - H_WORDS);
    assert!(offset_of!(HeaderWords, confirmed_seq) == H_CONFIRMED_SEQ - H_WORDS);
    assert!(offset_of!(HeaderWords, doorbell) == H_DOORBELL - H_WORDS);
    assert!(offset_of!(HeaderWords, shipper_state) == H_SHIPPER_STATE - H_WORDS);
    assert!(offset_of!(HeaderWords, shipper_seen) == H_SHIPPER_SEEN - H_WORDS);
    assert!(offset_of!(HeaderWords, spool_bytes) == H_SPOOL_BYTES - H_WORDS);
    assert!(offset_of!(HeaderWords, resync_end) == H_RESYNC_END - H_WORDS);
    assert!(offset_of!(HeaderWords, distrusted) == H_DISTRUSTED - H_WORDS);
    assert!(size_of::<HeaderWords>() == H_WORDS_END - H_WORDS);
    assert!(offset_of!(LaneWords, head) == L_HEAD);
    assert!(offset_of!(LaneWords, tail) == L_TAIL);
    assert!(offset_of!(LaneWords, payload_head) == L_PAYLOAD_HEAD);
    assert!(offset_of!(LaneWords, payload_tail) == L_PAYLOAD_TAIL);
    assert!(size_of::<LaneWords>() <= LANE_HEADER_BYTES as usize);
    assert!(offset_of!(SlotWords, seq) == S_SEQ);
    assert!(offset_of!(SlotWords, offset) == S_OFFSET);
    assert!(offset_of!(SlotWords, time) == S_TIME);
    assert!(offset_of!(SlotWords, len) == S_LEN);
    assert!(offset_of!(SlotWords, position) == S_POSITION);
    assert!(offset_of!(SlotWords, reserved) == S_RESERVED);
    assert!(offset_of!(SlotWords, kind) == S_DISK);
    assert!(offset_of!(SlotWords, crc) == S_CRC);
    assert!(offset_of!(SlotWords, state) == S_STATE);
    assert!(offset_of!(SlotWords, number) == S_NUMBER);
    assert!(size_of::<SlotWords>() == SLOT_BYTES as usize);
    assert!(align_of::<HeaderWords>() == 8 && align_of::<LaneWords>() == 8 && align_of::<SlotWords>() == 8);
};

/// How many lanes of what size: everything that offsets are computed from. Only [`Geometry::new`] makes one, so the sums
/// below cannot overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    lanes: u32,
    slots_per_lane: u32,
    payload_bytes_per_lane: u64,
}

impl Geometry {
    /// Proves the numbers; else says which one is out of its range.
    pub fn new(lanes: u32, slots_per_lane: u32, payload_bytes_per_lane: u64) -> Result<Self, String> {
        if !(1..=LANES_MAX).contains(&lanes) {
            return Err(format!("{lanes} lanes, where 1 to {LANES_MAX} are possible"));
        }
        if !slots_per_lane.is_power_of_two() || !(SLOTS_PER_LANE_MIN..=SLOTS_PER_LANE_MAX).contains(&slots_per_lane) {
            return Err(format!(
                "{slots_per_lane} slots a lane, where a power of two from {SLOTS_PER_LANE_MIN} to {SLOTS_PER_LANE_MAX} is needed"
            ));
        }
        if !payload_bytes_per_lane.is_multiple_of(PAGE_BYTES)
            || !(PAYLOAD_BYTES_PER_LANE_MIN..=PAYLOAD_BYTES_PER_LANE_MAX).contains(&payload_bytes_per_lane)
        {
            return Err(format!(
                "{payload_bytes_per_lane} payload bytes a lane, where a multiple of {PAGE_BYTES} from {PAYLOAD_BYTES_PER_LANE_MIN} to {PAYLOAD_BYTES_PER_LANE_MAX} is needed"
            ));
        }
        Ok(Self { lanes, slots_per_lane, payload_bytes_per_lane })
    }

    /// A geometry for the model: any power of two of slots, any number of pages.
    #[cfg(loom)]
    pub fn of_model(lanes: u32, slots_per_lane: u32, pages_per_lane: u64) -> Self {
        Self { lanes, slots_per_lane, payload_bytes_per_lane: pages_per_lane * PAGE_BYTES }
    }

    pub fn lanes(self) -> u32 {
        self.lanes
    }

    pub fn slots(self) -> u64 {
        u64::from(self.slots_per_lane)
    }

    pub fn payload_bytes(self) -> u64 {
        self.payload_bytes_per_lane
    }

    /// Bytes of one lane.
    pub fn lane_bytes(self) -> u64 {
        LANE_HEADER_BYTES + self.slots() * SLOT_BYTES + self.payload_bytes_per_lane
    }

    /// Bytes of the file.
    pub fn file_bytes(self) -> u64 {
        PAGE_BYTES + u64::from(self.lanes) * self.lane_bytes()
    }

    /// Offset of a lane in the file.
    pub fn lane_offset(self, lane: u32) -> u64 {
        assert!(lane < self.lanes, "lane {lane} of a ring with {} lanes", self.lanes);
        PAGE_BYTES + u64::from(lane) * self.lane_bytes()
    }

    /// Offset in the file of the slot that bears number `n`.
    pub fn slot_offset(self, lane: u32, n: u64) -> u64 {
        self.lane_offset(lane) + LANE_HEADER_BYTES + (n & (self.slots() - 1)) * SLOT_BYTES
    }

    /// Offset in the file of a lane's payload area.
    pub fn payload_area_offset(self, lane: u32) -> u64 {
        self.lane_offset(lane) + LANE_HEADER_BYTES + self.slots() * SLOT_BYTES
    }

    /// Whether `len` payload bytes at ever-rising position `position` lie in one piece in the payload area, on an
    /// alignment that direct I/O takes.
    pub fn payload_fits(self, position: u64, len: u64) -> bool {
        position.is_multiple_of(PAGE_BYTES)
            && (position % self.payload_bytes_per_lane)
                .checked_add(len)
                .is_some_and(|end| end <= self.payload_bytes_per_lane)
    }
}
