//! What is asked of a server, by fio.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// As fio names it.
    pub rw: &'static str,
    /// Bytes of a request, as fio takes them.
    pub block: &'static str,
    /// Requests in flight.
    pub depth: u32,
    /// Further words for fio.
    pub more: &'static [&'static str],
}

/// What every server is asked for in turn.
pub const LOADS: [Load; 5] = [
    Load { rw: "randwrite", block: "4k", depth: 32, more: &[] },
    Load { rw: "randwrite", block: "4k", depth: 1, more: &[] },
    Load { rw: "randread", block: "4k", depth: 32, more: &[] },
    Load { rw: "write", block: "64k", depth: 16, more: &[] },
    Load { rw: "write", block: "1M", depth: 8, more: &[] },
];

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} depth {}", self.rw, self.block, self.depth)
    }
}

/// Where the load goes.
pub enum Target {
    /// The file itself, through io_uring: what the disk can do.
    File(String),
    /// An export.
    Nbd(String),
}

/// What one round has measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Requests.
    pub per_second: f64,
    /// Their bytes.
    pub bytes_per_second: f64,
    /// Latency in microseconds at each percentile, from the request to its answer.
    pub latency_us: Vec<(f64, f64)>,
}

impl Measured {
    /// Latency at a percentile, in microseconds.
    #[must_use]
    pub fn at(&self, percentile: f64) -> f64 {
        self.latency_us.iter().find(|(p, _)| *p >= percentile).map_or(f64::NAN, |(_, us)| *us)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mb, p99) = (self.bytes_per_second / 1e6, self.at(99.0));
        write!(f, "{:.0}/s, {mb:.0} MB/s, 99 % within {p99:.0} us", self.per_second)
    }
}

/// Runs a load.
///
/// # Errors
/// When fio or the server fails.
pub fn run(target: &Target, load: &Load, seconds: u32) -> Result<Measured> {
    run_on(std::slice::from_ref(target), load, seconds)
}

/// Runs a load on several targets at once, each with its depth; measured is all of it together.
///
/// # Errors
/// When fio or a server fails.
pub fn run_on(targets: &[Target], load: &Load, seconds: u32) -> Result<Measured> {
    let mut fio = Command::new("fio");
    fio.args(["--output-format=json", "--name=global", "--time_based", "--group_reporting"]);
    fio.args(["--buffer_compress_percentage=50", "--percentile_list=1:10:25:50:75:90:95:99:99.5:99.9:99.99"]);
    for more in load.more {
        fio.arg(more);
    }
    fio.arg(format!("--runtime={seconds}")).arg(format!("--rw={}", load.rw));
    fio.arg(format!("--bs={}", load.block)).arg(format!("--iodepth={}", load.depth));
    for target in targets {
        fio.arg("--name=load");
        match target {
            Target::File(path) => fio.args(["--ioengine=io_uring", "--direct=1"]).arg(format!("--filename={path}")),
            Target::Nbd(uri) => fio.arg("--ioengine=nbd").arg(format!("--uri={uri}")),
        };
    }
    let done = fio.output().context("fio cannot be started: install it")?;
    ensure!(done.status.success(), "fio failed: {}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stdout);
    // Its nbd engine says something before the JSON.
    let json = said.split_once("\n{").map_or(said.to_string(), |(_, rest)| format!("{{{rest}"));
    let json: Value = serde_json::from_str(&json).with_context(|| format!("fio did not say JSON: {said}"))?;
    measured(&json["jobs"][0]).with_context(|| format!("fio said something else than expected: {json}"))
}

fn measured(job: &Value) -> Option<Measured> {
    let side = ["write", "read"].into_iter().map(|side| &job[side]).find(|side| side["io_bytes"].as_u64() > Some(0))?;
    let percentiles = side["clat_ns"]["percentile"].as_object()?;
    let mut latency_us: Vec<(f64, f64)> =
        percentiles.iter().filter_map(|(p, ns)| Some((p.parse().ok()?, ns.as_f64()? / 1e3))).collect();
    latency_us.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(Measured { per_second: side["iops"].as_f64()?, bytes_per_second: side["bw_bytes"].as_f64()?, latency_us })
}
