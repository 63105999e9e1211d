//! What a healed world ends with: the target takes over while the source works on, or the store turns out to be damaged.

use std::time::Duration;

use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_changelog::ring::ShipperState;
use farshore_processor::failover::{self, FailedOver, FailoverError};
use farshore_processor::resolve::PointSpec;
use farshore_processor::view::ReadDisk;
use farshore_vault::keys::Key;
use object_store::path::Path;

use crate::medium::Process;
use crate::plan::{Finale, Spoiled};
use crate::source::{Agent, paused_runtime};
use crate::store::StoreFaults;
use crate::world::{World, Wrong};

/// Simulated time that each part of a finale may take.
const PART_MAX: Duration = Duration::from_secs(1200);
/// How often a failover command that failed is given again.
const COMMANDS_MAX: u32 = 30;

/// Ends a world as its plan says. Gives what was done.
///
/// # Errors
/// What does not hold.
pub fn end(world: &mut World) -> Result<&'static str, Wrong> {
    match world.plan.finale {
        Finale::None => Ok("no finale"),
        Finale::Failover => take_over(world).map(|()| "failed over"),
        Finale::Damage(how) => damage(world, how),
    }
}

/// Steps until `enough`.
fn step_until(
    world: &mut World,
    what: &str,
    mut enough: impl FnMut(&mut World) -> Result<bool, Wrong>,
) -> Result<(), Wrong> {
    let end = world.now() + PART_MAX;
    while !enough(world)? {
        if world.now() > end {
            return Err(format!("it takes too long: {what}"));
        }
        world.step()?;
    }
    Ok(())
}

/// The target takes the group over; the source works on, and nothing of what it still writes comes to an image (G10).
fn take_over(world: &mut World) -> Result<(), Wrong> {
    world.guests.resting = false;
    world.store.set_faults(StoreFaults { body_breaks: 0, ..world.plan.store_faults });
    let later = world.now() + world.rng.micros(0, 2_000_000);
    step_until(world, "guests at work", |world| Ok(world.now() >= later))?;
    world.note(format_args!("the target takes over"));
    let over = command(world)?;
    world.note(format_args!("failed over: epoch {}, cut {:?}, at {}", over.epoch, over.cut, over.point.position));
    world.history.begin_epoch(over.epoch.0);
    world.store.set_faults(StoreFaults::default());
    let shown = over.disks.iter().map(|disk| {
        let mut bytes = vec![0; disk.size_bytes() as usize];
        disk.read_at(&mut bytes, 0).map(|()| bytes).map_err(|e| format!("a failed-over disk cannot be read: {e}"))
    });
    let shown = shown.collect::<Result<Vec<_>, _>>()?;
    world.oracle.check_state(&world.history, over.point.position, &shown)?;

    step_until(world, "the source learns that it is fenced", |world| {
        Ok(world.agent.as_ref().is_some_and(|agent| agent.shipper_state() == ShipperState::Fenced))
    })?;
    // Its disks are served on.
    let (done, later) = (world.guests.done, world.now() + Duration::from_secs(3));
    step_until(world, "a fenced source's guests", |world| Ok(world.guests.done > done + 5 && world.now() >= later))?;
    if !world.caught_up {
        step_until(world, "the target comes to the cut", |world| Ok(world.caught_up))?;
    }
    let here = world.oracle.position()?.ok_or("a failed-over target has no position")?;
    if !over.cut.reached(&here) {
        return Err(format!("the target stands at {}, before the cut {:?}", here.position(), over.cut));
    }
    let cut = world.oracle.log.cut(over.cut.epoch);
    if cut != Some(over.cut.number) {
        return Err(format!("G10: the failover's cut is {:?}, the log's is {cut:?}", over.cut));
    }
    // Everything that the source could still do is done; the images are what they were at the cut.
    world.oracle.check_target(&world.history)?;
    world.oracle.check_old_points(true)
}

/// Gives the command until it has done it.
fn command(world: &mut World) -> Result<FailedOver, Wrong> {
    let mut why = String::new();
    for _ in 0..COMMANDS_MAX {
        match try_command(world)? {
            Ok(over) => return Ok(over),
            Err(e @ (FailoverError::Vault(_) | FailoverError::Replay(_) | FailoverError::Stalled { .. })) => {
                why = format!("{e} ({e:?})");
                world.note(format_args!("the failover fails: {why}"));
            }
            Err(e) => return Err(format!("the failover fails: {e} ({e:?})")),
        }
    }
    Err(format!("the failover fails over and over: {why}"))
}

