//! `farshore ship`: the shipper's service of a group; and the child processes that ship, or look at the vault, for it or for an agent
//! that has none.

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
use crate::service::serve;
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
    /// Ship, and end when standard input ends (how a child learns that its agent or service was killed).
    #[arg(long, hide = true)]
    child: bool,
    /// Answer a question about the vault and end.
    #[arg(long, hide = true, value_name = "QUESTION", conflicts_with = "child")]
    look: Option<String>,
}

/// Ships, as its agent asks, until told to stop, then drains.
///
/// # Errors
/// When the ring or the vault cannot be used, or another shipper or service of the group runs.
pub fn run(args: &Args) -> Result<()> {
    if let Some(question) = &args.look {
        let answer = look::answer(&Config::read(&args.config)?, serde_json::from_str(question)?)?;
        return Output { json: true }.print(&answer, |_| String::new());
    }
    if !args.child {
        let stop = stop::on_signals()?;
        return serve::run(&Config::read(&args.config)?, &stop);
    }
    let stop = stop::on_terminate()?;
    let config = Config::read(&args.config)?;
    stop_at_end_of_input(Arc::clone(&stop))?;
    wait_for_predecessor(&config, &stop)?;
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
