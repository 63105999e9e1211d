//! What the micro benchmarks and the instruction counts put through the stages: small, and the same in every run.

use std::path::PathBuf;

use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::ring::{
    Consumer, DiskEntry, DiskIdentity, DiskKind, Draft, Producer, Ring, RingSpec, Slot, boot_id, path_in,
};
use farshore_changelog::segment::{Kind, Sealed, Segment, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;

/// Payload of the segments: the size at which the shipper closes one.
pub const SEGMENT_BYTES: usize = 8 << 20;
/// Payload of a record in the ring.
pub const RECORD_BYTES: u32 = 4096;
/// Slots of the ring's lane.
pub const SLOTS: u32 = 16_384;

const TIME: u64 = 1_735_689_600_000_000;

fn group() -> GroupName {
    GroupName::new("bench").expect("a good name")
}

/// A ring of one lane in a folder of its own, with both of its ends. Payloads are not filled: in the data path the kernel does
/// that.
pub struct Ends {
    dir: PathBuf,
    /// The writing end.
    pub producer: Producer,
    /// The reading end.
    pub consumer: Consumer,
}

impl Ends {
    /// Makes the ring. `name` tells the folder from those of others in this process.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let dir = PathBuf::from(format!("/dev/shm/farshore-bench-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).expect("a folder in /dev/shm");
        let disk = DiskEntry {
            name: DiskName::new("vda").expect("a good name"),
            size_bytes: 1 << 40,
            identity: DiskIdentity { kind: DiskKind::File, device: 1, inode: 1 },
            block_bytes: 4096,
        };
        let spec = RingSpec {
            epoch: Epoch(1),
            boot_id: boot_id().expect("a boot id"),
            lanes: 1,
            slots_per_lane: SLOTS,
            payload_bytes_per_lane: 128 << 20,
            created: UnixMicros(1),
            disks: vec![disk],
            group: group(),
        };
        let ring = Ring::create(&path_in(&dir, &spec.group), &spec).expect("room for a ring");
        Self { producer: ring.producer(0), consumer: ring.consumer(), dir }
    }

    /// Reserves a slot and puts it in the order.
    pub fn write(&mut self) -> Slot {
        let mut slot = self.producer.reserve(RECORD_BYTES).expect("a free slot");
        let draft = Draft {
            time: UnixMicros(1),
            disk: DiskIndex(0),
            op: Op::Write,
            flags: RecordFlags::NONE,
            offset: 4096,
            len: RECORD_BYTES.into(),
        };
        self.producer.sequence(&mut [(&mut slot, draft)]);
        slot
    }

    /// Puts `depth` records through, which are in flight together; `slots` is room that is used again.
    ///
    /// # Panics
    /// When they do not all come out.
    pub fn put_through(&mut self, depth: usize, slots: &mut Vec<Slot>) {
        slots.extend((0..depth).map(|_| self.write()));
        slots.drain(..).for_each(Slot::commit);
        let taken: Vec<_> = std::iter::from_fn(|| self.consumer.take().expect("a sound ring")).collect();
        assert_eq!(taken.len(), depth);
        self.consumer.release(self.consumer.position(), taken);
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // The mapping outlives its name; what cannot be removed lies in memory until the next boot.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The payload of a segment: half of each 4 KiB is noise, half is one byte.
#[must_use]
pub fn payload() -> Vec<u8> {
    const CHUNK: usize = 4096;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![b'f'; SEGMENT_BYTES];
    for half in bytes.chunks_exact_mut(CHUNK).map(|chunk| &mut chunk[..CHUNK / 2]) {
        half.fill_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
    }
    bytes
}

/// Writes a segment of this payload in records of `record_bytes`, compressed at `level` if there is one.
///
/// # Panics
/// When the segment's writer refuses it.
#[must_use]
pub fn segment(level: Option<i32>, record_bytes: usize, payload: &[u8]) -> Sealed {
    let mut writer = SegmentWriter::new(Kind::Log, level);
    let mut seq = 0;
    for bytes in payload.chunks_exact(record_bytes) {
        seq += 1;
        writer.push(&record(seq, seq * record_bytes as u64, record_bytes), bytes).expect("a valid record");
    }
    let stamp = Stamp {
        group: group(),
        epoch: Epoch(1),
        number: SegmentNo(1),
        first_seq: Seq(1),
        last_seq: Seq(seq),
        created: UnixMicros(TIME),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    writer.seal(stamp).expect("a valid segment")
}

/// Parses and verifies a segment that [`segment`] wrote.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn parsed(sealed: Sealed) -> Segment {
    Segment::parse(sealed.bytes.into()).expect("the segment just written")
}

/// Decodes every payload of a segment; gives their length.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn read_all(segment: &Segment) -> usize {
    let mut total = 0;
    segment
        .for_each(|_, payload| {
            total += std::hint::black_box(payload).len();
            Ok::<_, SegmentError>(())
        })
        .expect("the segment just written");
    total
}

/// A write of the log.
#[must_use]
pub fn record(seq: u64, offset: u64, len: usize) -> Record {
    Record {
        seq: Seq(seq),
        time: UnixMicros(TIME + seq),
        disk: DiskIndex(0),
        op: Op::Write,
        flags: RecordFlags::NONE,
        offset,
        len: len as u64,
    }
}

/// A run of 4 KiB writes to `blocks` blocks in an order that looks like chance: the fewer blocks, the more is written over.
#[must_use]
pub fn run(records: u64, blocks: u64) -> Vec<Record> {
    let at = |seq: u64| seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    (1..=records).map(|seq| record(seq, at(seq) % blocks * 4096, 4096)).collect()
}
