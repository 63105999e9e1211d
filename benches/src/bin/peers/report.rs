//! The figures: medians over the rounds, and ratios to the reference.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::servers::Server;
use farshore_benches::load::{LOADS, Load, Measured};
use farshore_benches::machine;
use farshore_benches::report::median;

/// What everybody is compared with.
pub const REFERENCE: Server = Server::QemuNbd;

/// All rounds.
pub struct Report {
    machine: String,
    how: String,
    rounds: Vec<(Load, Server, Measured)>,
}

impl Report {
    pub fn new(dir: &Path, rounds: u32, seconds: u32, disk_mib: u64) -> Self {
        let how = format!(
            "{rounds} interleaved rounds of {seconds} s for each load and server; disks of {disk_mib} MiB in one file system ({})",
            dir.display()
        );
        Self { machine: machine::description(), how, rounds: Vec::new() }
    }

    pub fn add(&mut self, load: &Load, server: Server, measured: Measured) {
        self.rounds.push((*load, server, measured));
    }

    /// The rounds of a load and a server.
    pub fn of(&self, load: &Load, server: Server) -> impl Iterator<Item = &Measured> {
        self.rounds.iter().filter(move |(l, s, _)| l == load && *s == server).map(|(_, _, measured)| measured)
    }

    /// Median over the rounds of something measured.
    pub fn median(&self, load: &Load, server: Server, what: impl Fn(&Measured) -> f64) -> f64 {
        median(self.of(load, server).map(what).collect())
    }

    /// Median over the rounds of a server's throughput divided by the reference's of the same round.
    pub fn ratio(&self, load: &Load, server: Server) -> f64 {
        let pairs = self.of(load, server).zip(self.of(load, REFERENCE));
        median(pairs.map(|(one, other)| one.per_second / other.per_second).collect())
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.machine, self.how);
        for load in &LOADS {
            text += &format!("\n**{load}**\n\n| server | requests/s | MB/s | × {REFERENCE} | median µs | 99 % µs |\n");
            text += "|---|--:|--:|--:|--:|--:|\n";
            for server in Server::ALL {
                text += &format!(
                    "| {server} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} |\n",
                    self.median(load, server, |m| m.per_second),
                    self.median(load, server, |m| m.bytes_per_second / 1e6),
                    self.ratio(load, server),
                    self.median(load, server, |m| m.at(50.0)),
                    self.median(load, server, |m| m.at(99.0)),
                );
            }
        }
        text
    }

    fn json(&self) -> Value {
        let loads = LOADS.iter().map(|load| {
            let servers = Server::ALL.into_iter().map(|server| {
                let rounds: Vec<&Measured> = self.of(load, server).collect();
                json!({
                    "server": server.name(),
                    "per_second": self.median(load, server, |m| m.per_second),
                    "ratio": self.ratio(load, server),
                    "rounds": rounds,
                })
            });
            json!({ "load": load.to_string(), "servers": servers.collect::<Vec<_>>() })
        });
        json!({
            "machine": self.machine,
            "how": self.how,
            "reference": REFERENCE.name(),
            "loads": loads.collect::<Vec<_>>(),
        })
    }

    /// Writes table and JSON.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("peers.md"), self.table())?;
        std::fs::write(dir.join("peers.json"), serde_json::to_vec_pretty(&self.json())?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut report = Report::new(Path::new("/"), 2, 1, 1);
        let measured = |per_second| Measured { per_second, bytes_per_second: 0.0, latency_us: vec![(50.0, 7.0)] };
        for (ours, theirs) in [(20.0, 10.0), (6.0, 2.0)] {
            report.add(&LOADS[0], Server::Drained, measured(ours));
            report.add(&LOADS[0], REFERENCE, measured(theirs));
        }
        assert!((report.ratio(&LOADS[0], Server::Drained) - 2.5).abs() < 1e-9);
        assert!((report.median(&LOADS[0], Server::Drained, |m| m.at(50.0)) - 7.0).abs() < 1e-9);
    }
}
