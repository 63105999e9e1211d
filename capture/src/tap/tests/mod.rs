//! Taps on real files, with a real ring and a real consumer, driven by a small loop over a real engine.

mod dirty;
mod durability;
mod faults;
mod faulty;
mod overflow;
mod random;
mod requests;
mod resync;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskName, Epoch, GroupName, Seq};
use farshore_changelog::op::{Op, Record};
use farshore_changelog::ring::{Consumer, Ring, RingSpec, boot_id};
use tempfile::TempDir;

use super::*;
use crate::engine::{EngineKind, open};
use crate::regions::{REGION_BYTES_MIN, RegionMap};
use crate::resync::{Phase, ResyncProgress, Rules};
use faulty::{Fault, Faulty};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Longest wait of a test before it counts as hung.
const HANG: Duration = Duration::from_secs(30);

/// xorshift64*: the same run for the same seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % n
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let first = self.below(u64::MAX) | 1;
        for (n, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = first.wrapping_mul(n as u64 * 2 + 1).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// How a test's world is made.
struct Setup {
    kind: EngineKind,
    sizes: Vec<u64>,
    lanes: u32,
    lane_bytes: u64,
    block_bytes: Option<u32>,
    logged: bool,
    lost: bool,
    mode: CopyMode,
    rules: Rules,
}

impl Setup {
    fn new(kind: EngineKind) -> Self {
        let sizes = vec![4 * MIB];
        Self {
            kind,
            sizes,
            lanes: 1,
            lane_bytes: 16 * MIB,
            block_bytes: None,
            logged: true,
            lost: false,
            mode: CopyMode::default(),
            // Most tests fill the ring and want nothing of it.
            rules: Rules { full_wait: 100 * HANG, ..Rules::default() },
        }
    }

    fn open(self) -> World {
        World::open(tempfile::tempdir().unwrap(), self)
    }
}

/// Disks, taps and engine of lanes that one thread drives, and what the log says the disks are.
struct World {
    dir: TempDir,
    engine: Faulty,
    taps: Vec<Tap>,
    logs: Vec<Rc<RefCell<LaneLog>>>,
    states: Vec<Arc<DiskState>>,
    progress: Arc<ResyncProgress>,
    ring: Ring,
    consumer: Consumer,
    images: Vec<Vec<u8>>,
    records: Vec<Record>,
    answers: HashMap<RequestId, io::Result<Answer>>,
    next_id: u64,
}

fn disk_path(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("vd{n}.raw"))
}

fn map_path(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("vd{n}.map"))
}

fn open_disk(dir: &Path, n: usize) -> SourceDisk {
    SourceDisk::open(DiskName::new(format!("vd{n}")).unwrap(), &disk_path(dir, n), HANG).unwrap()
}

fn ring_spec(disks: &[SourceDisk], lanes: u32, lane_bytes: u64) -> RingSpec {
    RingSpec {
        group: GroupName::new("g").unwrap(),
        epoch: Epoch(1),
        boot_id: boot_id().unwrap(),
        lanes,
        slots_per_lane: 64,
        payload_bytes_per_lane: lane_bytes,
        created: clock::wall(),
        disks: disks.iter().map(SourceDisk::entry).collect(),
    }
}

