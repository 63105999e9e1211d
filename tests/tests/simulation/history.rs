//! What the guests did, and what may therefore be found on a disk or an image: the definition that a world is held to. It knows
//! nothing of logs, seqs or segments.
//!
//! An operation *comes before* another when it had ended before the other was submitted. Of operations that do not come before one
//! another any order is right, of all others only one.

use std::collections::BTreeMap;

use crate::cells::{self, CELL, Value};

/// Counts submissions and ends, so that "before" can be said.
pub type Stamp = u64;
const NEVER: Stamp = u64::MAX;
/// The operation that wrote what a disk held in the beginning.
pub const INITIAL: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Zeroes { no_hole: bool },
    Trim,
    Flush,
}

/// One operation of a guest.
#[derive(Debug, Clone)]
pub struct Op {
    pub disk: usize,
    /// In cells.
    pub first: usize,
    pub count: usize,
    pub kind: Kind,
    pub fua: bool,
    pub submitted: Stamp,
    /// When its answer came; [`NEVER`] while it has none.
    pub ended: Stamp,
    /// It was answered with success.
    pub good: bool,
    /// It must survive a power cut of the source.
    pub durable: bool,
    /// A flush after it has failed, and whoever asked for that was told so: no later flush brings it back.
    dropped: bool,
}

impl Op {
    /// Whether what it did must be there, in this cell, once it counts. A trim may leave blocks that it covers in part.
    fn binds(&self, cell: usize) -> bool {
        match self.kind {
            Kind::Write | Kind::Zeroes { .. } => true,
            Kind::Trim => {
                let page = 4096 / CELL;
                let (start, end) = (self.first.next_multiple_of(page), (self.first + self.count) / page * page);
                (start..end).contains(&cell)
            }
            Kind::Read | Kind::Flush => false,
        }
    }

    fn writes(&self, value: Value, op: u32) -> bool {
        match self.kind {
            Kind::Write => value == Value::Of(op),
            Kind::Zeroes { .. } | Kind::Trim => value == Value::Zeroes,
            Kind::Read | Kind::Flush => false,
        }
    }
}

/// From one beginning of the source's disks (made, or found after a power cut) to the next.
struct Era {
    /// Per disk and cell.
    base: Vec<Vec<Value>>,
    /// Per disk and cell: the operations that were to change it.
    changed_by: Vec<Vec<Vec<u32>>>,
}

/// All operations of a world.
pub struct History {
    ops: Vec<Op>,
    eras: Vec<Era>,
    /// The era whose guests an epoch of the log has.
    era_of_epoch: BTreeMap<u64, usize>,
    now: Stamp,
}

impl History {
    /// `disks`: their content in the beginning, written by [`INITIAL`] or zeroes.
    pub fn new(disks: &[Vec<u8>]) -> Self {
        let initial = Op {
            disk: 0,
            first: 0,
            count: 0,
            kind: Kind::Write,
            fua: false,
            submitted: 0,
            ended: 0,
            good: true,
            durable: true,
            dropped: false,
        };
        let mut history =
            Self { ops: vec![initial.clone(), initial], eras: Vec::new(), era_of_epoch: BTreeMap::new(), now: 1 };
        history.begin_era(disks).expect("the beginning is written in cells");
        history
    }

    fn begin_era(&mut self, disks: &[Vec<u8>]) -> Result<(), String> {
        let base = disks.iter().enumerate().map(|(disk, bytes)| values(disk, bytes)).collect::<Result<Vec<_>, _>>()?;
        let changed_by = base.iter().map(|cells| vec![Vec::new(); cells.len()]).collect();
        self.eras.push(Era { base, changed_by });
        Ok(())
    }

    fn tick(&mut self) -> Stamp {
        self.now += 1;
        self.now
    }

    pub fn now(&self) -> Stamp {
        self.now
    }

    /// A guest submits an operation; gives its number.
    pub fn submit(&mut self, disk: usize, first: usize, count: usize, kind: Kind, fua: bool) -> u32 {
        let submitted = self.tick();
        let number = self.ops.len() as u32;
        let (ended, good, durable, dropped) = (NEVER, false, false, false);
        self.ops.push(Op { disk, first, count, kind, fua, submitted, ended, good, durable, dropped });
        if matches!(kind, Kind::Write | Kind::Zeroes { .. } | Kind::Trim) {
            let era = self.eras.last_mut().expect("there is an era");
            era.changed_by[disk][first..first + count].iter_mut().for_each(|cell| cell.push(number));
        }
        number
    }

    pub fn op(&self, number: u32) -> &Op {
        &self.ops[number as usize]
    }

    /// An operation was answered.
    pub fn end(&mut self, number: u32, good: bool) {
        let ended = self.tick();
        let op = &mut self.ops[number as usize];
        (op.ended, op.good) = (ended, good);
        op.durable = good && op.fua;
        if op.kind == Kind::Flush || op.fua {
            let flushed = op.kind == Kind::Flush && good;
            let (disk, since) = (op.disk, op.submitted);
            for op in self.ops.iter_mut().filter(|op| op.disk == disk && op.good && !op.durable) {
                op.dropped |= !good;
                op.durable = flushed && op.ended < since && !op.dropped;
            }
        }
    }

    /// Nobody waits for an operation any more: the VM that submitted it is gone, and so is what served it.
    pub fn give_up(&mut self, number: u32) {
        let ended = self.tick();
        self.ops[number as usize].ended = ended;
    }