fn try_command(world: &mut World) -> Result<Result<FailedOver, FailoverError>, Wrong> {
    let request = failover::Request {
        target: world.target(),
        group: world.group.clone(),
        point: PointSpec::Latest,
        name: failover::DEFAULT_NAME.to_owned(),
    };
    let (vault, runtime) = (world.target_vault.clone(), paused_runtime());
    let began = runtime.block_on(async { tokio::time::Instant::now() });
    let born = world.now();
    let mut silent = |_| {};
    let mut work = Box::pin(failover::failover(&vault, &request, &mut silent));
    let end = world.now() + PART_MAX;
    // The processor that runs does the replay; without one the command would begin a thread.
    while world.now() < end {
        if world.processor.is_some() {
            let until = began + (world.now() - born);
            let polled = world.run(Process::Observer, || {
                runtime.block_on(async { tokio::time::timeout_at(until, work.as_mut()).await })
            });
            match polled {
                Ok(Ok(over)) => return Ok(over),
                Ok(Err(_elapsed)) => {}
                Err(_) => return Err("the observer does not die".to_owned()),
            }
        }
        world.step()?;
    }
    Err("the failover takes too long".to_owned())
}

/// An object of the log is not what was put there: the group stops before it, and says so (G9).
fn damage(world: &mut World, how: Spoiled) -> Result<&'static str, Wrong> {
    world.kill_processor();
    world.processor_starts = None;
    let here = world.oracle.position()?.ok_or("a healed target has no position")?;
    world.guests.resting = false;
    let done = world.guests.done;
    step_until(world, "guests at work", |world| Ok(world.guests.done > done + 60))?;
    world.guests.resting = true;
    step_until(world, "everything is shipped", |world| {
        Ok(world.guests.open() == 0 && world.agent.as_ref().is_some_and(Agent::all_confirmed))
    })?;
    world.oracle.log.refresh()?;
    let new: Vec<SegmentNo> = world
        .oracle
        .log
        .segments()
        .filter(|((epoch, number), segment)| *epoch == here.epoch && *number > here.number && !segment.seal)
        .map(|((_, number), _)| *number)
        .collect();
    // A segment that is gone is missed once a later one is there.
    let choice = &new[..new.len().saturating_sub(usize::from(how == Spoiled::Gone))];
    if choice.is_empty() {
        return Ok("nothing to spoil");
    }
    let number = world.rng.pick(choice);
    let key = path(world, here.epoch, number);
    let bytes = world.store.object(&key).ok_or("a segment that was shipped is not there")?;
    let spoiled = match how {
        Spoiled::Flipped => {
            let mut bytes = bytes.to_vec();
            let at = world.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << world.rng.below(8);
            Some(bytes.into())
        }
        Spoiled::Truncated => Some(bytes.slice(..world.rng.below(bytes.len() as u64) as usize)),
        Spoiled::Gone => None,
        Spoiled::Swapped => {
            let other = path(world, here.epoch, SegmentNo(number.0 - 1));
            match world.store.object(&other) {
                Some(other) => Some(other),
                None => return Ok("nothing to swap with"),
            }
        }
    };
    world.note(format_args!("segment {number} of epoch {} is spoiled: {how:?}", here.epoch));
    world.store.spoil(&key, spoiled);
    world.may_stop = true;
    world.stopped_because = None;
    world.processor_starts = Some(world.now());
    step_until(world, "the group stops at a damaged segment", |world| Ok(world.stopped_because.is_some()))?;
    let there = world.oracle.position()?.ok_or("a stopped target has no position")?;
    if there.epoch != here.epoch || there.number >= number {
        return Err(format!(
            "G9: segment {number} is spoiled ({how:?}), and the target went on to {}",
            there.position()
        ));
    }
    world.oracle.check_target(&world.history)?;
    world.oracle.check_old_points(true)?;
    Ok("stopped at a damaged segment")
}

fn path(world: &World, epoch: Epoch, number: SegmentNo) -> Path {
    Key::Segment(world.group.clone(), epoch, number).path()
}
