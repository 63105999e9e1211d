//! Seeds of what is written as text or as a message: objects and keys of a vault, notes, configurations, control frames; and of
//! what an NBD server says.

use std::path::Path;

use farshore::agent::control::{Ask, Marked, Reply, send};
use farshore_capture::nbd::consts::*;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::units::{ByteRange, UnixMicros};
use farshore_processor::compare::report::Counts;
use farshore_processor::compare::{Comparison, Mismatch, Run};
use farshore_processor::failover::note::{Note, NotedPoint, Stage};
use farshore_processor::position::ReplayPosition;
use farshore_processor::status::{GroupState, GroupStatus};
use farshore_processor::target::{DiskTable, GroupDir, Origin, TargetDisk};
use farshore_shipper::{Fenced, SourceEpoch, SourceState, Watermark};
use farshore_vault::keys::Key;
use farshore_vault::{DiskRange, EpochDisk, EpochObject, HashPlan, HashedDisk, Nonce, Reason, Request, Vault};

use crate::{TIME, seed};

fn group() -> GroupName {
    GroupName::new("web01").expect("a valid name")
}

fn disk(name: &str) -> DiskName {
    DiskName::new(name).expect("a valid name")
}

fn noted() -> SourceEpoch {
    SourceEpoch {
        group: group(),
        epoch: Epoch(3),
        parent: Some(Epoch(2)),
        reason: Reason::RingLost,
        nonce: Nonce([7; 16]),
        created: TIME.timestamp(),
        disks: vec![
            EpochDisk { name: disk("vda"), size_bytes: 1 << 30 },
            EpochDisk { name: disk("vdb"), size_bytes: 512 },
        ],
        vault: None,
        opened: true,
        clean: false,
    }
}

fn object() -> EpochObject {
    noted().object()
}

/// A seed of a target that is told by a first byte what the rest is.
fn kind(target: &str, kind: u8, name: &str, bytes: &[u8]) {
    seed(target, name, &[&[kind], bytes].concat());
}

/// Everything of this file.
pub fn all(scratch: &Path) {
    vault(scratch);
    keys();
    notes(scratch);
    control();
    config();
    server();
}

fn vault(scratch: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let folder = scratch.join("vault");
    runtime.block_on(async {
        let vault = Vault::init(&format!("file://{}", folder.display())).await.expect("a vault can be made");
        let plan = HashPlan {
            epoch: Epoch(3),
            seq: Seq(1),
            unit_bytes: 1 << 20,
            chunk_units: 32_768,
            disks: vec![HashedDisk { name: disk("vda"), units: 1024 }],
        };
        vault.group(&group()).put_hash_plan(&plan).await.expect("a plan can be put");
    });
    let read = |key: &Key| std::fs::read(folder.join(key.to_string())).expect("it was put");
    kind("vault_objects", 0, "vault", &read(&Key::Vault));
    kind("vault_objects", 1, "epoch", &object().encoded());
    let ranges = vec![DiskRange { disk: DiskIndex(1), offset: 1 << 20, len: 4096 }];
    kind("vault_objects", 2, "resync-ranges", &Request::Resync { full: false, ranges }.encoded());
    kind("vault_objects", 2, "resync-full", &Request::Resync { full: true, ranges: vec![] }.encoded());
    kind("vault_objects", 2, "drain", &Request::Drain.encoded());
    kind("vault_objects", 3, "plan", &read(&Key::HashPlan(group(), Epoch(3))));
}

fn keys() {
    let keys = [
        ("vault", Key::Vault),
        ("epoch", Key::Epoch(group(), Epoch(3))),
        ("request", Key::Request(group(), 9)),
        ("segment", Key::Segment(group(), Epoch(3), SegmentNo(12))),
        ("plan", Key::HashPlan(group(), Epoch(3))),
        ("chunk", Key::HashChunk(group(), Epoch(3), DiskIndex(1), 4)),
    ];
    for (name, key) in keys {
        seed("vault_keys", name, key.to_string().as_bytes());
    }
    seed("vault_keys", "prefix", b"groups/web01");
}

