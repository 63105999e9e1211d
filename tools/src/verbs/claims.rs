//! `farshore release` and `farshore adopt`: which target follows a group.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_changelog::ids::GroupName;
use farshore_changelog::{clock, crashsafe};
use farshore_processor::claims::{Claimant, Owner, lock_soon};
use farshore_processor::target::GroupDir;
use farshore_vault::{GroupVault, Vault};
use serde::Serialize;

use crate::failure::{Next, fail};
use crate::output::Output;
use crate::stop::POLL;
use crate::verbs::block_on;

/// How long a processor may take to let the group go: a turn, and a batch that is being written.
const LET_GO_MAX: Duration = Duration::from_secs(60);

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// The group.
    group: GroupName,
    /// The vault.
    #[arg(long, value_name = "URL")]
    vault: String,
    /// The target folder that follows it.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
}

/// Arguments of `adopt`.
#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// The group.
    group: GroupName,
    /// The vault.
    #[arg(long, value_name = "URL")]
    vault: String,
    /// The target folder that is to follow it.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// The target that follows it now will not come back. If it does, it stops at its next retention, and its images are its own.
    #[arg(long)]
    owner_is_lost: bool,
}

#[derive(Serialize)]
struct Done {
    group: String,
    target: String,
}

/// Gives the group up at this target.
///
/// # Errors
/// When it is not this target's, or its processor does not let it go.
pub fn release(args: &ReleaseArgs, out: Output) -> Result<()> {
    let (claimant, group) = opened(&args.vault, &args.target, &args.group)?;
    let dir = GroupDir::new(&args.target, &args.group);
    crashsafe::create_dir_all(dir.root())?;
    let wish = dir.release_wish();
    // Held to the end: if this process dies, the processor goes on.
    let wished = lock_soon(&wish).context("the wish cannot be left for the processor; does another release run?")?;
    let released = let_go(&dir).and_then(|_lock| {
        let owner = block_on(claimant.release(&group))?.what("the group was not released", "see the cause")?;
        match owner {
            Some(Owner::Ours) => Ok(()),
            Some(other) => Err(not_ours(args, &other.to_string())),
            None => Err(not_ours(args, "nobody follows it")),
        }
    });
    // Released or not: from now on the claims decide.
    crashsafe::remove(&wish)?;
    drop(wished);
    released?;
    let done = Done { group: args.group.to_string(), target: args.target.display().to_string() };
    out.print(&done, |d| {
        format!(
            "group {} is not followed in {} any more; what lies there is as it was\nnext: farshore adopt {} --vault {} --target DIR, where it is to be \
             followed; its folder can be brought there first, so that nothing has to be replayed again",
            d.group, d.target, d.group, args.vault
        )
    })
}

/// Waits until no process replays the group here, and keeps it so while the lock lives.
fn let_go(dir: &GroupDir) -> Result<std::fs::File> {
    let until = clock::mono() + LET_GO_MAX;
    loop {
        match dir.take_lock() {
            Err(_) if clock::mono() < until => clock::sleep(POLL),
            Ok(lock) => return Ok(lock),
            Err(e) => {
                return Err(fail("the processor does not let the group go")
                    .because(e)
                    .next("is it stopped (SIGSTOP), or does a failover work on the group? It is asked again by the same command")
                    .into());
            }
        }
    }
}

fn not_ours(args: &ReleaseArgs, owner: &str) -> anyhow::Error {
    fail(format!("group {} is not followed in {}: {owner}", args.group, args.target.display()))
        .next("release it at the target that follows it")
        .into()
}

/// Has this target follow the group.
///
/// # Errors
/// When another target follows it.
pub fn adopt(args: &AdoptArgs, out: Output) -> Result<()> {
    let (claimant, group) = opened(&args.vault, &args.target, &args.group)?;
    let owner =
        block_on(claimant.adopt(&group, args.owner_is_lost))?.what("the group was not adopted", "see the cause")?;
    if owner != Owner::Ours {
        return Err(fail(format!("group {} was not adopted: {owner}", args.group))
            .next("release it there; if that target will never come back, say so with --owner-is-lost")
            .into());
    }
    let dir = GroupDir::new(&args.target, &args.group);
    crashsafe::create_dir_all(dir.root())?;
    crashsafe::replace(&dir.adopted(), b"")?;
    let done = Done { group: args.group.to_string(), target: args.target.display().to_string() };
    out.print(&done, |d| {
        format!(
            "group {} is followed in {} from now on; a processor that runs there begins within some seconds, else: farshore process --vault {} --target {}",
            d.group, d.target, args.vault, d.target
        )
    })
}

fn opened(url: &str, target: &Path, group: &GroupName) -> Result<(Claimant, GroupVault)> {
    let vault = block_on(Vault::open(url))?.what(format!("the vault {url} cannot be opened"), "check the URL")?;
    crashsafe::create_dir_all(target)?;
    // The limit is the processor's.
    let claimant = Claimant::open(target, usize::MAX).what("the target folder cannot be used", "check --target")?;
    Ok((claimant, vault.group(group)))
}
