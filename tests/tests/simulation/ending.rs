//! The life of a world: its guests work and things befall it; then everything is put right, and what must hold in the end is looked at.

use std::time::Duration;

use crate::finale;
use crate::kernel::DiskFaults;
use crate::store::{Side, StoreFaults};
use crate::world::{World, Wrong};

/// Simulated time that a healed world may take until all of it agrees.
const QUIET_WITHIN: Duration = Duration::from_secs(1800);
/// Starts in a row that may fail in a healed world.
const FAILED_STARTS_MAX: u32 = 20;

/// Runs a world to its end.
///
/// # Errors
/// What does not hold.
pub fn live(world: &mut World) -> Result<String, Wrong> {
    world.kernel.set_faults(world.plan.disk_faults);
    world.store.set_faults(world.plan.store_faults);
    while world.now() < world.plan.active {
        world.incident()?;
        world.step()?;
    }
    world.last_incident()?;
    heal(world)?;
    check_all(world)?;
    let finale = finale::end(world)?;
    let looked = world.oracle.looked;
    Ok(format!(
        "{finale}: {} requests, {} operations on files, {} positions ({} consistent), {} points, {} looked at again, {} overflows, {} segments above a hole, epoch {}",
        world.guests.done,
        world.medium.operations(),
        looked.positions,
        looked.consistent,
        looked.points,
        looked.again,
        world.overflows,
        world.oracle.log.above_holes,
        world.agent.as_ref().map_or(0, |agent| agent.epoch.0)
    ))
}

/// Nothing goes wrong any more; the world goes on until source and target agree.
fn heal(world: &mut World) -> Result<(), Wrong> {
    world.note(format_args!("from here nothing goes wrong"));
    world.kernel.set_faults(DiskFaults::default());
    world.store.set_faults(StoreFaults::default());
    world.store.kill_processor_after(None);
    for side in [Side::Source, Side::Target] {
        world.store.set_away(side, false);
    }
    world.medium.disarm();
    world.medium.set_bad(Vec::new());
    world.later.clear();
    world.next_incident = Duration::MAX;
    world.guests.resting = true;
    world.failed_starts.0 = 0;
    let (end, mut stops) = (world.now() + QUIET_WITHIN, 0);
    while !is_quiet(world)? {
        if world.now() > end {
            return Err(format!("the healed world does not come to rest: {}", standing(world)?));
        }
        if world.failed_starts.0 > FAILED_STARTS_MAX {
            return Err(format!("a process of the healed world cannot be started: {}", world.failed_starts.1));
        }
        // A disk whose fsync failed is not believed until its agent is started anew.
        if let Some(agent) = world.agent.as_mut().filter(|agent| agent.distrusted() && !agent.is_stopping()) {
            agent.stop();
        }
        if let Some(why) = world.stopped_because.take() {
            stops += 1;
            if stops > 2 {
                return Err(format!("the processor of the healed world has stopped: {why}"));
            }
        }
        world.step()?;
    }
    Ok(())
}

/// Whether everything that the guests did has come to the target.
fn is_quiet(world: &World) -> Result<bool, Wrong> {
    let Some(agent) = world.agent.as_ref().filter(|agent| !agent.is_stopping() && !agent.distrusted()) else {
        return Ok(false);
    };
    let idle = world.guests.open() == 0 && agent.busy() == 0 && agent.lost_regions() == 0 && agent.all_confirmed();
    if !idle || !world.caught_up || world.shipper.is_none() {
        return Ok(false);
    }
    let Some(here) = world.oracle.position()? else { return Ok(false) };
    Ok(!here.resync && here.epoch == agent.epoch && here.seq.next() >= agent.next_seq())
}

fn standing(world: &World) -> Result<String, Wrong> {
    let at =
        world.oracle.position()?.map_or("nowhere".to_owned(), |p| format!("at {} resync {}", p.position(), p.resync));
    let source = world.agent.as_ref().map_or("no agent".to_owned(), |agent| {
        format!(
            "agent in epoch {} next seq {} busy {} lost {} confirmed {} stopping {} shipper {:?}",
            agent.epoch,
            agent.next_seq(),
            agent.busy(),
            agent.lost_regions(),
            agent.all_confirmed(),
            agent.is_stopping(),
            agent.shipper_state()
        )
    });
    Ok(format!(
        "{source}, {} requests open, a shipper {}, a processor {}, the target {at}, {}",
        world.guests.open(),
        world.shipper.is_some(),
        world.processor.is_some(),
        world.failed_starts.1
    ))
}

/// Source and target agree, and with what the guests did.
fn check_all(world: &mut World) -> Result<(), Wrong> {
    let disks = world.disks();
    world.history.check_source(&disks)?;
    world.oracle.check_target(&world.history)?;
    for (n, (image, disk)) in world.oracle.images()?.iter().zip(&disks).enumerate() {
        if image != disk {
            let byte = image.iter().zip(disk).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("G1: all is shipped and applied, and the image of disk {n} differs at byte {byte}"));
        }
    }
    world.oracle.check_old_points(true)?;
    if world.plan.keeps.is_none() {
        world.oracle.check_points_are_there()?;
    }
    disks.iter().for_each(|disk| world.trace.digest_bytes(disk));
    Ok(())
}
