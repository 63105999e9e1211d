//! A source without its agent: notes, a ring with its producers, a vault, and a shipper on a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, SegmentNo, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind, Draft, Producer, Ring, RingSpec, Slot, boot_id};
use farshore_changelog::segment::{Kind, Segment};
use farshore_vault::{EpochDisk, EpochObject, FaultStore, GroupVault, Nonce, Reason, Vault};

use crate::bandwidth::Bandwidth;
use crate::{Compression, ShipError, Shipper, ShipperConfig, SourceEpoch, SourceState};

pub const DISK_BYTES: u64 = 1 << 20;
pub const DISKS: u16 = 2;
pub const LANES: u32 = 2;
/// Longest that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Uploads at once.
pub const UPLOADS: usize = 4;
/// And on their way or in the vault, and not confirmed.
pub const WINDOW: usize = 6;

pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Arc<FaultStore>,
    pub vault: Vault,
    pub state: SourceState,
    pub ring: Ring,
    pub lanes: Vec<Producer>,
    pub runtime: tokio::runtime::Runtime,
    /// Of the shipper, beside the one that fills the spool.
    pub threads: usize,
}

pub fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

pub fn noted(epoch: u64) -> SourceEpoch {
    let disk = |name: &str| EpochDisk { name: DiskName::new(name).unwrap(), size_bytes: DISK_BYTES };
    SourceEpoch {
        group: group(),
        epoch: Epoch(epoch),
        parent: (epoch > 1).then(|| Epoch(epoch - 1)),
        reason: if epoch > 1 { Reason::RingLost } else { Reason::FirstStart },
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![disk("vda"), disk("vdb")],
        vault: None,
        opened: false,
        clean: false,
    }
}

fn ring_spec(epoch: u64) -> RingSpec {
    let disk = |name: &str, inode| DiskEntry {
        name: DiskName::new(name).unwrap(),
        size_bytes: DISK_BYTES,
        identity: DiskIdentity { kind: DiskKind::File, device: 1, inode },
        block_bytes: 512,
    };
    RingSpec {
        group: group(),
        epoch: Epoch(epoch),
        boot_id: boot_id().unwrap(),
        lanes: LANES,
        slots_per_lane: 1024,
        payload_bytes_per_lane: 8 << 20,
        created: clock::wall(),
        disks: vec![disk("vda", 1), disk("vdb", 2)],
    }
}

