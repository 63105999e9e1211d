//! The log as the vault has it, folded by the shortest way there is: the images at any position, and whether it is a consistent one.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_changelog::ids::{Epoch, GroupName, Position, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Segment, SegmentError};
use farshore_vault::keys::Key;
use object_store::path::Path;

use crate::store::SimStore;

/// A segment of the log, decoded.
pub struct Decoded {
    pub seal: bool,
    pub last_seq: Seq,
    pub records: Vec<(Record, Vec<u8>)>,
}

/// Everything that ever lay in the vault's log of a group, pruned or not.
pub struct Log {
    group: GroupName,
    store: Arc<SimStore>,
    segments: BTreeMap<(Epoch, SegmentNo), Decoded>,
    /// Segments that were there before the one below them.
    pub above_holes: u64,
}

impl Log {
    pub fn new(group: GroupName, store: Arc<SimStore>) -> Self {
        Self { group, store, segments: BTreeMap::new(), above_holes: 0 }
    }

    /// Takes what is new.
    pub fn refresh(&mut self) -> Result<(), String> {
        let prefix = Path::from(format!("groups/{}/log", self.group));
        for (path, bytes) in self.store.below(&prefix) {
            let Some(Key::Segment(_, epoch, number)) = Key::parse(path.as_ref()) else {
                return Err(format!("{path} is no key of a segment"));
            };
            if self.segments.contains_key(&(epoch, number)) {
                continue;
            }
            let segment = Segment::parse(bytes).map_err(|e| format!("{path} cannot be read: {e}"))?;
            let mut records = Vec::new();
            segment
                .for_each(|record, payload| {
                    records.push((*record, payload.to_vec()));
                    Ok::<_, SegmentError>(())
                })
                .map_err(|e| format!("{path} cannot be read: {e}"))?;
            let head = segment.index().head();
            let below = SegmentNo(number.0 - 1);
            self.above_holes += u64::from(below.0 > 0 && !self.segments.contains_key(&(epoch, below)));
            let decoded = Decoded { seal: head.kind == Kind::Seal, last_seq: head.last_seq, records };
            self.segments.insert((epoch, number), decoded);
        }
        Ok(())
    }

    pub fn segments(&self) -> impl Iterator<Item = (&(Epoch, SegmentNo), &Decoded)> {
        self.segments.iter()
    }

    /// The newest seq of an epoch that readers come to: without a gap, and before its first seal.
    pub fn reaches(&self, epoch: Epoch) -> Seq {
        let of = self.segments.range((epoch, SegmentNo(1))..(epoch.next(), SegmentNo(0)));
        let whole = (1..).zip(of).take_while(|(n, ((_, number), s))| number.0 == *n && !s.seal);
        whole.last().map_or(Seq(0), |(_, (_, segment))| segment.last_seq)
    }

    /// The last number of an epoch before its first seal, once there is one.
    pub fn cut(&self, epoch: Epoch) -> Option<SegmentNo> {
        let of = self.segments.range((epoch, SegmentNo(0))..(epoch.next(), SegmentNo(0)));
        of.filter(|(_, s)| s.seal).map(|((_, number), _)| SegmentNo(number.0 - 1)).next()
    }
}

/// The images at a position.
#[derive(Clone)]
pub struct Fold {
    sizes: Vec<u64>,
    epoch: Epoch,
    /// The segment that is applied next, or in part.
    number: SegmentNo,
    /// Its records that are applied.
    applied: usize,
    seq: Seq,
    /// The newest record was not the last of its request.
    inside: bool,
    newest: Epoch,
    pub images: Vec<Vec<u8>>,
    /// Between the begin of a resync, or an overflow, and the end of the resync.
    pub resync: bool,
}

impl Fold {
    /// Empty images, before the first record.
    pub fn new(sizes: &[u64]) -> Self {
        Self {
            sizes: sizes.to_vec(),
            epoch: Epoch(1),
            number: SegmentNo(1),
            applied: 0,
            seq: Seq(0),
            inside: false,
            newest: Epoch(1),
            images: sizes.iter().map(|size| vec![0; *size as usize]).collect(),
            resync: false,
        }
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    /// Goes to `to`, from the beginning when it is already past that.
    pub fn go_to(&mut self, log: &Log, to: Position) -> Result<(), String> {
        if self.position() > to {
            *self = Self::new(&self.sizes);
        }
        while self.position() < to {
            let key = (self.epoch, self.number);
            let Some(segment) = log.segments.get(&key) else {
                let (epoch, number) = key;
                return Err(format!(
                    "position {to} needs segment {number} of epoch {epoch}, which never was in the vault"
                ));
            };
            if segment.seal {
                if to.epoch == self.epoch {
                    return Err(format!("position {to} is above the cut of its epoch, at {}", self.position()));
                }
                (self.epoch, self.number, self.applied, self.seq) = (self.epoch.next(), SegmentNo(1), 0, Seq(0));
                continue;
            }
            let whole = to.epoch > self.epoch || segment.last_seq <= to.seq;
            while let Some((record, payload)) = segment.records.get(self.applied) {
                if !whole && record.seq > to.seq {
                    break;
                }
                self.applied += 1;
                self.apply_one(record, payload);
            }
            if whole {
                self.seq = segment.last_seq;
                (self.number, self.applied) = (self.number.next(), 0);
            } else {
                self.seq = to.seq;
            }
        }
        if self.inside { Err(format!("position {to} is inside a request")) } else { Ok(()) }
    }

    /// The epoch of the newest record.
    pub fn newest(&self) -> Epoch {
        self.newest
    }

    fn apply_one(&mut self, record: &Record, payload: &[u8]) {
        self.newest = self.epoch;
        self.inside = record.flags.has(RecordFlags::MORE);
        match record.op {
            Op::Write | Op::ResyncWrite => self.range(record).copy_from_slice(payload),
            Op::WriteZeroes | Op::Trim | Op::ResyncZeroes => self.range(record).fill(0),
            Op::ResyncBegin | Op::Overflow => self.resync = true,
            Op::ResyncEnd => self.resync = false,
            Op::Flush | Op::Mark | Op::Digest => {}
        }
    }

    fn range(&mut self, record: &Record) -> &mut [u8] {
        let range = record.range();
        &mut self.images[usize::from(record.disk.0)][range.start as usize..range.end as usize]
    }
}
