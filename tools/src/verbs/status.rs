//! `farshore status`: the state, position, lag and points of each group, as far as source, vault and target can say.

use std::path::PathBuf;

use anyhow::{Result, bail};
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_processor::position::ReplayPosition;
use farshore_processor::status::{GroupState, GroupStatus};
use farshore_processor::target::{self, GroupDir};
use farshore_vault::Vault;
use serde::Serialize;

use crate::agent::control::{self, AgentStatus, Ask, Reply};
use crate::config::Config;
use crate::failure::{Next, fail};
use crate::output::{Output, table};
use crate::paths;
use crate::units::{show_bytes, show_duration};
use crate::verbs::block_on;
use crate::verbs::points;

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
    /// Where the target is.
    target: Option<TargetRow>,
}

#[derive(Debug, Serialize)]
struct VaultRow {
    epoch: u64,
    opened_because: String,
    newest_segment: u64,
    segments: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TargetRow {
    /// Its processor's last word, or what the position says when there is none.
    #[serde(flatten)]
    state: Option<GroupState>,
    epoch: u64,
    seq: u64,
    segment: u64,
    time: String,
    /// Age of the newest recoverable state; none while there is none.
    lag_seconds: Option<f64>,
    /// Bytes in the vault that are not replayed yet.
    lag_bytes: Option<u64>,
    points: usize,
    oldest_point: Option<String>,
    newest_point: Option<String>,
    processor_seen: Option<String>,
    vault_problem: Option<String>,
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
    let vault = match &args.vault {
        None => None,
        Some(url) => {
            Some(block_on(Vault::open(url))?.what(format!("the vault {url} cannot be opened"), "check the URL")?)
        }
    };
    let mut rows = Vec::new();
    for group in groups(only.as_ref(), vault.as_ref(), args)? {
        rows.push(row(&group, config.as_ref(), only.is_some(), vault.as_ref(), args)?);
    }
    out.print(&rows, |rows| text(rows))
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
        all.extend(target::groups(dir)?);
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
    let at = match &args.target {
        Some(dir) => ReplayPosition::read(&GroupDir::new(dir, group).position())?,
        None => None,
    };
    let vault = match vault {
        Some(vault) => block_on(look(vault, group))??,
        None => None,
    };
    let target = match (&args.target, &at) {
        (Some(dir), Some(at)) => Some(target_row(&GroupDir::new(dir, group), at, vault.as_ref())?),
        _ => None,
    };
    Ok(GroupRow { group: group.to_string(), source, vault: vault.map(|(row, _)| row), target })
}

/// Number and bytes of the newest epoch's segments.
type Segments = Vec<(SegmentNo, u64)>;

async fn look(vault: &Vault, group: &GroupName) -> Result<Option<(VaultRow, (Epoch, Segments))>> {
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
    Ok(Some((row, (object.epoch, segments))))
}

fn target_row(dir: &GroupDir, at: &ReplayPosition, vault: Option<&(VaultRow, (Epoch, Segments))>) -> Result<TargetRow> {
    let said = GroupStatus::read(dir)?;
    let points = points::rows(dir)?;
    let behind = |(_, (epoch, segments)): &(VaultRow, (Epoch, Segments))| {
        let from = if *epoch == at.epoch { at.number } else { SegmentNo(0) };
        segments.iter().filter(|(number, _)| *number > from).map(|(_, bytes)| bytes).sum()
    };
    Ok(TargetRow {
        state: Some(said.as_ref().map_or_else(|| GroupState::going(Some(at), false), |s| s.state.clone())),
        epoch: at.epoch.0,
        seq: at.seq.0,
        segment: at.number.0,
        time: at.time.to_string(),
        lag_seconds: at.consistent.exists().then(|| clock::wall().since(at.consistent.time).as_secs_f64()),
        lag_bytes: vault.map(behind),
        points: points.len(),
        oldest_point: points.first().map(|p| p.time.clone()),
        newest_point: points.last().map(|p| p.time.clone()),
        processor_seen: said.as_ref().map(|s| s.updated.to_string()),
        vault_problem: said.and_then(|s| s.vault_problem),
    })
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
        let state = t.and_then(|t| t.state.as_ref()).map_or_else(dash, |s| match s {
            GroupState::InitialReplication => "initial replication".to_owned(),
            GroupState::Resync => "resync".to_owned(),
            GroupState::Overflow => "overflow".to_owned(),
            GroupState::Following => "following".to_owned(),
            GroupState::Idle => "idle".to_owned(),
            GroupState::Stopped { .. } => "STOPPED".to_owned(),
        });
        if let Some(GroupState::Stopped { reason, at, .. }) = t.and_then(|t| t.state.as_ref()) {
            below.push_str(&format!("\n{}: stopped at {at}: {reason}", row.group));
        }
        if let Some(problem) = t.and_then(|t| t.vault_problem.as_ref()) {
            below.push_str(&format!("\n{}: the vault cannot be read: {problem}", row.group));
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
            t.map_or_else(dash, |t| t.points.to_string()),
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
