//! A request in steady state takes no memory from the allocator: the lane's own thread is counted, from outside, over a real disk, a
//! real ring and a real socket. The engine is io_uring; the thread pool boxes its calls.

mod counted;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_capture::device::DeviceTokens;
use farshore_capture::disk::{LOCK_WAIT, SourceDisk};
use farshore_capture::engine::{EngineKind, open};
use farshore_capture::listen::Listen;
use farshore_capture::nbd::client::Client;
use farshore_capture::nbd::consts::{CMD_READ, CMD_WRITE};
use farshore_capture::regions::{REGION_BYTES_MIN, RegionMap};
use farshore_capture::resync::{ResyncProgress, Rules};
use farshore_capture::server::{ExportPlan, LaneParts, Server, ServerBuilder};
use farshore_capture::tap::{CopyMode, DiskState, LaneLog, Repair, Tap, TapSetup};
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Seq};
use farshore_changelog::ring::{Ring, RingSpec, boot_id};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: counted::Counted = counted::Counted;

const DISK_BYTES: u64 = 4 << 20;
const LANE_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: u64 = 4096;
/// Requests before the count: each page once, so that every region is open; queues, tables and spare memory find their sizes.
const WARM_UP: u64 = DISK_BYTES / BLOCK_BYTES;
/// Requests that are counted.
const COUNTED: u64 = 2000;
/// Most allocations of all counted requests together, far below one for each: a look at the counter runs a task on the lane's thread,
/// which sees the devices in lists of their own, and a list grows once when more comes at once than ever before.
const TAKEN_MAX: u64 = 16;

/// One disk on one lane, logged, with a reader of the ring that drops what it takes.
struct World {
    server: Server<Tap>,
    client: Client,
    done: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl World {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, socket) = (dir.path().join("vda.raw"), dir.path().join("vda.sock"));
        std::fs::File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
        let disk = SourceDisk::open(DiskName::new("vda").unwrap(), &path, LOCK_WAIT).unwrap();
        let spec = RingSpec {
            group: GroupName::new("g").unwrap(),
            epoch: Epoch(1),
            boot_id: boot_id().unwrap(),
            lanes: 1,
            slots_per_lane: 1024,
            payload_bytes_per_lane: LANE_BYTES,
            created: clock::wall(),
            disks: vec![disk.entry()],
        };
        let ring = Ring::create(&dir.path().join("ring"), &spec).unwrap();
        let map = RegionMap::create(&dir.path().join("vda.map"), &disk.entry(), REGION_BYTES_MIN, false).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (mut consumer, done) = (ring.consumer(), Arc::clone(&done));
            move || {
                while !done.load(Ordering::Acquire) {
                    let taken: Vec<_> = std::iter::from_fn(|| consumer.take().unwrap()).collect();
                    consumer.release(consumer.position(), taken);
                    consumer.wait(Duration::from_millis(1));
                }
            }
        });
        let server = serve(disk, ring, map, &socket);
        let client = Client::connect_unix(&socket, "vda").unwrap();
        Self { server, client, done, reader: Some(reader), _dir: dir }
    }

    /// Sends `count` requests of one page, keeps `depth` of them in flight, and waits for the last answer.
    fn run(&mut self, command: u16, count: u64, depth: usize) {
        let page = [0x5a; BLOCK_BYTES as usize];
        let data: &[u8] = if command == CMD_WRITE { &page } else { &[] };
        for n in 0..count {
            // Each page once, but neighbours in time are none on the disk.
            let offset = (n * 7919) % (DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
            self.client.submit(command, 0, offset, BLOCK_BYTES as u32, data).unwrap();
            if self.client.in_flight() == depth {
                self.client.receive().unwrap().1.unwrap();
            }
        }
        while self.client.in_flight() > 0 {
            self.client.receive().unwrap().1.unwrap();
        }
    }

    /// Allocations of the lane's thread so far.
    fn taken(&self) -> u64 {
        self.server.lane(0).run(|_| counted::taken()).unwrap()
    }

    /// Allocations of the lane's thread while `what` goes on, and of one look.
    fn during(&mut self, what: impl FnOnce(&mut Self)) -> u64 {
        let before = self.taken();
        what(self);
        self.taken() - before
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

fn serve(disk: SourceDisk, ring: Ring, map: RegionMap, socket: &Path) -> Server<Tap> {
    let plan =
        ExportPlan { listen: Listen::Unix(socket.to_owned()), place: 0, description: String::new(), clients: None };
    let make = move || {
        let log = LaneLog::new(&ring, 0);
        let progress = Arc::new(ResyncProgress::resumed(None, Rules::default()));
        let tap = Tap::new(TapSetup {
            disk,
            index: DiskIndex(0),
            tokens: DeviceTokens { owner: 0 },
            log: Some(Rc::new(RefCell::new(log))),
            repair: Some(Repair::new(map, progress, Seq(0), CopyMode::default())),
            state: Arc::new(DiskState::default()),
        });
        Ok(LaneParts { engine: open(EngineKind::Uring)?.0, devices: vec![tap] })
    };
    ServerBuilder::new().lane(vec![plan], make).start().unwrap()
}

#[test]
fn a_request_takes_no_memory() {
    let mut world = World::open();
    for depth in [1, 8, 32] {
        for (name, command) in [("writes", CMD_WRITE), ("reads", CMD_READ)] {
            world.run(command, WARM_UP, depth);
            let taken = world.during(|world| world.run(command, COUNTED, depth));
            println!("{COUNTED} {name} at depth {depth}: {taken} allocations");
            assert!(taken <= TAKEN_MAX, "{COUNTED} {name} at depth {depth} took memory {taken} times");
        }
    }
}

#[test]
fn what_the_lane_takes_is_seen() {
    let mut world = World::open();
    world.taken();
    assert!(world.during(|_| ()) <= TAKEN_MAX);
    let taken = world.during(|world| {
        let lists = (0..100).map(|n| Vec::<u8>::with_capacity(n + 1)).map(|list| list.capacity());
        assert!(lists.sum::<usize>() > 0, "another thread's allocations do not count");
        world.server.lane(0).run(|_| (0..100).map(|n| Vec::<u8>::with_capacity(n + 1)).collect::<Vec<_>>()).unwrap();
    });
    assert!((100..100 + 4 * TAKEN_MAX).contains(&taken), "{taken}");
}
