//! Random interleavings of producers, a consumer, and their crashes, against a model: what was committed comes out once, in
//! order and unchanged; what was not is settled by the table; every byte comes back in the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::op::Record;

const LANES: u32 = 2;
/// Payload lengths: none, a sector, a page, odd ends, and one that makes the area wrap soon.
const LENS: [u32; 6] = [0, 512, 4096, 4608, 64 << 10, 520 << 10];

/// What must become of a seq.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    InFlight(Record),
    Committed(Record),
    Passed,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Reserve { lane: usize, len: u32 },
    Sequence { lane: usize, parts: usize },
    Settle { lane: usize, pick: usize, how: How },
    Take { most: usize },
    Release { pick: usize },
    RestartConsumer { half_released: bool },
    CrashProducer { unplaced_seqs: u64, half_reserve: bool, half_reclaim: bool, unreadable: bool },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Commit,
    Reread,
    Abort,
    Drop,
}

fn any_step() -> impl Strategy<Value = Step> {
    let lane = 0..LANES as usize;
    let how = prop_oneof![4 => Just(How::Commit), 1 => Just(How::Reread), 1 => Just(How::Abort), 1 => Just(How::Drop)];
    prop_oneof![
        30 => (lane.clone(), 0..LENS.len()).prop_map(|(lane, len)| Step::Reserve { lane, len: LENS[len] }),
        20 => (lane.clone(), 1..4usize).prop_map(|(lane, parts)| Step::Sequence { lane, parts }),
        30 => (lane, any::<usize>(), how).prop_map(|(lane, pick, how)| Step::Settle { lane, pick, how }),
        12 => (1..24usize).prop_map(|most| Step::Take { most }),
        10 => any::<usize>().prop_map(|pick| Step::Release { pick }),
        2 => any::<bool>().prop_map(|half_released| Step::RestartConsumer { half_released }),
        2 => (0..3u64, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(unplaced_seqs, half_reserve, half_reclaim, unreadable)| Step::CrashProducer {
                unplaced_seqs, half_reserve, half_reclaim, unreadable
            }
        ),
    ]
}

struct World {
    bench: Bench,
    producers: Vec<Producer>,
    slots: Vec<Vec<Slot>>,
    consumer: Consumer,
    taken: Vec<Taken>,
    fates: BTreeMap<u64, Fate>,
    writes: u64,
}

impl World {
    fn new() -> Self {
        let bench = bench(LANES);
        Self {
            producers: (0..LANES).map(|lane| bench.ring.producer(lane)).collect(),
            slots: (0..LANES).map(|_| Vec::new()).collect(),
            consumer: bench.ring.consumer(),
            taken: Vec::new(),
            fates: BTreeMap::new(),
            writes: 0,
            bench,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Reserve { lane, len } => self.reserve(lane, len),
            Step::Sequence { lane, parts } => self.sequence(lane, parts),
            Step::Settle { lane, pick, how } => self.settle(lane, pick, how),
            Step::Take { most } => {
                let _ = (0..most).take_while(|_| self.take()).count();
            }
            Step::Release { pick } => self.release(pick % (self.taken.len() + 1)),
            Step::RestartConsumer { half_released } => self.restart_consumer(half_released),
            Step::CrashProducer { unplaced_seqs, half_reserve, half_reclaim, unreadable } => {
                self.crash_producer(unplaced_seqs, half_reserve, half_reclaim, unreadable);
            }
        }
    }

    fn reserve(&mut self, lane: usize, len: u32) {
        match self.producers[lane].reserve(len) {
            Some(mut slot) => {
                assert_eq!(slot.len(), len as usize);
                slot.payload_mut().fill(0xee);
                self.slots[lane].push(slot);
            }
            None => {
                let handle = self.bench.ring.lane(lane as u32);
                assert!(handle.words().head.load(Acquire) > handle.words().tail.load(Acquire), "an empty lane is full");
            }
        }
    }

