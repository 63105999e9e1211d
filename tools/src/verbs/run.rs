//! `farshore run`: the source agent of one group.

use std::path::PathBuf;

use anyhow::Result;

use crate::agent;
use crate::agent::look::Looker;
use crate::config::Config;
use crate::output::Output;
use crate::stop;
use crate::units::show_bytes;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source's configuration file.
    config: PathBuf,
    /// Serve, log and copy only, without a network and the vault's key: `farshore ship CONFIG`, a service of its own, ships.
    #[arg(long)]
    no_shipper: bool,
}

/// Serves, logs, ships and copies until told to stop.
///
/// # Errors
/// When the agent cannot start, or a disk's thread fails.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let stop = stop::on_signals()?;
    let mut config = Config::read(&args.config)?;
    if args.no_shipper {
        config.looker = Looker::Service;
    }
    agent::run(&config, &stop, |answers| {
        out.print(&answers.status(), |s| {
            let mut text =
                format!("group {} is served through {}, epoch {}, {}\n", s.group, s.engine, s.epoch, s.state);
            for disk in &s.disks {
                text.push_str(&format!("  {} ({}): {}\n", disk.name, show_bytes(disk.size_bytes), disk.uri));
            }
            text
        })
    })
}
