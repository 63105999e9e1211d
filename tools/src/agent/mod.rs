//! The source agent: `farshore run`. It finds out what the last agent left, settles it, and starts capture, resync, shipper
//! and the control socket. It decides; capture and shipper do.
//!
//! - [`takeover`]: what to do about what is found at the start (pure)
//! - [`enable`]: the group's epoch, noted before anything else
//! - [`start`]: disks, ring, epoch, dirty maps: ready to be served
//! - [`maps`]: their dirty maps; [`stamp`]: whether somebody else has written the disks meanwhile
//! - [`served`]: whether what is copied must be written back first; [`serve`]: the lanes
//! - [`child`]: the shipper process; where it is not the agent's, [`crate::service`] is asked for one
//! - [`look`]: what the agent has to know of the vault, through a process that may talk to it
//! - [`control`]: the socket that `mark` and `status` ask
//! - [`answer`]: what it answers; [`asked`]: what the target asks for through the vault

pub mod answer;
pub mod asked;
pub mod child;
pub mod control;
pub mod enable;
pub mod look;
pub mod maps;
pub mod pace;
pub mod serve;
mod served;
pub mod stamp;
pub mod start;
pub mod takeover;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use farshore_capture::disk::FileStamp;
use farshore_changelog::ring::{Ring, ShipperState};
use farshore_changelog::{crashsafe, ring};
use farshore_shipper::SourceState;

use crate::config::Config;
use crate::service::hold;
use crate::service::seen::ShipperSeen;
use crate::stop;
use answer::Answers;
use asked::{Asked, NextEpoch};
use child::ShipperChild;
use control::Control;
use look::Looker;
use start::Prepared;

/// Runs the agent until told to stop, then ends in order. `ready` is told once when the disks are served.
///
/// # Errors
/// When it cannot start, or a lane fails.
pub fn run(config: &Config, stop: &AtomicBool, ready: impl FnOnce(&Answers) -> Result<()>) -> Result<()> {
    let (mut ready, mut first_look) = (Some(ready), Duration::ZERO);
    loop {
        let told = |answers: &Answers| ready.take().map_or(Ok(()), |ready| ready(answers));
        let Some(next) = serve_group(config, stop, first_look, told)? else { return Ok(()) };
        // The exports pause as at a restart; the clients connect again. Whatever comes of it, the disks are served.
        first_look = match begin_next_epoch(config, next) {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::error!("group {}: the next epoch cannot be begun: {error:#}", config.group);
                asked::FAILED_RETRY_AFTER
            }
        };
    }
}

/// What was asked for is noted before it is begun and counts as done then: a process that starts anew finds the epoch.
fn begin_next_epoch(config: &Config, next: NextEpoch) -> Result<()> {
    if next.full {
        enable::enable(config, true)?;
    } else {
        served::leave(&config.state_dir, served::must_write_back(config)?)?;
        crashsafe::remove(&ring::path_in(&config.ring_dir, &config.group))?;
    }
    tracing::info!(group = %config.group, request = next.request, full = next.full, "the next epoch begins, as asked for");
    Ok(farshore_shipper::requests::set_done(&config.state_dir, next.request)?)
}

/// Serves the group until told to stop, or until its next epoch is asked for.
fn serve_group(
    config: &Config,
    stop: &AtomicBool,
    first_look: Duration,
    ready: impl FnOnce(&Answers) -> Result<()>,
) -> Result<Option<NextEpoch>> {
    let access = enable::access(config)?;
    let Prepared { lock: _lock, disks, maps, ring, epoch, mode, story } = start::prepare(config)?;
    let control = Control::listen(&config.run_dir, &config.group)?;
    let how: Vec<String> =
        disks.iter().map(|d| d.buffered_because().map_or("direct I/O".into(), |w| format!("buffered: {w}"))).collect();
    // The flock is held until everything is noted.
    let files: Vec<_> = disks.iter().map(|disk| Arc::clone(disk.file())).collect();
    let serving = serve::serve(config, access, &ring, disks, maps, mode)?;
    let seen = Arc::new(ShipperSeen::default());
    let answers = Answers::new(config, &ring, epoch, &serving, &seen);
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
    let discard = Arc::new(AtomicBool::new(false));
    let supervisor = {
        let (config, stop, discard) = (config.clone(), Arc::clone(&stop_shipper), Arc::clone(&discard));
        std::thread::Builder::new().name("supervisor".into()).spawn(move || match config.looker {
            Looker::Child | Looker::Here => {
                ShipperChild::default().supervise(&config.path, &stop, &discard, |pid| seen.by(pid));
            }
            Looker::Service => hold::supervise(&config, &stop, &discard, &seen),
        })?
    };
    let control = {
        let answers = answers.clone();
        control::spawn(control, Arc::clone(&stop_control), move |ask| answers.answer(ask))?
    };
    let started = ready(&answers);
    let mut asked = Asked::new(config, &ring, &serving, &answers, first_look);
    let mut next = None;
    if started.is_ok() {
        stop::wait_while(stop, || {
            next = asked.look().unwrap_or_else(|error| {
                tracing::warn!("group {}: a request of the target waits: {error:#}", config.group);
                None
            });
            next.is_none() && serving.server.is_running()
        });
    }
    drop(asked);
    let served = serving.server.stop();
    discard.store(next.is_some(), Ordering::Release);
    stop_shipper.store(true, Ordering::Release);
    let _ = supervisor.join();
    stop_control.store(true, Ordering::Release);
    let _ = control.join();
    started?;
    served?;
    if next.is_none() {
        end_in_order(config, &ring, &files)?;
    }
    Ok(next)
}

/// Notes how the group was left. Only what the vault has confirmed survives a reboot for certain: the ring does not, and the
/// spool is the shipper's. `files`: the disks, still locked.
///
/// # Errors
/// When a disk, its map or the note cannot be written: the stop is then not a clean one.
pub fn end_in_order(config: &Config, ring: &Ring, files: &[Arc<File>]) -> Result<()> {
    let group = &config.group;
    if ring.is_distrusted() {
        tracing::error!(
            "group {group}: stopped; a disk or its dirty map has failed, so the next start reads again what may differ"
        );
        return Ok(());
    }
    // What a fenced source wrote since is in no log.
    let fenced = ring.shipper_state() == ShipperState::Fenced;
    let all_confirmed = !fenced && ring.confirmed_seq().next() >= ring.next_seq();
    let mut lost = 0;
    if all_confirmed {
        // The kernel says so once: the next agent's fdatasync may succeed, and what it does not cover must not be believed.
        lost = maps::close(config, &ring.spec().disks, files).inspect_err(|_| ring.distrust())?;
    }
    let stamps = ring.spec().disks.iter().zip(files).filter_map(|(disk, file)| {
        let stamp = FileStamp::of(file).transpose()?;
        Some(stamp.map(|stamp| (disk.name.clone(), stamp)))
    });
    stamp::note(&config.state_dir, &stamps.collect::<std::io::Result<Vec<_>>>()?)?;
    if all_confirmed {
        SourceState::new(&config.state_dir).update_epoch(|e| e.clean = true)?;
        served::ended(&config.state_dir, lost > 0)?;
        tracing::info!("group {group}: stopped, everything is in the vault");
    } else {
        tracing::info!(
            "group {group}: stopped; the ring holds what the vault has not confirmed, the next start goes on there"
        );
    }
    Ok(())
}
