use std::sync::Arc;

use farshore_changelog::op::RecordFlags;
use farshore_vault::count::LIST_PAGE;
use farshore_vault::{CountingStore, Requests, Vault};
use tokio::runtime::Runtime;

use super::*;
use crate::testing::Source;

const ALL: UnixMicros = UnixMicros(u64::MAX);

struct World {
    store: Arc<CountingStore>,
    vault: GroupVault,
    source: Source,
    pruner: LogPruner,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (store, source) = (CountingStore::in_memory(), Source::new("web01", 1));
        let vault = runtime.block_on(Vault::init_store(store.clone(), "counted:")).unwrap().group(&source.group);
        Self { store, pruner: LogPruner::new(vault.clone()), vault, source, runtime }
    }

    /// So many segments, whose source has noted all before them as confirmed, are shipped and applied.
    fn ship(&mut self, count: u64) {
        for n in 0..count {
            self.source.write(0, n % 8, 1, 7, RecordFlags::NONE);
            self.source.watermark = self.source.number.0;
            let sealed = self.source.seal();
            self.pruner.applied(&sealed.head);
            let put = self.vault.put_segment(Epoch(1), sealed.head.number, Bytes::from(sealed.bytes));
            self.runtime.block_on(put).unwrap();
        }
    }

    /// Removes all up to `seq`; gives whether that was all, and what was asked for it.
    fn prune(&mut self, seq: u64) -> (bool, Requests) {
        let (needed, before) = (Position { epoch: Epoch(1), seq: Seq(seq) }, self.store.requests());
        let current = (Epoch(1), self.source.number);
        let done = self.runtime.block_on(self.pruner.prune(needed, ALL, current)).unwrap();
        (done, self.store.requests().since(before))
    }

    fn left(&self) -> Vec<u64> {
        let listed = self.runtime.block_on(self.vault.list_segments(Epoch(1), SegmentNo(1))).unwrap();
        listed.into_iter().map(|(number, _)| number.0).collect()
    }
}

#[test]
fn a_long_log_is_listed_once_and_then_only_what_came_since() {
    let mut world = World::new();
    let count = 2 * LIST_PAGE + 10;
    world.ship(count);
    let asked = |lists, deletes| Requests { lists, deletes, ..Requests::default() };
    // A segment is a seq here.
    assert_eq!(world.prune(16), (true, asked(3, 16)));
    world.ship(3);
    assert_eq!(world.prune(32), (true, asked(1, 16)));
    assert_eq!(world.prune(32), (true, asked(1, 0)));
    // No more than so many at once.
    assert_eq!(world.prune(count), (false, asked(1, DELETES_MAX as u64)));
    assert_eq!(world.prune(count), (true, asked(1, count - 32 - DELETES_MAX as u64)));
    assert_eq!(world.left(), [count + 1, count + 2, count + 3]);
    assert_eq!(world.prune(count + 3), (true, asked(1, 2)));
    assert_eq!(world.left(), [count + 3], "the segment of the position stays");
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
