//! `farshore estimate`: what groups would ask of a store in a month and what that costs, before there is any; and how `max_delay` trades
//! requests against the age of what is lost with the source.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use farshore_processor::processor::{GROUPS_MAX as IN_A_VAULT, POLL};
use farshore_shipper::config::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use serde::Serialize;

use crate::config::{HEARTBEAT, MAX_DELAY, SEGMENT_BYTES, check_max_delay};
use crate::costs::{AZURE, S3, Use, counted};
use crate::estimate::{Month, Writes, months};
use crate::failure::{Next, fail};
use crate::output::{Output, table};
use crate::trace::Trace;
use crate::units::{BytesPerSecond, parse_duration, show_bytes, show_duration};

/// Most groups: those of a vault.
const GROUPS_MAX: u64 = IN_A_VAULT as u64;

/// Arguments of `estimate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What a group writes, at an even pace, such as "10 MB/s"; "0 B/s" is an idle one.
    #[arg(long, value_name = "RATE", conflicts_with = "trace", required_unless_present = "trace")]
    churn: Option<BytesPerSecond>,
    /// A trace of what a group writes, as fio's `write_iolog` leaves it (version 2 or 3).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How long the trace took, where it has no times of its own.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "trace")]
    took: Option<Duration>,
    /// The groups, each of which writes like that.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    groups: u64,
    /// `max_delay` of their configurations [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_delay: Option<Duration>,
    /// `segment_size` of their configurations [default: 8MiB].
    #[arg(long, value_name = "SIZE")]
    segment_size: Option<ByteSize>,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Estimate {
    groups: u64,
    /// Of one group.
    churn_bytes_per_second: f64,
    months: Vec<Month>,
}

/// Prints the months.
///
/// # Errors
/// When an argument cannot be, or the trace is none.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let max_delay = args.max_delay.unwrap_or(MAX_DELAY);
    let segment_bytes = args.segment_size.map_or(SEGMENT_BYTES, |size| size.as_u64());
    ensure!(
        (1..=GROUPS_MAX).contains(&args.groups),
        fail(format!("{} groups cannot be in one vault", args.groups)).next(format!("give 1 to {GROUPS_MAX}"))
    );
    check_max_delay(max_delay).next("give another --max-delay")?;
    ensure!(
        (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes),
        fail(format!("a segment cannot be of {}", show_bytes(segment_bytes))).next(format!(
            "give {} to {}",
            show_bytes(SEGMENT_BYTES_MIN),
            show_bytes(SEGMENT_BYTES_MAX)
        ))
    );
    let trace = args.trace.as_ref().map(|path| read(path, args.took)).transpose()?;
    let churn = match (&trace, args.churn) {
        (Some(trace), _) => trace.churn(),
        (None, churn) => churn.map_or(0.0, |churn| churn.0 as f64),
    };
    let how = Use { churn, segment_bytes, max_delay, heartbeat: HEARTBEAT, poll: POLL };
    let writes = trace.as_ref().map_or(Writes::Evenly, Writes::As);
    let months = months(writes, &how, args.groups);
    out.print(&Estimate { groups: args.groups, churn_bytes_per_second: churn, months }, text)
}

fn read(path: &PathBuf, took: Option<Duration>) -> Result<Trace> {
    let what = || format!("{} cannot be used as a trace", path.display());
    let file = File::open(path).what(what(), "give a file that fio wrote with --write_iolog")?;
    Trace::read(BufReader::new(file), took).what(
        what(),
        "give a file that fio wrote with --write_iolog, and with --took how long that was if it has no times",
    )
}

fn text(of: &Estimate) -> String {
    let mut table = table(["", "max_delay", "a write waits", "PUT", "GET", "LIST", "DELETE", S3.name, AZURE.name]);
    for month in &of.months {
        table.add_row([
            if month.asked_for { "*" } else { "" }.to_owned(),
            show_duration(Duration::from_secs_f64(month.max_delay_seconds)),
            show_duration(Duration::from_secs_f64(month.waits_seconds)),
            counted(month.puts),
            counted(month.gets),
            counted(month.lists),
            counted(month.deletes),
            format!("${:.2}", month.s3),
            format!("${:.2}", month.azure),
        ]);
    }
    let groups = if of.groups == 1 { "group" } else { "groups" };
    format!(
        "a month of {} {groups}, each with {:.2} MB/s, and one target; * is what was asked for\n\n{table}\n\n\
         A write that waits, and one whose segment is being uploaded, is lost if the source never comes back. Requests only, at list prices: \
         docs/costs.md says what is stored and read.",
        of.groups,
        of.churn_bytes_per_second / 1e6
    )
}
