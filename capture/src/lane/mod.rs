//! The I/O thread: an engine, the devices of its disks, and their clients' connections. One thread owns all of it, so that
//! nothing in the data path is shared and nothing is locked.
//!
//! Every operation bears its owner's number in its token: devices have the numbers from 0 (the place in which they were
//! made), listeners from [`FIRST_LISTENER`], connections from [`FIRST_PEER`].

pub(crate) mod accepted;
mod command;
mod listener;
mod peers;
mod stop;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use farshore_changelog::clock;
use slab::Slab;

pub use crate::nbd::conn::PAYLOAD_STALL_MAX;
pub(crate) use command::Command;
pub use command::{COMMANDS_MAX, LaneAccess, LaneGone, LaneHandle};
pub use listener::CONNECTIONS_PER_LISTENER_MAX;
pub(crate) use listener::{Listener, Offer, Route, Secure};
use peers::Peer;
use stop::Stopping;
pub use stop::{STOP_CLIENTS_MAX, STOP_DEVICES_MAX};

use crate::device::{Device, DeviceTokens, Finished, TICK};
use crate::engine::{Completion, Engine};

/// The first listener's owner number; below it are devices.
pub const FIRST_LISTENER: u32 = 1 << 20;
/// The first connection's owner number; below it are listeners.
pub const FIRST_PEER: u32 = 1 << 24;

/// How often deadlines of connections are looked at, while there are any.
const SWEEP: Duration = Duration::from_millis(500);
/// How soon a device is asked again for memory, while a connection waits for it and nothing else happens.
const ROOM_RETRY: Duration = Duration::from_millis(10);
/// How soon a device is ticked after it was given something to do: what it waits for may have changed.
const TICK_AFTER_USE: Duration = Duration::from_millis(1);
/// How often a stopping lane looks whether it may end.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The engine broke: the kernel refused something that it has to do.
    #[error("the {engine} engine failed")]
    Engine {
        /// Which engine.
        engine: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// At the stop, devices did not come to rest within [`STOP_DEVICES_MAX`].
    #[error("{requests} disk requests had not ended {} s after the stop", STOP_DEVICES_MAX.as_secs())]
    Busy {
        /// Requests in flight.
        requests: usize,
    },
}

/// A device and who waits for it.
struct Disk<D> {
    device: D,
    /// When it is ticked next.
    tick_at: Option<Instant>,
    /// It was given something to do since its last tick.
    used: bool,
    /// Connections that wait for memory, in the order they asked.
    waiting: VecDeque<usize>,
}

/// The I/O thread's state.
pub(crate) struct Lane<D> {
    /// Its number among the server's lanes.
    number: usize,
    engine: Box<dyn Engine>,
    disks: Vec<Disk<D>>,
    listeners: Slab<Listener<D>>,
    peers: Slab<Peer<D>>,
    commands: Receiver<Command<D>>,
    finished: Vec<Finished>,
    /// Connections to be looked at before the next wait.
    touched: Vec<usize>,
    /// When deadlines of connections are looked at next; `None` while there are none.
    sweep_at: Option<Instant>,
    stopping: Option<Stopping>,
}

/// A lane at work. When it fails or panics, its devices and what they have in flight are left as a dead process leaves them:
/// dropped, they would abort operations that the disk has or may still get, and nobody would know that the log lacks them. Who
/// takes the ring over settles them.
struct Running<D> {
    lane: Option<Lane<D>>,
    /// Completions that were not handed to their owners yet.
    done: Vec<Completion>,
}

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(Lane { engine, disks, .. }) = self.lane.take() {
            std::mem::forget((engine, disks, std::mem::take(&mut self.done)));
        }
    }
}

impl<D: Device> Lane<D> {
    pub(crate) fn new(number: usize, engine: Box<dyn Engine>, devices: Vec<D>, commands: Receiver<Command<D>>) -> Self {
        let now = clock::mono();
        let disk = |device| Disk { device, tick_at: Some(now), used: false, waiting: VecDeque::new() };
        Self {
            number,
            engine,
            disks: devices.into_iter().map(disk).collect(),
            listeners: Slab::new(),
            peers: Slab::new(),
            commands,
            finished: Vec::new(),
            touched: Vec::new(),
            sweep_at: None,
            stopping: None,
        }
    }

    /// Runs until it is told to stop and everything has come to rest.
    ///
    /// # Errors
    /// [`LaneError`].
    pub(crate) fn run(self) -> Result<(), LaneError> {
        let mut running = Running { lane: Some(self), done: Vec::new() };
        if let Some(lane) = &mut running.lane {
            lane.work(&mut running.done)?;
        }
        drop(running.lane.take());
        Ok(())
    }

