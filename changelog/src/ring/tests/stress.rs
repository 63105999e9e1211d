//! Four producer threads and a consumer thread in a ring that is used again hundreds of times. What an operation is follows
//! from its lane and its index alone, so the reader knows every field and byte that must come next, and what must not come.
//!
//! Once each side has a mapping of its own, as two processes have; and once all have one, because ThreadSanitizer takes two
//! addresses for two memories (`make tsan`).

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::clock;
use crate::op::Record;

const LANES: u32 = 4;
/// Operations of each lane, unless this variable says more.
const OPERATIONS: u64 = 8_000;
const OPERATIONS_VARIABLE: &str = "FARSHORE_STRESS_OPERATIONS";
const IN_FLIGHT: usize = 24;
/// The reader gives back after so many records, and is restarted after so many gifts.
const BATCH: usize = 32;
const BATCHES_A_READER: u64 = 16;
/// Every so manieth operation...
const ABORTED_EVERY: u64 = 13;
const REREAD_EVERY: u64 = 11;
const REQUEST_OF_TWO_EVERY: u64 = 7;

fn operations() -> u64 {
    std::env::var(OPERATIONS_VARIABLE).map_or(OPERATIONS, |n| n.parse().unwrap())
}

fn is_aborted(index: u64) -> bool {
    index % ABORTED_EVERY == 5
}

fn is_reread(index: u64) -> bool {
    index % REREAD_EVERY == 3
}

/// The operation `index` of a lane. The offset names both.
fn draft_of(lane: u32, index: u64) -> Draft {
    let mut dice = Dice::new(index << 8 | u64::from(lane));
    let (op, own) = match dice.roll(10) {
        0 => (Op::WriteZeroes, RecordFlags::NO_HOLE),
        1 => (Op::Trim, RecordFlags::NONE),
        2 => (Op::ResyncWrite, RecordFlags::NONE),
        _ => (Op::Write, RecordFlags::NONE),
    };
    let flags = if dice.roll(5) == 0 { own.with(RecordFlags::FUA) } else { own };
    let len = 512 * [1, 1, 8, 16, 40, 1 + dice.roll(256)][dice.roll(6) as usize];
    Draft {
        time: UnixMicros(dice.roll(u64::MAX)),
        disk: DiskIndex(dice.roll(2) as u16),
        op,
        flags,
        offset: u64::from(lane) << 48 | index << 20,
        len,
    }
}

/// The record that comes of it under this seq.
fn record_of(lane: u32, index: u64, seq: Seq) -> Record {
    let draft = draft_of(lane, index);
    let more = if index.is_multiple_of(REQUEST_OF_TWO_EVERY) { RecordFlags::MORE } else { RecordFlags::NONE };
    let reread = if is_reread(index) { RecordFlags::REREAD } else { RecordFlags::NONE };
    draft.with(seq, draft.flags.with(more).with(reread))
}

fn fill(slot: &mut Slot, draft: &Draft) {
    let bytes = pattern(draft.offset, slot.len());
    slot.payload_mut().copy_from_slice(&bytes);
}

/// Reserves, fills and sequences the operations that come as one request; none while the lane is full.
fn submit(producer: &mut Producer, lane: u32, index: u64) -> Vec<(u64, Slot)> {
    let parts = if index.is_multiple_of(REQUEST_OF_TWO_EVERY) { 2 } else { 1 };
    let mut request = Vec::new();
    for index in index..index + parts {
        let draft = draft_of(lane, index);
        let payload = draft.with(Seq(0), draft.flags).payload_len();
        let Some(mut slot) = producer.reserve(payload as u32) else {
            request.into_iter().for_each(|(_, slot, _): (u64, Slot, Draft)| slot.give_back());
            return Vec::new();
        };
        // A payload that is read again later is not yet what it will be.
        if is_reread(index) {
            slot.payload_mut().fill(0xee)
        } else {
            fill(&mut slot, &draft)
        }
        request.push((index, slot, draft));
    }
    let mut in_order: Vec<_> = request.iter_mut().map(|(_, slot, draft)| (slot, *draft)).collect();
    producer.sequence(&mut in_order);
    request.into_iter().map(|(index, slot, _)| (index, slot)).collect()
}

fn settle(lane: u32, index: u64, mut slot: Slot) {
    if is_aborted(index) {
        slot.abort();
    } else if is_reread(index) {
        fill(&mut slot, &draft_of(lane, index));
        slot.commit_reread();
    } else {
        slot.commit();
    }
}

