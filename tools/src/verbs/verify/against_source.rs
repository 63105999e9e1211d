//! `farshore verify --against-source`: asks the source for the digests of its disks, waits until replay has held them against the
//! images, and says what differs, which points hold that, and on demand has it copied again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_processor::compare::report::MISMATCHES_MAX;
use farshore_processor::compare::suspect::suspects;
use farshore_processor::compare::{Comparison, Mismatch, Run};
use farshore_processor::points;
use farshore_processor::position::ReplayPosition;
use farshore_processor::resolve::POINT_ID_PREFIX;
use farshore_processor::status::{GroupState, GroupStatus};
use farshore_processor::target::{GroupDir, Origin};
use farshore_vault::objects::RANGES_MAX;
use farshore_vault::{DiskRange, Request};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::fail;
use crate::output::Output;
use crate::units::show_bytes;
use crate::verbs::points::group_dir;
use crate::verbs::{block_on, resync};

/// How long nothing may come, unless `--patience` says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Time between two looks at the report.
const LOOK: Duration = Duration::from_millis(300);

/// What is to be compared.
pub struct Wanted {
    /// The group.
    pub group: GroupName,
    /// The vault's URL.
    pub vault: String,
    /// The target folder.
    pub target: PathBuf,
    /// Copy again what differs.
    pub repair: bool,
    /// How long nothing may come.
    pub patience: Duration,
}

/// What came of it, as it is printed.
#[derive(Serialize)]
struct Compared {
    group: String,
    request: u64,
    epoch: u64,
    seq: u64,
    regions: u64,
    bytes: u64,
    differing: u64,
    skipped: u64,
    ranges: Vec<RangeShown>,
    /// Ranges that differ and are not in the list.
    more: u64,
    repaired: bool,
}

/// A range that differed.
#[derive(Serialize)]
struct RangeShown {
    disk: String,
    offset: u64,
    len: u64,
    epoch: u64,
    seq: u64,
    repaired: bool,
    /// The recovery points that hold it.
    points: Vec<String>,
}

/// Compares.
///
/// # Errors
/// When something differs (and was not repaired), could not be compared, or nothing comes.
pub fn run(wanted: &Wanted, out: Output) -> Result<()> {
    let dir = group_dir(&wanted.target, &wanted.group)?;
    refuse_in_vain(wanted, &dir)?;
    let request = block_on(resync::ask(&wanted.vault, &wanted.group, &Request::Digests))??;
    let run = wait_for_run(wanted, &dir, request, out)?;
    let mut known = Comparison::read(&dir)?;
    let mut repaired = false;
    if wanted.repair && known.open().next().is_some() {
        repair(wanted, &dir, &known, out)?;
        known = Comparison::read(&dir)?;
        repaired = true;
    }
    let shown = shown(wanted, &dir, &run, &known, repaired)?;
    out.print(&shown, text)?;
    let target = wanted.target.display();
    if run.counts.skipped > 0 {
        bail!(
            fail(format!(
                "{} regions of group {} could not be compared: a resync was in progress",
                run.counts.skipped, wanted.group
            ))
            .next("verify again once `farshore status` says that it has ended")
        );
    }
    let whole = disks_bytes(&dir)?;
    ensure!(
        run.counts.bytes >= whole,
        fail(format!(
            "only {} of {} of group {} could be compared: the source could not read the rest",
            show_bytes(run.counts.bytes),
            show_bytes(whole),
            wanted.group
        ))
        .next("look for errors of the source's disk in its log and in `farshore status`, then verify again")
    );
    let left = known.open().count() as u64 + known.more;
    ensure!(
        left == 0,
        fail(format!("{left} ranges of group {} differ from the source", wanted.group)).next(if known.more > 0 {
            format!("too many to copy one by one: farshore resync {} --full --vault {}", wanted.group, wanted.vault)
        } else {
            format!(
                "have them copied again: farshore verify --against-source {} --repair --vault {} --target {target}",
                wanted.group, wanted.vault
            )
        })
    );
    Ok(())
}

/// What could never be answered is not asked.
fn refuse_in_vain(wanted: &Wanted, dir: &GroupDir) -> Result<()> {
    if let Some(GroupState::Stopped { reason, .. }) = GroupStatus::read(dir)?.map(|status| status.state) {
        bail!(
            fail(format!("replay of group {} has stopped", wanted.group))
                .because(anyhow::anyhow!("{reason}"))
                .next("mend that first: nothing is compared while nothing is replayed")
        );
    }
    match dir.take_lock() {
        Err(farshore_processor::TargetError::Locked { .. }) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(_nobody_replays) => Err(fail(format!("no processor replays group {}", wanted.group))
            .next(format!("start one: farshore process --vault {} --target {}", wanted.vault, wanted.target.display()))
            .into()),
    }
}