impl World {
    /// Disks that are there are taken as they are, others are made (empty).
    fn open(dir: TempDir, plan: Setup) -> Self {
        let mut disks = Vec::new();
        for (n, size) in plan.sizes.iter().enumerate() {
            let path = disk_path(dir.path(), n);
            if !path.exists() {
                std::fs::File::create(&path).unwrap().set_len(*size).unwrap();
            }
            let disk = open_disk(dir.path(), n);
            disks.push(if let Some(block) = plan.block_bytes { disk.with_block_bytes(block) } else { disk });
        }
        let ring_path = dir.path().join("ring");
        let ring = Ring::create(&ring_path, &ring_spec(&disks, plan.lanes, plan.lane_bytes)).unwrap();
        let engine = Faulty::new(open(plan.kind).unwrap().0);
        let logs: Vec<_> = (0..plan.lanes).map(|lane| Rc::new(RefCell::new(LaneLog::new(&ring, lane)))).collect();
        let progress = Arc::new(ResyncProgress::resumed(None, plan.rules));
        let images = disks.iter().map(|disk| vec![0; disk.size_bytes() as usize]).collect();
        let maps: Vec<RegionMap> = disks
            .iter()
            .enumerate()
            .map(|(n, disk)| {
                RegionMap::create(&map_path(dir.path(), n), &disk.entry(), REGION_BYTES_MIN, plan.lost).unwrap()
            })
            .collect();
        let (regions, bytes) =
            (maps.iter().map(RegionMap::lost_regions).sum(), maps.iter().map(RegionMap::lost_bytes).sum());
        progress.lost(&mut logs[0].borrow_mut(), regions, bytes);
        let mut world = Self {
            consumer: ring.consumer(),
            engine,
            taps: Vec::new(),
            states: Vec::new(),
            ring,
            progress,
            images,
            records: Vec::new(),
            answers: HashMap::new(),
            next_id: 0,
            logs,
            dir,
        };
        for ((n, disk), map) in disks.into_iter().enumerate().zip(maps) {
            let state = Arc::new(DiskState::default());
            let log = plan.logged.then(|| Rc::clone(&world.logs[n % plan.lanes as usize]));
            world.taps.push(Tap::new(TapSetup {
                disk,
                index: DiskIndex(n as u16),
                tokens: DeviceTokens { owner: n as u32 },
                repair: plan.logged.then(|| Repair::new(map, Arc::clone(&world.progress), Seq(0), plan.mode)),
                log,
                state: Arc::clone(&state),
            }));
            world.states.push(state);
        }
        world
    }

    fn faults(&mut self, faults: impl FnMut(&Io) -> Fault + 'static) {
        self.engine.faults = Box::new(faults);
    }

    fn id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    fn take(&mut self, finished: Vec<Finished>) {
        for Finished { id, result } in finished {
            assert!(self.answers.insert(id, result).is_none(), "{id:?} was answered twice");
        }
    }

    fn submit(&mut self, disk: usize, request: Request, payload: Option<Payload>) -> RequestId {
        let (id, mut finished) = (self.id(), Vec::new());
        self.taps[disk].submit(&mut self.engine, id, request, payload, &mut finished);
        self.take(finished);
        id
    }

    /// Submits a write of `bytes`; `None` when the ring has no room.
    fn write(&mut self, disk: usize, offset: u64, bytes: &[u8], fua: bool) -> Option<RequestId> {
        let len = bytes.len() as u32;
        let mut payload = self.taps[disk].payload(offset, len)?;
        let mut rest = bytes;
        for piece in &mut payload.pieces {
            let (here, later) = rest.split_at(piece.len());
            piece.as_mut_slice().copy_from_slice(here);
            rest = later;
        }
        assert!(rest.is_empty());
        Some(self.submit(disk, Request::Write { offset, len, fua }, Some(payload)))
    }

    /// One turn: ticks, waits, hands completions out.
    fn turn(&mut self) {
        let mut due = TICK;
        for disk in 0..self.taps.len() {
            let mut finished = Vec::new();
            due = due.min(self.taps[disk].tick(&mut self.engine, &mut finished).unwrap_or(TICK));
            self.take(finished);
        }
        if self.engine.in_flight() == 0 {
            due = due.min(Duration::from_millis(1)); // nothing can wake it
        }
        let mut done = Vec::new();
        self.engine.wait(Some(due), &mut done).unwrap();
        for completion in done {
            let (owner, _) = DeviceTokens::split(completion.token);
            let mut finished = Vec::new();
            self.taps[owner as usize].completed(&mut self.engine, completion, &mut finished);
            self.take(finished);
        }
    }

    /// Applies what the log has, and frees its slots.
    fn consume(&mut self) {
        let mut taken = Vec::new();
        while let Some(next) = self.consumer.take().unwrap() {
            let record = *next.record();
            let range = record.range();
            let image = &mut self.images[usize::from(record.disk.0)];
            let target = &mut image[range.start as usize..range.end as usize];
            match record.op {
                Op::Write | Op::ResyncWrite => target.copy_from_slice(next.payload()),
                Op::WriteZeroes | Op::Trim | Op::ResyncZeroes => target.fill(0),
                Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => {}
            }
            self.records.push(record);
            taken.push(next);
        }
        self.consumer.release(self.consumer.position(), taken);
    }

