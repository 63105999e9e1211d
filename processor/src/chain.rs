//! Whether an object is the next one of a group's log. Pure: what was proved of it in, a decision out.

use farshore_changelog::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::segment::{IndexRecord, Kind, SegmentHead};
use farshore_changelog::units::{ByteRange, SECTOR_BYTES};
use farshore_vault::EpochObject;

use crate::position::ReplayPosition;
use crate::target::TargetDisk;

/// What the next object of the log must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Whose.
    pub group: GroupName,
    /// In which epoch.
    pub epoch: Epoch,
    /// At which number.
    pub number: SegmentNo,
    /// How it is known.
    pub link: Link,
}

/// How an object is known to be the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It is the one that was applied in part: its hash is known.
    Itself(Hash),
    /// It follows: it names this hash and begins with this seq.
    Follows {
        /// Hash of the segment before, or of the epoch object.
        prev: Hash,
        /// The seq after the segment before.
        first_seq: Seq,
    },
}

/// What the object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A log segment, to be applied.
    Log,
    /// The end of the epoch; what lies above is dead.
    Seal,
}

/// What comes next after `position`.
#[must_use]
pub fn expected(position: &ReplayPosition) -> Expected {
    let partial = position.number != SegmentNo(0) && position.seq < position.chain_seq;
    let (number, link) = if partial {
        (position.number, Link::Itself(position.hash))
    } else {
        (position.number.next(), Link::Follows { prev: position.hash, first_seq: position.chain_seq.next() })
    };
    Expected { group: position.group.clone(), epoch: position.epoch, number, link }
}

/// Whether the object with `head` and `hash` is the expected one.
///
/// # Errors
/// What is wrong with it, in words.
pub fn follows(expected: &Expected, head: &SegmentHead, hash: Hash) -> Result<Next, String> {
    if head.group != expected.group {
        return Err(format!("it is of group {}, not of {}", head.group, expected.group));
    }
    if head.epoch != expected.epoch {
        return Err(format!("it is of epoch {}, not of {}", head.epoch, expected.epoch));
    }
    if head.number != expected.number {
        return Err(format!("it is number {}, not {}", head.number, expected.number));
    }
    match (head.kind, &expected.link) {
        (Kind::Undo, _) => Err("it is an undo batch".to_owned()),
        (Kind::Log | Kind::Seal, Link::Itself(known)) if hash != *known => {
            Err(format!("its hash is {hash}, and a part of the one with hash {known} was applied"))
        }
        (Kind::Log, Link::Itself(_)) => Ok(Next::Log),
        (Kind::Seal, Link::Itself(_)) => Err("it is a seal, and a part of it was applied".to_owned()),
        (Kind::Seal, Link::Follows { .. }) => Ok(Next::Seal),
        (Kind::Log, Link::Follows { prev, .. }) if head.prev != *prev => {
            Err(format!("it follows {}, not {prev}: the chain is broken", head.prev))
        }
        (Kind::Log, Link::Follows { first_seq, .. }) if head.first_seq != *first_seq => {
            Err(format!("it begins with seq {}, not with {first_seq}", head.first_seq))
        }
        (Kind::Log, Link::Follows { .. }) => Ok(Next::Log),
    }
}

/// Whether the records of a segment can be replayed onto `disks`.
///
/// # Errors
/// What is wrong, in words.
pub fn fits(records: &[IndexRecord], disks: &[TargetDisk]) -> Result<(), String> {
    for entry in records {
        let record = &entry.record;
        match record.op {
            Op::Write | Op::WriteZeroes | Op::Trim | Op::Flush | Op::ResyncWrite | Op::ResyncZeroes | Op::Digest => {
                let Some(disk) = disks.get(usize::from(record.disk.0)) else {
                    let (seq, disk) = (record.seq, record.disk);
                    return Err(format!("its record of seq {seq} is for disk {disk}, the epoch has {}", disks.len()));
                };
                // Of a digest too, which changes nothing.
                let range = ByteRange { start: record.offset, end: record.offset.saturating_add(record.len) };
                if range.end > disk.size_bytes {
                    let seq = record.seq;
                    return Err(format!("its record of seq {seq} ({range}) passes the end of disk {}", disk.name));
                }
            }
            Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow if !record.flags.has(RecordFlags::BOUNDARY) => {
                return Err(format!("its record of seq {} must be a boundary", record.seq));
            }
            Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow => {}
        }
    }
    Ok(())
}

/// Whether `next` is the epoch that `seal` makes way for.
///
/// # Errors
/// What is wrong with the epoch object, in words.
pub fn succeeds(seal: &SegmentHead, next: &EpochObject) -> Result<(), String> {
    if next.group != seal.group {
        return Err(format!("it is of group {}, not of {}", next.group, seal.group));
    }
    if next.epoch != seal.successor || next.parent != Some(seal.epoch) {
        let parent = next.parent.map_or_else(|| "nothing".to_owned(), |parent| parent.to_string());
        return Err(format!("it is epoch {} after {parent}, not {} after {}", next.epoch, seal.successor, seal.epoch));
    }
    if next.nonce.0 != seal.nonce {
        return Err("its nonce is not the one in the seal of the epoch before".to_owned());
    }
    Ok(())
}

/// What becomes of the disks in a new epoch: the same ones in the same order, where each may have grown, and new ones after
/// them. Gives whether anything changed.
///
/// # Errors
/// Why that cannot be, and what to do, in words.
pub fn disks_of(old: &[TargetDisk], next: &EpochObject) -> Result<(Vec<TargetDisk>, bool), String> {
    for (i, disk) in old.iter().enumerate() {
        match next.disks.get(i) {
            Some(new) if new.name != disk.name => {
                return Err(format!(
                    "disk {i} is {} in epoch {} and was {} before; disks may be added after the others, not renamed, moved or removed: protect them as another group",
                    new.name, next.epoch, disk.name
                ));
            }
            Some(new) if new.size_bytes < disk.size_bytes => {
                return Err(format!(
                    "disk {} has {} bytes in epoch {} and had {} before; a disk may grow, not shrink: protect it as another group",
                    disk.name, new.size_bytes, next.epoch, disk.size_bytes
                ));
            }
            Some(_) => {}
            None => {
                return Err(format!(
                    "disk {} is gone in epoch {}; disks may be added, not removed: protect the others as another group",
                    disk.name, next.epoch
                ));
            }
        }
    }
    let disks = target_disks(next)?;
    let changed = disks != old;
    Ok((disks, changed))
}

/// The disks of an epoch object.
///
/// # Errors
/// Why there can be no images for them, in words.
pub fn target_disks(epoch: &EpochObject) -> Result<Vec<TargetDisk>, String> {
    let mut disks: Vec<TargetDisk> = Vec::with_capacity(epoch.disks.len());
    for disk in &epoch.disks {
        if disks.iter().any(|d| d.name == disk.name) {
            return Err(format!("two disks of epoch {} are named {}", epoch.epoch, disk.name));
        }
        if disk.size_bytes == 0 || !disk.size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(format!("disk {} has {} bytes, which is not whole sectors", disk.name, disk.size_bytes));
        }
        disks.push(TargetDisk { name: disk.name.clone(), size_bytes: disk.size_bytes });
    }
    Ok(disks)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
