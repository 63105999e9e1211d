use std::sync::Arc;

use farshore_changelog::clock::Time;
use farshore_changelog::op::RecordFlags;
use farshore_vault::count::LIST_PAGE;
use farshore_vault::fault::{Fault, On};
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{CountingStore, FaultStore, Requests, Vault};
use tokio::runtime::Runtime;

use super::*;
use crate::testing::Source;
use crate::testing::hand_clock::HandClock;

const ALL: UnixMicros = UnixMicros(u64::MAX);

struct World {
    store: Arc<CountingStore>,
    faults: Arc<FaultStore>,
    vault: GroupVault,
    source: Source,
    pruner: LogPruner,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (store, source) = (CountingStore::in_memory(), Source::new("web01", 1));
        let faults = FaultStore::new(store.clone());
        let vault = runtime.block_on(Vault::init_store(faults.clone(), "counted:")).unwrap();
        let vault = vault.with_retry(RetryPolicy::ONCE).group(&source.group);
        Self { store, faults, pruner: LogPruner::new(vault.clone()), vault, source, runtime }
    }

    /// A processor that was started again.
    fn restart(&mut self) {
        self.pruner = LogPruner::new(self.vault.clone());
    }

    fn put(&self, number: SegmentNo, bytes: Vec<u8>) {
        let put = self.vault.put_segment(self.source.object.epoch, number, Bytes::from(bytes));
        self.runtime.block_on(put).unwrap();
    }

    /// A segment, whose source has noted all before it as confirmed, is shipped and not applied.
    fn ship_only(&mut self) -> SegmentHead {
        self.source.write(0, self.source.number.0 % 8, 1, 7, RecordFlags::NONE);
        self.source.watermark = self.source.number.0;
        let sealed = self.source.seal();
        self.put(sealed.head.number, sealed.bytes);
        sealed.head
    }

    /// So many segments are shipped and applied.
    fn ship(&mut self, count: u64) {
        for _ in 0..count {
            let head = self.ship_only();
            self.pruner.applied(&head);
        }
    }

    /// Prunes with the position at the newest segment; what is needed of its epoch begins after `seq`.
    fn try_prune(&mut self, epoch: u64, seq: u64) -> Result<bool, VaultError> {
        let needed = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        let current = (self.source.object.epoch, self.source.number);
        self.runtime.block_on(self.pruner.prune(needed, ALL, current))
    }

    /// Removes all up to `seq` of the source's epoch; gives whether that was all, and what was asked for it.
    fn prune(&mut self, seq: u64) -> (bool, Requests) {
        let before = self.store.requests();
        let done = self.try_prune(self.source.object.epoch.0, seq).unwrap();
        (done, self.store.requests().since(before))
    }

    fn left(&self) -> Vec<u64> {
        self.left_of(1)
    }

    fn left_of(&self, epoch: u64) -> Vec<u64> {
        let listed = self.runtime.block_on(self.vault.list_segments(Epoch(epoch), SegmentNo(1))).unwrap();
        listed.into_iter().map(|(number, _)| number.0).collect()
    }
}

fn asked(lists: u64, deletes: u64) -> Requests {
    Requests { lists, deletes, ..Requests::default() }
}

#[test]
fn a_log_that_is_followed_from_its_beginning_is_not_listed_before_a_day_is_over() {
    let mut world = World::new();
    let time = HandClock::new();
    let _simulation = clock::simulate(time.clone());
    let count = 2 * LIST_PAGE + 10;
    world.ship(count);
    // A segment is a seq here.
    assert_eq!(world.prune(16), (true, asked(0, 16)));
    world.ship(3);
    assert_eq!(world.prune(32), (true, asked(0, 16)));
    assert_eq!(world.prune(32), (true, asked(0, 0)));
    // No more than so many at once.
    assert_eq!(world.prune(count), (false, asked(0, DELETES_MAX as u64)));
    assert_eq!(world.prune(count), (true, asked(0, count - 32 - DELETES_MAX as u64)));
    assert_eq!(world.left(), [count + 1, count + 2, count + 3]);
    assert_eq!(world.prune(count + 3), (true, asked(0, 2)));
    assert_eq!(world.left(), [count + 3], "the segment of the position stays");
    for day in 1..=3 {
        for turn in 0..144 {
            time.sleep(Duration::from_secs(10 * 60));
            world.ship(6);
            let lists = u64::from(turn == 143);
            assert_eq!(world.prune(u64::MAX), (true, asked(lists, 6)), "turn {turn} of day {day}");
        }
    }
}

#[test]
fn a_processor_that_was_started_again_lists_a_long_log_once() {
    let mut world = World::new();
    let count = 2 * LIST_PAGE + 10;
    world.ship(count);
    world.restart();
    let (done, first) = world.prune(16);
    assert_eq!((done, first.lists, first.deletes), (true, 3, 16));
    for turn in 1..20 {
        world.ship(3);
        let (done, asked) = world.prune(16 + turn);
        assert_eq!((done, asked.lists, asked.deletes), (true, 0, 1), "turn {turn}");
    }
    assert!(!world.prune(u64::MAX).0, "no more than so many at once");
    assert_eq!(world.prune(u64::MAX).1.lists, 0);
    while !world.prune(u64::MAX).0 {}
    assert_eq!(world.left(), [count + 57]);
}

