//! Two producer threads and a consumer thread, each side with a mapping of its own, as two processes have.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::clock;

const RECORDS_PER_LANE: u64 = 20_000;
const IN_FLIGHT: usize = 24;

/// Writes until done; gives how many records it committed.
fn produce(ring: &Ring, lane: u32) -> u64 {
    let mut producer = ring.producer(lane);
    let mut dice = Dice::new(u64::from(lane) + 3);
    let mut flying: VecDeque<Slot> = VecDeque::new();
    let (mut committed, mut sequenced) = (0, 0u64);
    while sequenced < RECORDS_PER_LANE {
        let len = [512, 512, 4096, 8192, 20480, 512 * dice.roll(256) as u32][dice.roll(6) as usize].max(512);
        if flying.len() < IN_FLIGHT
            && let Some(mut slot) = producer.reserve(len)
        {
            if dice.roll(20) == 0 {
                slot.give_back();
                continue;
            }
            let offset = sequenced << 20 | u64::from(lane) << 48;
            slot.payload_mut().copy_from_slice(&pattern(offset, len as usize));
            producer.sequence(&mut [(&mut slot, draft(Op::Write, offset, len.into()))]);
            sequenced += 1;
            flying.push_back(slot);
        } else if flying.is_empty() {
            std::thread::yield_now();
        }
        // Completions come in any order.
        if !flying.is_empty() && dice.roll(3) > 0 {
            let pick = dice.roll(flying.len() as u64) as usize;
            let slot = flying.swap_remove_back(pick).unwrap();
            if dice.roll(50) == 0 {
                slot.abort();
            } else {
                slot.commit();
                committed += 1;
            }
        }
    }
    committed + flying.into_iter().map(Slot::commit).count() as u64
}

/// Reads until `done` and empty; gives how many records it took.
fn consume(ring: &Ring, done: &AtomicBool) -> u64 {
    let mut consumer = ring.consumer();
    let mut last = [0; 2];
    let (mut count, mut batch) = (0, Vec::new());
    loop {
        let finished = done.load(Acquire);
        match consumer.take().unwrap() {
            Some(taken) => {
                let record = *taken.record();
                assert!(taken.payload() == pattern(record.offset, record.len as usize), "payload of {record:?}");
                assert_eq!(record.seq, consumer.position());
                let lane = (record.offset >> 48) as usize;
                assert!(record.offset >= last[lane], "{record:?} came after a later one of its lane");
                last[lane] = record.offset;
                count += 1;
                batch.push(taken);
            }
            None if finished && consumer.position().next() == ring.next_seq() => {
                consumer.release(consumer.position(), batch);
                return count;
            }
            None => {
                consumer.release(consumer.position(), std::mem::take(&mut batch));
                consumer.wait(Duration::from_millis(200));
            }
        }
        if batch.len() == 32 {
            consumer.release(consumer.position(), std::mem::take(&mut batch));
        }
    }
}

#[test]
fn two_lanes_at_full_speed_keep_order_and_bytes() {
    let bench = bench(2);
    let other = Ring::open(&bench.path).unwrap();
    let done = AtomicBool::new(false);
    let start = clock::mono();
    let (committed, taken) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| consume(&other, &done));
        let writers = [0, 1].map(|lane| {
            scope.spawn({
                let ring = bench.ring.clone();
                move || produce(&ring, lane)
            })
        });
        let committed: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        done.store(true, Release);
        (committed, reader.join().unwrap())
    });
    assert_eq!(committed, taken);
    assert!(committed > RECORDS_PER_LANE);
    assert!(start.elapsed() < Duration::from_secs(100), "a wake-up was lost over and over");
}
