//! A capture process takes over the ring that another left: every slot between tail and head is settled by the table of
//! [`super::recovery`]. First everything is proved and planned, then it is done; done twice, it does nothing more.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::op::{Record, RecordFlags};

use super::descriptor::{Descriptor, State};
use super::layout::{COUNTER_MAX, PAGE_BYTES};
use super::mapping::{Lane, Region};
use super::recovery::{Action, Class, Found, Proof, decide};
use super::spec::RingSpec;

/// What came of reading the range of an operation again that was in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The payload holds what the disk holds now; of an operation without payload: it was done again, and is done.
    Reread,
    /// It could not be read (or done). The caller has made the range's regions durably lost before it said so.
    Unreadable,
}

/// What a takeover found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Slots that were settled already.
    pub kept: u64,
    /// Operations in flight whose ranges were read again.
    pub reread: u64,
    /// Operations in flight whose ranges could not be read: their regions are lost.
    pub unreadable: Vec<Record>,
    /// Flushes in flight: aborted.
    pub flushes_aborted: u64,
    /// Marks and resync words in flight: void.
    pub words_voided: u64,
    /// Slots that had no place in the order yet: void.
    pub given_back: u64,
}

/// A slot that is not settled, with its proved record where the action needs one.
struct Step {
    lane: usize,
    number: u64,
    action: Action,
    record: Option<Record>,
}

/// The payload counters of a lane as its slots prove them.
struct PayloadEnds {
    head: u64,
    tail: u64,
}

/// Settles what is in flight. No producer may live, in any process. Gives what is damaged, in which case nothing was changed.
pub(super) fn take_over(
    lanes: &[Arc<Lane>],
    spec: &RingSpec,
    settle: &mut dyn FnMut(&Record, &mut [u8]) -> Settled,
) -> Result<RecoveryReport, String> {
    let header = lanes[0].header();
    let next_seq = header.next_seq.load(Acquire);
    let mut seqs = Seqs { read_seq: header.read_seq.load(Acquire), next_seq, seen: HashSet::new() };
    let mut report = RecoveryReport::default();
    let (mut steps, mut ends) = (Vec::new(), Vec::new());
    for (index, lane) in lanes.iter().enumerate() {
        let planned = plan(index, lane, spec, &mut seqs, &mut steps).and_then(|kept| {
            report.kept += kept;
            payload_ends(lane)
        });
        ends.push(planned.map_err(|what| format!("lane {index}: {what}"))?);
    }
    for (lane, ends) in lanes.iter().zip(ends) {
        lane.words().payload_head.store(ends.head, Release);
        lane.words().payload_tail.store(ends.tail, Release);
    }
    // In seq order, so that ranges are read again in the order in which they were written.
    steps.sort_by_key(|step| step.record.map(|record| record.seq));
    for step in steps {
        apply(&lanes[step.lane], &step, settle, &mut report);
    }
    header.void_below.store(next_seq, Release);
    Ok(report)
}

/// The seqs met so far.
struct Seqs {
    read_seq: u64,
    next_seq: u64,
    seen: HashSet<u64>,
}

impl Seqs {
    fn meet(&mut self, seq: u64) -> Result<(), String> {
        if seq >= self.next_seq {
            return Err(format!("seq {seq} is not below next_seq {}", self.next_seq));
        }
        if !self.seen.insert(seq) {
            return Err(format!("two slots bear seq {seq}"));
        }
        Ok(())
    }
}

/// Plans a lane's steps; gives how many slots need none.
fn plan(index: usize, lane: &Lane, spec: &RingSpec, seqs: &mut Seqs, steps: &mut Vec<Step>) -> Result<u64, String> {
    let mut kept = 0;
    for number in bounds(lane)? {
        let slot = lane.slot(number);
        let at = |what: String| format!("slot {number}: {what}");
        if slot.number.load(Acquire) != number {
            return Err(at(format!("bears number {}", slot.number.load(Acquire))));
        }
        let code = slot.state.load(Acquire);
        let (descriptor, good) = Descriptor::load(slot, number);
        let record = if good {
            descriptor.prove(&spec.disks, lane.geometry())
        } else {
            Err("checksum of its descriptor".into())
        };
        let found = Found {
            state: State::from_code(code),
            sequenced: descriptor.seq != 0,
            proof: record.as_ref().map_or(Proof::Bad, |record| Proof::Good(Class::of(record.op))),
        };
        if found.sequenced {
            seqs.meet(descriptor.seq).map_err(at)?;
        }
        if found.state == Some(State::Reserved) && found.sequenced && descriptor.seq < seqs.read_seq {
            return Err(at(format!("seq {} is in flight and was read already", descriptor.seq)));
        }
        match decide(found) {
            Action::Keep => kept += 1,
            Action::LoseRing => {
                let what = record.err().unwrap_or_else(|| "is proved".into());
                return Err(at(format!("state {code}, seq {}, descriptor: {what}", descriptor.seq)));
            }
            action @ (Action::Void | Action::Reread | Action::Abort) => {
                let record = record.ok().filter(|_| found.sequenced);
                steps.push(Step { lane: index, number, action, record });
            }
        }
    }
    Ok(kept)
}