#[test]
fn what_was_put_above_a_hole_when_the_log_was_listed_is_not_forgotten() {
    let mut world = World::new();
    world.ship(4);
    world.restart();
    // Four is applied; six and seven are there and five is not.
    let five = {
        world.source.write(0, 0, 1, 9, RecordFlags::NONE);
        world.source.seal()
    };
    let later = [world.ship_only(), world.ship_only()];
    let needed = Position { epoch: Epoch(1), seq: Seq(2) };
    let pruned = world.pruner.prune(needed, ALL, (Epoch(1), SegmentNo(4)));
    assert!(world.runtime.block_on(pruned).unwrap());
    assert_eq!(world.left(), [3, 4, 6, 7]);
    world.put(five.head.number, five.bytes.clone());
    for head in [&five.head, &later[0], &later[1]] {
        world.pruner.applied(head);
    }
    world.ship(1);
    assert_eq!(world.prune(u64::MAX).1.lists, 0);
    assert_eq!(world.left(), [8]);
}

#[test]
fn a_number_that_was_not_applied_has_the_log_listed_and_one_applied_twice_has_not() {
    let mut world = World::new();
    world.ship(3);
    let head = world.ship_only();
    world.pruner.applied(&head);
    world.pruner.applied(&head);
    assert_eq!(world.prune(1), (true, asked(0, 1)));
    world.ship_only();
    world.ship(2);
    assert_eq!(world.prune(u64::MAX), (true, asked(1, 5)));
    assert_eq!(world.left(), [7]);
}

#[test]
fn a_delete_that_failed_is_tried_again_and_nothing_is_listed_for_it() {
    let mut world = World::new();
    world.ship(9);
    for (fault, left) in [(Fault::Before, 3), (Fault::Denied, 3), (Fault::After, 4)] {
        world.faults.inject(On::Delete, "00003", 1, fault);
        let before = world.store.requests();
        assert!(world.try_prune(1, 5).is_err(), "{fault:?}");
        assert_eq!((world.store.requests().since(before).lists, world.left()[0]), (0, left), "{fault:?}");
    }
    assert_eq!(world.prune(5), (true, asked(0, 3)), "one more: its answer was lost");
    assert_eq!(world.left(), [6, 7, 8, 9]);
    world.restart();
    world.faults.inject(On::List, "log", 1, Fault::Before);
    assert!(world.try_prune(1, 6).is_err());
    world.ship(1);
    assert_eq!(world.prune(6).1.lists, 1);
    assert_eq!(world.left(), [7, 8, 9, 10]);
}

#[test]
fn of_an_epoch_that_was_left_what_was_never_applied_goes_too_and_the_next_needs_no_listing() {
    let mut world = World::new();
    world.ship(3);
    // They come after a segment that is lost, and are not applied.
    world.source.write(0, 0, 1, 9, RecordFlags::NONE);
    world.source.seal();
    (0..3).for_each(|_| drop(world.ship_only()));
    world.source.next_epoch();
    world.ship(4);
    // What is needed begins in the first epoch yet.
    assert!(world.try_prune(1, 1).unwrap());
    assert_eq!(world.left(), [2, 3, 5, 6, 7]);
    assert_eq!(world.prune(2), (true, asked(0, 3)));
    assert_eq!(world.prune(2), (true, asked(0, 0)));
    let (done, asked_for) = world.prune(2);
    assert_eq!((done, asked_for.lists, asked_for.deletes), (true, 1, 3), "it is listed before it is done with");
    assert_eq!((world.left(), world.left_of(2)), (vec![7], vec![3, 4]), "and above its watermark all stays");
    world.ship(2);
    assert_eq!(world.prune(5), (true, asked(0, 3)));
    assert_eq!(world.left_of(2), [6]);
}

#[test]
fn of_a_long_log_few_heads_are_remembered_and_none_is_read_again() {
    let mut world = World::new();
    let count = REMEMBERED_WHOLE + 500;
    world.ship(count);
    assert!(world.pruner.known.len() as u64 <= REMEMBERED_WHOLE + 500 / REMEMBERED_EVERY + 1);
    for upto in [1, 15, 16, 17, 100, 499] {
        let (done, asked) = world.prune(upto);
        assert_eq!((done, asked.gets, asked.misses), (true, 0, 0));
        // What is not remembered goes with the next that is.
        assert_eq!(world.left()[0], upto / REMEMBERED_EVERY * REMEMBERED_EVERY + 1, "up to {upto}");
    }
    assert!(world.prune(500 + 7).0);
    assert_eq!(world.left()[0], 508, "the newest are all remembered");
}

#[test]
fn what_another_hand_has_removed_keeps_nothing_else_from_being_removed() {
    let mut world = World::new();
    world.ship(20);
    assert_eq!(world.prune(0).1.deletes, 0);
    for gone in 1..=12 {
        world.runtime.block_on(world.vault.delete_segment(Epoch(1), SegmentNo(gone))).unwrap();
        world.pruner.known.remove(&(Epoch(1), SegmentNo(gone)));
    }
    world.prune(15);
    world.prune(15);
    assert_eq!(world.left(), [16, 17, 18, 19, 20]);
}
