//! One world: a source host, a store, a target host, their guests, and one thread that lets each of them do its next step.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use farshore::config::Config;
use farshore_changelog::ids::{Epoch, GroupName, Seq};
use farshore_changelog::{clock, medium};
use farshore_processor::ProcessorConfig;
use farshore_processor::group::Turn;
use farshore_vault::Vault;

use crate::guest::Guests;
use crate::history::History;
use crate::kernel::{SimKernel, drop_as_dead};
use crate::making::{make_disks, vaults, write_config};
use crate::medium::{Died, Process, SimMedium};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::source::{Agent, Going, ShipperProcess};
use crate::store::{Side, SimStore};
use crate::target::ProcessorProcess;
use crate::time::Clock;
use crate::trace::Trace;

/// The longest step when nothing is due.
const IDLE: Duration = Duration::from_millis(500);
/// Steps of a world at most: one that goes on for ever has a fault.
const STEPS_MAX: u64 = 3_000_000;

/// What went wrong in a world.
pub type Wrong = String;

/// What comes later: mostly, something is put right again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    Network(Side),
    Storage,
    Disks,
    /// Nothing is put right: the source's power fails.
    PowerFails,
}

/// A world that runs.
pub struct World {
    pub plan: Plan,
    pub clock: Rc<Clock>,
    pub trace: Trace,
    pub medium: Rc<SimMedium>,
    pub kernel: Rc<SimKernel>,
    pub store: Arc<SimStore>,
    pub group: GroupName,
    pub config: Config,
    pub processor_config: ProcessorConfig,
    pub source_vault: Vault,
    pub target_vault: Vault,
    pub history: History,
    pub oracle: Oracle,
    pub guests: Guests,
    pub agent: Option<Agent>,
    pub shipper: Option<ShipperProcess>,
    pub processor: Option<ProcessorProcess>,
    pub agent_starts: Option<Duration>,
    pub shipper_starts: Option<Duration>,
    pub processor_starts: Option<Duration>,
    pub rng: Rng,
    pub next_incident: Duration,
    pub later: Vec<(Duration, Later)>,
    pub marks: u64,
    pub steps: u64,
    /// Overflows that were seen.
    pub overflows: u64,
    /// Starts in a row that failed, and why the last did.
    pub failed_starts: (u32, String),
    /// Why the processor stopped the last time.
    pub stopped_because: Option<String>,
    pub caught_up: bool,
    /// What the agent counted as stored when it was looked at last.
    pub confirmed: (Epoch, Seq),
    /// A spoiled store: the processor has to stop.
    pub may_stop: bool,
    _time: clock::Simulation,
    _medium: medium::Simulation,
    dir: tempfile::TempDir,
}

