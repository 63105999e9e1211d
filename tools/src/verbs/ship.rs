//! `farshore ship`: the shipper of a group whose agent runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use farshore_changelog::clock;
use farshore_shipper::Shipper;

use crate::agent::look;
use crate::config::Config;
use crate::failure::Next;
use crate::output::Output;
use crate::stop;

/// How long the shipper of a killed agent is waited for: longer than it drains.
const PREDECESSOR_MAX: Duration = Duration::from_secs(30);

/// How much the shipper yields to others (`nice`).
const NICE: i32 = 5;

/// Arguments of `ship`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source's configuration file.
    config: PathBuf,
    /// End when standard input ends (how the agent's child learns that its agent was killed).
    #[arg(long, hide = true)]
    child: bool,
    /// Answer a question about the vault and end (what the agent learns of it).
    #[arg(long, hide = true, value_name = "QUESTION", conflicts_with = "child")]
    look: Option<String>,
}

/// Ships until told to stop, then drains.
///
/// # Errors
/// When the ring or the vault cannot be used, or another shipper of the group runs.
pub fn run(args: &Args) -> Result<()> {
    if let Some(question) = &args.look {
        let answer = look::answer(&Config::read(&args.config)?, serde_json::from_str(question)?)?;
        return Output { json: true }.print(&answer, |_| String::new());
    }
    let stop = if args.child { stop::on_terminate()? } else { stop::on_signals()? };
    let config = Config::read(&args.config)?;
    if args.child {
        stop_at_end_of_input(Arc::clone(&stop))?;
    }
    if args.child {
        wait_for_predecessor(&config, &stop)?;
    }
    // Before any thread that works is started: it inherits this. Under pressure the guests' disks come first, and the recovery point waits.
    if let Err(e) = rustix::process::nice(NICE) {
        tracing::warn!("the shipper competes with the guests for the processor: {e}");
    }
    let shipper = Shipper::open(config.shipper())
        .next(format!("`farshore status {}` shows the group's state", config.path.display()))?;
    Ok(shipper.run(&stop)?)
}

/// The shipper of an agent that was killed drains before it ends; this one goes on then.
fn wait_for_predecessor(config: &Config, stop: &AtomicBool) -> Result<()> {
    let until = clock::mono() + PREDECESSOR_MAX;
    while farshore_shipper::is_running(&config.state_dir)? && clock::mono() < until && !stop.load(Ordering::Acquire) {
        clock::sleep(stop::POLL);
    }
    Ok(())
}

fn stop_at_end_of_input(stop: Arc<AtomicBool>) -> Result<()> {
    std::thread::Builder::new().name("parent".into()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.store(true, Ordering::Release);
    })?;
    Ok(())
}
