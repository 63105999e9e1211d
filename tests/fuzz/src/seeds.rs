//! Writes the seeds in `corpus/`: what the real writers make, small, so that the fuzzer starts behind the front door. Run after
//! a format changed: `cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds`.

use std::fs;
use std::path::{Path, PathBuf};

use farshore_capture::nbd::consts::*;
use farshore_capture::regions::RegionMap;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind, Draft, Ring, RingSpec};
use farshore_changelog::units::{ByteRange, UnixMicros};
use farshore_processor::overlay::Overlay;
use farshore_processor::overlay::layout::Header;
use farshore_processor::points::{self, Point, PointKind};
use farshore_processor::position::{PositionFile, ReplayPosition};
use farshore_processor::view::read_disk::{Extent, ReadDisk};

const TIME: UnixMicros = UnixMicros(1_735_689_600_000_000);

#[path = "seeds/notes.rs"]
mod notes;

fn main() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    segments();
    hashes();
    ring(scratch.path());
    nbd();
    dirty_map(scratch.path());
    position(scratch.path());
    catalogue(scratch.path());
    overlay(scratch.path());
    notes::all(scratch.path());
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir).expect("the corpus can be made");
    fs::write(dir.join(name), bytes).expect("a seed can be written");
}

fn golden(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden");
    fs::read(dir.join(name)).expect("the golden files are committed")
}

fn hashes() {
    seed("hashes", "chunk", &golden("hash-chunk-v1"));
}

fn segments() {
    for name in ["log-stored", "log-zstd", "heartbeat", "undo", "seal"] {
        seed("segment", name, &golden(&format!("segment-v1-{name}")));
    }
    seed("segment", "log-v2", &golden("segment-v2-log-stored"));
    let undo = golden("segment-v1-undo");
    seed("undo", "batch", &undo);
    seed("undo", "run", &[&undo[..], &undo, &golden("segment-v1-heartbeat")].concat());
    seed("undo", "torn", &[&undo[..], &undo[..undo.len() - 100]].concat());
}

fn disk(name: &str) -> DiskEntry {
    DiskEntry {
        name: DiskName::new(name).expect("a valid name"),
        size_bytes: 50_000 * 65_536 - 512,
        identity: DiskIdentity { kind: DiskKind::File, device: 2049, inode: 4711 },
        block_bytes: 512,
    }
}

/// A ring that nobody used, and one that a process left in the middle of its work: the header page, the first lane and its
/// slots. Payloads are left out, as the target leaves them.
fn ring(scratch: &Path) {
    const SLOTS: u32 = 64;
    let kept = 4096 + 4096 + 64 * SLOTS as usize;
    let path = scratch.join("ring");
    let spec = RingSpec {
        group: GroupName::new("web01").expect("a valid name"),
        epoch: Epoch(3),
        boot_id: [0x42; 16], // the target puts the boot it runs in here
        lanes: 2,
        slots_per_lane: SLOTS,
        payload_bytes_per_lane: 4 << 20,
        created: TIME,
        disks: vec![disk("vda"), disk("vdb")],
    };
    let ring = Ring::create(&path, &spec).expect("a ring can be made");
    seed("ring", "unused", &fs::read(&path).expect("the ring is there")[..kept]);

    let mut lane = ring.producer(0);
    let mut left = Vec::new();
    let drafts = [(Op::Write, 4096), (Op::Flush, 0), (Op::Trim, 8192), (Op::Write, 512), (Op::ResyncZeroes, 4096)];
    for (n, (op, len)) in drafts.into_iter().enumerate() {
        let payload = if op.has_payload() { len } else { 0 };
        let mut slot = lane.reserve(payload as u32).expect("an empty lane has room");
        let range = n as u64 * 65_536;
        let offset = if len == 0 { 0 } else { range };
        let draft = Draft { time: TIME, disk: DiskIndex(0), op, flags: RecordFlags::NONE, offset, len };
        lane.sequence(&mut [(&mut slot, draft)]);
        left.push(slot);
    }
    left.pop().expect("five were pushed").commit();
    left.remove(0).commit_reread();
    left.pop().expect("three are left").abort();
    left.push(lane.reserve(1024).expect("there is room"));
    seed("ring", "in-flight", &fs::read(&path).expect("the ring is there")[..kept]);
}

/// A client's side of a connection: the byte that cuts the stream, then flags, options, requests.
struct Client(Vec<u8>);

impl Client {
    fn new(cut: u8, flags: u32) -> Self {
        let mut bytes = vec![cut];
        bytes.extend(flags.to_be_bytes());
        Self(bytes)
    }

    fn option(mut self, option: u32, data: &[u8]) -> Self {
        self.0.extend(OPTION_MAGIC.to_be_bytes());
        self.0.extend(option.to_be_bytes());
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }

