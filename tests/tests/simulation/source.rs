//! The source host: the agent's process with its lanes, and the shipper's. Both are the shipped code; what their threads do, the world
//! does one step at a time.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use farshore::agent::{serve, start};
use farshore::config::Config;
use farshore_capture::device::{Answer, Device, DeviceTokens, Finished, Request, RequestId, TICK};
use farshore_capture::engine::Engine;
use farshore_capture::resync::ResyncProgress;
use farshore_capture::tap::{DiskState, Tap};
use farshore_changelog::ids::{Epoch, Seq};
use farshore_changelog::ring::{self, Ring};
use farshore_shipper::uploader::End;
use farshore_shipper::{Filler, Pause, ShipError, Shipper, ShipperConfig};
use farshore_vault::Vault;
use tokio::runtime::Runtime;

use crate::kernel::{SimEngine, SimKernel};
use crate::time::Clock;

/// One lane of a running agent.
struct Lane {
    engine: SimEngine,
    taps: Vec<Tap>,
    tick_due: Duration,
}

/// A running agent.
pub struct Agent {
    _lock: std::fs::File,
    ring: Ring,
    files: Vec<Arc<std::fs::File>>,
    lanes: Vec<Lane>,
    states: Vec<Arc<DiskState>>,
    progress: Arc<ResyncProgress>,
    overflows: u64,
    pub epoch: Epoch,
    pub story: String,
    stopping: bool,
}

/// A request's end, with the disk it was for.
pub struct Ended {
    pub id: RequestId,
    pub result: std::io::Result<Answer>,
}

impl Agent {
    /// Starts as `farshore run` does.
    pub fn start(config: &Config, kernel: &Rc<SimKernel>, clock: &Clock) -> anyhow::Result<Self> {
        let start::Prepared { lock, disks, maps, ring, epoch, mode, story } = start::prepare(config)?;
        let files: Vec<_> = disks.iter().map(|disk| Arc::clone(disk.file())).collect();
        kernel.begin(files.clone());
        let serve::Lanes { lanes, states, progress } = serve::lanes(config, &ring, disks, maps, mode)?;
        let lanes = lanes
            .into_iter()
            .enumerate()
            .map(|(lane, parts)| Lane {
                engine: SimEngine { kernel: Rc::clone(kernel), lane },
                taps: (parts.devices)(),
                tick_due: clock.now(),
            })
            .collect();
        Ok(Self { _lock: lock, ring, files, lanes, states, progress, overflows: 0, epoch, story, stopping: false })
    }

    /// The lane of a disk, and its place there.
    fn place(&self, disk: usize) -> (usize, usize) {
        (disk % self.lanes.len(), disk / self.lanes.len())
    }

