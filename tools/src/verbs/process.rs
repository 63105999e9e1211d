//! `farshore process`: the target site. Replays every group of a vault and keeps recovery points.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use farshore_changelog::hashes::check_unit_bytes;
use farshore_processor::gap::GAP_PATIENCE;
use farshore_processor::group::backlog::ALARM_BYTES;
use farshore_processor::hashes::UNIT_BYTES;
use farshore_processor::processor::{GROUPS_MAX, POINT_INTERVAL, POLL};
use farshore_processor::retention::{MAX_AGE, MAX_POINTS};
use farshore_processor::stop::Stop;
use farshore_processor::{Processor, ProcessorConfig};
use serde::Serialize;

use crate::failure::{Next, fail};
use crate::limits;
use crate::output::Output;
use crate::stop;
use crate::units::parse_duration;

/// Shortest time between two periodic points.
const POINT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Shortest time between two looks at the vault.
const POLL_MIN: Duration = Duration::from_millis(10);

/// Arguments of `process`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The vault to follow.
    #[arg(long, value_name = "URL")]
    vault: String,
    /// The target folder: images, undo journal and points of each group. It is created.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Catch up with what the vault holds now, then stop.
    #[arg(long)]
    once: bool,
    /// Groups to follow at most. Several processors, each with a target of its own, share the groups of a vault.
    #[arg(long, default_value_t = GROUPS_MAX)]
    max_groups: usize,
    /// Time between periodic recovery points [default: 5min].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    point_interval: Option<Duration>,
    /// How long points are kept [default: 24h].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    retention: Option<Duration>,
    /// How many periodic points are kept.
    #[arg(long, default_value_t = MAX_POINTS)]
    max_points: usize,
    /// Time between two looks for a new segment [default: 500ms].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    poll: Option<Duration>,
    /// How long a segment may be missing while later ones are there, before its group stops [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    gap_patience: Option<Duration>,
    /// How much of a group's log may wait in the vault, not replayed, before that is an alarm.
    #[arg(long, value_name = "SIZE", default_value_t = bytesize::ByteSize(ALARM_BYTES))]
    backlog_alarm: bytesize::ByteSize,
    /// Unit of the hashes of the images that spare a resync what the target has, a power of two from 64KiB to 64MiB.
    #[arg(long, value_name = "SIZE", default_value_t = bytesize::ByteSize(u64::from(UNIT_BYTES)))]
    hash_unit: bytesize::ByteSize,
}

/// What became of a group.
#[derive(Serialize)]
struct Outcome {
    group: String,
    good: bool,
    position: Option<String>,
    points: usize,
    error: Option<String>,
}

/// Replays until told to stop, or with `--once` until it has caught up.
///
/// # Errors
/// When vault or target cannot be used, or a group has stopped.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let signalled = stop::on_signals()?;
    limits::allow_open_files();
    let config = ProcessorConfig {
        point_interval: args.point_interval.unwrap_or(POINT_INTERVAL),
        retention: args.retention.unwrap_or(MAX_AGE),
        max_points: args.max_points,
        poll: args.poll.unwrap_or(POLL),
        gap_patience: args.gap_patience.unwrap_or(GAP_PATIENCE),
        backlog_alarm_bytes: args.backlog_alarm.as_u64(),
        hash_unit_bytes: u32::try_from(args.hash_unit.as_u64()).unwrap_or(u32::MAX),
        max_groups: args.max_groups,
        ..ProcessorConfig::new(args.vault.clone(), args.target.clone())
    };
    ensure!(config.point_interval >= POINT_INTERVAL_MIN, "--point-interval must be {POINT_INTERVAL_MIN:?} or more");
    ensure!(config.poll >= POLL_MIN, "--poll must be {POLL_MIN:?} or more");
    check_unit_bytes(config.hash_unit_bytes).map_err(|e| fail(format!("--hash-unit cannot be used: {e}")))?;
    ensure!(config.max_points > 0, "--max-points must be 1 or more");
    let processor = Processor::open(config).next(format!(
        "check --vault {} (a new one is made by `farshore init`) and --target {}",
        args.vault,
        args.target.display()
    ))?;
    let outcomes = if args.once {
        processor.run_once()?
    } else {
        let stop = Stop::new();
        std::thread::scope(|scope| {
            let watcher = stop.clone();
            scope.spawn(move || {
                stop::wait_while(&signalled, || true);
                watcher.request();
            });
            tracing::info!("following {} into {}", args.vault, args.target.display());
            processor.run(&stop)
        })
    };
    let shown: Vec<Outcome> = outcomes
        .iter()
        .map(|o| Outcome {
            group: o.group.to_string(),
            good: o.is_good(),
            position: o.status.position.map(|at| at.position.to_string()),
            points: o.status.points,
            error: o.error.as_ref().map(farshore_processor::GroupError::full_text),
        })
        .collect();
    out.print(&shown, |all| text(all))?;
    let stopped: Vec<String> =
        shown.iter().filter_map(|o| o.error.as_ref().map(|e| format!("group {}: {e}", o.group))).collect();
    if stopped.is_empty() {
        return Ok(());
    }
    Err(fail(format!("{} of {} groups stopped", stopped.len(), shown.len()))
        .because(anyhow::anyhow!("{}", stopped.join("; ")))
        .next(format!(
            "points before it are good (`farshore points GROUP --target {}`); `farshore verify` says what is damaged",
            args.target.display()
        ))
        .into())
}

fn text(all: &[Outcome]) -> String {
    if all.is_empty() {
        return "the vault holds no group that this target follows".to_owned();
    }
    let line = |o: &Outcome| {
        let at = o.position.as_deref().unwrap_or("nothing replayed");
        let state = if o.good { "good" } else { "STOPPED" };
        format!("{}: {state}, position {at}, {} points", o.group, o.points)
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}
