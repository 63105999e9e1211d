//! The lanes of a prepared group: one thread a lane, the disks dealt out to them, their exports.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use farshore_capture::access::Access;
use farshore_capture::device::DeviceTokens;
use farshore_capture::disk::SourceDisk;
use farshore_capture::engine::{self, EngineKind};
use farshore_capture::pace::Pace;
use farshore_capture::regions::RegionMap;
use farshore_capture::resync::{ResyncProgress, Rules, STUCK_WAIT};
use farshore_capture::server::{ExportPlan, LaneParts, Server, ServerBuilder};
use farshore_capture::tap::{
    CopyMode, DiskState, HASHES_WAIT, HASHES_WAIT_FROM_BYTES, Known, LaneLog, Repair, Tap, TapSetup,
};
use farshore_changelog::ids::{DiskIndex, Epoch, Seq};
use farshore_changelog::ring::Ring;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::config::{Config, EngineChoice, OnFull};
use crate::failure::Next;

/// A group that is served.
pub struct Serving {
    /// The I/O threads and listeners.
    pub server: Server<Tap>,
    /// The state of each disk, in index order.
    pub states: Vec<Arc<DiskState>>,
    /// How far the resync is.
    pub progress: Arc<ResyncProgress>,
}

/// The lanes of a prepared group, before they run.
pub struct Lanes {
    /// In the lanes' order.
    pub lanes: Vec<Lane>,
    /// The state of each disk, in index order.
    pub states: Vec<Arc<DiskState>>,
    /// How far the resync is.
    pub progress: Arc<ResyncProgress>,
}

/// One lane.
pub struct Lane {
    /// Its exports, in the order of its devices.
    pub exports: Vec<ExportPlan>,
    /// Makes its devices, on the thread that drives them; the first lane's before any other's.
    pub devices: Box<dyn FnOnce() -> Vec<Tap> + Send>,
}

/// One disk on its way to its lane.
struct Dealt {
    index: DiskIndex,
    disk: SourceDisk,
    map: RegionMap,
    state: Arc<DiskState>,
}

/// Starts the lanes and listens.
///
/// # Errors
/// When an engine cannot be had or an address cannot be listened on.
pub fn serve(
    config: &Config,
    access: Access,
    ring: &Ring,
    disks: Vec<SourceDisk>,
    maps: Vec<RegionMap>,
    mode: CopyMode,
) -> Result<Serving> {
    let kind = match config.engine {
        EngineChoice::Auto => EngineKind::Auto,
        EngineChoice::IoUring => EngineKind::Uring,
        EngineChoice::ThreadPool => EngineKind::Pool,
    };
    let Lanes { lanes, states, progress } = lanes(config, ring, disks, maps, mode)?;
    let mut builder = ServerBuilder::new().access(access);
    for (number, Lane { exports, devices }) in lanes.into_iter().enumerate() {
        let payloads = ring.payload_area(u32::try_from(number).expect("a ring has few lanes"));
        let cpu = config.lane_cpus.iter().cycle().nth(number).copied();
        builder = builder.lane(exports, move || {
            cpu.map_or(Ok(()), pin)?;
            let (mut engine, fell_back) = engine::open(kind)?;
            if let (0, Some(why)) = (number, fell_back) {
                tracing::warn!("a thread pool does the I/O: {why}");
            }
            if let (Err(why), 0) = (engine.register(payloads), number) {
                tracing::info!(
                    "the ring's memory is not registered with io_uring, so plain writes serve, a little slower: {why}"
                );
            }
            Ok(LaneParts { engine, devices: devices() })
        });
    }
    let server = builder.start().next("see the cause; another agent or program may use the address")?;
    Ok(Serving { server, states, progress })
}

/// Pins this thread, and those that it starts, to a processor.
///
/// # Errors
/// When there is no such processor, or this process may not use it.
fn pin(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    let pinned = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    pinned.with_context(|| format!("a lane cannot be pinned to processor {cpu}: see lane_cpus, and nproc"))
}