    /// Memory for a write, filled with `bytes`; `None` when the ring has no room.
    pub fn payload(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> Option<farshore_capture::device::Payload> {
        let (lane, place) = self.place(disk);
        let mut payload = self.lanes[lane].taps[place].payload(offset, bytes.len() as u32)?;
        let mut rest = bytes;
        for piece in &mut payload.pieces {
            let (here, later) = rest.split_at(piece.len());
            piece.as_mut_slice().copy_from_slice(here);
            rest = later;
        }
        assert!(rest.is_empty(), "the memory is as long as the request");
        Some(payload)
    }

    /// Gives memory back whose request never came whole.
    pub fn give_back(&mut self, disk: usize, payload: farshore_capture::device::Payload) {
        let (lane, place) = self.place(disk);
        self.lanes[lane].taps[place].give_back(payload);
    }

    pub fn submit(
        &mut self,
        disk: usize,
        id: RequestId,
        request: Request,
        payload: Option<farshore_capture::device::Payload>,
    ) -> Vec<Ended> {
        let (lane, place) = self.place(disk);
        let mut finished = Vec::new();
        let lane = &mut self.lanes[lane];
        lane.taps[place].submit(&mut lane.engine, id, request, payload, &mut finished);
        lane.tick_due = Duration::ZERO;
        ended(finished)
    }

    /// Puts a mark through the first lane.
    pub fn mark(&mut self, name: &str) -> bool {
        self.lanes[0].taps[0].mark(name).is_ok()
    }

    /// When it has something to do.
    pub fn due(&self) -> Duration {
        let due = |(n, lane): (usize, &Lane)| {
            lane.engine.kernel.completion_due(n).unwrap_or(Duration::MAX).min(lane.tick_due)
        };
        self.lanes.iter().enumerate().map(due).min().unwrap_or(Duration::MAX)
    }

    /// What its threads do now.
    pub fn step(&mut self, clock: &Clock) -> anyhow::Result<Vec<Ended>> {
        let now = clock.now();
        let mut all = Vec::new();
        for lane in &mut self.lanes {
            let mut done = Vec::new();
            lane.engine.wait(Some(Duration::ZERO), &mut done)?;
            let progressed = !done.is_empty();
            let mut finished = Vec::new();
            for completion in done {
                let (owner, _) = DeviceTokens::split(completion.token);
                lane.taps[owner as usize].completed(&mut lane.engine, completion, &mut finished);
            }
            if progressed || lane.tick_due <= now {
                let mut next = TICK;
                for tap in &mut lane.taps {
                    if let Some(due) = tap.tick(&mut lane.engine, &mut finished) {
                        next = next.min(due);
                    }
                }
                lane.tick_due = now + next;
            }
            all.extend(ended(finished));
        }
        Ok(all)
    }

    /// No request will come any more.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.lanes.iter_mut().flat_map(|lane| &mut lane.taps).for_each(Device::stop);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Requests in flight, its own work included.
    pub fn busy(&self) -> usize {
        self.lanes.iter().flat_map(|lane| &lane.taps).map(Device::busy).sum()
    }

    /// Whether a disk or its dirty map has failed for good.
    pub fn distrusted(&self) -> bool {
        self.states.iter().map(|state| state.read()).any(|disk| disk.sync_failed || disk.map_failed)
    }

    pub fn lost_regions(&self) -> u64 {
        self.states.iter().map(|state| state.read().lost_regions).sum()
    }

    /// Everything that was logged is in the vault.
    pub fn all_confirmed(&self) -> bool {
        self.ring.confirmed_seq().next() >= self.ring.next_seq()
    }

    /// Overflows since it was asked last.
    pub fn new_overflows(&mut self) -> u64 {
        let now = self.progress.status().overflows;
        now - std::mem::replace(&mut self.overflows, now)
    }

    pub fn ring(&self) -> Ring {
        self.ring.clone()
    }

    pub fn files(&self) -> Vec<Arc<std::fs::File>> {
        self.files.clone()
    }

    pub fn next_seq(&self) -> Seq {
        self.ring.next_seq()
    }

    pub fn shipper_state(&self) -> ring::ShipperState {
        self.ring.shipper_state()
    }
}

fn ended(finished: Vec<Finished>) -> Vec<Ended> {
    finished.into_iter().map(|Finished { id, result }| Ended { id, result }).collect()
}

type Uploading = Pin<Box<dyn Future<Output = Result<End, ShipError>>>>;

/// A running shipper.
pub struct ShipperProcess {
    filler: Option<Filler>,
    uploading: Option<Uploading>,
    runtime: Runtime,
    /// When its runtime's clock began.
    born: Duration,
    began: tokio::time::Instant,
    pub due: Duration,
    pub stopping: bool,
    /// Its half that fills is done.
    filled: bool,
}

/// How a shipper's process goes on.
#[derive(Debug)]
pub enum Going {
    On,
    Ended,
    Failed(ShipError),
}

impl ShipperProcess {
    pub fn start(config: &Config, vault: &Vault, clock: &Clock) -> Result<Self, ShipError> {
        let shipper = Shipper::open_on(
            // One thread: the world's.
            ShipperConfig { threads: 0, ..config.shipper() },
            vault.clone(),
        )?;
        let runtime = paused_runtime();
        let began = runtime.block_on(async { tokio::time::Instant::now() });
        let (filler, uploader) = shipper.split();
        let uploading = uploader.map(|uploader| Box::pin(uploader.work()) as Uploading);
        let born = clock.now();
        Ok(Self { filler: Some(filler), uploading, runtime, born, began, due: born, stopping: false, filled: false })
    }

    /// The uploads go on until the simulated time `to`.
    pub fn upload_until(&mut self, to: Duration) -> Going {
        let Some(uploading) = &mut self.uploading else { return Going::On };
        let until = self.began + to.saturating_sub(self.born);
        let ended = self.runtime.block_on(async { tokio::time::timeout_at(until, uploading.as_mut()).await });
        match ended {
            Err(_elapsed) => Going::On,
            Ok(Ok(End::Drained | End::Fenced | End::Aborted)) => {
                self.uploading = None;
                Going::On
            }
            Ok(Err(e)) => Going::Failed(e),
        }
    }

    /// One step of the half that fills the spool.
    pub fn fill(&mut self, clock: &Clock) -> Going {
        let Some(filler) = &mut self.filler else { return Going::Ended };
        match filler.step(self.stopping) {
            Ok(Pause::None) => self.due = clock.now() + Duration::from_micros(20),
            Ok(Pause::Ring(time) | Pause::Stored(time) | Pause::Time(time)) => {
                // The ring's bell wakes it: some time between now and then.
                self.due = clock.now() + time.min(Duration::from_millis(5)).max(Duration::from_micros(50));
            }
            Ok(Pause::Done) => {
                self.filled = true;
                self.due = clock.now() + Duration::from_millis(10);
            }
            Err(e) => return Going::Failed(e),
        }
        if self.filled && self.uploading.is_none() { Going::Ended } else { Going::On }
    }

    pub fn leave(mut self, ended: Result<(), ShipError>) {
        if let Some(filler) = self.filler.take() {
            let _said = filler.leave(ended);
        }
    }
}

/// A runtime whose clock stands still unless everything waits for it.
pub fn paused_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads can be made")
}
