use farshore_changelog::ids::DiskName;
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind};
use proptest::prelude::*;

use super::*;
use crate::regions::REGION_BYTES_MIN as REGION;

const REGIONS: u64 = 6;

#[derive(Debug, Clone)]
enum Step {
    /// A change of some regions begins.
    Begin { first: u64, count: u64 },
    /// One of those in flight ends, with or without a record.
    End { pick: usize, logged: bool },
    /// The commit that is due is taken.
    Take,
    /// The one on its way has ended.
    Done,
    /// The vault confirms some of the log.
    Confirm(u64),
    /// An fdatasync begins, or the one that runs ends.
    Sync,
    /// A tick.
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..REGIONS, 1..3_u64).prop_map(|(first, count)| Step::Begin { first, count }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, logged)| Step::End { pick, logged }),
        4 => Just(Step::Take),
        4 => Just(Step::Done),
        2 => (0..4_u64).prop_map(Step::Confirm),
        3 => Just(Step::Sync),
        6 => Just(Step::Tick),
    ]
}

/// The rule by itself: every change, and whether the vault and the disk have it.
#[derive(Default)]
struct Model {
    /// Changes that go on: their regions and whether the disk may have been touched.
    flying: Vec<(std::ops::Range<u64>, bool)>,
    /// Changes that have ended: region, seq, and the fdatasync that covers them.
    ended: Vec<(u64, u64, u64)>,
    next_seq: u64,
    confirmed: u64,
    sync_started: u64,
    sync_done: u64,
    sync_running: bool,
}

impl Model {
    fn must_be_open(&self, region: u64) -> bool {
        self.flying.iter().any(|(regions, touched)| *touched && regions.contains(&region))
            || self.ended.iter().any(|(r, seq, sync)| *r == region && (*seq > self.confirmed || *sync > self.sync_done))
    }
}

fn disk() -> DiskEntry {
    let identity = DiskIdentity { kind: DiskKind::File, device: 1, inode: 2 };
    DiskEntry { name: DiskName::new("vda").unwrap(), size_bytes: REGIONS * REGION, identity, block_bytes: 512 }
}

fn bytes(regions: &std::ops::Range<u64>) -> ByteRange {
    ByteRange { start: regions.start * REGION, end: regions.end * REGION }
}

proptest! {
    /// Whatever the order of changes, commits, confirmations and fdatasyncs: at no moment does the map on disk say that a region is
    /// closed which holds something that the vault has not, or that the disk could still forget. And what is done with is closed
    /// in the end.
    #[test]
    fn the_map_on_disk_never_says_too_little(steps in prop::collection::vec(step(), 1..150), eager in any::<bool>()) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("vda.map");
        let map = RegionMap::create(&path, &disk(), REGION, false).unwrap();
        let mut dirty = Dirty::new(map, Seq(0));
        if eager {
            dirty.ahead = Ahead::eager();
        }
        let mut model = Model { next_seq: 1, ..Model::default() };
        let mut commit: Option<Commit> = None;
        let drain = std::iter::repeat_n([Step::Sync, Step::Take, Step::Done, Step::Confirm(1000), Step::Tick], 12);
        let ends = std::iter::repeat_n(Step::End { pick: 0, logged: true }, 150);
        for step in steps.into_iter().chain([Step::Take, Step::Done, Step::Take, Step::Done]).chain(ends).chain(drain.flatten()) {
            match step {
                Step::Begin { first, count } => {
                    let regions = first..(first + count).min(REGIONS);
                    dirty.enter(bytes(&regions));
                    model.flying.push((regions, false));
                }
                Step::End { pick, logged } if !model.flying.is_empty() => {
                    let pick = pick % model.flying.len();
                    if !model.flying[pick].1 {
                        continue; // it waits for its bits
                    }
                    let (regions, _) = model.flying.remove(pick);
                    let seq = logged.then_some(model.next_seq);
                    model.next_seq += u64::from(logged);
                    let sync = model.sync_started + 1;
                    dirty.leave(bytes(&regions), seq.map(Seq), sync);
                    model.ended.extend(regions.map(|region| (region, seq.unwrap_or(0), sync)));
                }
                Step::End { .. } => {}
                Step::Take => {
                    if commit.is_none() {
                        commit = dirty.next_commit();
                    }
                }
                Step::Done => {
                    if let Some(commit) = commit.take() {
                        commit.run().unwrap();
                        dirty.committed(true, false);
                    }
                }
                Step::Confirm(more) => model.confirmed = (model.confirmed + more).min(model.next_seq - 1),
                Step::Sync if model.sync_running => {
                    (model.sync_running, model.sync_done) = (false, model.sync_started);
                }
                Step::Sync => {
                    (model.sync_running, model.sync_started) = (true, model.sync_started + 1);
                }
                Step::Tick => {
                    let reached = Reached { confirmed: Seq(model.confirmed), synced: model.sync_done };
                    dirty.close_quiet(reached);
                }
            }
            // What has its bits goes to the disk.
            for (regions, touched) in &mut model.flying {
                *touched |= dirty.entered(bytes(regions)) == Entered::Ready;
            }
            let on_disk = RegionMap::open(&path, &disk()).unwrap();
            for region in 0..REGIONS {
                prop_assert!(!model.must_be_open(region) || on_disk.is_open(region), "region {}", region);
            }
        }
        prop_assert_eq!(RegionMap::open(&path, &disk()).unwrap().open_regions(), 0);
    }
}
