//! Which positions can be had: out of the position, the catalogue and the heads of the undo journal's batches. Nothing is
//! locked and nothing is changed, so it works beside a processor and without one.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{GroupName, Position};
use farshore_changelog::segment::SegmentHead;

use crate::error::TargetError;
use crate::points::{self, Point, PointKind};
use crate::position::ReplayPosition;
use crate::resolve::{BatchRow, PointSpec, PointTag, Published, Window};
use crate::target::GroupDir;
use crate::undo::JournalReader;
use crate::undo::journal::CONSISTENT;

/// Looks at a position file of which both slots seem bad, as a processor may be writing it.
const POSITION_TRIES: u32 = 5;
const POSITION_RETRY: Duration = Duration::from_millis(20);

/// Where replay stands; `None` when nothing was replayed yet.
///
/// # Errors
/// As [`ReplayPosition::read`].
pub fn position(dir: &GroupDir) -> Result<Option<ReplayPosition>, TargetError> {
    for _ in 1..POSITION_TRIES {
        match ReplayPosition::read(&dir.position()) {
            Err(TargetError::Damaged { .. }) => clock::sleep(POSITION_RETRY),
            read => return read,
        }
    }
    ReplayPosition::read(&dir.position())
}

/// The positions among which `asked` is to be found: all of the catalogue, the newest consistent one, and, where a time or
/// a seq is asked for, every batch end from the last point before it up to it.
///
/// # Errors
/// [`TargetError`] when a file of the target cannot be read or is damaged.
pub fn window(dir: &GroupDir, group: &GroupName, asked: &PointSpec) -> Result<Window, TargetError> {
    let Some(at) = position(dir)? else { return Ok(Window::default()) };
    if at.group != *group {
        return Err(TargetError::refused(&dir.position(), format!("it is the position of group {}", at.group)));
    }
    let points = points::counting(&dir.points(), &at)?;
    let mut named: Vec<Published> = points.iter().map(published).collect();
    if at.consistent.exists() {
        let (position, time, undo_end) = (at.consistent.position, at.consistent.time, at.consistent.undo_end);
        named.push(Published { position, time, undo_end, consistent: true, point: None });
    }
    let mut journal = JournalReader::open(&dir.undo(), group.clone())?;
    let oldest = journal.oldest().unwrap_or(at.undo_end);
    let batches = match batches_for(asked, &named, at.consistent.position) {
        Some(wanted) => rows(&mut journal, wanted.from.max(oldest), at.undo_end, &*wanted.enough)?,
        None => Vec::new(),
    };
    Ok(Window::new(&batches, &named, oldest, at.position()))
}

/// Which batches are to be read.
struct Wanted {
    /// From this journal offset on.
    from: u64,
    /// Up to and with the first for which this holds.
    enough: Box<dyn Fn(&BatchRow) -> bool>,
}

/// `None` when no batch is needed.
fn batches_for(asked: &PointSpec, named: &[Published], newest: Position) -> Option<Wanted> {
    let last_before = |keep: &dyn Fn(&Published) -> bool| {
        let offsets = named.iter().filter(|row| keep(row)).map(|row| row.undo_end);
        offsets.max().unwrap_or(0)
    };
    match asked {
        // The position says it all.
        PointSpec::Latest => None,
        // Of a point whose run was replayed again the next batch tells.
        PointSpec::Id(id) => {
            let row = named.iter().find(|row| row.point.as_ref().is_some_and(|point| point.id == *id))?;
            Some(Wanted { from: row.undo_end, enough: Box::new(|_| true) })
        }
        PointSpec::Time { through, .. } => {
            let through = *through;
            Some(Wanted {
                from: last_before(&|row| row.time <= through),
                enough: Box::new(move |row| row.time > through),
            })
        }
        PointSpec::Seq { epoch, seq } => {
            let wanted = Position { epoch: epoch.unwrap_or(newest.epoch), seq: *seq };
            let from = last_before(&|row| row.position <= wanted);
            Some(Wanted { from, enough: Box::new(move |row| row.first > wanted) })
        }
    }
}

/// The rows of the batches from the journal offset `from` up to `to`, ended by the first one that is `enough`, or that is damaged:
/// which positions follow that is not known, and all before it are unusable, which is said by whoever opens one.
fn rows(
    journal: &mut JournalReader,
    from: u64,
    to: u64,
    enough: &dyn Fn(&BatchRow) -> bool,
) -> Result<Vec<BatchRow>, TargetError> {
    let mut rows = Vec::new();
    let mut offset = from;
    while offset < to {
        let index = match journal.expect_batch(offset) {
            Ok(index) => index,
            Err(TargetError::Damaged { .. }) => break,
            Err(e) => return Err(e),
        };
        let end = offset + index.total_len();
        let row = row(index.head(), offset, end);
        rows.push(row);
        // A batch that replays another's run again starts at or before its end, so it is not too much and is still read.
        if enough(&row) {
            break;
        }
        offset = end;
    }
    Ok(rows)
}

/// What a batch says about positions.
#[must_use]
pub fn row(head: &SegmentHead, offset: u64, end: u64) -> BatchRow {
    BatchRow {
        offset,
        end,
        first: Position { epoch: head.epoch, seq: head.first_seq },
        last: Position { epoch: head.epoch, seq: head.last_seq },
        time: head.max_time,
        consistent: head.watermark == CONSISTENT,
    }
}

fn published(point: &Point) -> Published {
    let mark = match &point.kind {
        PointKind::Periodic => None,
        PointKind::Mark(name) => Some(name.clone()),
    };
    Published {
        position: point.position,
        time: point.time,
        undo_end: point.undo_end,
        consistent: true,
        point: Some(PointTag { id: point.id, mark }),
    }
}
