//! `farshore status`: the state, position, lag and points of each group, as far as source, vault and target can say. One that cannot
//! be asked keeps none of the others from being shown.

mod target;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_processor::group::backlog::{Waiting, waiting};
use farshore_processor::position::ReplayPosition;
use farshore_processor::target::{GroupDir, groups as groups_of};
use farshore_vault::Vault;
use serde::Serialize;

use crate::agent::control::{self, AgentStatus, Ask, MonthStatus, Reply};
use crate::config::Config;
use crate::costs::counted;
use crate::failure::{Next, fail};
use crate::output::{Output, table};
use crate::paths;
use crate::units::{show_bytes, show_duration};
use crate::verbs::block_on;
use target::TargetRow;

/// How long the vault may take to answer.
const VAULT_MAX: Duration = Duration::from_secs(20);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A group, or a source's configuration file: then the running agent is asked too.
    group: Option<String>,
    /// The vault.
    #[arg(long, value_name = "URL")]
    vault: Option<String>,
    /// The target folder.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
}

/// What is known of one group.
#[derive(Debug, Serialize)]
struct GroupRow {
    group: String,
    /// The running agent's word.
    source: Option<AgentStatus>,
    /// Newest in the vault.
    vault: Option<VaultRow>,
    /// Why the vault could not be asked.
    vault_problem: Option<String>,
    /// Where the target is.
    target: Option<TargetRow>,
    /// Why that cannot be said.
    target_problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct VaultRow {
    epoch: u64,
    opened_because: String,
    newest_segment: u64,
    segments: usize,
    bytes: u64,
}

/// Prints what is known.
///
/// # Errors
/// When nothing was asked for, or it cannot be read.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let (only, config) = match &args.group {
        Some(text) => Config::group_of(text).map(|(group, config)| (Some(group), config))?,
        None => (None, None),
    };
    if only.is_none() && args.vault.is_none() && args.target.is_none() {
        bail!(fail("nothing to look at").next("give a group or configuration file, --vault URL, or --target DIR"));
    }
    let (vault, problem) = match args.vault.as_ref().map(|url| open(url)).transpose()? {
        None => (None, None),
        Some(Ok(vault)) => (Some(vault), None),
        // On the day of the disaster it may be the vault that is gone.
        Some(Err(e)) if args.target.is_some() => (None, Some(format!("{e:#}"))),
        Some(Err(e)) => return Err(e),
    };
    let mut rows = Vec::new();
    for group in groups(only.as_ref(), vault.as_ref(), args)? {
        let mut row = row(&group, config.as_ref(), only.is_some(), vault.as_ref(), args)?;
        row.vault_problem = row.vault_problem.or_else(|| problem.clone());
        rows.push(row);
    }
    out.print(&rows, |rows| text(rows))
}

/// The vault, or why it cannot be opened.
fn open(url: &str) -> Result<Result<Vault>> {
    let opened = block_on(async { tokio::time::timeout(VAULT_MAX, Vault::open(url)).await })?;
    let what = || (format!("the vault {url} cannot be opened"), "check the URL, and that it can be reached");
    Ok(match opened {
        Ok(opened) => opened.what(what().0, what().1),
        Err(late) => Err(late).what(what().0, what().1),
    })
}

