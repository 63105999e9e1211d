//! Test doubles: a source that writes, logs and seals; a naive model of what the target must hold; and a way to read
//! any position of a target.

pub mod disk;
pub mod hand_clock;

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, Position, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Sealed, Segment, SegmentWriter, Stamp};
use farshore_changelog::units::{ByteRange, SECTOR_BYTES, UnixMicros};
use farshore_vault::{EpochDisk, EpochObject, Nonce, Reason};

use crate::target::GroupDir;
use crate::undo::UndoIndex;

/// Repeatable randomness (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One content a disk had: all disks, whole.
pub type Disks = Vec<Vec<u8>>;

pub const SECTORS: u64 = 96;

/// A source and its log. Disks are tiny, so that a model of every position fits.
pub struct Source {
    pub group: GroupName,
    pub object: EpochObject,
    pub number: SegmentNo,
    pub prev: Hash,
    pub seq: u64,
    pub time: u64,
    pub watermark: u64,
    /// What the source's disks hold.
    pub disks: Disks,
    /// What the log so far, replayed onto empty disks, gives.
    pub logged: Disks,
    /// `logged` after every seq.
    pub after: BTreeMap<Position, Disks>,
    /// Positions that are consistent.
    pub consistent: BTreeMap<Position, bool>,
    pub resync: bool,
    pending: Vec<(Record, Vec<u8>)>,
    first_seq: u64,
}

impl Source {
    pub fn new(name: &str, disks: usize) -> Self {
        let disk = |i| EpochDisk { name: DiskName::new(format!("vd{i}")).unwrap(), size_bytes: SECTORS * SECTOR_BYTES };
        let object = EpochObject {
            group: GroupName::new(name).unwrap(),
            epoch: Epoch(1),
            parent: None,
            reason: Reason::FirstStart,
            nonce: Nonce([1; 16]),
            created: UnixMicros(1).timestamp(),
            disks: (0..disks).map(disk).collect(),
        };
        let empty: Disks = vec![vec![0; (SECTORS * SECTOR_BYTES) as usize]; disks];
        let mut source = Self {
            group: object.group.clone(),
            number: SegmentNo(0),
            prev: Hash::of(&object.encoded()),
            object,
            seq: 0,
            time: 1_000_000,
            watermark: 0,
            disks: empty.clone(),
            logged: empty.clone(),
            after: BTreeMap::new(),
            consistent: BTreeMap::new(),
            resync: false,
            pending: Vec::new(),
            first_seq: 1,
        };
        source.note(false);
        source
    }

    pub fn epoch_hash(&self) -> Hash {
        Hash::of(&self.object.encoded())
    }

    pub fn position(&self) -> Position {
        Position { epoch: self.object.epoch, seq: Seq(self.seq) }
    }

    fn note(&mut self, consistent: bool) {
        self.after.insert(self.position(), self.logged.clone());
        self.consistent.insert(self.position(), consistent);
    }

    /// Logs an operation; its payload is what the source's disk holds there.
    pub fn log(&mut self, op: Op, flags: RecordFlags, disk: usize, range: ByteRange, payload: &[u8]) {
        self.seq += 1;
        let changes = op.changes_disk();
        let record = Record {
            seq: Seq(self.seq),
            time: UnixMicros(self.time),
            disk: DiskIndex(disk as u16),
            op,
            flags,
            offset: range.start,
            len: if changes || op == Op::Digest { range.len() } else { payload.len() as u64 },
        };
        if changes {
            let bytes = range.start as usize..range.end as usize;
            if op.zeroes() {
                self.logged[disk][bytes].fill(0);
            } else {
                self.logged[disk][bytes].copy_from_slice(payload);
            }
        }
        let payload = if record.payload_len() > 0 { payload.to_vec() } else { Vec::new() };
        self.pending.push((record, payload));
        let consistent = !self.resync;
        self.note(consistent);
    }

