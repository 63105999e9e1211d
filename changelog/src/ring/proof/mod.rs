//! The proof of the ring's memory order. In a build with `--cfg loom` the ring's own code (producer, slot, consumer, doorbell,
//! takeover) runs over the model checker's atomics, which try every interleaving up to a bound, and for each load every
//! value that the orderings allow it to see. Run it with `make loom`.
//!
//! - `models`: what is tried
//! - `weakened`: whether the models notice when one ordering is weaker than written
//! - `atomics`, `futex`, `memory`: what lies under the ring here, in the place of std's atomics, the kernel and the mapping
//!
//! What it cannot show: the order in which a process that dies leaves its stores to recovery (the tests that kill processes
//! do), and loads that see stores which come later in time, which loom does not model.

#[allow(dead_code, reason = "both words have the steps that one of them needs")]
pub mod atomics;
mod models;
mod weakened;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, LazyLock};

use super::layout::{Geometry, SLOTS_PER_LANE_MIN};
use super::mapping::Mapping;
use super::*;
use crate::ids::{DiskIndex, DiskName, Epoch, GroupName};
use crate::op::{Op, RecordFlags};

/// Steps of one execution: far more than any model has, so that one which does not end is found.
const STEPS_MAX: usize = 2_000;
/// Bytes of each record: the smallest there is.
const RECORD_BYTES: u32 = 512;

/// Tries every execution of a model within the bounds.
fn explore(preemptions_max: usize, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.max_branches = STEPS_MAX;
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{} executions", executions.load(std::sync::atomic::Ordering::Relaxed));
}

/// A new ring with so few slots and pages a lane that they are used again at once.
fn ring(lanes: u32, slots: u32) -> Ring {
    handle(Arc::new(Mapping::of_model(Geometry::of_model(lanes, slots, slots.into()))))
}

/// The same ring as another process has it, or the same one after a restart.
fn reopened(ring: &Ring) -> Ring {
    handle(Arc::clone(&ring.0.map))
}

fn handle(map: Arc<Mapping>) -> Ring {
    static SPEC: LazyLock<Arc<RingSpec>> = LazyLock::new(|| {
        Arc::new(RingSpec {
            group: GroupName::new("g").unwrap(),
            epoch: Epoch(1),
            boot_id: [1; 16],
            lanes: 1,
            slots_per_lane: SLOTS_PER_LANE_MIN,
            payload_bytes_per_lane: PAYLOAD_BYTES_PER_LANE_MIN,
            created: UnixMicros(1),
            disks: vec![DiskEntry {
                name: DiskName::new("a").unwrap(),
                size_bytes: 1 << 40,
                identity: DiskIdentity { kind: DiskKind::File, device: 1, inode: 2 },
                block_bytes: 512,
            }],
        })
    });
    Ring(Arc::new(Inner {
        map,
        spec: Arc::clone(&SPEC),
        path: PathBuf::new(),
        produced: AtomicU64::new(0),
        consumed: AtomicBool::new(false),
    }))
}

fn draft(op: Op, fill: u8) -> Draft {
    let (offset, len) = if op.changes_disk() { (u64::from(fill) << 20, RECORD_BYTES.into()) } else { (0, 0) };
    Draft { time: UnixMicros(5), disk: DiskIndex(0), op, flags: RecordFlags::NONE, offset, len }
}

/// Reserves a slot, fills it with `fill`, and puts it in the order. `None` while the lane is full.
fn write(producer: &mut Producer, fill: u8) -> Option<Slot> {
    let mut slot = producer.reserve(RECORD_BYTES)?;
    slot.payload_mut().fill(fill);
    producer.sequence(&mut [(&mut slot, draft(Op::Write, fill))]);
    Some(slot)
}

/// What a record that [`write`] made is filled with, once it is proved.
fn fill_of(taken: &Taken) -> u8 {
    let fill = (taken.record().offset >> 20) as u8;
    assert_eq!(taken.payload().len(), RECORD_BYTES as usize);
    assert!(taken.payload().iter().all(|byte| *byte == fill), "the payload of {:?}", taken.record());
    fill
}

/// Takes one record, if there is one, proves it and gives it back.
fn take(consumer: &mut Consumer) -> Option<u8> {
    let taken = consumer.take().expect("a sound ring")?;
    let fill = fill_of(&taken);
    consumer.release(consumer.position(), vec![taken]);
    Some(fill)
}

/// Everything that is there now.
fn drain(consumer: &mut Consumer) -> Vec<u8> {
    std::iter::from_fn(|| take(consumer)).collect()
}
