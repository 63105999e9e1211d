//! The source agent: `farshore run`. It finds out what the last agent left, settles it, and starts capture, resync, shipper
//! and the control socket. It decides; capture and shipper do.
//!
//! - [`takeover`]: what to do about what is found at the start (pure)
//! - [`enable`]: the group's epoch, noted before anything else
//! - [`start`]: disks, ring, epoch, dirty maps: ready to be served
//! - [`serve`]: the lanes
//! - [`child`]: the shipper process
//! - [`control`]: the socket that `mark` and `status` ask
//! - [`answer`]: what it answers

pub mod answer;
mod child;
pub mod control;
pub mod enable;
pub mod serve;
pub mod start;
pub mod takeover;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Result;
use farshore_capture::tap::DiskState;
use farshore_changelog::{crashsafe, ring};
use farshore_shipper::SourceState;

use crate::config::Config;
use crate::stop;
use answer::Answers;
use child::ShipperChild;
use control::Control;
use start::Prepared;

/// Runs the agent until told to stop, then ends in order. `ready` is told once when the disks are served.
///
/// # Errors
/// When it cannot start, or a lane fails.
pub fn run(config: &Config, stop: &AtomicBool, ready: impl FnOnce(&Answers) -> Result<()>) -> Result<()> {
    let Prepared { lock: _lock, disks, maps, ring, epoch, skip_holes, story } = start::prepare(config)?;
    let control = Control::listen(&config.run_dir, &config.group)?;
    let how: Vec<String> =
        disks.iter().map(|d| d.buffered_because().map_or("direct I/O".into(), |w| format!("buffered: {w}"))).collect();
    let serving = serve::serve(config, &ring, disks, maps, skip_holes)?;
    let shipper_pid = Arc::new(AtomicU32::new(0));
    let answers = Answers::new(config, &ring, epoch, &serving, &shipper_pid);
    tracing::info!("group {} epoch {epoch}: {story}", config.group);
    for (disk, how) in config.disks.iter().zip(how) {
        tracing::info!(
            "disk {} ({}) on {} ({}, {how})",
            disk.name,
            disk.source.display(),
            disk.listen,
            serving.server.engine(0)
        );
    }
    // What ends last stops last: the control socket answers until the shipper has drained.
    let (stop_shipper, stop_control) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let supervisor = {
        let (path, stop, pid) = (config.path.clone(), Arc::clone(&stop_shipper), Arc::clone(&shipper_pid));
        std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            ShipperChild::new().supervise(&path, &stop, |id| pid.store(id, Ordering::Relaxed));
        })?
    };
    let control = {
        let answers = answers.clone();
        control::spawn(control, Arc::clone(&stop_control), move |ask| answers.answer(ask))?
    };
    let started = ready(&answers);
    let mut distrusted = false;
    if started.is_ok() {
        stop::wait_while(stop, || {
            distrusted = distrusted || distrust(config, &serving.states);
            serving.server.is_running()
        });
    }
    let served = serving.server.stop();
    stop_shipper.store(true, Ordering::Release);
    let _ = supervisor.join();
    stop_control.store(true, Ordering::Release);
    let _ = control.join();
    started?;
    served?;
    // Only what the vault has confirmed survives a reboot for certain: the ring does not, and the spool is the shipper's.
    if distrusted || distrust(config, &serving.states) {
        tracing::info!("group {}: stopped", config.group);
    } else if ring.confirmed_seq().next() >= ring.next_seq() {
        SourceState::new(&config.state_dir).update_epoch(|e| e.clean = true)?;
        tracing::info!("group {}: stopped, everything is in the vault", config.group);
    } else {
        tracing::info!(
            "group {}: stopped; the ring holds what the vault has not confirmed, the next start goes on there",
            config.group
        );
    }
    Ok(())
}

/// After a failed fdatasync the disk may lack what the log has, and after a failed write of a dirty map a lost region may be
/// forgotten. The ring's file is removed then, so that the next agent, however this one ends, copies every disk again. Gives
/// whether that is so.
fn distrust(config: &Config, states: &[Arc<DiskState>]) -> bool {
    let failed = states.iter().map(|disk| disk.read()).any(|disk| disk.sync_failed || disk.map_failed);
    if failed {
        tracing::error!(
            "group {}: a disk or its dirty map has failed; the next start copies every disk again",
            config.group
        );
        if let Err(e) = crashsafe::remove(&ring::path_in(&config.ring_dir, &config.group)) {
            tracing::error!("group {}: {e}", config.group);
        }
    }
    failed
}
