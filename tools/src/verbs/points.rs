//! `farshore points`: the recovery points of a group.

use std::path::{Path, PathBuf};

use anyhow::Result;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_processor::points::{self, Point, PointKind};
use farshore_processor::position::ReplayPosition;
use farshore_processor::resolve::POINT_ID_PREFIX;
use farshore_processor::target::{self, GroupDir};
use farshore_processor::undo::{Damage, damage};
use serde::Serialize;

use crate::failure::fail;
use crate::output::{Output, table};
use crate::units::show_duration;
use crate::verbs::verify::against_source::differing;

/// Arguments of `points`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group.
    group: GroupName,
    /// The target folder.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
}

/// One recovery point, as it is printed.
#[derive(Debug, Serialize)]
pub struct PointRow {
    /// What `--point` takes.
    pub id: String,
    /// RFC 3339, source's clock.
    pub time: String,
    /// `periodic` or `mark`.
    pub kind: &'static str,
    /// The mark's name.
    pub name: Option<String>,
    /// Epoch of its position.
    pub epoch: u64,
    /// Seq of its position.
    pub seq: u64,
    /// Seconds since its time.
    pub age_seconds: f64,
    /// What the source's clock said, where that is not the time: it had been set back, and times only rise.
    pub clock: Option<String>,
    /// Whether it can be attached, exported and failed over to.
    pub usable: bool,
    /// Why not.
    pub unusable_because: Option<String>,
    /// What of it differed from the source when they were compared; it can be had all the same.
    pub differs: Vec<String>,
}

impl PointRow {
    fn of(point: &Point, known: &[Damage], differs: Vec<String>) -> Self {
        let spoilt = damage::in_the_way(known, point.undo_end);
        let (kind, name) = match &point.kind {
            PointKind::Periodic => ("periodic", None),
            PointKind::Mark(name) => ("mark", Some(name.clone())),
        };
        Self {
            differs,
            id: format!("{POINT_ID_PREFIX}{}", point.id),
            time: point.time.to_string(),
            kind,
            name,
            epoch: point.position.epoch.0,
            seq: point.position.seq.0,
            age_seconds: clock::wall().since(point.time).as_secs_f64(),
            clock: (point.clock != point.time).then(|| point.clock.to_string()),
            usable: spoilt.is_none(),
            unusable_because: spoilt.map(|damage| {
                format!(
                    "the undo journal is damaged at {} and leads back to it no more: {}",
                    damage.offset, damage.what
                )
            }),
        }
    }
}

/// The folder of a group that has been replayed to `target`.
///
/// # Errors
/// When there is none; with the groups that there are.
pub fn group_dir(target: &Path, group: &GroupName) -> Result<GroupDir> {
    let dir = GroupDir::new(target, group);
    if dir.origin().is_file() {
        return Ok(dir);
    }
    let there: Vec<String> = target::groups(target)?.iter().map(ToString::to_string).collect();
    let there = if there.is_empty() { "no group".to_owned() } else { format!("the groups {}", there.join(", ")) };
    Err(fail(format!("{} holds nothing of group {group}", target.display()))
        .because(anyhow::anyhow!("it holds {there}"))
        .next(format!("check --target, or replay with `farshore process --vault URL --target {}`", target.display()))
        .into())
}

/// The points of a group, oldest first.
///
/// # Errors
/// When the target cannot be read.
pub fn rows(dir: &GroupDir) -> Result<Vec<PointRow>> {
    let Some(standing) = ReplayPosition::read(&dir.position())? else { return Ok(Vec::new()) };
    let known = damage::known(&dir.undo())?;
    let points = points::counting(&dir.points(), &standing)?;
    let undo_ends: Vec<u64> = points.iter().map(|point| point.undo_end).collect();
    let differing = differing(dir, &standing.group, &undo_ends);
    let of = |place: usize| differing.iter().filter(|(at, _)| *at == place).map(|(_, story)| story.clone()).collect();
    Ok(points.iter().enumerate().map(|(place, point)| PointRow::of(point, &known, of(place))).collect())
}

/// Prints the points.
///
/// # Errors
/// When there is no such group, or the target cannot be read.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let dir = group_dir(&args.target, &args.group)?;
    out.print(&rows(&dir)?, |rows| {
        if rows.is_empty() {
            return format!("group {} has no recovery point yet; `farshore status --target DIR` says why", args.group);
        }
        let mut table = table(["point", "time", "age", "kind", "name", "position"]);
        let mut below = String::new();
        for row in rows {
            let age = show_duration(std::time::Duration::from_secs_f64(row.age_seconds));
            let position = format!("{}:{}", row.epoch, row.seq);
            table.add_row([&row.id, &row.time, &age, row.kind, row.name.as_deref().unwrap_or(""), &position]);
            if let Some(clock) = &row.clock {
                below.push_str(&format!("\n{}: the source's clock had been set back and said {clock}", row.id));
            }
            if let Some(why) = &row.unusable_because {
                below.push_str(&format!("\n{}: UNUSABLE, {why}", row.id));
            }
            for story in &row.differs {
                below.push_str(&format!("\n{}: {story}", row.id));
            }
        }
        format!("{table}{below}")
    })
}