    fn request(mut self, flags: u16, command: u16, offset: u64, len: u32) -> Self {
        self.0.extend(REQUEST_MAGIC.to_be_bytes());
        self.0.extend(flags.to_be_bytes());
        self.0.extend(command.to_be_bytes());
        self.0.extend(7_u64.to_be_bytes());
        self.0.extend(offset.to_be_bytes());
        self.0.extend(len.to_be_bytes());
        self.0.resize(self.0.len() + if command == CMD_WRITE { len as usize } else { 0 }, 0x5a);
        self
    }
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

fn nbd() {
    let flags = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    let infos = [&3_u16.to_be_bytes()[..], &1_u16.to_be_bytes(), &2_u16.to_be_bytes(), &3_u16.to_be_bytes()].concat();
    let context = [&1_u32.to_be_bytes()[..], &named("base:allocation", &[])].concat();
    let go = Client::new(2, flags)
        .option(OPT_STRUCTURED_REPLY, &[])
        .option(OPT_LIST, &[])
        .option(OPT_INFO, &named("vdb", &infos))
        .option(OPT_LIST_META_CONTEXT, &named("vda", &0_u32.to_be_bytes()))
        .option(OPT_SET_META_CONTEXT, &named("vda", &context))
        .option(OPT_GO, &named("vda", &infos))
        .request(0, CMD_READ, 0, 4096)
        .request(CMD_FLAG_FUA, CMD_WRITE, 512, 16)
        .request(CMD_FLAG_NO_HOLE, CMD_WRITE_ZEROES, 4096, 65536)
        .request(0, CMD_TRIM, 1 << 29, 1 << 20)
        .request(0, CMD_CACHE, 0, 512)
        .request(CMD_FLAG_REQ_ONE, CMD_BLOCK_STATUS, 0, 1 << 30)
        .request(0, CMD_FLUSH, 0, 0)
        .request(0, CMD_DISC, 0, 0);
    seed("nbd", "go", &go.0);
    let old = Client::new(0, 0).option(OPT_EXPORT_NAME, b"vdb").request(0, CMD_READ, 1 << 30, 1).request(0, 99, 0, 0);
    seed("nbd", "export-name", &old.0);
    let odd = Client::new(255, flags).option(77, b"unknown").option(OPT_LIST, b"no data").option(OPT_ABORT, &[]);
    seed("nbd", "odd-options", &odd.0);
}

fn dirty_map(scratch: &Path) {
    let path = scratch.join("map");
    let mut map = RegionMap::create(&path, &disk("vda"), 65_536, true).expect("a map can be made");
    seed("dirty_map", "all-lost", &fs::read(&path).expect("the map is there"));
    for region in (0..map.regions()).filter(|region| region % 4099 != 0) {
        map.repaired(region);
    }
    map.commit().expect("regions were repaired").run().expect("the map can be written");
    seed("dirty_map", "few-lost", &fs::read(&path).expect("the map is there"));
}

fn position(scratch: &Path) {
    let path = scratch.join("position");
    let group = GroupName::new("web01").expect("a valid name");
    let start = ReplayPosition::start(group, Epoch(3), Hash::of(b"epoch object"));
    let mut file = PositionFile::create(&path, start.clone()).expect("a position can be made");
    seed("position", "start", &fs::read(&path).expect("the position is there"));
    let next =
        ReplayPosition { resync: true, seq: Seq(13), number: SegmentNo(1), chain_seq: Seq(13), time: TIME, ..start };
    file.advance(next).expect("a position can be written");
    seed("position", "advanced", &fs::read(&path).expect("the position is there"));
}

fn catalogue(scratch: &Path) {
    let path = scratch.join("points");
    let point = |id, seq, kind| {
        let position = Position { epoch: Epoch(3), seq: Seq(seq) };
        Point { id, position, time: TIME, clock: TIME, undo_end: id * 1000, kind }
    };
    points::write(&path, &[]).expect("a catalogue can be written");
    seed("points", "empty", &fs::read(&path).expect("the catalogue is there"));
    let some = [point(1, 5, PointKind::Periodic), point(2, 13, PointKind::Mark("before the upgrade".to_owned()))];
    points::write(&path, &some).expect("a catalogue can be written");
    seed("points", "two", &fs::read(&path).expect("the catalogue is there"));
}

fn overlay(scratch: &Path) {
    let path = scratch.join("overlay.cow");
    let header = Header {
        group: GroupName::new("web01").expect("a valid name"),
        disk: DiskName::new("vda").expect("a valid name"),
        size_bytes: (1 << 28) - 512,
        granule_bytes: 4096,
        position: Position { epoch: Epoch(3), seq: Seq(13) },
        undo_end: 4711,
    };
    let kept = usize::try_from(header.data_offset()).expect("a small file").min(5 * 4096);
    let overlay = Overlay::persistent(Nothing(header.size_bytes), header, &path).expect("an overlay can be made");
    let bytes = || fs::read(&path).expect("the overlay is there")[..kept].to_vec();
    seed("overlay", "new", &bytes());
    for round in 0..3 {
        overlay
            .write_at(&[7; 6000], round << 27)
            .or_else(|_| overlay.write_at(&[7; 6000], 0))
            .expect("it can be written");
        overlay.flush().expect("it can be flushed");
    }
    seed("overlay", "written", &bytes());
}

/// A base that holds nothing.
struct Nothing(u64);

impl ReadDisk for Nothing {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], _: u64) -> std::io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn extents(&self, range: ByteRange) -> std::io::Result<Vec<Extent>> {
        Ok(vec![Extent { range, hole: true }])
    }
}