    pub fn write(&mut self, disk: usize, start: u64, sectors: u64, byte: u8, flags: RecordFlags) {
        let range = ByteRange { start: start * SECTOR_BYTES, end: (start + sectors) * SECTOR_BYTES };
        let payload = vec![byte; range.len() as usize];
        self.disks[disk][range.start as usize..range.end as usize].copy_from_slice(&payload);
        self.log(Op::Write, flags, disk, range, &payload);
    }

    pub fn zero(&mut self, op: Op, disk: usize, start: u64, sectors: u64) {
        let range = ByteRange { start: start * SECTOR_BYTES, end: (start + sectors) * SECTOR_BYTES };
        self.disks[disk][range.start as usize..range.end as usize].fill(0);
        self.log(op, RecordFlags::NONE, disk, range, &[]);
    }

    pub fn flush(&mut self) {
        self.log(Op::Flush, RecordFlags::BOUNDARY, 0, ByteRange::default(), &[]);
    }

    pub fn mark(&mut self, name: &str) {
        self.log(Op::Mark, RecordFlags::BOUNDARY, 0, ByteRange::default(), name.as_bytes());
    }

    /// Says what the source reads there.
    pub fn digest(&mut self, disk: usize, start: u64, sectors: u64) {
        let range = ByteRange { start: start * SECTOR_BYTES, end: (start + sectors) * SECTOR_BYTES };
        let hash = Hash::of(&self.disks[disk][range.start as usize..range.end as usize]);
        self.log(Op::Digest, RecordFlags::BOUNDARY, disk, range, &hash.0);
    }

    /// Answers a request for digests: every `sectors` of every disk, and the mark.
    pub fn digests(&mut self, sectors: u64, request: u64) {
        for disk in 0..self.disks.len() {
            (0..SECTORS).step_by(sectors as usize).for_each(|start| self.digest(disk, start, sectors));
        }
        self.mark(&format!("verify-{request}"));
    }

    pub fn overflow(&mut self) {
        self.resync = true;
        self.log(Op::Overflow, RecordFlags::BOUNDARY, 0, ByteRange::default(), &[]);
    }

    pub fn resync_begin(&mut self, bytes: u64) {
        self.resync = true;
        self.log(Op::ResyncBegin, RecordFlags::BOUNDARY, 0, ByteRange::default(), &[]);
        self.pending.last_mut().unwrap().0.len = bytes;
    }

    /// Copies a range of the source's disk through the log.
    pub fn resync(&mut self, disk: usize, start: u64, sectors: u64) {
        let range = ByteRange { start: start * SECTOR_BYTES, end: (start + sectors) * SECTOR_BYTES };
        let bytes = self.disks[disk][range.start as usize..range.end as usize].to_vec();
        if bytes.iter().all(|b| *b == 0) {
            self.log(Op::ResyncZeroes, RecordFlags::NONE, disk, range, &[]);
        } else {
            self.log(Op::ResyncWrite, RecordFlags::NONE, disk, range, &bytes);
        }
    }

    pub fn resync_end(&mut self) {
        assert_eq!(self.logged, self.disks, "a resync must copy all that is lost");
        self.resync = false;
        self.log(Op::ResyncEnd, RecordFlags::BOUNDARY, 0, ByteRange::default(), &[]);
    }

    /// One random operation.
    pub fn random(&mut self, rng: &mut Rng) {
        self.time += rng.below(40_000_000);
        let disk = rng.below(self.disks.len() as u64) as usize;
        let start = rng.below(SECTORS);
        let sectors = 1 + rng.below((SECTORS - start).min(24));
        let byte = rng.below(255) as u8 + 1;
        match rng.below(12) {
            0..=5 => self.write(disk, start, sectors, byte, RecordFlags::NONE),
            6 => self.write(disk, start, sectors, byte, RecordFlags::FUA.with(RecordFlags::BOUNDARY)),
            7 => self.zero(Op::Trim, disk, start, sectors),
            8 => self.zero(Op::WriteZeroes, disk, start, sectors),
            9 | 10 => self.flush(),
            _ => {
                let name = format!("mark-{}", self.seq);
                self.mark(&name);
            }
        }
        if rng.one_in(9) {
            self.seq += 1; // void
            let consistent = !self.resync;
            self.note(consistent);
        }
    }