impl World {
    /// The world of a seed, before anything has happened.
    pub fn new(seed: u64) -> Self {
        let plan = Plan::new(seed);
        let dir = tempfile::Builder::new().prefix("farshore-sim-").tempdir_in("/dev/shm").expect("/dev/shm is there");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        for folder in [&source, &target, &dir.path().join("shm"), &dir.path().join("vault")] {
            std::fs::create_dir(folder).expect("a folder can be made");
        }
        let (clock, trace) = (Rc::new(Clock::new(seed)), Trace::new());
        let medium = SimMedium::new(seed, Rc::clone(&clock), trace.clone(), &source, &target);
        let medium = Rc::new(medium.expect("folders can be made"));
        let kernel = Rc::new(SimKernel::new(seed, Rc::clone(&clock), trace.clone(), Rc::clone(&medium)));
        let goes_on = Rc::clone(&kernel);
        clock.while_sleeping(move || goes_on.go_on());
        let time = clock::simulate(Rc::clone(&clock) as Rc<dyn clock::Time>);
        let simulated = medium::simulate(Rc::clone(&medium) as Rc<dyn medium::Medium>);

        let store = SimStore::new(seed);
        let (source_vault, target_vault) = vaults(&store, &dir.path().join("vault"));
        store.set_least_privilege(plan.least_privilege);
        let mut rng = Rng::new(seed, 8);
        let disks = make_disks(&plan, &source, &mut rng);
        let config = write_config(&plan, dir.path());
        let group = config.group.clone();
        let mut processor_config = ProcessorConfig::new(target_vault.url(), &target);
        processor_config.point_interval = plan.point_interval;
        processor_config.poll = Duration::from_millis(rng.pick(&[20, 100, 500]));
        processor_config.retention = Duration::MAX;
        processor_config.max_points = plan.keeps.unwrap_or(usize::MAX);
        let named: Vec<_> = plan.disk_bytes.iter().enumerate().map(|(n, bytes)| (format!("vd{n}"), *bytes)).collect();
        Self {
            history: History::new(&disks),
            oracle: Oracle::new(seed, &group, &target, &named, &store),
            guests: Guests::new(seed, &plan),
            agent: None,
            shipper: None,
            processor: None,
            agent_starts: Some(Duration::ZERO),
            shipper_starts: None,
            processor_starts: Some(Duration::ZERO),
            next_incident: rng.micros(200_000, 2 * plan.incident_every.as_micros() as u64 + 200_000),
            rng,
            later: Vec::new(),
            marks: 0,
            steps: 0,
            overflows: 0,
            failed_starts: (0, String::new()),
            stopped_because: None,
            caught_up: false,
            confirmed: (Epoch(0), Seq(0)),
            may_stop: false,
            plan,
            clock,
            trace,
            medium,
            kernel,
            store,
            group,
            config,
            processor_config,
            source_vault,
            target_vault,
            _time: time,
            _medium: simulated,
            dir,
        }
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now(), what);
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    /// The source's disks as they are.
    pub fn disks(&self) -> Vec<Vec<u8>> {
        let path = |n: usize| self.source().join(format!("vd{n}.raw"));
        (0..self.plan.disk_bytes.len()).map(|n| std::fs::read(path(n)).expect("a disk can be read")).collect()
    }