    fn sequence(&mut self, lane: usize, parts: usize) {
        let mut requests: Vec<(&mut Slot, Draft)> = Vec::new();
        for slot in self.slots[lane].iter_mut().filter(|slot| slot.seq().is_none()).take(parts) {
            self.writes += 1;
            let (offset, len) = (self.writes << 20, slot.len() as u64);
            slot.payload_mut().copy_from_slice(&pattern(offset, len as usize));
            let of_no_payload = [Op::WriteZeroes, Op::Trim, Op::Flush, Op::ResyncZeroes, Op::ResyncEnd];
            let draft = match of_no_payload[self.writes as usize % of_no_payload.len()] {
                _ if len > 0 => draft([Op::Write, Op::ResyncWrite][self.writes as usize % 2], offset, len),
                op if op.changes_disk() => draft(op, offset, 4096),
                // Not a part of a larger request: these carry no MORE.
                op if requests.is_empty() => {
                    requests.push((slot, draft(op, 0, 0)));
                    break;
                }
                _ => break,
            };
            requests.push((slot, draft));
        }
        if !requests.is_empty() {
            let before = self.bench.ring.next_seq();
            assert_eq!(self.producers[lane].sequence(&mut requests), before);
            for (index, (slot, _)) in requests.iter().enumerate() {
                let record = slot.record().unwrap();
                assert_eq!(record.seq.0, before.0 + index as u64);
                self.fates.insert(record.seq.0, Fate::InFlight(record));
            }
        }
    }

    fn settle(&mut self, lane: usize, pick: usize, how: How) {
        if self.slots[lane].is_empty() {
            return;
        }
        let pick = pick % self.slots[lane].len();
        let slot = self.slots[lane].swap_remove(pick);
        let Some(record) = slot.record() else {
            match how {
                How::Commit | How::Reread => self.slots[lane].push(slot),
                How::Abort => slot.give_back(),
                How::Drop => drop(slot),
            }
            return;
        };
        let fate = match how {
            How::Reread if record.op.changes_disk() => {
                slot.commit_reread();
                Fate::Committed(Record { flags: record.flags.with(RecordFlags::REREAD), ..record })
            }
            How::Commit | How::Reread => {
                slot.commit();
                Fate::Committed(record)
            }
            How::Abort => {
                slot.abort();
                Fate::Passed
            }
            How::Drop => {
                drop(slot);
                Fate::Passed
            }
        };
        self.fates.insert(record.seq.0, fate);
    }

    /// Takes one record and compares it with the model's; gives whether there was one.
    fn take(&mut self) -> bool {
        let mut seq = self.consumer.position().0 + 1;
        while self.fates.get(&seq) == Some(&Fate::Passed) {
            seq += 1;
        }
        let taken = self.consumer.take().unwrap();
        match (self.fates.get(&seq), taken) {
            (Some(Fate::Committed(record)), Some(taken)) => {
                assert_eq!(taken.record(), record);
                assert_eq!(taken.payload(), pattern(record.offset, record.payload_len() as usize));
                assert_eq!(self.consumer.position(), Seq(seq));
                self.taken.push(taken);
                true
            }
            (Some(Fate::InFlight(_)) | None, None) => {
                assert_eq!(self.consumer.position(), Seq(seq - 1));
                false
            }
            (fate, taken) => panic!("seq {seq} is {fate:?}, taken {taken:?}"),
        }
    }

    fn release(&mut self, count: usize) {
        let rest = self.taken.split_off(count);
        let upto = match rest.first() {
            Some(next) => Seq(next.record().seq.0 - 1),
            None => self.consumer.position(),
        };
        self.consumer.release(upto, std::mem::replace(&mut self.taken, rest));
        assert_eq!(self.bench.ring.read_seq(), upto.next());
    }

    fn restart_consumer(&mut self, half_released: bool) {
        self.taken.clear();
        if half_released {
            // It died between its two steps: read_seq is noted, no slot is marked.
            self.bench.ring.header().read_seq.store(self.consumer.position().0 + 1, Release);
        }
        self.consumer = Ring::open(&self.bench.path).unwrap().consumer();
        assert_eq!(self.consumer.position().next(), self.bench.ring.read_seq());
    }

