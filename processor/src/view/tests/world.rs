//! A target with a model of what the source's disks held at every position.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Segment, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;
use farshore_vault::{EpochDisk, EpochObject, Nonce, Reason};

use crate::apply::{BatchRun, Step};
use crate::batch::cut;
use crate::replay::{Replay, VaultName};
use crate::target::GroupDir;

pub const DISK_BYTES: u64 = 256 * 1024;
pub const DISKS: usize = 2;
/// A point every so many records.
const INTERVAL: Duration = Duration::from_micros(37);

/// One operation of a history.
#[derive(Debug, Clone)]
pub struct Act {
    pub op: Op,
    pub disk: usize,
    pub offset: u64,
    pub len: u64,
    pub byte: u8,
}

pub type Disks = Vec<Vec<u8>>;

/// What the disks hold at a position.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub position: Position,
    pub undo_end: u64,
    pub disks: Disks,
}

pub struct World {
    pub target: std::path::PathBuf,
    pub group: GroupName,
    pub dir: GroupDir,
    pub replay: Option<Replay>,
    pub model: Disks,
    pub snapshots: Vec<Snapshot>,
    prev: Hash,
    number: SegmentNo,
    seq: Seq,
    time: u64,
}

fn vault() -> VaultName {
    VaultName { url: "file:///vault".into(), id: "00".into() }
}

impl World {
    pub fn new(target: &Path) -> Self {
        let group = GroupName::new("web01").unwrap();
        let dir = GroupDir::new(target, &group);
        let disk = |name: &str| EpochDisk { name: DiskName::new(name).unwrap(), size_bytes: DISK_BYTES };
        let epoch = EpochObject {
            group: group.clone(),
            epoch: Epoch(1),
            parent: None,
            reason: Reason::FirstStart,
            nonce: Nonce([1; 16]),
            created: jiff::Timestamp::UNIX_EPOCH,
            disks: vec![disk("vda"), disk("vdb")],
        };
        let hash = Hash::of(b"epoch");
        let replay = Replay::create(&dir, &group, &vault(), &epoch, hash).unwrap();
        Self {
            target: target.to_path_buf(),
            group,
            dir,
            replay: Some(replay),
            model: vec![vec![0; DISK_BYTES as usize]; DISKS],
            snapshots: Vec::new(),
            prev: hash,
            number: SegmentNo(0),
            seq: Seq(0),
            time: 1_000_000,
        }
    }

    /// Seals `acts` as the next segment and applies it; with `crash_after` the process dies after so many steps, and it is
    /// applied again.
    pub fn segment(&mut self, acts: &[Act], crash_after: Option<usize>) {
        let segment = self.seal(acts);
        let mut crash_after = crash_after;
        loop {
            let mut replay = self.replay.take().unwrap();
            let index = segment.index();
            let applied =
                replay.position().number == index.head().number && replay.position().seq == index.head().last_seq;
            if applied {
                self.replay = Some(replay);
                return;
            }
            for batch in cut(index.head(), index.records(), &replay.position().clone(), INTERVAL) {
                let mut run = BatchRun::new(&mut replay, &segment, &batch).unwrap();
                while let Some(steps) = &mut crash_after {
                    if *steps == 0 {
                        break;
                    }
                    *steps -= 1;
                    if run.step().unwrap().is_none() {
                        break;
                    }
                }
                if crash_after == Some(0) && run.next_step().is_some() {
                    break;
                }
                run.run().unwrap();
                let records: Vec<Record> = index.records()[batch.records.clone()].iter().map(|r| r.record).collect();
                for record in &records {
                    self.apply_to_model(record, acts);
                }
                let at = replay.position();
                self.snapshots.push(Snapshot {
                    position: at.position(),
                    undo_end: at.undo_end,
                    disks: self.model.clone(),
                });
            }
            self.replay = Some(replay);
            if crash_after.take() == Some(0) {
                self.reopen();
            }
        }
    }

