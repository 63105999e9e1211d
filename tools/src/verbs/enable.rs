//! `farshore enable`: checks a configuration and registers its group, without starting to capture.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::agent::enable::{Enabled, enable};
use crate::config::Config;
use crate::output::Output;

/// Arguments of `enable`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source's configuration file.
    config: PathBuf,
    /// Take over a group that is in the vault although this machine has no state of it (a new machine, a lost state folder) or
    /// has other disks than before: the next epoch begins, and every disk is copied again.
    #[arg(long)]
    adopt: bool,
}

#[derive(Serialize)]
struct Printed {
    group: String,
    epoch: u64,
    new: bool,
}

/// Registers the group.
///
/// # Errors
/// When the vault cannot be reached, a disk cannot be used, or the group is another's.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let config = Config::read(&args.config)?;
    let Enabled { epoch, new } = enable(&config, args.adopt)?;
    let printed = Printed { group: config.group.to_string(), epoch: epoch.0, new };
    out.print(&printed, |p| {
        let state = if p.new { "is ready" } else { "was enabled already" };
        format!("group {} {state}, epoch {}\nnext: farshore run {}", p.group, p.epoch, config.path.display())
    })
}
