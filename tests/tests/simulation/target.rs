//! The target host: the processor of one group, the shipped code, turn by turn.

use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::ids::GroupName;
use farshore_processor::fetch::{FETCHED_MAX, Fetcher, VaultIo};
use farshore_processor::group::{GroupTask, Turn};
use farshore_processor::replay::VaultName;
use farshore_processor::{ProcessorConfig, Stop};
use farshore_vault::Vault;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::source::paused_runtime;
use crate::time::Clock;

/// Pause after a turn that found the vault away: shorter than the shipped one, so that more happens.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// A turn that waited longer for the vault lets the others do no more than this meanwhile: worlds are short.
const WAIT_COUNTED: Duration = Duration::from_secs(1);

/// A running processor.
pub struct ProcessorProcess {
    task: GroupTask,
    runtime: Arc<Runtime>,
    began: tokio::time::Instant,
    pub due: Duration,
    poll: Duration,
}

impl ProcessorProcess {
    pub fn start(group: &GroupName, vault: &Vault, config: &ProcessorConfig, clock: &Clock) -> Self {
        let runtime = Arc::new(paused_runtime());
        let began = runtime.block_on(async { tokio::time::Instant::now() });
        let name = VaultName { url: vault.url().to_owned(), id: vault.id().to_owned() };
        let io = VaultIo::Here(Arc::clone(&runtime));
        let fetcher = Fetcher::new(vault.group(group), io, Arc::new(Semaphore::new(FETCHED_MAX)));
        let task = GroupTask::new(group.clone(), name, config.clone(), fetcher);
        Self { task, runtime, began, due: clock.now(), poll: config.poll }
    }

    /// One turn. What it waited for the vault is added to the time at which the next one is due.
    pub fn turn(&mut self, clock: &Clock) -> Turn {
        let before = self.elapsed();
        let turn = self.task.turn(&Stop::new());
        let took = self.elapsed() - before;
        let pause = match turn {
            Turn::More => Duration::from_micros(100),
            Turn::CaughtUp | Turn::MaybeGap => self.poll,
            Turn::VaultAway => AWAY_PAUSE,
            Turn::Stopped { again } => again,
        };
        self.due = clock.now() + took.min(WAIT_COUNTED) + pause;
        turn
    }

    fn elapsed(&self) -> Duration {
        self.runtime.block_on(async { tokio::time::Instant::now() }) - self.began
    }

    /// Why it has stopped.
    pub fn outcome(self) -> String {
        let outcome = self.task.outcome();
        outcome.error.map_or_else(String::new, |e| e.full_text())
    }
}