fn bar(total: u64, what: &'static str, out: Output) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    if out.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// Looks at the report until `done` says what was waited for, and no longer than the patience without a change of it.
fn wait<T>(wanted: &Wanted, dir: &GroupDir, mut done: impl FnMut(&Comparison) -> Result<Option<T>>) -> Result<T> {
    let mut last: Option<(Comparison, u64)> = None;
    let mut changed = clock::mono();
    loop {
        let known = Comparison::read(dir)?;
        if let Some(found) = done(&known)? {
            return Ok(found);
        }
        // A resync moves the position only.
        let moved = ReplayPosition::read(&dir.position())?.map_or(0, |at| at.resync_applied);
        if last.as_ref() != Some(&(known.clone(), moved)) {
            changed = clock::mono();
            last = Some((known, moved));
        }
        if clock::mono().duration_since(changed) >= wanted.patience {
            let url = &wanted.vault;
            bail!(fail(format!("nothing came for {:?}", wanted.patience)).next(format!(
                "see whether source and target are at work: farshore status --vault {url} --target {}; what was asked stays asked",
                wanted.target.display()
            )));
        }
        clock::sleep(LOOK);
    }
}

fn wait_for_run(wanted: &Wanted, dir: &GroupDir, request: u64, out: Output) -> Result<Run> {
    let bar = bar(disks_bytes(dir)?, "comparing", out);
    let run = wait(wanted, dir, |known| {
        bar.set_position(known.running.bytes);
        Ok(known.last.filter(|run| run.request == request))
    });
    bar.finish_and_clear();
    run
}

fn disks_bytes(dir: &GroupDir) -> Result<u64> {
    let (Some(origin), Some(at)) = (Origin::read(dir)?, ReplayPosition::read(&dir.position())?) else { return Ok(0) };
    Ok(origin.disks_at(at.epoch).iter().map(|disk| disk.size_bytes).sum())
}

/// Asks for the ranges that differ, and waits until each was written again and nothing is under way any more.
fn repair(wanted: &Wanted, dir: &GroupDir, known: &Comparison, out: Output) -> Result<()> {
    let ranges = merged(known.open());
    for some in ranges.chunks(RANGES_MAX) {
        let request = Request::Resync { full: false, ranges: some.to_vec() };
        block_on(resync::ask(&wanted.vault, &wanted.group, &request))??;
    }
    let total = ranges.iter().map(|range| range.len).sum();
    let bar = bar(total, "copying again", out);
    let done = wait(wanted, dir, |known| {
        let left: u64 = known.open().flat_map(|m| &m.left).map(|range| range.len()).sum();
        bar.set_position(total.saturating_sub(left));
        let resync = ReplayPosition::read(&dir.position())?.is_some_and(|at| at.resync);
        Ok((left == 0 && !resync).then_some(()))
    });
    bar.finish_and_clear();
    done
}

/// The ranges to ask for, neighbours joined.
fn merged<'a>(open: impl Iterator<Item = &'a Mismatch>) -> Vec<DiskRange> {
    let mut all: Vec<_> = open.map(|m| (m.disk, m.range)).collect();
    all.sort_by_key(|(disk, range)| (*disk, range.start));
    let mut merged: Vec<DiskRange> = Vec::new();
    for (disk, range) in all {
        match merged.last_mut() {
            Some(last) if last.disk == disk && last.offset + last.len >= range.start => {
                last.len = last.len.max(range.end - last.offset);
            }
            _ => merged.push(DiskRange { disk, offset: range.start, len: range.len() }),
        }
    }
    merged
}

fn shown(wanted: &Wanted, dir: &GroupDir, run: &Run, known: &Comparison, repaired: bool) -> Result<Compared> {
    Ok(Compared {
        group: wanted.group.to_string(),
        request: run.request,
        epoch: run.position.epoch.0,
        seq: run.position.seq.0,
        regions: run.counts.regions,
        bytes: run.counts.bytes,
        differing: run.counts.differing,
        skipped: run.counts.skipped,
        ranges: ranges(dir, &wanted.group, known)?,
        more: known.more,
        repaired: repaired && known.open().next().is_none() && known.more == 0,
    })
}