impl World {
    /// In its first epoch, which is noted and not opened.
    pub fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap(), FaultStore::in_memory())
    }

    /// With the vault in a folder.
    pub fn on_folder() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        std::fs::create_dir(&folder).unwrap();
        let local = object_store::local::LocalFileSystem::new_with_prefix(folder).unwrap();
        Self::over(dir, FaultStore::new(Arc::new(local)))
    }

    /// On a clock that stands still while something is to be done, and goes on by itself else.
    pub fn paused() -> Self {
        Self::paused_over(FaultStore::in_memory())
    }

    /// As [`World::paused`], with this store.
    pub fn paused_over(store: Arc<FaultStore>) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let world = Self::over_on(tempfile::tempdir().unwrap(), store, runtime);
        Self { threads: 0, ..world }
    }

    fn over(dir: tempfile::TempDir, store: Arc<FaultStore>) -> Self {
        Self::over_on(dir, store, tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap())
    }

    fn over_on(dir: tempfile::TempDir, store: Arc<FaultStore>, runtime: tokio::runtime::Runtime) -> Self {
        let vault = runtime.block_on(Vault::init_store(store.clone(), "double:")).unwrap();
        let state = SourceState::new(dir.path());
        state.set_epoch(&noted(1)).unwrap();
        let (ring, lanes) = make_ring(&dir.path().join("ring"), 1);
        Self { dir, store, vault, state, ring, lanes, runtime, threads: 2 }
    }

    /// Begins the next epoch with a new ring, as an agent does after the ring was lost.
    pub fn next_epoch(&mut self) {
        let epoch = self.state.epoch().unwrap().unwrap().epoch.0 + 1;
        self.state.set_epoch(&noted(epoch)).unwrap();
        (self.ring, self.lanes) = make_ring(&self.dir.path().join("ring"), epoch);
    }

    pub fn config(&self) -> ShipperConfig {
        ShipperConfig {
            group: group(),
            ring_path: self.dir.path().join("ring"),
            vault_url: "file:///nowhere".into(),
            access: farshore_vault::Access::of_process(),
            state_dir: self.dir.path().to_owned(),
            spool_dir: self.spool_dir(),
            segment_bytes: 64 << 10,
            max_delay: Duration::from_millis(20),
            heartbeat: Duration::from_secs(60),
            spool_limit_bytes: 64 << 20,
            compression: Compression::Adaptive,
            threads: self.threads,
            uploads: UPLOADS,
            bandwidth: Bandwidth::default(),
        }
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub fn spool_files(&self) -> Vec<PathBuf> {
        // The folder is made by the shipper's first step.
        let listed = std::fs::read_dir(self.spool_dir()).into_iter().flatten();
        let mut files: Vec<_> = listed.map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    pub fn open(&self) -> Result<Shipper, ShipError> {
        Shipper::open_on(self.config(), self.vault.clone())
    }

    pub fn start(&self) -> Running {
        self.start_with(self.config())
    }

    pub fn start_with(&self, config: ShipperConfig) -> Running {
        Running::of(Shipper::open_on(config, self.vault.clone()).unwrap())
    }

    /// Runs a shipper until everything that is in the ring now is in the vault.
    pub fn ship_all(&self) {
        let shipper = self.start();
        self.wait_confirmed();
        shipper.stop().unwrap();
    }

    pub fn wait_confirmed(&self) {
        let last = Seq(self.ring.next_seq().0 - 1);
        wait_for("everything is confirmed", || self.ring.confirmed_seq() >= last && self.ring.spool_bytes() == 0);
    }

    pub fn group_vault(&self) -> GroupVault {
        self.vault.group(&group())
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Opens the successor of `epoch` as another site does; seals `epoch` at the first free number, which is given.
    pub fn take_over(&self, epoch: u64) -> (EpochObject, SegmentNo) {
        let by = EpochObject { reason: Reason::Failover, ..noted(epoch + 1).object() };
        let group = self.group_vault();
        self.block_on(async {
            group.create_epoch(&by).await.unwrap();
            let at = group.seal(Epoch(epoch), SegmentNo(0), &by).await.unwrap();
            (by, at)
        })
    }

    /// Logs one request of a single record, as capture does.
    pub fn log(&mut self, op: Op, disk: u16, offset: u64, content: &[u8]) -> Seq {
        let len = content.len() as u64;
        self.log_flagged(op, RecordFlags::NONE, disk, offset, len, content)
    }

    pub fn log_flagged(&mut self, op: Op, flags: RecordFlags, disk: u16, offset: u64, len: u64, content: &[u8]) -> Seq {
        let draft = Draft { time: clock::wall(), disk: DiskIndex(disk), op, flags, offset, len };
        let mut slot = self.reserve(disk, content);
        let seq = self.lanes[usize::from(disk) % LANES as usize].sequence(&mut [(&mut slot, draft)]);
        slot.commit();
        seq
    }

    /// A slot with its payload; waits for room, which a shipper must make.
    pub fn reserve(&mut self, disk: u16, content: &[u8]) -> Slot {
        let lane = &mut self.lanes[usize::from(disk) % LANES as usize];
        let mut slot = None;
        wait_for("room in the ring", || {
            slot = lane.reserve(content.len() as u32);
            slot.is_some()
        });
        let mut slot = slot.unwrap();
        slot.payload_mut().copy_from_slice(content);
        slot
    }

    /// Writes `count` sectors of recognisable content, each followed by a flush.
    pub fn write_some(&mut self, count: u64) {
        for i in 0..count {
            let seq = self.ring.next_seq().0;
            self.log(Op::Write, 0, i % 64 * 512, &seq.to_le_bytes().repeat(64));
            self.log_flagged(Op::Flush, RecordFlags::NONE, 0, 0, 0, &[]);
        }
    }

    /// The log segments of an epoch up to its end or its seal, proved: each whole, and each continuing the one before.
    pub fn read_back(&self, epoch: u64) -> Vec<Segment> {
        let group = self.group_vault();
        let object = self.block_on(group.get_epoch(Epoch(epoch))).unwrap();
        let (mut prev, mut last_seq) = (object.map_or_else(Default::default, |(_, hash)| hash), Seq(0));
        let mut segments = Vec::new();
        for number in (1..).map(SegmentNo) {
            let Some(bytes) = self.block_on(group.get_segment(Epoch(epoch), number)).unwrap() else { break };
            let segment = Segment::parse(bytes).unwrap();
            let head = segment.index().head().clone();
            if head.kind == Kind::Seal {
                break;
            }
            assert_eq!((head.number, head.prev, head.first_seq), (number, prev, last_seq.next()));
            assert!(head.watermark < number);
            (prev, last_seq) = (segment.index().hash(), head.last_seq);
            segments.push(segment);
        }
        segments
    }

    /// Every log record of an epoch in the vault.
    pub fn read_records(&self, epoch: u64) -> Vec<farshore_changelog::op::Record> {
        self.read_back(epoch)
            .iter()
            .flat_map(|s| s.index().records().iter().map(|r| r.record).collect::<Vec<_>>())
            .collect()
    }

    pub fn put_raw(&self, epoch: u64, number: u64, bytes: Bytes) {
        let put = self.block_on(self.group_vault().put_segment(Epoch(epoch), SegmentNo(number), bytes)).unwrap();
        assert_eq!(put, farshore_vault::Put::Created);
    }
}

pub fn make_ring(path: &std::path::Path, epoch: u64) -> (Ring, Vec<Producer>) {
    let ring = Ring::create(path, &ring_spec(epoch)).unwrap();
    let lanes = (0..LANES).map(|lane| ring.producer(lane)).collect();
    (ring, lanes)
}

/// A shipper at work.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), ShipError>>,
}

impl Running {
    fn of(shipper: Shipper) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || shipper.run(&told)) }
    }

    pub fn stop(self) -> Result<(), ShipError> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }

    /// The end of a shipper that ends by itself.
    pub fn end(self) -> Result<(), ShipError> {
        wait_for("the shipper ends", || self.thread.is_finished());
        self.thread.join().unwrap()
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = clock::mono() + PATIENCE;
    while !done() {
        assert!(clock::mono() < deadline, "waited {PATIENCE:?} in vain: {what}");
        clock::sleep(Duration::from_millis(2));
    }
}
