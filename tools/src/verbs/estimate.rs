//! `farshore estimate`: requests of a month and what they cost, from how much a group writes. Asks nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use serde::Serialize;

use crate::costs::{AZURE, Requests, S3, Use, of_vault};
use crate::output::{Output, table};
use crate::units::{parse_duration, show_duration};

/// Delays that are set beside the one that was asked for, in seconds.
const DELAYS: [u64; 5] = [1, 5, 15, 60, 300];
/// Groups that a vault may have.
const GROUPS_MAX: u64 = 10_000;
/// Longest `max_delay`, as in a configuration.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// Arguments of `estimate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bytes that a group writes a second, such as "10 MB/s"; 0 is an idle one.
    #[arg(long, value_name = "RATE", value_parser = parse_churn)]
    churn: u64,
    /// `max_delay` of its configuration.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    max_delay: Duration,
    /// How many such groups.
    #[arg(long, default_value_t = 1)]
    groups: u64,
}

/// A month of all groups.
#[derive(Debug, Serialize)]
struct Row {
    max_delay_seconds: f64,
    /// How old the newest state at the vault may be, besides the time of the upload: what is lost with the source.
    rpo_seconds: f64,
    puts: f64,
    gets: f64,
    lists: f64,
    deletes: f64,
    s3_dollars: f64,
    azure_dollars: f64,
    /// The one that was asked for.
    asked: bool,
}

/// Reads `10 MB/s`.
fn parse_churn(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").unwrap_or(text).trim();
    bytes
        .parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|e| format!("{text:?} is no rate such as \"10 MB/s\" ({e})"))
}

/// Prints the estimate.
///
/// # Errors
/// When a value cannot be.
pub fn run(args: &Args, out: Output) -> Result<()> {
    ensure!((1..=GROUPS_MAX).contains(&args.groups), "a vault has 1 to {GROUPS_MAX} groups, not {}", args.groups);
    let delays = Duration::from_millis(10)..=DELAY_MAX;
    ensure!(delays.contains(&args.max_delay), "max_delay lies between 10ms and 1h, not {:?}", args.max_delay);
    out.print(&rows(args.churn, args.max_delay, args.groups), |rows| text(rows))
}

fn rows(churn: u64, asked: Duration, groups: u64) -> Vec<Row> {
    let mut delays: Vec<_> = DELAYS.map(Duration::from_secs).into_iter().chain([asked]).collect();
    delays.sort();
    delays.dedup();
    delays.into_iter().map(|max_delay| row(churn, max_delay, groups, max_delay == asked)).collect()
}

fn row(churn: u64, max_delay: Duration, groups: u64, asked: bool) -> Row {
    let used = Use { max_delay, ..Use::usual(churn as f64) };
    let one = used.source().and(used.target());
    let all = (0..groups).fold(of_vault(groups), |all, _| all.and(one)).a_month();
    let Requests { puts, gets, lists, deletes } = all;
    Row {
        max_delay_seconds: max_delay.as_secs_f64(),
        rpo_seconds: 1.0 / used.segments(),
        puts,
        gets,
        lists,
        deletes,
        s3_dollars: S3.of(all),
        azure_dollars: AZURE.of(all),
        asked,
    }
}

fn text(rows: &[Row]) -> String {
    let mut table = table(["max_delay", "lost at most", "PUT", "GET", "LIST", "DELETE", S3.name, AZURE.name]);
    let count = |n: f64| format!("{:.1} k", n / 1e3);
    for row in rows {
        let mark = if row.asked { " *" } else { "" };
        table.add_row([
            format!("{}{mark}", show_duration(Duration::from_secs_f64(row.max_delay_seconds))),
            show_duration(Duration::from_secs_f64(row.rpo_seconds)),
            count(row.puts),
            count(row.gets),
            count(row.lists),
            count(row.deletes),
            format!("${:.2}", row.s3_dollars),
            format!("${:.2}", row.azure_dollars),
        ]);
    }
    format!(
        "{table}\na month of requests at list prices, one target (*: asked for); what is stored and read comes on top (docs/costs.md). Beside \"lost at most\" there is the time of an upload"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(parse_churn("10 MB/s"), Ok(10_000_000));
        assert_eq!((parse_churn("1MiB"), parse_churn("0")), (Ok(1 << 20), Ok(0)));
        assert!(parse_churn("fast").unwrap_err().contains("fast"));
    }

    #[test]
    fn a_longer_delay_costs_less_and_loses_more_until_segments_are_full() {
        let rows = rows(1_000_000, Duration::from_secs(2), 1);
        assert_eq!(rows.iter().filter(|row| row.asked).map(|row| row.max_delay_seconds).collect::<Vec<_>>(), [2.0]);
        assert!(
            rows.windows(2)
                .all(|two| two[1].s3_dollars <= two[0].s3_dollars && two[1].rpo_seconds >= two[0].rpo_seconds)
        );
        let (one, full) = (&rows[0], rows.last().unwrap());
        assert!(one.rpo_seconds == 1.0 && (full.rpo_seconds - 8.388608).abs() < 1e-6, "8 MiB at 1 MB/s");
        // docs/costs.md has them for one group without the vault's own listings.
        assert!((one.s3_dollars - 16.30 - 0.43).abs() < 0.01, "{}", one.s3_dollars);
    }
}