fn notes(scratch: &Path) {
    let read = |path: &Path| std::fs::read(path).expect("it was written");
    let state = SourceState::new(scratch);
    state.set_epoch(&noted()).expect("a note can be written");
    kind("notes", 0, "epoch", &read(&scratch.join("epoch.json")));
    let watermark = Watermark { epoch: Epoch(3), number: SegmentNo(12), hash: Hash::of(b"segment"), last_seq: Seq(77) };
    state.set_watermark(&watermark).expect("a note can be written");
    kind("notes", 1, "shipped", &read(&scratch.join("shipped.json")));
    state.set_fenced(&Fenced { epoch: Epoch(2), by: object() }).expect("a note can be written");
    kind("notes", 2, "fenced", &read(&scratch.join("fenced.json")));
    farshore_shipper::requests::set_done(scratch, 4).expect("a note can be written");
    kind("notes", 3, "done", &read(&scratch.join("requests-done.json")));
    kind("notes", 4, "request", &Request::Digests.encoded());

    let dir = GroupDir::new(scratch, &group());
    std::fs::create_dir_all(dir.root()).expect("a folder can be made");
    let disks = vec![TargetDisk { name: disk("vda"), size_bytes: 1 << 30 }];
    let tables = vec![DiskTable { from_epoch: Epoch(1), disks }];
    let origin = Origin { vault_url: "file:///vault".into(), vault_id: "07".repeat(16), tables };
    origin.write(&dir).expect("a note can be written");
    kind("notes", 5, "origin", &read(&dir.origin()));
    let mut position = ReplayPosition::start(group(), Epoch(3), Hash::of(b"epoch object"));
    (position.seq, position.time, position.resync) = (Seq(7), TIME, true);
    let mut status = GroupStatus::new(&group(), GroupState::Resync, Some(&position));
    (status.updated, status.lag_ms) = (TIME.timestamp(), Some(5));
    status.write(&dir).expect("a note can be written");
    kind("notes", 6, "status", &read(&dir.status()));
    let point = NotedPoint {
        position: Position { epoch: Epoch(3), seq: Seq(7) },
        time: UnixMicros(TIME.0),
        undo_end: 4096,
        id: Some(2),
        mark: Some("before".into()),
        done: TIME.timestamp(),
    };
    let stage = Stage::FailedOver;
    let note = Note { format: 1, group: group(), stage, epoch: object(), seal: Some(SegmentNo(9)), point: Some(point) };
    let path = scratch.join("failover.json");
    note.write(&path).expect("a note can be written");
    kind("notes", 7, "failover", &read(&path));
    kind("notes", 8, "published", &4096_u64.to_le_bytes());

    let range = ByteRange { start: 4096, end: 8192 };
    let position = Position { epoch: Epoch(3), seq: Seq(7) };
    let mismatch =
        Mismatch { disk: DiskIndex(0), range, position, undo_end: 4096, left: vec![range], repaired_at: None };
    let run = Run {
        request: 1,
        position,
        time: TIME,
        counts: Counts { regions: 4, bytes: 16_384, differing: 1, skipped: 0 },
    };
    let comparison =
        Comparison { through: position, last: Some(run), mismatches: vec![mismatch], ..Comparison::default() };
    comparison.write(&dir).expect("a note can be written");
    kind("notes", 9, "comparison", &read(&dir.comparison()));
    kind("notes", 10, "damage", br#"{"format":1,"what":"a hash is wrong","found":"2025-01-01T00:00:00Z"}"#);
    kind("notes", 11, "stop", br#"{"disks":[{"name":"vda","size_bytes":512,"inode":1,"mtime_ns":2,"ctime_ns":3}]}"#);
}

fn control() {
    let frame = |name: &str, bytes: Vec<u8>| seed("control", name, &bytes);
    let mut ask = Vec::new();
    send(&mut ask, &Ask::Mark { name: "before".into() }).expect("a message can be sent");
    frame("mark", ask);
    let mut marked = Vec::new();
    let at = Marked { name: "before".into(), epoch: 3, seq: 7 };
    send(&mut marked, &Reply::Marked(at)).expect("a message can be sent");
    frame("marked", marked);
    let mut refused = Vec::new();
    send(&mut refused, &Reply::Refused { why: "not now".into() }).expect("a message can be sent");
    frame("refused", refused);
}

fn config() {
    seed(
        "config",
        "small",
        b"group = \"web01\"\nvault = \"file:///vault\"\n[[disk]]\nname = \"vda\"\nsource = \"/vda.raw\"\nlisten = \"unix:/vda.sock\"\n",
    );
    seed(
        "config",
        "large",
        b"group = \"web01\"\nvault = \"file:///vault\"\nstate_dir = \"/s\"\nspool_dir = \"/p\"\nring_dir = \"/r\"\nrun_dir = \"/n\"\n\
          ring_size = \"32MiB\"\nsegment_size = \"1MiB\"\nspool_size = \"64MiB\"\nmax_delay = \"500ms\"\nheartbeat = \"5s\"\ncompression = 3\n\
          engine = \"thread-pool\"\nlanes = 2\n[[disk]]\nname = \"vda\"\nsource = \"a\"\nlisten = \"tcp:127.0.0.1:10809\"\n\
          [[disk]]\nname = \"vdb\"\nsource = \"b\"\nlisten = \"unix:b\"\n",
    );
}

/// What a server says from the greeting on.
struct Server(Vec<u8>);

impl Server {
    fn new(wishes: u8) -> Self {
        let mut bytes = vec![wishes];
        bytes.extend(b"NBDMAGICIHAVEOPT");
        bytes.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Self(bytes)
    }

    fn reply(mut self, option: u32, kind: u32, data: &[u8]) -> Self {
        self.0.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.0.extend(option.to_be_bytes());
        self.0.extend(kind.to_be_bytes());
        self.0.extend((data.len() as u32).to_be_bytes());
        self.0.extend(data);
        self
    }

    fn described(self) -> Self {
        let export = [&INFO_EXPORT.to_be_bytes()[..], &(1_u64 << 30).to_be_bytes(), &[0x0d, 0x6d]].concat();
        let mut blocks = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        [1_u32, 4096, 32 << 20].iter().for_each(|n| blocks.extend(n.to_be_bytes()));
        self.reply(OPT_GO, REP_INFO, &export).reply(OPT_GO, REP_INFO, &blocks).reply(OPT_GO, REP_ACK, &[])
    }

    fn simple(mut self, error: u32, handle: u64, data: &[u8]) -> Self {
        self.0.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
        self.0.extend(error.to_be_bytes());
        self.0.extend(handle.to_be_bytes());
        self.0.extend(data);
        self
    }

    fn chunk(mut self, done: bool, kind: u16, handle: u64, body: &[u8]) -> Self {
        self.0.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
        self.0.extend(u16::from(done).to_be_bytes());
        self.0.extend(kind.to_be_bytes());
        self.0.extend(handle.to_be_bytes());
        self.0.extend((body.len() as u32).to_be_bytes());
        self.0.extend(body);
        self
    }
}

fn server() {
    let plain = Server::new(0).described().simple(0, 1, &[3; 4096]).simple(5, 3, &[]).simple(0, 4, &[]);
    seed("nbd_client", "plain", &plain.0);
    let context = [&7_u32.to_be_bytes()[..], b"base:allocation"].concat();
    let hole = [&0_u64.to_be_bytes()[..], &2048_u32.to_be_bytes()].concat();
    let data = [&2048_u64.to_be_bytes()[..], &[9; 2048]].concat();
    let extents: Vec<u8> = [7_u32, 4096, 0, 61_440, 3].iter().flat_map(|n| n.to_be_bytes()).collect();
    let error = [&22_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"why"].concat();
    let structured = Server::new(3)
        .reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])
        .reply(OPT_SET_META_CONTEXT, REP_META_CONTEXT, &context)
        .reply(OPT_SET_META_CONTEXT, REP_ACK, &[])
        .described()
        .chunk(false, REPLY_TYPE_OFFSET_HOLE, 1, &hole)
        .chunk(true, REPLY_TYPE_OFFSET_DATA, 1, &data)
        .chunk(true, REPLY_TYPE_BLOCK_STATUS, 2, &extents)
        .chunk(true, REPLY_TYPE_ERROR, 3, &error)
        .chunk(true, REPLY_TYPE_NONE, 4, &[]);
    seed("nbd_client", "structured", &structured.0);
    let name = [&3_u32.to_be_bytes()[..], b"vda"].concat();
    let listed = Server::new(4).reply(OPT_LIST, REP_SERVER, &name).reply(OPT_LIST, REP_ACK, &[]);
    seed("nbd_client", "list", &listed.0);
}