    /// The guests of an epoch of the log are those of now.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.era_of_epoch.insert(epoch, self.eras.len() - 1);
    }

    /// What a guest has read must be what is there.
    pub fn check_read(&self, number: u32, bytes: &[u8]) -> Result<(), String> {
        let read = self.op(number);
        let era = self.eras.last().expect("there is an era");
        for (n, cell) in bytes.chunks(CELL).enumerate() {
            let at = read.first + n;
            let value = cells::read(read.disk, at, cell);
            self.check(era, read.disk, at, value, &|op| op.good && op.ended < read.submitted)
                .map_err(|e| format!("operation {number} has read what cannot be there: {e}"))?;
        }
        Ok(())
    }

    /// After a power cut the source's disks must hold what was durable, and nothing that nobody wrote. From here on they are what
    /// they are.
    pub fn power_cut(&mut self, disks: &[Vec<u8>]) -> Result<(), String> {
        let era = self.eras.last().expect("there is an era");
        for (disk, bytes) in disks.iter().enumerate() {
            for (cell, found) in bytes.chunks(CELL).enumerate() {
                self.check(era, disk, cell, cells::read(disk, cell, found), &|op| op.durable)
                    .map_err(|e| format!("after a power cut the source has lost what was durable: {e}"))?;
            }
        }
        self.begin_era(disks)
    }

    /// The source's disks now.
    pub fn check_source(&self, disks: &[Vec<u8>]) -> Result<(), String> {
        let era = self.eras.last().expect("there is an era");
        for (disk, bytes) in disks.iter().enumerate() {
            for (cell, found) in bytes.chunks(CELL).enumerate() {
                self.check(era, disk, cell, cells::read(disk, cell, found), &|op| op.good)
                    .map_err(|e| format!("the source disk is not what the guests wrote: {e}"))?;
            }
        }
        Ok(())
    }

    /// Images at a consistent position of `epoch` are what the disks were at one moment: with an operation, everything that came
    /// before it is there, on every disk. `since`: that moment is not before this one.
    pub fn check_prefix(&self, epoch: u64, images: &[Vec<u8>], since: Stamp) -> Result<(), String> {
        let Some(era) = self.era_of_epoch.get(&epoch) else { return Err(format!("epoch {epoch} has no guests")) };
        let era = &self.eras[*era];
        let found: Vec<Vec<Option<Value>>> = images
            .iter()
            .enumerate()
            .map(|(disk, bytes)| bytes.chunks(CELL).enumerate().map(|(n, cell)| cells::read(disk, n, cell)).collect())
            .collect();
        let mut moment = (since, INITIAL);
        for (disk, cells) in found.iter().enumerate() {
            for (cell, value) in cells.iter().enumerate() {
                let Some(Value::Of(number)) = value else { continue };
                let here = era.changed_by[disk].get(cell).is_some_and(|by| by.contains(number));
                let Some(op) = self.ops.get(*number as usize).filter(|_| here) else { continue };
                moment = moment.max((op.submitted, *number));
            }
        }
        let (moment, shows) = moment;
        for (disk, cells) in found.iter().enumerate() {
            for (cell, value) in cells.iter().enumerate() {
                self.check(era, disk, cell, *value, &|op| op.good && op.ended < moment).map_err(|e| {
                    format!(
                        "the images show operation {shows}, submitted at {moment}, and not what came before it: {e}"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Whether `value` may be in a cell, when every operation that `must` names is.
    fn check(
        &self,
        era: &Era,
        disk: usize,
        cell: usize,
        value: Option<Value>,
        must: &dyn Fn(&Op) -> bool,
    ) -> Result<(), String> {
        let at = || format!("disk {disk} byte {} (cell {cell})", cell * CELL);
        let Some(value) = value else { return Err(format!("{}: bytes that nobody wrote", at())) };
        let by = &era.changed_by[disk][cell];
        let binding = |n: &&u32| must(self.op(**n)) && self.op(**n).binds(cell);
        let Some(newest) = by.iter().filter(binding).map(|n| self.op(*n).submitted).max() else {
            // Nothing must be there: what was in the beginning, or anything that was submitted.
            let known = era.base[disk][cell] == value || by.iter().any(|n| self.op(*n).writes(value, *n));
            return if known { Ok(()) } else { Err(format!("{}: {value:?}, which never was there", at())) };
        };
        // Of those that wrote this value one must not come before any that must be there.
        if by.iter().any(|n| self.op(*n).writes(value, *n) && self.op(*n).ended >= newest) {
            return Ok(());
        }
        let all: Vec<String> = by
            .iter()
            .map(|n| (n, self.op(*n)))
            .map(|(n, op)| {
                let end = if op.ended == NEVER { "open".to_owned() } else { format!("{}", op.ended) };
                format!("{n}: {:?} {}-{end}{}", op.kind, op.submitted, if op.good { "" } else { " not good" })
            })
            .collect();
        Err(format!("{}: {value:?} is there; of {}", at(), all.join(", ")))
    }
}

/// The values of a disk.
fn values(disk: usize, bytes: &[u8]) -> Result<Vec<Value>, String> {
    let value = |(n, cell): (usize, &[u8])| {
        cells::read(disk, n, cell).ok_or_else(|| format!("disk {disk} byte {}: bytes that nobody wrote", n * CELL))
    };
    bytes.chunks(CELL).enumerate().map(value).collect()
}
