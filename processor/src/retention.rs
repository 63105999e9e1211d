//! Which recovery points go, and then what only they needed: undo files and segments in the vault.
//!
//! The order is safe against a crash anywhere: first the catalogue without the points, durably, then the files. What a crash
//! leaves is removed the next time.

use std::time::Duration;

use farshore_changelog::ids::{GroupName, Position};
use farshore_changelog::units::UnixMicros;

use crate::error::TargetError;
use crate::lease;
use crate::points::{Point, PointKind};
use crate::position::ReplayPosition;
use crate::replay::Replay;
use crate::undo::{damage, journal};

/// Most marks kept, whatever their age: a script that marks in a loop must not fill the catalogue.
pub const MARKS_MAX: usize = 10_000;
/// How long points are kept unless the config says otherwise.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many periodic points are kept unless the config says otherwise.
pub const MAX_POINTS: usize = 288;

/// How long points are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Older points go, marks too.
    pub max_age: Duration,
    /// Of the periodic points no more than this stay.
    pub max_points: usize,
}

/// Which of `points` (oldest first) stay at the time `now`. Pure. The newest point always stays.
///
/// A point's time does not go back when the source's clock does, so after that was a year ahead points would be young for a
/// year. One that is later than now ages by what the clock said, or, where that was wrong itself, with the point after it.
#[must_use]
pub fn kept(points: &[Point], now: UnixMicros, policy: &Policy) -> Vec<Point> {
    let (mut periodic, mut marks) = (0, 0);
    let mut kept: Vec<Point> = Vec::new();
    let mut after = now;
    for (i, point) in points.iter().enumerate().rev() {
        let time = [point.time, point.clock].into_iter().find(|time| *time <= now).unwrap_or(after).min(after);
        after = time;
        let room = match point.kind {
            PointKind::Periodic => counted(&mut periodic) <= policy.max_points,
            PointKind::Mark(_) => counted(&mut marks) <= MARKS_MAX,
        };
        let newest = i + 1 == points.len();
        if newest || (room && now.since(time) <= policy.max_age) {
            kept.push(point.clone());
        }
    }
    kept.reverse();
    kept
}

fn counted(count: &mut usize) -> usize {
    *count += 1;
    *count
}

/// The lowest journal offset that is still needed: by `points`, by the newest consistent position, by the position itself (to
/// undo a batch), and by `leased`. Pure.
#[must_use]
pub fn undo_needed(points: &[Point], position: &ReplayPosition, leased: Option<u64>) -> u64 {
    let consistent = Some(position.consistent).filter(|c| c.exists()).map(|c| c.undo_end);
    let points = points.iter().map(|point| point.undo_end);
    points.chain(consistent).chain(leased).fold(position.undo_end, u64::min)
}

/// Segments that end at or before this are not needed: between the oldest point and now any second can be had. Pure.
#[must_use]
pub fn log_needed(points: &[Point], position: &ReplayPosition) -> Position {
    let consistent = Some(position.consistent).filter(|c| c.exists()).map(|c| c.position);
    points.iter().map(|point| point.position).chain(consistent).fold(position.position(), Position::min)
}

/// Prunes points and undo files of an open target; `wall` is the target's clock. Gives the position up to which the log
/// is not needed any more.
///
/// # Errors
/// [`TargetError`]. A lease that cannot be read is one: what it needs must not be deleted.
pub fn prune_target(
    replay: &mut Replay,
    group: &GroupName,
    policy: &Policy,
    wall: UnixMicros,
) -> Result<Position, TargetError> {
    // Source's time, so that a source that is away does not make its points go; held to the target's clock, so that a source
    // whose clock jumps ahead does not either.
    let now = replay.position().time.min(wall);
    let kept = kept(&replay.points, now, policy);
    if kept.len() < replay.points.len() {
        tracing::info!(%group, pruned = replay.points.len() - kept.len(), left = kept.len(), "recovery points pruned");
        replay.points = kept;
        replay.write_points()?;
    }
    let root = replay.dir.root().to_path_buf();
    let io = |doing| TargetError::io(doing, &root);
    match lease::freeze(&root) {
        Ok(_frozen) => {
            let leased = lease::oldest_needed(&root).map_err(io("read the leases of"))?;
            let needed = undo_needed(&replay.points, replay.position(), leased);
            let files = journal::not_needed(&replay.dir.undo(), needed)?;
            if !files.is_empty() && !replay.points_are_durable {
                // What was found at the opening may be in memory only, and an older catalogue, with points that need these
                // files, come back after a power cut.
                replay.write_points()?;
            }
            journal::remove(&files)?;
            if let Some(last) = files.last() {
                damage::forget_before(&replay.dir.undo(), last.end())?;
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            tracing::warn!(%group, error = %e, "the undo journal is not pruned this time");
        }
        Err(e) => return Err(io("lock the leases of")(e)),
    }
    Ok(log_needed(&replay.points, replay.position()))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