fn groups(only: Option<&GroupName>, vault: Option<&Vault>, args: &Args) -> Result<Vec<GroupName>> {
    if let Some(group) = only {
        return Ok(vec![group.clone()]);
    }
    let mut all = match vault {
        Some(vault) => block_on(vault.groups())??,
        None => Vec::new(),
    };
    if let Some(dir) = &args.target {
        all.extend(groups_of(dir)?);
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn row(
    group: &GroupName,
    config: Option<&Config>,
    asked: bool,
    vault: Option<&Vault>,
    args: &Args,
) -> Result<GroupRow> {
    let run_dir = config.map_or_else(paths::run_dir, |c| c.run_dir.clone());
    let source = match control::ask(&run_dir, group, &Ask::Status) {
        Ok(Reply::Status(status)) => Some(status),
        // Whoever asks for a group by its configuration wants to know that no agent answers.
        Err(e) if asked && vault.is_none() && args.target.is_none() => return Err(e),
        _ => None,
    };
    let dir = args.target.as_ref().map(|target| GroupDir::new(target, group));
    let at = dir.as_ref().and_then(|dir| ReplayPosition::read(&dir.position()).ok().flatten());
    let (looked, vault_problem) = match vault.map(|vault| block_on(look(vault, group, at.as_ref()))).transpose()? {
        None => (None, None),
        Some(Ok(looked)) => (looked, None),
        Some(Err(e)) => (None, Some(format!("{e:#}"))),
    };
    let (vault, waiting) = looked.map_or((None, None), |(row, waiting)| (Some(row), waiting));
    let target = dir.map(|dir| target::row(group.as_str(), &dir, waiting.as_ref()));
    let (target, target_problem) = match target {
        None => (None, None),
        Some(Ok(row)) => (row, None),
        // That of one group is damaged, and the others are still to be shown.
        Some(Err(e)) => (None, Some(format!("{e:#}"))),
    };
    Ok(GroupRow { group: group.to_string(), source, vault, vault_problem, target, target_problem })
}

async fn look(
    vault: &Vault,
    group: &GroupName,
    at: Option<&ReplayPosition>,
) -> Result<Option<(VaultRow, Option<Waiting>)>> {
    let group = vault.group(group);
    let Some((object, _)) = group.newest_epoch(Epoch(1)).await? else { return Ok(None) };
    let segments = group.list_segments(object.epoch, SegmentNo(1)).await?;
    let row = VaultRow {
        epoch: object.epoch.0,
        opened_because: serde_json::to_value(object.reason)?.as_str().unwrap_or_default().to_owned(),
        newest_segment: segments.last().map_or(0, |(number, _)| number.0),
        segments: segments.len(),
        bytes: segments.iter().map(|(_, bytes)| bytes).sum(),
    };
    let waiting = match at {
        Some(at) => Some(waiting(&group, at).await?),
        None => None,
    };
    Ok(Some((row, waiting)))
}

fn text(rows: &[GroupRow]) -> String {
    if rows.is_empty() {
        return "there is no group yet; `farshore run CONFIG` starts one".to_owned();
    }
    let mut table = table(["group", "source", "vault", "target", "position", "newest state", "behind", "points"]);
    let mut below = String::new();
    for row in rows {
        let dash = || "-".to_owned();
        let source = row.source.as_ref().map_or_else(dash, |s| format!("{} (shipper {})", s.state, s.shipper));
        let vault = row
            .vault
            .as_ref()
            .map_or_else(dash, |v| format!("epoch {}, {} segments, {}", v.epoch, v.segments, show_bytes(v.bytes)));
        let t = row.target.as_ref();
        let state = t.map_or_else(dash, |t| t.word().to_owned());
        below.extend(t.iter().flat_map(|t| t.lines()).map(|line| format!("\n{}: {line}", row.group)));
        if let Some(problem) = &row.target_problem {
            below.push_str(&format!("\n{}: the target cannot be read: {problem}", row.group));
        }
        if let Some(problem) = &row.vault_problem {
            below.push_str(&format!("\n{}: the vault cannot be asked: {problem}", row.group));
        }
        let age = t
            .and_then(|t| t.lag_seconds)
            .map_or_else(dash, |lag| format!("{} old", show_duration(std::time::Duration::from_secs_f64(lag))));
        table.add_row([
            row.group.clone(),
            source,
            vault,
            state,
            t.map_or_else(dash, |t| format!("{}:{}", t.epoch, t.seq)),
            age,
            t.and_then(|t| t.lag_bytes).map_or_else(dash, show_bytes),
            t.map_or_else(dash, |t| match t.unusable_points {
                0 => t.points.to_string(),
                unusable => format!("{} ({unusable} unusable)", t.points),
            }),
        ]);
        if let Some(s) = row.source.as_ref().filter(|s| s.resync_left_bytes > 0) {
            let left = s.resync_seconds_left.filter(|left| *left > 0).map_or_else(String::new, |left| {
                format!(", {} left", show_duration(std::time::Duration::from_secs(left)))
            });
            below.push_str(&format!(
                "\n{}: {} to copy at {}/s{left}",
                row.group,
                show_bytes(s.resync_left_bytes),
                show_bytes(s.resync_bytes_per_second)
            ));
        }
        let month = row.source.as_ref().and_then(|s| s.month.as_deref());
        below.extend(month.and_then(month_line).map(|line| format!("\n{}: {line}", row.group)));
        if row.source.as_ref().is_some_and(|s| s.state == "fenced") {
            below.push_str(&format!(
                "\n{}: another site has the group; `farshore inspect --loss CONFIG` lists what it did not get",
                row.group
            ));
        }
        for disk in row.source.iter().flat_map(|s| &s.disks).filter(|d| d.lost_bytes > 0) {
            below.push_str(&format!(
                "\n{}: disk {}: {} to copy or to be confirmed",
                row.group,
                disk.name,
                show_bytes(disk.lost_bytes)
            ));
        }
    }
    format!("{table}{below}")
}

/// What a group's requests come to, where they are paid for.
fn month_line(month: &MonthStatus) -> Option<String> {
    let prices = month.prices.as_ref()?;
    Some(format!(
        "requests ${:.2} a month by the source and ${:.2} by one target ({} PUT, {} GET; {prices}, at the pace of the last {})",
        month.source_dollars,
        month.target_dollars,
        counted(month.puts),
        counted(month.gets),
        show_duration(Duration::from_secs_f64(month.over_seconds))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_cost_is_said_where_they_cost() {
        let month = MonthStatus {
            over_seconds: 7200.0,
            puts: 2_592_000.0,
            gets: 8_290_000.0,
            lists: 4320.0,
            deletes: 2_592_000.0,
            prices: Some("S3 Standard".to_owned()),
            source_dollars: 13.17,
            target_dollars: 3.13,
        };
        assert_eq!(
            month_line(&month).unwrap(),
            "requests $13.17 a month by the source and $3.13 by one target (2.59 M PUT, 8.29 M GET; S3 Standard, at the pace of the last 2 h 0 min)"
        );
        assert_eq!(month_line(&MonthStatus { prices: None, ..month }), None);
    }
}