    fn work(&mut self, done: &mut Vec<Completion>) -> Result<(), LaneError> {
        loop {
            let now = clock::mono();
            self.take_commands(now);
            self.tick(now);
            self.sweep(now);
            self.settle(now);
            if self.at_rest(now)? {
                return Ok(());
            }
            let timeout = self.timeout(now);
            let waited = self.engine.wait(timeout, done);
            waited.map_err(|source| LaneError::Engine { engine: self.engine.name(), source })?;
            let now = clock::mono();
            for completion in done.drain(..) {
                self.route(completion, now);
            }
        }
    }

    fn take_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS_MAX {
            let Ok(command) = self.commands.try_recv() else { return };
            match command {
                Command::Run(task) => self.run_task(task),
                Command::Stop => self.begin_stop(now),
                // A lane that ends takes nobody in.
                Command::Listen(_) | Command::Adopt(_) if self.stopping.is_some() => {}
                Command::Listen(listener) => {
                    self.listeners.insert(*listener);
                }
                Command::Adopt(arrival) => self.adopt(arrival),
            }
        }
    }

    /// Runs a task, which sees the devices side by side.
    fn run_task(&mut self, task: command::Task<D>) {
        let (mut devices, mut waiting) = (Vec::new(), Vec::new());
        for disk in self.disks.drain(..) {
            devices.push(disk.device);
            waiting.push(disk.waiting);
        }
        let (engine, finished) = (self.engine.as_mut(), &mut self.finished);
        task(&mut LaneAccess { devices: &mut devices, engine, finished });
        let now = clock::mono();
        for (device, waiting) in devices.into_iter().zip(waiting) {
            // The task may have given the device something to do.
            self.disks.push(Disk { device, tick_at: Some(now), used: false, waiting });
        }
    }

    fn tick(&mut self, now: Instant) {
        for disk in &mut self.disks {
            if disk.tick_at.is_some_and(|at| at <= now) {
                let again = disk.device.tick(self.engine.as_mut(), &mut self.finished);
                disk.tick_at = again.map(|wait| now + wait.min(TICK));
                disk.used = false;
            }
        }
    }

    /// Hands a completion to its owner.
    fn route(&mut self, completion: Completion, now: Instant) {
        let (owner, own) = DeviceTokens::split(completion.token);
        if owner >= FIRST_PEER {
            self.peer_completed((owner - FIRST_PEER) as usize, own, completion);
        } else if owner >= FIRST_LISTENER {
            self.accepted((owner - FIRST_LISTENER) as usize, &completion, now);
        } else if let Some(disk) = self.disks.get_mut(owner as usize) {
            disk.used = true;
            disk.device.completed(self.engine.as_mut(), completion, &mut self.finished);
        } else {
            tracing::error!(owner, "a completion without an owner");
        }
    }

    fn accepted(&mut self, key: usize, completion: &Completion, now: Instant) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        let Some((fd, permit)) = listener.accepted(completion, now) else { return };
        let offer = listener.offer.clone();
        let entry = self.peers.vacant_entry();
        let key = entry.key();
        entry.insert(Peer::greet(fd, permit, offer, key, now));
        self.touched.push(key);
        self.sweep_at.get_or_insert(now + SWEEP);
    }

    /// Brings answers to their connections and starts what can be started, until nothing is left to start.
    fn settle(&mut self, now: Instant) {
        for (key, listener) in &mut self.listeners {
            listener.advance(self.engine.as_mut(), DeviceTokens { owner: FIRST_LISTENER + key as u32 }, now);
        }
        loop {
            self.hand_out_answers();
            self.hand_out_room();
            if self.touched.is_empty() && self.finished.is_empty() {
                break;
            }
            let mut touched = std::mem::take(&mut self.touched);
            touched.drain(..).for_each(|key| self.advance_peer(key, now));
            // Whom that touched comes in the next round, in the same list: it has its memory already.
            touched.append(&mut self.touched);
            self.touched = touched;
        }
        for disk in self.disks.iter_mut().filter(|d| d.used) {
            let soon = now + TICK_AFTER_USE;
            disk.tick_at = Some(disk.tick_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// How long the engine may wait; `None` while only completions and commands can bring something to do.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let ticks = self.disks.iter().filter_map(|d| d.tick_at);
        let pauses = self.listeners.iter().filter_map(|(_, l)| l.wants());
        let room = self.disks.iter().any(|d| !d.waiting.is_empty()).then_some(now + ROOM_RETRY);
        let stop = self.stopping.is_some().then_some(now + STOP_POLL);
        let next = ticks.chain(pauses).chain(self.sweep_at).chain(room).chain(stop).min();
        next.map(|at| at.saturating_duration_since(now))
    }
}