    /// Turns until `enough`, without reading the log.
    fn turn_until(&mut self, what: &str, mut enough: impl FnMut(&mut Self) -> bool) {
        let start = clock::mono();
        while !enough(self) {
            assert!(start.elapsed() < HANG, "hung: {what}");
            self.turn();
        }
    }

    /// Turns until the request has ended.
    fn end(&mut self, id: RequestId) -> io::Result<Answer> {
        self.turn_until("a request", |w| w.answers.contains_key(&id));
        self.answers.remove(&id).unwrap()
    }

    /// The error code of a request's end; 0 for success.
    fn errno(&mut self, id: RequestId) -> i32 {
        self.end(id).map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
    }

    fn put(&mut self, disk: usize, offset: u64, bytes: &[u8]) {
        let id = self.write(disk, offset, bytes, false).unwrap();
        assert_eq!(self.errno(id), 0);
    }

    fn flush(&mut self, disk: usize) {
        let id = self.submit(disk, Request::Flush, None);
        assert_eq!(self.errno(id), 0);
    }

    fn read(&mut self, disk: usize, offset: u64, len: u32) -> Vec<u8> {
        let id = self.submit(disk, Request::Read { offset, len }, None);
        match self.end(id).unwrap() {
            Answer::Data(pieces) => pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect(),
            Answer::Done | Answer::Extents(_) => panic!("a read brings data"),
        }
    }

    fn file(&self, disk: usize) -> Vec<u8> {
        std::fs::read(disk_path(self.dir.path(), disk)).unwrap()
    }

    /// Everything is idle, and the log gives exactly the disks.
    fn assert_log_is_disk(&mut self) {
        self.turn_until("in-flight requests", |w| w.taps.iter().all(|t| t.busy() == 0));
        self.consume();
        for disk in 0..self.taps.len() {
            assert!(self.file(disk) == self.images[disk], "{}", self.difference(disk));
        }
    }

    fn difference(&self, disk: usize) -> String {
        let file = self.file(disk);
        let first = file.iter().zip(&self.images[disk]).position(|(a, b)| a != b).unwrap_or(file.len());
        let near: Vec<_> =
            self.records.iter().filter(|r| r.range().contains(ByteRange::at(first as u64, 1).unwrap())).collect();
        format!("disk {disk} and its log differ at byte {first}; records there: {near:?}")
    }

    fn ops(&self) -> Vec<(Op, u64, u64)> {
        self.records.iter().map(|r| (r.op, r.offset, r.len)).collect()
    }

    fn lost_on_disk(&self, disk: usize) -> u64 {
        let map = map_path(self.dir.path(), disk);
        RegionMap::open(&map, &self.ring.spec().disks[disk]).unwrap().lost_regions()
    }

    /// What the shipper says once everything it has read is in the vault.
    fn confirm(&self) {
        self.ring.set_confirmed_seq(self.consumer.position());
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng(seed * 77 + 1).fill(&mut bytes);
    bytes
}

/// Puts bytes into a disk's file before it is opened.
fn prepare(dir: &Path, disk: usize, size: u64, contents: &[(u64, Vec<u8>)]) {
    let file = std::fs::File::create(disk_path(dir, disk)).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in contents {
        file.write_all_at(bytes, *offset).unwrap();
    }
}

/// Runs a test with each engine.
fn with_both(test: impl Fn(EngineKind)) {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        test(kind);
    }
}

fn is_before(records: &[Record], first: Op, then: Op) -> bool {
    let at = |op| records.iter().position(|r| r.op == op);
    matches!((at(first), at(then)), (Some(a), Some(b)) if a < b)
}

fn seqs_are_dense_but_for(records: &[Record], missing: usize) {
    let last = records.last().map_or(Seq(0), |r| r.seq).0;
    assert_eq!(records.len() + missing, last as usize);
    assert!(records.windows(2).all(|w| w[0].seq < w[1].seq && w[0].time <= w[1].time));
}

impl Tap {
    /// fdatasyncs begun.
    fn flushes_begun(&self) -> u64 {
        self.flushes.next_start() - 1
    }

    /// No write to the map succeeds from now on.
    fn spoil_map(&mut self) {
        self.repair.as_mut().unwrap().dirty.map.spoil();
    }
}
