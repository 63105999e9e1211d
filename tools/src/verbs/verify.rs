//! `farshore verify`: reads and re-hashes everything in a vault and under a target folder. Damage of an undo journal is noted beside
//! it; nothing else is changed.

pub mod against_source;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use farshore_changelog::ids::GroupName;
use farshore_processor::target;
use farshore_processor::verify::{Report, Severity, verify_target, verify_vault};
use farshore_vault::Vault;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use crate::failure::{Next, fail};
use crate::output::Output;
use crate::units::{parse_duration, show_bytes};
use crate::verbs::block_on;
use crate::verbs::verify::against_source::{PATIENCE, Wanted};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The vault to verify.
    #[arg(long, value_name = "URL")]
    vault: Option<String>,
    /// The target folder to verify.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Only these groups.
    groups: Vec<GroupName>,
    /// Compare the images of this group with its source, region by region, while both run. Needs --vault and --target.
    #[arg(long, value_name = "GROUP", conflicts_with = "groups")]
    against_source: Option<GroupName>,
    /// Have the ranges that differ copied again, and wait for that.
    #[arg(long, requires = "against_source")]
    repair: bool,
    /// How long nothing may come from the source [default: 10min].
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "against_source")]
    patience: Option<Duration>,
}

/// What one part of one group was found to be.
#[derive(Serialize)]
struct Verified {
    group: String,
    part: &'static str,
    sound: bool,
    objects: u64,
    bytes: u64,
    findings: Vec<FindingShown>,
    more_findings: u64,
}

#[derive(Serialize)]
struct FindingShown {
    at: String,
    damage: bool,
    what: String,
}

impl Verified {
    fn of(group: &GroupName, part: &'static str, report: Report) -> Self {
        Self {
            group: group.to_string(),
            part,
            sound: report.is_sound(),
            objects: report.objects,
            bytes: report.bytes,
            findings: report
                .findings
                .into_iter()
                .map(|f| FindingShown { at: f.at, damage: f.severity == Severity::Damage, what: f.what })
                .collect(),
            more_findings: report.more,
        }
    }
}

/// Verifies.
///
/// # Errors
/// When something is damaged (after everything was read and printed), or cannot be read at all.
pub fn run(args: &Args, out: Output) -> Result<()> {
    if let Some(group) = &args.against_source {
        let (Some(vault), Some(target)) = (args.vault.clone(), args.target.clone()) else {
            bail!(fail("what is to be compared with what?").next("give both --vault URL and --target DIR"));
        };
        let patience = args.patience.unwrap_or(PATIENCE);
        return against_source::run(
            &Wanted { group: group.clone(), vault, target, repair: args.repair, patience },
            out,
        );
    }
    if args.vault.is_none() && args.target.is_none() {
        bail!(fail("nothing to verify").next("give --vault URL, --target DIR, or both"));
    }
    let bar = ProgressBar::new_spinner();
    if out.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let mut all = Vec::new();
    let wanted = |group: &GroupName| args.groups.is_empty() || args.groups.contains(group);
    let show = |group: &GroupName, part: &str, report: &Report| {
        bar.set_message(format!("{group}, {part}: {} objects, {}", report.objects, show_bytes(report.bytes)));
        bar.tick();
    };
    if let Some(url) = &args.vault {
        block_on(async {
            let vault = Vault::open(url).await?;
            for group in vault.groups().await?.into_iter().filter(wanted) {
                let report = verify_vault(&vault.group(&group), &mut |r| show(&group, "vault", r)).await?;
                all.push(Verified::of(&group, "vault", report));
            }
            anyhow::Ok(())
        })?
        .what(format!("the vault {url} cannot be verified"), "check the URL and the rights on it")?;
    }
    if let Some(dir) = &args.target {
        for group in target::groups(dir)?.into_iter().filter(wanted) {
            let report = verify_target(dir, &group, &mut |r| show(&group, "target", r))?;
            all.push(Verified::of(&group, "target", report));
        }
    }
    bar.finish_and_clear();
    let missing = args.groups.iter().find(|g| !all.iter().any(|v| v.group == g.as_str()));
    if let Some(group) = missing {
        bail!(
            fail(format!("group {group} is neither in the vault nor under the target"))
                .next("`farshore status --vault URL --target DIR` lists the groups")
        );
    }
    out.print(&all, |all| text(all))?;
    let damaged: Vec<&str> = all.iter().filter(|v| !v.sound).map(|v| v.group.as_str()).collect();
    ensure!(
        damaged.is_empty(),
        fail(format!("damage was found in group {}", damaged.join(", ")))
            .next("nothing was changed; points before the damage are good, and `farshore export` saves them")
    );
    Ok(())
}

fn text(all: &[Verified]) -> String {
    let mut text = String::new();
    if all.is_empty() {
        text.push_str("there is no group to verify\n");
    }
    for v in all {
        let verdict = if v.sound { "sound" } else { "DAMAGED" };
        text.push_str(&format!(
            "{} ({}): {verdict}, {} objects, {} read\n",
            v.group,
            v.part,
            v.objects,
            show_bytes(v.bytes)
        ));
        for f in &v.findings {
            let mark = if f.damage { "damage" } else { "note" };
            text.push_str(&format!("  {mark}: {}: {}\n", f.at, f.what));
        }
        if v.more_findings > 0 {
            text.push_str(&format!("  and {} more\n", v.more_findings));
        }
    }
    text
}
