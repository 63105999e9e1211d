//! `farshore resync`: asks the source to copy its disks again. It is the way out of a log that cannot be followed.

use std::path::PathBuf;

use anyhow::Result;
use farshore_changelog::ids::GroupName;
use farshore_processor::status::{Cause, GroupState, GroupStatus};
use farshore_processor::target::GroupDir;
use farshore_vault::{Request, Vault};
use serde::Serialize;

use crate::config::Config;
use crate::failure::{Next, fail};
use crate::output::Output;
use crate::verbs::block_on;

/// Arguments of `resync`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group's name, or its configuration file.
    group: String,
    /// Copy everything in a new epoch, and not only what may differ.
    #[arg(long)]
    full: bool,
    /// The vault; needed unless a configuration file names it.
    #[arg(long, value_name = "URL")]
    vault: Option<String>,
    /// The target folder: where its replay cannot follow the log, everything is asked for.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
}

/// What was asked, as it is printed.
#[derive(Debug, Serialize)]
struct Asked {
    group: String,
    /// The request's number.
    request: u64,
    /// Everything is copied, in a new epoch.
    full: bool,
    /// Why everything is, although it was not asked for.
    full_because: Option<String>,
}

/// Asks the source.
///
/// # Errors
/// When the group is not in the vault, or the vault cannot be written.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let (group, config) = Config::group_of(&args.group)?;
    let url = args.vault.clone().or_else(|| config.map(|config| config.vault));
    let url = url.ok_or_else(|| {
        fail("no vault to ask through").next("give --vault URL, or the group's configuration file instead of its name")
    })?;
    let full_because = match &args.target {
        Some(dir) if !args.full => stuck(&GroupDir::new(dir, &group))?,
        _ => None,
    };
    let full = args.full || full_because.is_some();
    let request = block_on(ask(&url, &group, &Request::Resync { full, ranges: Vec::new() }))??;
    out.print(&Asked { group: group.to_string(), request, full, full_because }, text)
}

/// Puts a request, and gives its number.
///
/// # Errors
/// When the vault cannot be used, or has no such group.
pub async fn ask(url: &str, group: &GroupName, request: &Request) -> Result<u64> {
    let vault = Vault::open(url).await.what(format!("the vault {url} cannot be opened"), "check the URL")?;
    let in_vault = vault.group(group);
    if in_vault.get_epoch(farshore_changelog::ids::Epoch(1)).await?.is_none() {
        let next = format!("check the name; `farshore status --vault {url}` lists the groups");
        return Err(fail(format!("group {group} is not in the vault {url}")).next(next).into());
    }
    let put = in_vault.put_request(request).await;
    put.what("the source cannot be asked", "see the cause; check the rights on the vault")
}

/// Why the target cannot go on without everything, if that is so.
fn stuck(dir: &GroupDir) -> Result<Option<String>> {
    Ok(match GroupStatus::read(dir)?.map(|status| status.state) {
        Some(GroupState::Stopped { cause: Cause::Log | Cause::NoWayBack, reason, .. }) => Some(reason),
        _ => None,
    })
}

fn text(asked: &Asked) -> String {
    let what = if asked.full {
        "everything, in a new epoch. Until it is copied no new point is cut; the points that there are stay"
    } else {
        "what may differ"
    };
    let mut text = format!("request {} asks the source of group {} for {what}", asked.request, asked.group);
    if let Some(why) = &asked.full_because {
        text.push_str(&format!("\neverything, because the target cannot go on without: {why}"));
    }
    text.push_str(
        "\n`farshore status --vault URL --target DIR` shows how it goes; a source that is away does it when it is back",
    );
    text
}