    /// Lets everyone do what is due next.
    pub fn step(&mut self) -> Result<(), Wrong> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(format!("the world does not come to an end: {STEPS_MAX} steps"));
        }
        let now = self.now();
        let next = self.next_due().max(now);
        if let Some(mut shipper) = self.shipper.take() {
            match self.run(Process::Shipper, || shipper.upload_until(next)) {
                Ok(going) => self.shipper_goes(shipper, going),
                Err(died) => self.died(died, Some(shipper), None, None)?,
            }
        }
        self.clock.go_to(next);
        let kernel = Rc::clone(&self.kernel);
        if let Err(died) = self.run(Process::Agent, || kernel.go_on()) {
            self.died(died, None, None, None)?;
        }
        self.start_what_is_due()?;
        self.step_agent()?;
        self.step_guests()?;
        self.step_shipper()?;
        self.step_processor()?;
        self.check_confirmed()?;
        self.check_spool()?;
        self.do_later()?;
        for note in self.store.take_notes() {
            self.note(format_args!("store: {note}"));
        }
        Ok(())
    }

    fn next_due(&self) -> Duration {
        let now = self.now();
        let mut due = vec![Some(now + IDLE), self.kernel.next_due(), Some(self.next_incident)];
        due.extend([self.agent_starts, self.shipper_starts, self.processor_starts]);
        due.push(self.agent.as_ref().map(Agent::due));
        due.push(self.agent.as_ref().filter(|agent| !agent.is_stopping()).map(|_| self.guests.due));
        due.push(self.shipper.as_ref().map(|shipper| shipper.due));
        due.push(self.processor.as_ref().map(|processor| processor.due));
        due.extend(self.later.iter().map(|(at, _)| Some(*at)));
        due.into_iter().flatten().min().unwrap_or(now)
    }

    /// Does `work` as a process; `Err` when the process ended in it.
    pub fn run<T>(&self, process: Process, work: impl FnOnce() -> T) -> Result<T, Died> {
        match catch_unwind(AssertUnwindSafe(|| self.medium.run_as(process, work))) {
            Ok(done) => Ok(done),
            Err(payload) => match payload.downcast::<Died>() {
                Ok(died) => Err(*died),
                Err(other) => resume_unwind(other),
            },
        }
    }

    fn start_what_is_due(&mut self) -> Result<(), Wrong> {
        let now = self.now();
        if self.agent_starts.is_some_and(|at| at <= now) {
            self.agent_starts = None;
            self.start_agent()?;
        }
        if self.shipper_starts.is_some_and(|at| at <= now) && self.agent.is_some() && self.shipper.is_none() {
            self.shipper_starts = None;
            let (config, vault, clock) = (self.config.clone(), self.source_vault.clone(), Rc::clone(&self.clock));
            match self.run(Process::Shipper, || ShipperProcess::start(&config, &vault, &clock)) {
                Ok(Ok(shipper)) => self.shipper = Some(shipper),
                Ok(Err(e)) => self.shipper_failed(&format!("{e} ({e:?})")),
                Err(died) => {
                    self.shipper_starts = Some(self.now() + Duration::from_millis(500));
                    self.died(died, None, None, None)?;
                }
            }
        } else if self.shipper_starts.is_some_and(|at| at <= now) {
            // It is its agent's child.
            self.shipper_starts = self.agent.is_some().then_some(now + Duration::from_millis(50));
        }
        if self.processor_starts.is_some_and(|at| at <= now) {
            self.processor_starts = None;
            let started = ProcessorProcess::start(&self.group, &self.target_vault, &self.processor_config, &self.clock);
            self.processor = Some(started);
        }
        Ok(())
    }

    fn start_agent(&mut self) -> Result<(), Wrong> {
        let (config, kernel, clock) = (self.config.clone(), Rc::clone(&self.kernel), Rc::clone(&self.clock));
        match self.run(Process::Agent, || Agent::start(&config, &kernel, &clock)) {
            Ok(Ok(agent)) => {
                self.failed_starts = (0, String::new());
                self.note(format_args!("the agent starts: epoch {}, {}", agent.epoch, agent.story));
                self.history.begin_epoch(agent.epoch.0);
                self.agent = Some(agent);
                self.shipper_starts = Some(self.now());
                self.guests.agent_begins();
            }
            Ok(Err(e)) => {
                self.kernel.killed();
                self.failed_starts = (self.failed_starts.0 + 1, format!("{e:#}"));
                self.note(format_args!("the agent cannot start: {e:#}"));
                self.agent_starts = Some(self.now() + Duration::from_secs(1));
            }
            Err(died) => self.died(died, None, None, None)?,
        }
        Ok(())
    }

    fn step_agent(&mut self) -> Result<(), Wrong> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        if agent.due() > self.now() && !agent.is_stopping() {
            self.agent = Some(agent);
            return Ok(());
        }
        let clock = Rc::clone(&self.clock);
        let stepped = self.run(Process::Agent, || agent.step(&clock));
        match stepped {
            Ok(Ok(ended)) => {
                self.overflows += agent.new_overflows();
                self.agent = Some(agent);
                self.guests.ended(ended, &mut self.history)?;
                self.end_agent_in_order()
            }
            Ok(Err(e)) => Err(format!("a lane fails: {e:#}")),
            Err(died) => self.died(died, None, None, Some(agent)),
        }
    }

    /// A stopping agent whose lanes have ended tells its shipper to drain, and ends after it.
    fn end_agent_in_order(&mut self) -> Result<(), Wrong> {
        let Some(agent) = self.agent.as_ref().filter(|agent| agent.is_stopping() && agent.busy() == 0) else {
            return Ok(());
        };
        if let Some(shipper) = &mut self.shipper {
            shipper.stopping = true;
            return Ok(());
        }
        let confirmed = agent.all_confirmed();
        let config = self.config.clone();
        let (ring, files) = (agent.ring(), agent.files());
        let noted = self.run(Process::Agent, || farshore::agent::end_in_order(&config, &ring, &files).is_ok());
        match noted {
            Ok(noted) => {
                self.note(format_args!("the agent has ended in order: all confirmed {confirmed}, noted {noted}"));
                self.agent = None;
                self.kernel.killed();
                self.shipper_starts = None;
                self.agent_starts = Some(self.now() + self.rng.micros(1_000, 3_000_000));
                Ok(())
            }
            Err(died) => self.died(died, None, None, None),
        }
    }

    fn step_guests(&mut self) -> Result<(), Wrong> {
        let now = self.now();
        if self.guests.due > now {
            return Ok(());
        }
        let Some(mut agent) = self.agent.take_if(|agent| !agent.is_stopping()) else { return Ok(()) };
        self.guests.check_patience(now)?;
        let mut ended = Vec::new();
        let stepped = {
            let (guests, history) = (&mut self.guests, &mut self.history);
            let medium = Rc::clone(&self.medium);
            catch_unwind(AssertUnwindSafe(|| {
                medium.run_as(Process::Agent, || ended = guests.step(now, &mut agent, history));
            }))
        };
        self.agent = Some(agent);
        match stepped.map_err(|payload| payload.downcast::<Died>()) {
            Ok(()) => self.guests.ended(ended, &mut self.history),
            Err(Ok(died)) => self.died(*died, None, None, None),
            Err(Err(other)) => resume_unwind(other),
        }
    }

    fn step_shipper(&mut self) -> Result<(), Wrong> {
        let now = self.now();
        let Some(mut shipper) = self.shipper.take_if(|shipper| shipper.due <= now) else { return Ok(()) };
        let clock = Rc::clone(&self.clock);
        match self.run(Process::Shipper, || shipper.fill(&clock)) {
            Ok(going) => self.shipper_goes(shipper, going),
            Err(died) => self.died(died, Some(shipper), None, None)?,
        }
        Ok(())
    }

    fn shipper_goes(&mut self, shipper: ShipperProcess, going: Going) {
        match going {
            Going::On => self.shipper = Some(shipper),
            Going::Ended => {
                self.note(format_args!("the shipper has ended"));
                shipper.leave(Ok(()));
                let stopping = self.agent.as_ref().is_none_or(Agent::is_stopping);
                self.shipper_starts = (!stopping).then(|| self.now() + Duration::from_millis(200));
            }
            Going::Failed(e) => {
                let why = format!("{e} ({e:?})");
                shipper.leave(Err(e));
                self.shipper_failed(&why);
            }
        }
    }

    fn shipper_failed(&mut self, why: &str) {
        self.failed_starts = (self.failed_starts.0 + 1, why.to_owned());
        self.note(format_args!("the shipper has failed: {why}"));
        let stopping = self.agent.as_ref().is_none_or(Agent::is_stopping);
        self.shipper_starts = (!stopping).then(|| self.now() + Duration::from_secs(1));
    }

    fn step_processor(&mut self) -> Result<(), Wrong> {
        let now = self.now();
        let Some(mut processor) = self.processor.take_if(|processor| processor.due <= now) else { return Ok(()) };
        let clock = Rc::clone(&self.clock);
        match self.run(Process::Processor, || processor.turn(&clock)) {
            Ok(turn) => {
                self.note(format_args!("processor: {turn:?}"));
                self.caught_up = turn == Turn::CaughtUp;
                // It comes back by itself, or a new process does.
                let stopped = matches!(turn, Turn::Stopped { .. });
                if stopped && (self.may_stop || self.rng.one_in(2)) {
                    self.stopped_because = Some(processor.outcome());
                    self.note(format_args!("  because {}", self.stopped_because.as_deref().unwrap_or_default()));
                    self.processor_starts = (!self.may_stop).then(|| self.now() + Duration::from_secs(5));
                    return Ok(());
                }
                self.processor = Some(processor);
                if stopped {
                    // A batch may be half done: what is published is seen through the undo journal, until it is undone.
                    return self.oracle.check_old_points(false);
                }
                self.oracle.check_target(&self.history)?;
                if self.rng.one_in(8) { self.oracle.check_old_points(false) } else { Ok(()) }
            }
            Err(died) => {
                self.died(died, None, Some(processor), None)?;
                // A point can be viewed whether or not a processor runs.
                self.oracle.check_old_points(false)
            }
        }
    }

    fn do_later(&mut self) -> Result<(), Wrong> {
        let now = self.now();
        for (_, later) in self.later.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.note(format_args!("later: {later:?}"));
            match later {
                Later::Network(side) => self.store.set_away(side, false),
                Later::Storage => self.medium.set_bad(Vec::new()),
                Later::Disks => self.kernel.set_faults(self.plan.disk_faults),
                Later::PowerFails => self.cut_source()?,
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What still runs is not ended in order, and the clock's way to the kernel is a circle.
        drop_as_dead((self.agent.take(), self.shipper.take(), self.processor.take(), self.guests.agent_gone()));
        self.clock.forget_meanwhile();
    }
}