fn ranges(dir: &GroupDir, group: &GroupName, known: &Comparison) -> Result<Vec<RangeShown>> {
    let Some(at) = ReplayPosition::read(&dir.position())? else { return Ok(Vec::new()) };
    let points = points::counting(&dir.points(), &at)?;
    let holds = suspects(&dir.undo(), group, &known.mismatches)?;
    let shown = known.mismatches.iter().zip(holds).map(|(mismatch, holds)| RangeShown {
        disk: disk_name(dir, &at, mismatch),
        offset: mismatch.range.start,
        len: mismatch.range.len(),
        epoch: mismatch.position.epoch.0,
        seq: mismatch.position.seq.0,
        repaired: mismatch.repaired_at.is_some(),
        points: points
            .iter()
            .filter(|point| holds.holds(point.undo_end))
            .map(|point| format!("{POINT_ID_PREFIX}{}", point.id))
            .collect(),
    });
    Ok(shown.collect())
}

/// Which of the positions with these `undo_end`s hold a range that differed, by their place in the list, with the story. Where
/// that cannot be read, it is the story of each: nobody is kept from a point by that.
#[must_use]
pub fn differing(dir: &GroupDir, group: &GroupName, undo_ends: &[u64]) -> Vec<(usize, String)> {
    known_to_differ(dir, group, undo_ends).unwrap_or_else(|e| {
        let story = format!("what differed from the source cannot be read: {e:#}");
        (0..undo_ends.len()).map(|place| (place, story.clone())).collect()
    })
}

fn known_to_differ(dir: &GroupDir, group: &GroupName, undo_ends: &[u64]) -> Result<Vec<(usize, String)>> {
    let known = Comparison::read(dir)?;
    if known.mismatches.is_empty() {
        return Ok(Vec::new());
    }
    let Some(at) = ReplayPosition::read(&dir.position())? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (mismatch, holds) in known.mismatches.iter().zip(suspects(&dir.undo(), group, &known.mismatches)?) {
        let (len, start, disk) = (mismatch.range.len(), mismatch.range.start, disk_name(dir, &at, mismatch));
        let story = format!("{len} bytes at {start} of disk {disk} differed from the source when they were compared");
        let holding = undo_ends.iter().enumerate().filter(|(_, undo_end)| holds.holds(**undo_end));
        found.extend(holding.map(|(place, _)| (place, story.clone())));
    }
    Ok(found)
}

fn disk_name(dir: &GroupDir, at: &ReplayPosition, mismatch: &Mismatch) -> String {
    let origin = Origin::read(dir).ok().flatten();
    let disks = origin.as_ref().map(|origin| origin.disks_at(at.epoch));
    let disk = disks.and_then(|disks| disks.get(usize::from(mismatch.disk.0)));
    disk.map_or_else(|| mismatch.disk.to_string(), |disk| disk.name.to_string())
}

fn text(compared: &Compared) -> String {
    let Compared { group, epoch, seq, regions, bytes, .. } = compared;
    let verdict = match (compared.differing, compared.repaired) {
        (0, _) => "it equals the source".to_owned(),
        (n, false) => format!("{n} regions DIFFER from the source"),
        (n, true) => format!("{n} regions differed from the source and were copied again"),
    };
    let mut text = format!("{group} at {epoch}:{seq}: {verdict}; {regions} regions, {} compared\n", show_bytes(*bytes));
    for range in &compared.ranges {
        let state = if range.repaired { "repaired" } else { "DIFFERS" };
        text.push_str(&format!(
            "  disk {}, {} bytes at {}: {state}, found at {}:{}; ",
            range.disk, range.len, range.offset, range.epoch, range.seq
        ));
        text.push_str(&match range.points.as_slice() {
            [] => "no recovery point holds it\n".to_owned(),
            points => format!("recovery points that hold it: {}\n", points.join(", ")),
        });
    }
    if compared.more > 0 {
        text.push_str(&format!("  and {} more, beyond the {MISMATCHES_MAX} that are kept\n", compared.more));
    }
    text
}

#[cfg(test)]
mod tests {
    use farshore_changelog::ids::{DiskIndex, Position};
    use farshore_changelog::units::ByteRange;

    use super::*;

    #[test]
    fn neighbours_are_asked_for_in_one_range() {
        let mismatch = |disk, start, end| {
            let range = ByteRange { start, end };
            let position = Position::default();
            Mismatch { disk: DiskIndex(disk), range, position, undo_end: 0, left: vec![range], repaired_at: None }
        };
        let all =
            [mismatch(1, 4096, 8192), mismatch(0, 8192, 9216), mismatch(0, 4096, 8192), mismatch(0, 20480, 20992)];
        let asked = |disk, offset, len| DiskRange { disk: DiskIndex(disk), offset, len };
        assert_eq!(merged(all.iter()), [asked(0, 4096, 5120), asked(0, 20480, 512), asked(1, 4096, 4096)]);
    }
}