/// Puts all of a lane's operations through, which complete in any order, with clients in between that give up.
fn produce(ring: &Ring, lane: u32, operations: u64) {
    let mut producer = ring.producer(lane);
    let mut dice = Dice::new(u64::from(lane) + 3);
    let mut flying: VecDeque<(u64, Slot)> = VecDeque::new();
    let mut index = 0;
    while index < operations || !flying.is_empty() {
        let submitted = if index < operations && flying.len() < IN_FLIGHT {
            if dice.roll(20) == 0 {
                producer.reserve(4096).into_iter().for_each(Slot::give_back);
            }
            submit(&mut producer, lane, index)
        } else {
            Vec::new()
        };
        index += submitted.len() as u64;
        if submitted.is_empty() && flying.is_empty() {
            std::thread::yield_now();
        }
        flying.extend(submitted);
        if !flying.is_empty() && dice.roll(3) > 0 {
            let pick = dice.roll(flying.len() as u64) as usize;
            let (index, slot) = flying.swap_remove_back(pick).unwrap();
            settle(lane, index, slot);
        }
    }
}

/// What the reader has read: for each lane the index that comes next.
type Progress = [u64; LANES as usize];

/// Proves a record against the operation that its lane has next.
fn check(taken: &Taken, progress: &mut Progress) {
    let record = *taken.record();
    let lane = (record.offset >> 48) as u32;
    let next = &mut progress[lane as usize];
    *next += u64::from(is_aborted(*next));
    assert_eq!(record, record_of(lane, *next, record.seq), "lane {lane}, operation {next}");
    assert!(taken.payload() == pattern(record.offset, record.payload_len() as usize), "payload of {record:?}");
    *next += 1;
}

/// How a reader ends before the next one goes on.
enum End {
    GaveAllBack,
    NotedOnly,
    GaveNothingBack,
}

impl End {
    fn of(reader: u64) -> Self {
        [Self::GaveAllBack, Self::NotedOnly, Self::GaveNothingBack].into_iter().nth(reader as usize % 3).unwrap()
    }
}

/// Reads as one reader after the other until `done` and empty; gives the progress.
fn consume(ring: &Ring, done: &AtomicBool) -> Progress {
    let mut safe = Progress::default();
    for reader in 0.. {
        let mut consumer = handle(ring).consumer();
        let mut read = safe;
        let (mut batch, mut batches) = (Vec::new(), 0);
        loop {
            let finished = done.load(Acquire);
            match consumer.take().unwrap() {
                Some(taken) => {
                    assert_eq!(taken.record().seq, consumer.position());
                    check(&taken, &mut read);
                    batch.push(taken);
                }
                None if finished && consumer.position().next() == ring.next_seq() => {
                    consumer.release(consumer.position(), batch);
                    return read;
                }
                None => consumer.wait(Duration::from_millis(200)),
            }
            if batch.len() < BATCH {
                continue;
            }
            batches += 1;
            let last = batches == BATCHES_A_READER;
            match End::of(reader) {
                End::NotedOnly if last => {
                    ring.header().read_seq.store(consumer.position().0 + 1, Release);
                    safe = read;
                }
                End::GaveNothingBack if last => {}
                _ => {
                    consumer.release(consumer.position(), std::mem::take(&mut batch));
                    safe = read;
                }
            }
            if last {
                break;
            }
        }
    }
    unreachable!("readers go on until all is read")
}

/// `reader` is another handle to the ring that the producers have.
fn put_through(ring: &Ring, reader: &Ring) {
    let operations = operations();
    let done = AtomicBool::new(false);
    let start = clock::mono();
    let progress = std::thread::scope(|scope| {
        let reader = scope.spawn(|| consume(reader, &done));
        let writers: Vec<_> = (0..LANES).map(|lane| scope.spawn(move || produce(ring, lane, operations))).collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Release);
        reader.join().unwrap()
    });
    for next in progress {
        // A request of two may be the last, and an abort is not seen.
        assert!((operations - 1..=operations + 1).contains(&next), "{next} of {operations}");
    }
    let laps = (0..LANES).map(|lane| ring.lane(lane).words().payload_head.load(Acquire) / PAYLOAD_BYTES).min().unwrap();
    assert!(laps > operations / 1000, "{laps} times around");
    assert!(start.elapsed() < Duration::from_millis(100 * operations), "a wake-up was lost over and over");
}

#[test]
fn four_lanes_at_full_speed_keep_order_and_bytes_with_a_mapping_a_side() {
    let bench = bench(LANES);
    put_through(&bench.ring, &Ring::open(&bench.path).unwrap());
}

#[test]
fn four_lanes_at_full_speed_keep_order_and_bytes_with_one_mapping() {
    let bench = bench(LANES);
    put_through(&bench.ring, &handle(&bench.ring));
}
