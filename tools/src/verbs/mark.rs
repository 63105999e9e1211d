//! `farshore mark`: a named consistent position of a running group.

use anyhow::{Result, bail};

use crate::agent::control::{self, Ask, Reply};
use crate::config::Config;
use crate::output::Output;
use crate::paths;

/// Arguments of `mark`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group's name, or its configuration file.
    group: String,
    /// The mark's name, 1 to 128 bytes.
    #[arg(long)]
    name: String,
}

/// Puts the mark into the log.
///
/// # Errors
/// When no agent answers, or it refuses the name.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let (group, config) = Config::group_of(&args.group)?;
    let run_dir = config.map_or_else(paths::run_dir, |c| c.run_dir);
    match control::ask(&run_dir, &group, &Ask::Mark { name: args.name.clone() })? {
        Reply::Marked(marked) => out.print(&marked, |m| {
            format!(
                "mark {:?} at {}:{}; it becomes a recovery point once the target has replayed it",
                m.name, m.epoch, m.seq
            )
        }),
        Reply::Status(_) | Reply::Refused { .. } => {
            bail!("the agent of group {group} answered something else than was asked")
        }
    }
}