    fn crash_producer(&mut self, unplaced_seqs: u64, half_reserve: bool, half_reclaim: bool, unreadable: bool) {
        for lane in 0..LANES {
            let handle = self.bench.ring.lane(lane);
            let words = handle.words();
            let (head, tail) = (words.payload_head.load(Acquire), words.payload_tail.load(Acquire));
            if half_reclaim {
                let _ = self.producers[lane as usize].free_payload_bytes();
                words.payload_tail.store(tail, Release);
            } else if half_reserve && let Some(slot) = self.producers[lane as usize].reserve(4608) {
                words.payload_head.store(head, Release);
                self.slots[lane as usize].push(slot);
            }
        }
        let first = self.bench.ring.header().next_seq.fetch_add(unplaced_seqs, AcqRel);
        self.fates.extend((first..first + unplaced_seqs).map(|seq| (seq, Fate::Passed)));
        self.producers.clear();
        let unplaced = self.slots.iter().flatten().filter(|slot| slot.seq().is_none()).count() as u64;
        self.slots.iter_mut().for_each(|slots| slots.drain(..).for_each(Slot::leave));
        self.recover(unplaced, unreadable);
        assert_eq!(self.bench.ring.recover(&mut |_, _| panic!("all is settled")).unwrap().given_back, 0);
        self.producers = (0..LANES).map(|lane| self.bench.ring.producer(lane)).collect();
    }

    fn recover(&mut self, unplaced: u64, unreadable: bool) {
        let in_flight = |fate: &Fate| if let Fate::InFlight(record) = fate { Some(*record) } else { None };
        let left: Vec<Record> = self.fates.values().filter_map(in_flight).collect();
        let mut asked = Vec::new();
        self.bench.ring = Ring::open(&self.bench.path).unwrap();
        let report = self.bench.ring.recover(&mut |record, payload| {
            asked.push(*record);
            assert_eq!(payload.len() as u64, record.payload_len());
            payload.copy_from_slice(&pattern(record.offset, payload.len()));
            if unreadable && record.seq.0.is_multiple_of(3) { Settled::Unreadable } else { Settled::Reread }
        });
        let report = report.unwrap();
        let (changes, others): (Vec<Record>, Vec<Record>) = left.into_iter().partition(|r| r.op.changes_disk());
        assert_eq!(asked, changes);
        let (lost, reread): (Vec<Record>, Vec<Record>) =
            changes.into_iter().partition(|r| unreadable && r.seq.0.is_multiple_of(3));
        let flushes = others.iter().filter(|r| r.op == Op::Flush).count() as u64;
        assert_eq!((report.given_back, report.reread), (unplaced, reread.len() as u64));
        assert_eq!((report.flushes_aborted, report.words_voided), (flushes, others.len() as u64 - flushes));
        assert_eq!(report.unreadable, lost);
        for record in reread {
            let flags = record.flags.with(RecordFlags::REREAD).without(RecordFlags::MORE);
            self.fates.insert(record.seq.0, Fate::Committed(Record { flags, ..record }));
        }
        self.fates.extend(lost.iter().chain(&others).map(|record| (record.seq.0, Fate::Passed)));
    }

    fn finish(mut self) {
        for lane in 0..LANES as usize {
            while !self.slots[lane].is_empty() {
                let how = if self.slots[lane][0].seq().is_some() { How::Commit } else { How::Drop };
                self.settle(lane, 0, how);
            }
        }
        while self.take() {}
        self.release(self.taken.len());
        assert_eq!(self.bench.ring.next_seq(), self.bench.ring.read_seq());
        assert_eq!(self.fates.len() as u64 + 1, self.bench.ring.next_seq().0, "seqs are dense");
        for producer in &self.producers {
            assert_eq!(producer.free_payload_bytes(), PAYLOAD_BYTES);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn the_ring_keeps_what_the_model_keeps(steps in prop::collection::vec(any_step(), 1..700)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.finish();
    }
}
