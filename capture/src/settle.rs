//! What the recovery of a ring asks of the disks: the ranges that a dead process left in flight.

use farshore_changelog::op::{Op, Record};
use farshore_changelog::ring::Settled;

use crate::disk::{SourceDisk, space};
use crate::regions::{CommitError, RegionMap};

/// Settles one operation that was in flight, for `Ring::recover`. The disks and their maps are in the order of the ring's disk
/// table; the disks are locked, so nobody writes them any more. A range that cannot be read or zeroed is made durably lost.
///
/// What it does by operation:
///
/// - write, resync write: its range is read again
/// - write zeroes, trim: its range is zeroed again; nobody was told that it was done, and doing it twice is doing it once
/// - resync zeroes: its range is looked at, and lost where it does not read as zeroes; nothing is changed for it
///
/// # Errors
/// When a range is lost and the dirty map cannot note it.
pub fn settle(
    disks: &[SourceDisk],
    maps: &mut [RegionMap],
    record: &Record,
    payload: &mut [u8],
) -> Result<Settled, CommitError> {
    let index = usize::from(record.disk.0);
    let (disk, map) = (&disks[index], &mut maps[index]);
    let range = record.range();
    let settled = match record.op {
        Op::Write | Op::ResyncWrite => space::read_full(disk.file(), range.start, payload).map(|()| true),
        Op::WriteZeroes | Op::Trim => {
            let keep = record.flags.has(farshore_changelog::op::RecordFlags::NO_HOLE);
            space::zero(disk.file(), range, keep).map(|()| true)
        }
        Op::ResyncZeroes => space::reads_as_zeroes(disk.file(), range),
        // They touch no range: recovery settles them without asking.
        Op::Flush | Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => Ok(true),
    };
    let error = match settled {
        Ok(true) => return Ok(Settled::Reread),
        Ok(false) => "it does not read as zeroes any more".to_owned(),
        Err(e) => e.to_string(),
    };
    tracing::error!(disk = %disk.name(), ?record, error, "an operation in flight cannot be settled: its regions are lost until resync");
    lose(map, record).map(|()| Settled::Unreadable)
}

fn lose(map: &mut RegionMap, record: &Record) -> Result<(), CommitError> {
    for region in map.touched(record.range()) {
        map.lose(region);
    }
    map.commit().map_or(Ok(()), |commit| commit.run())
}
