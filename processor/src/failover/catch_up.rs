//! Replay up to the cut: by the processor that runs, which is only watched, or here when nobody holds the group's lock.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_vault::Vault;

use super::{Cut, FailoverError, Progress, STALL_MAX, at};
use crate::error::{GroupError, ProcessorError, TargetError};
use crate::group::GroupOutcome;
use crate::position::ReplayPosition;
use crate::processor::{Processor, ProcessorConfig};
use crate::stop::Stop;
use crate::target::GroupDir;

/// How long a segment below the seal may be missing: nothing is under way to its place any more, and a VM waits.
const SEALED_GAP_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at the position.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the position has reached `cut`, and replays meanwhile unless another process does.
pub(super) async fn catch_up(
    vault: &Vault,
    target: &Path,
    dir: &GroupDir,
    group: &GroupName,
    cut: Cut,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), FailoverError> {
    let mut replay: Option<Here> = None;
    let mut last: Option<ReplayPosition> = None;
    let mut moved = clock::mono();
    loop {
        // Looked at before the position: what it did is seen then.
        let ended = replay.as_ref().is_some_and(Here::ended);
        let position = at(dir, group)?;
        if last.as_ref() != Some(&position) {
            progress(Progress::CatchingUp { position: position.position(), number: position.number, cut });
            moved = clock::mono();
        }
        if cut.reached(&position) {
            return Ok(()); // dropping it ends the replay here
        }
        let (place, stalled) = (position.position(), clock::mono().duration_since(moved) >= STALL_MAX);
        last = Some(position);
        if ended {
            replay.take().map_or(Ok(()), Here::outcome)?;
        }
        if stalled {
            return Err(FailoverError::Stalled { position: place, cut });
        }
        if replay.is_none() && nobody_replays(dir)? {
            replay = Some(Here::start(vault, target, group)?);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn nobody_replays(dir: &GroupDir) -> Result<bool, TargetError> {
    match dir.take_lock() {
        Ok(_free) => Ok(true),
        Err(TargetError::Locked { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Replay in this process, on a thread of its own; dropped, it ends after the batch it is at.
struct Here {
    stop: Stop,
    thread: Option<JoinHandle<Result<Option<GroupOutcome>, ProcessorError>>>,
}

impl Here {
    fn start(vault: &Vault, target: &Path, group: &GroupName) -> Result<Self, FailoverError> {
        let mut config = ProcessorConfig::new(vault.url(), target);
        // How long points are kept is for the processor to say, and this is not the hour to remove any.
        (config.retention, config.max_points) = (Duration::MAX, usize::MAX);
        config.gap_patience = SEALED_GAP_PATIENCE;
        let (stop, vault, group) = (Stop::new(), vault.clone(), group.clone());
        let asked = stop.clone();
        let work = move || Ok(Processor::open_vault(config, vault)?.run_once_for(&group, &asked));
        let thread = std::thread::Builder::new().name("failover-replay".to_owned()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What came of it, once it has ended. That it ended without an error does not mean that the cut is reached.
    fn outcome(mut self) -> Result<(), FailoverError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let outcome = match thread.join() {
            Ok(outcome) => outcome?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match outcome.and_then(|outcome| outcome.error) {
            // Another process was quicker: it is watched.
            None | Some(GroupError::Target(TargetError::Locked { .. })) => Ok(()),
            Some(e) => Err(FailoverError::Replay(e)),
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _result = thread.join();
        }
    }
}
