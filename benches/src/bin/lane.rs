//! A server for the comparison with peers: the shipped lanes, over a group's configuration, with the log switched off (`through`: our own
//! pass-through) or read and dropped as fast as it comes (`drained`). It says `ready` when initial replication is over, and ends
//! with its standard input.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farshore::agent::{enable, serve, start};
use farshore::config::Config;
use farshore_capture::device::DeviceTokens;
use farshore_capture::engine::{self, EngineKind};
use farshore_capture::server::{ExportPlan, LaneParts, ServerBuilder};
use farshore_capture::tap::{DiskState, Tap, TapSetup};
use farshore_changelog::clock;
use farshore_changelog::ids::DiskIndex;
use farshore_changelog::ring::{Ring, RingError};

/// Longest sleep of the reader when the ring is empty.
const READER_WAIT: Duration = Duration::from_millis(50);
/// Pause while records come.
const GATHER: Duration = Duration::from_millis(1);
/// Records that are released at once.
const RELEASED_AT_ONCE: usize = 64;
/// Pause between two looks at the progress.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["through", config] => through(Path::new(config)),
        ["drained", config] => drained(Path::new(config)),
        _ => Err(anyhow::anyhow!("usage: lane through|drained CONFIG")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Until whoever started this closes our standard input.
fn wait_for_the_end() -> Result<()> {
    println!("ready");
    let _all = std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn through(config: &Path) -> Result<()> {
    let config = Config::read(config)?;
    let mut builder = ServerBuilder::new();
    for (place, (disk, plan)) in enable::open_disks(&config)?.into_iter().zip(&config.disks).enumerate() {
        let plan = ExportPlan { listen: plan.listen.clone(), place, description: String::new(), clients: None };
        builder = builder.lane(vec![plan], move || {
            let tap = Tap::new(TapSetup {
                disk,
                index: DiskIndex(u16::try_from(place)?),
                tokens: DeviceTokens { owner: 0 },
                log: None,
                repair: None,
                state: Arc::new(DiskState::default()),
            });
            Ok(LaneParts { engine: engine::open(EngineKind::Auto)?.0, devices: vec![tap] })
        });
    }
    let server = builder.start()?;
    wait_for_the_end()?;
    Ok(server.stop()?)
}

fn drained(config: &Path) -> Result<()> {
    let config = Config::read(config)?;
    let access = enable::access(&config)?;
    let start::Prepared { lock: _lock, disks, maps, ring, mode, .. } = start::prepare(&config)?;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = read_and_drop(&ring, Arc::clone(&stop))?;
    let serving = serve::serve(&config, access, &ring, disks, maps, mode)?;
    while serving.states.iter().any(|state| state.read().lost_regions > 0) {
        if reader.is_finished() {
            bail!("the reader of the ring has ended");
        }
        clock::sleep(LOOK);
    }
    wait_for_the_end()?;
    serving.server.stop()?;
    stop.store(true, Ordering::Release);
    reader.join().ok().context("the reader of the ring panicked")??;
    Ok(())
}

/// Takes every record out of the ring and counts it as stored.
fn read_and_drop(ring: &Ring, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<(), RingError>>> {
    let (ring, mut consumer) = (ring.clone(), ring.consumer());
    let read = move || {
        while !stop.load(Ordering::Acquire) {
            let mut taken = Vec::with_capacity(RELEASED_AT_ONCE);
            while taken.len() < RELEASED_AT_ONCE
                && let Some(record) = consumer.take()?
            {
                taken.push(record);
            }
            let (empty, more) = (taken.is_empty(), taken.len() == RELEASED_AT_ONCE);
            let upto = consumer.position();
            consumer.release(upto, taken);
            ring.set_confirmed_seq(upto);
            // As the shipper: the bell is armed only when nothing comes.
            if empty {
                consumer.wait(READER_WAIT);
            } else if !more {
                clock::sleep(GATHER);
            }
        }
        Ok(())
    };
    Ok(Builder::new().name("reader".into()).spawn(read)?)
}