    /// A whole resync of everything, with writes going on; disk content that was never logged appears first.
    pub fn random_resync(&mut self, rng: &mut Rng) {
        self.resync_begin(SECTORS * SECTOR_BYTES);
        for disk in 0..self.disks.len() {
            let start = rng.below(SECTORS / 2) * SECTOR_BYTES;
            let byte = rng.below(256) as u8;
            self.disks[disk][start as usize..(start + 8 * SECTOR_BYTES) as usize].fill(byte);
        }
        for start in (0..SECTORS).step_by(16) {
            for disk in 0..self.disks.len() {
                self.resync(disk, start, 16);
            }
            if rng.one_in(2) {
                self.random(rng);
            }
        }
        self.resync_end();
    }

    /// What is sealed next begins with `seq`.
    pub fn begin_at(&mut self, seq: u64) {
        self.first_seq = seq;
    }

    /// Seals what was logged; without records it is a heartbeat.
    pub fn seal(&mut self) -> Sealed {
        let mut writer = SegmentWriter::new(Kind::Log, Some(1));
        for (record, payload) in self.pending.drain(..) {
            writer.push(&record, &payload).unwrap();
        }
        self.number = self.number.next();
        let sealed = writer
            .seal(Stamp {
                group: self.group.clone(),
                epoch: self.object.epoch,
                number: self.number,
                first_seq: Seq(self.first_seq),
                last_seq: Seq(self.seq),
                created: UnixMicros(self.time),
                watermark: SegmentNo(self.watermark),
                prev: self.prev,
            })
            .unwrap();
        self.prev = sealed.hash;
        self.first_seq = self.seq + 1;
        sealed
    }

    pub fn segment(&mut self) -> Segment {
        Segment::parse(Bytes::from(self.seal().bytes)).unwrap()
    }

    /// The next epoch begins; its object, for the seal of the one before.
    pub fn next_epoch(&mut self) -> EpochObject {
        self.next_epoch_for(Reason::RingLost)
    }

    /// As [`Source::next_epoch`] for another reason.
    pub fn next_epoch_for(&mut self, reason: Reason) -> EpochObject {
        assert!(self.pending.is_empty(), "what is not sealed is lost");
        let epoch = self.object.epoch.next();
        let nonce = Nonce([epoch.0 as u8; 16]);
        let parent = Some(self.object.epoch);
        self.object = EpochObject { epoch, parent, nonce, reason, ..self.object.clone() };
        (self.number, self.prev) = (SegmentNo(0), Hash::of(&self.object.encoded()));
        (self.seq, self.first_seq) = (0, 1);
        self.note(false);
        self.object.clone()
    }
}

/// The raw images, as they are.
pub fn images(dir: &GroupDir, object: &EpochObject) -> Disks {
    object.disks.iter().map(|disk| std::fs::read(dir.image(&disk.name)).unwrap()).collect()
}

/// The disks as they were at the journal offset `undo_end`, by the undo journal and the images.
pub fn at(dir: &GroupDir, object: &EpochObject, undo_end: u64) -> Disks {
    let mut index = UndoIndex::open(&dir.undo(), object.group.clone(), undo_end).unwrap();
    let mut disks = images(dir, object);
    for (i, disk) in disks.iter_mut().enumerate() {
        let whole = ByteRange { start: 0, end: disk.len() as u64 };
        for (piece, saved) in index.lookup(DiskIndex(i as u16), whole) {
            if let Some(saved) = saved {
                index.read(&saved, &mut disk[piece.start as usize..piece.end as usize]).unwrap();
            }
        }
    }
    disks
}
