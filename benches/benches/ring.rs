//! What one record costs on its way through the ring, beside the disk and the network: reserve, sequence, commit, take,
//! release. Payloads are not filled: in the data path the kernel does that.

use divan::{Bencher, counter::BytesCount};
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{
    Consumer, DiskEntry, DiskIdentity, DiskKind, Draft, Producer, Ring, RingSpec, Slot, boot_id, path_in,
};
use farshore_changelog::units::UnixMicros;

const RECORD_BYTES: u32 = 4096;
const SLOTS: u32 = 16_384;

fn main() {
    divan::main();
}

/// A ring of one lane, with both of its ends.
struct Ends {
    _dir: tempfile::TempDir,
    producer: Producer,
    consumer: Consumer,
}

impl Ends {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a folder in /dev/shm");
        let group = GroupName::new("bench").expect("a good name");
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
            group: group.clone(),
        };
        let ring = Ring::create(&path_in(dir.path(), &group), &spec).expect("room for a ring");
        Self { producer: ring.producer(0), consumer: ring.consumer(), _dir: dir }
    }

    fn write(&mut self) -> Slot {
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
}

/// `depth` records in flight at once, committed, taken and released together.
#[divan::bench(args = [1, 32, 512])]
fn through_the_ring(bencher: Bencher<'_, '_>, depth: usize) {
    let mut ends = Ends::new();
    let mut slots = Vec::with_capacity(depth);
    bencher.counter(BytesCount::new(depth as u64 * u64::from(RECORD_BYTES))).bench_local(|| {
        slots.extend((0..depth).map(|_| ends.write()));
        slots.drain(..).for_each(Slot::commit);
        let taken: Vec<_> = std::iter::from_fn(|| ends.consumer.take().expect("a sound ring")).collect();
        assert_eq!(taken.len(), depth);
        ends.consumer.release(ends.consumer.position(), taken);
    });
}

/// As above with 1000 slots of slow clients, which are reserved and get no seq.
#[divan::bench]
fn beside_slow_clients(bencher: Bencher<'_, '_>) {
    let mut ends = Ends::new();
    let mut slow: Vec<Slot> = Vec::new();
    let mut written = 0;
    bencher.counter(BytesCount::new(RECORD_BYTES)).bench_local(|| {
        if written % (SLOTS / 2) == 0 {
            // What lies behind a slow client's slot is freed only after it, so they are renewed in time.
            slow.clear();
            slow.extend((0..1000).map(|_| ends.producer.reserve(0).expect("a free slot")));
        }
        written += 1;
        ends.write().commit();
        let taken = ends.consumer.take().expect("a sound ring").expect("the record");
        ends.consumer.release(ends.consumer.position(), vec![taken]);
    });
}