/// The slot numbers between tail and head.
fn bounds(lane: &Lane) -> Result<std::ops::Range<u64>, String> {
    let (head, tail) = (lane.words().head.load(Acquire), lane.words().tail.load(Acquire));
    match head.checked_sub(tail) {
        Some(used) if used <= lane.geometry().slots() && head <= COUNTER_MAX => Ok(tail..head),
        _ => Err(format!("head {head} and tail {tail}")),
    }
}

/// Computes the payload counters from the slots, and proves on the way that the payloads lie one behind the other. The stored
/// counters may lag by what a producer was doing when it died: `payload_head` is stored after `head`, `payload_tail` after
/// `tail`.
fn payload_ends(lane: &Lane) -> Result<PayloadEnds, String> {
    let slots = bounds(lane)?;
    let capacity = lane.geometry().payload_bytes();
    let (mut head, tail) = (lane.words().payload_head.load(Acquire), lane.words().payload_tail.load(Acquire));
    let wrong = |number: u64| format!("slot {number}: its payload does not follow the one before");
    if let Some(last) = slots.clone().last() {
        let slot = lane.slot(last);
        let reserved = u64::from(slot.reserved.load(Acquire));
        if reserved > 0 && slot.position.load(Acquire) >= head {
            head = head.checked_add(reserved).ok_or_else(|| wrong(last))?;
        }
    }
    let used: u64 = slots.clone().map(|n| u64::from(lane.slot(n).reserved.load(Acquire))).sum();
    let in_range = used <= capacity && head.is_multiple_of(PAGE_BYTES) && head <= COUNTER_MAX;
    let start = head.checked_sub(used).filter(|start| in_range && tail <= *start);
    let Some(start) = start else {
        return Err(format!("payload head {head} and tail {tail} with {used} bytes in use of {capacity}"));
    };
    let mut end = start;
    for number in slots {
        let slot = lane.slot(number);
        let (position, reserved) = (slot.position.load(Acquire), u64::from(slot.reserved.load(Acquire)));
        if reserved > 0 {
            let padding = position.checked_sub(end).ok_or_else(|| wrong(number))?;
            // Padding reaches to the area's end, and something follows it.
            let padded = padding == 0 || (position.is_multiple_of(capacity) && padding < reserved);
            let in_area = reserved.is_multiple_of(PAGE_BYTES)
                && lane.geometry().payload_fits(position, reserved.saturating_sub(padding));
            if !padded || !in_area {
                return Err(wrong(number));
            }
            end += reserved;
        }
    }
    Ok(PayloadEnds { head, tail: start })
}

fn apply(
    lane: &Arc<Lane>,
    step: &Step,
    settle: &mut dyn FnMut(&Record, &mut [u8]) -> Settled,
    report: &mut RecoveryReport,
) {
    let slot = lane.slot(step.number);
    let state = match (step.action, step.record) {
        (Action::Reread, Some(record)) => reread(lane, step.number, record, settle, report),
        (Action::Abort, _) => {
            report.flushes_aborted += 1;
            State::Aborted
        }
        (Action::Void, Some(_)) => {
            report.words_voided += 1;
            State::Void
        }
        (Action::Void, None) => {
            report.given_back += 1;
            State::Void
        }
        (Action::Reread, None) | (Action::Keep | Action::LoseRing, _) => {
            unreachable!("the table reads only proved records again, and plans no step for the others")
        }
    };
    slot.state.store(state.code(), Release);
}

fn reread(
    lane: &Arc<Lane>,
    number: u64,
    record: Record,
    settle: &mut dyn FnMut(&Record, &mut [u8]) -> Settled,
    report: &mut RecoveryReport,
) -> State {
    let slot = lane.slot(number);
    let position = slot.position.load(Acquire);
    // At most 1 MiB, and inside the slot's reservation (proved).
    let mut region = Region::new(lane, position, record.payload_len() as u32);
    match settle(&record, region.bytes_mut()) {
        Settled::Reread => {
            let flags = record.flags.with(RecordFlags::REREAD).without(RecordFlags::MORE);
            Descriptor::of(&Record { flags, ..record }, position, slot.reserved.load(Acquire)).store(slot, number);
            report.reread += 1;
            State::Committed
        }
        Settled::Unreadable => {
            report.unreadable.push(record);
            State::Aborted
        }
    }
}