    /// Goes on in a copy of another's target.
    pub fn adopt(&mut self, other: &World, target: &Path) {
        self.target = target.to_path_buf();
        self.dir = GroupDir::new(target, &self.group);
        (self.model, self.prev, self.number) = (other.model.clone(), other.prev, other.number);
        (self.seq, self.time) = (other.seq, other.time);
        self.reopen();
    }

    /// Seals `acts`, does so many steps of its first batch, and dies. The same segment is the next one again.
    pub fn die_in(&mut self, acts: &[Act], steps: usize) {
        let before = (self.prev, self.number, self.seq);
        let segment = self.seal(acts);
        (self.prev, self.number, self.seq) = before;
        let mut replay = self.replay.take().unwrap();
        let index = segment.index();
        let batches = cut(index.head(), index.records(), &replay.position().clone(), INTERVAL);
        let mut run = BatchRun::new(&mut replay, &segment, &batches[0]).unwrap();
        for _ in 0..steps {
            if run.next_step() == Some(Step::WritePosition) {
                break;
            }
            run.step().unwrap();
        }
    }

    /// As after a crash: everything open is dropped, and the target is opened again.
    pub fn reopen(&mut self) {
        drop(self.replay.take());
        self.replay = Some(Replay::open(&self.dir, &self.group, &vault()).unwrap().unwrap());
    }

    fn first_seq_of_last(&self, acts: &[Act]) -> u64 {
        self.seq.0 + 1 - acts.len() as u64
    }

    fn apply_to_model(&mut self, record: &Record, acts: &[Act]) {
        let act = &acts[(record.seq.0 - self.first_seq_of_last(acts)) as usize];
        let fill = if act.op.zeroes() { 0 } else { act.byte };
        if act.op.changes_disk() {
            self.model[act.disk][act.offset as usize..(act.offset + act.len) as usize].fill(fill);
        }
    }

    fn seal(&mut self, acts: &[Act]) -> Segment {
        let mut writer = SegmentWriter::new(Kind::Log, Some(1));
        let first_seq = self.seq.next();
        for act in acts {
            self.seq = self.seq.next();
            self.time += 1;
            let payload: Vec<u8> = match act.op {
                Op::Write | Op::ResyncWrite => vec![act.byte; act.len as usize],
                Op::Mark => b"mark".to_vec(),
                Op::Digest => vec![act.byte; 32],
                Op::WriteZeroes
                | Op::Trim
                | Op::Flush
                | Op::ResyncBegin
                | Op::ResyncZeroes
                | Op::ResyncEnd
                | Op::Overflow => Vec::new(),
            };
            let of_group = act.op.is_of_group();
            let boundary = act.op.is_boundary();
            let record = Record {
                seq: self.seq,
                time: UnixMicros(self.time),
                disk: DiskIndex(if of_group { 0 } else { act.disk as u16 }),
                op: act.op,
                flags: if boundary { RecordFlags::BOUNDARY } else { RecordFlags::NONE },
                offset: if act.op.changes_disk() || act.op == Op::Digest { act.offset } else { 0 },
                len: match act.op {
                    Op::Mark => 4,
                    Op::Flush | Op::ResyncEnd | Op::Overflow => 0,
                    Op::ResyncBegin => 1,
                    Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes | Op::Digest => act.len,
                },
            };
            writer.push(&record, &payload).unwrap();
        }
        self.number = self.number.next();
        let sealed = writer
            .seal(Stamp {
                group: self.group.clone(),
                epoch: Epoch(1),
                number: self.number,
                first_seq,
                last_seq: self.seq,
                created: UnixMicros(self.time),
                watermark: SegmentNo(0),
                prev: self.prev,
            })
            .unwrap();
        self.prev = sealed.hash;
        Segment::parse(Bytes::from(sealed.bytes)).unwrap()
    }
}