/// Deals the disks out to the lanes.
///
/// # Errors
/// None that a proved configuration can cause.
pub fn lanes(
    config: &Config,
    ring: &Ring,
    disks: Vec<SourceDisk>,
    maps: Vec<RegionMap>,
    mode: CopyMode,
) -> Result<Lanes> {
    let ended = ring.resync_end();
    let rules = Rules {
        full_wait: config.full_wait,
        stuck_wait: match config.on_full {
            OnFull::Overflow => config.full_wait.min(STUCK_WAIT),
            OnFull::Throttle => config.full_wait,
        },
        spool_full_bytes: config.spool_bytes,
        // Half of the spool: an overflow that ends at its brim begins again at once.
        spool_resume_bytes: config.spool_bytes / 2,
        pace: Pace::new(config.resync_rate, config.resync_latency),
    };
    let progress = Arc::new(ResyncProgress::resumed(ended, rules));
    let last_seq = Seq(ring.next_seq().0 - 1);
    let lost_regions: u64 = maps.iter().map(RegionMap::lost_regions).sum();
    let lost_bytes: u64 = maps.iter().map(RegionMap::lost_bytes).sum();
    let to_copy = lost_regions > 0 && ended.is_none();
    // Nobody knows whether an `overflow` or a `resync begin` is open, here or in the epoch before; one more that ends does no harm.
    let began_before = ring.next_seq() > Seq(1) || ring.spec().epoch > Epoch(1);
    let to_close = lost_regions == 0 && ended.is_none() && began_before;
    // Only of a ring of which this process sees everything.
    let hashes = (last_seq == Seq(0) && !mode.skip_holes).then(|| {
        let wait = if lost_bytes >= HASHES_WAIT_FROM_BYTES { HASHES_WAIT } else { Duration::ZERO };
        (config.state_dir.join("hashes"), config.group.clone(), ring.spec().epoch, wait)
    });
    let lanes = ring.spec().lanes;
    let mut dealt: Vec<Vec<Dealt>> = (0..lanes).map(|_| Vec::new()).collect();
    let mut plans: Vec<Vec<ExportPlan>> = (0..lanes).map(|_| Vec::new()).collect();
    let mut states = Vec::new();
    for (place, (disk, map)) in disks.into_iter().zip(maps).enumerate() {
        let lane = place % dealt.len();
        let state = Arc::new(DiskState::default());
        states.push(Arc::clone(&state));
        plans[lane].push(ExportPlan {
            listen: config.disks[place].listen.clone(),
            place,
            description: format!("disk {} of group {}", disk.name(), config.group),
            clients: config.disks[place].clients.clone(),
        });
        dealt[lane].push(Dealt { index: DiskIndex(u16::try_from(place)?), disk, map, state });
    }
    let mut ready = Vec::new();
    for (lane, (exports, dealt)) in (0..lanes).zip(plans.into_iter().zip(dealt)) {
        let (ring, progress, hashes) = (ring.clone(), Arc::clone(&progress), hashes.clone());
        let devices = move || {
            let mut log = LaneLog::new(&ring, lane);
            if lane == 0 && to_copy {
                // Before any lane runs, so that nothing precedes it: the others start when this one is ready.
                progress.lost(&mut log, lost_regions, lost_bytes);
            }
            if lane == 0 && to_close {
                progress.close(&mut log);
            }
            let log = Rc::new(RefCell::new(log));
            let repair = |map| {
                let repair = Repair::new(map, Arc::clone(&progress), last_seq, mode);
                match &hashes {
                    Some((dir, group, epoch, wait)) => {
                        repair.knowing(Known::new(dir.clone(), group.clone(), *epoch, *wait))
                    }
                    None => repair,
                }
            };
            let tap = |(owner, d): (usize, Dealt)| {
                Tap::new(TapSetup {
                    disk: d.disk,
                    index: d.index,
                    tokens: DeviceTokens { owner: u32::try_from(owner).unwrap_or(u32::MAX) },
                    log: Some(Rc::clone(&log)),
                    repair: Some(repair(d.map)),
                    state: d.state,
                })
            };
            dealt.into_iter().enumerate().map(tap).collect()
        };
        ready.push(Lane { exports, devices: Box::new(devices) });
    }
    Ok(Lanes { lanes: ready, states, progress })
}
