//! The open bits (G5): durable before a region is changed, cleared only when the vault has everything and the disk has kept it.

use std::cell::Cell;

use farshore_changelog::units::UnixMicros;

use super::*;

const REGION: u64 = REGION_BYTES_MIN;

/// A time that goes on by a little with each look, and by as much as a test says.
pub(super) struct Skipping {
    begin: std::time::Instant,
    past: Cell<Duration>,
}

impl Skipping {
    pub fn new() -> (Rc<Self>, clock::Simulation) {
        let time = Rc::new(Self { begin: clock::mono(), past: Cell::new(Duration::ZERO) });
        (Rc::clone(&time), clock::simulate(time))
    }

    pub fn skip(&self, time: Duration) {
        self.past.set(self.past.get() + time);
    }
}

impl clock::Time for Skipping {
    fn wall(&self) -> UnixMicros {
        UnixMicros(1_700_000_000_000_000 + self.past.get().as_micros() as u64)
    }

    fn mono(&self) -> std::time::Instant {
        self.skip(Duration::from_micros(20));
        self.begin + self.past.get()
    }

    fn sleep(&self, time: Duration) {
        self.skip(time);
    }

    fn nonce(&self) -> [u8; 16] {
        [9; 16]
    }
}

impl World {
    pub(super) fn map_on_disk(&self) -> RegionMap {
        RegionMap::open(&map_path(self.dir.path(), 0), &self.ring.spec().disks[0]).unwrap()
    }

    fn open_on_disk(&self) -> Vec<u64> {
        let map = self.map_on_disk();
        std::iter::successors(map.next_open(0), |last| map.next_open(last + 1)).collect()
    }

    /// Lets so many seconds pass, with a few turns in each.
    pub(super) fn pass(&mut self, time: &Skipping, seconds: u32) {
        for _ in 0..seconds {
            time.skip(Duration::from_secs(1));
            (0..4).for_each(|_| self.turn());
        }
    }

    /// At each write to the disk its regions must be open in the map as it lies on the disk.
    fn watch_writes(&mut self) {
        let (path, disk) = (map_path(self.dir.path(), 0), self.ring.spec().disks[0].clone());
        self.faults(move |io| {
            if let Io::Write { offset, piece, .. } = io {
                let map = RegionMap::open(&path, &disk).unwrap();
                for region in map.touched(ByteRange::at(*offset, piece.len() as u64).unwrap()) {
                    assert!(map.is_open(region), "region {region} is written and not open");
                }
            }
            Fault::None
        });
    }
}

#[test]
fn a_region_is_open_on_disk_before_it_is_changed() {
    with_both(|kind| {
        let mut world = Setup::new(kind).open();
        world.watch_writes();
        world.put(0, 10, &pattern(1, 3 * REGION as usize));
        let zero = Request::WriteZeroes { offset: 9 * REGION, len: 4096, fua: false, no_hole: false, fast: false };
        let id = world.submit(0, zero, None);
        assert_eq!(world.errno(id), 0);
        let id = world.submit(0, Request::Trim { offset: 20 * REGION, len: REGION, fua: false }, None);
        assert_eq!(world.errno(id), 0);
        assert_eq!(world.open_on_disk(), [0, 1, 2, 3, 9, 20]);
        assert_eq!(world.states[0].read().open_regions, 6);
        world.assert_log_is_disk();
    });
}

#[test]
fn many_first_writes_share_few_commits() {
    let mut world = Setup { lane_bytes: 64 * MIB, ..Setup::new(EngineKind::Auto) }.open();
    let (commits, counted) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let count = Rc::clone(&commits);
    world.faults(move |io| {
        count.set(count.get() + u32::from(matches!(io, Io::Call(_))));
        Fault::None
    });
    let ids: Vec<_> = (0..56).map(|n| world.write(0, n * REGION, &pattern(n, 512), false).unwrap()).collect();
    for id in ids {
        assert_eq!(world.errno(id), 0);
    }
    counted.set(commits.get());
    assert!(counted.get() <= 3, "{} commits for 56 regions", counted.get());
    assert_eq!(world.open_on_disk().len(), 56);
}

#[test]
fn a_region_is_closed_when_it_is_confirmed_and_synced_and_quiet() {
    let (time, _simulated) = Skipping::new();
    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, 4096));
    world.consume();
    world.pass(&time, 10);
    assert_eq!(world.open_on_disk(), [0], "it is not confirmed");
    let syncs = Rc::new(Cell::new(0));
    let count = Rc::clone(&syncs);
    world.faults(move |io| {
        let sync = matches!(io, Io::Fdatasync { .. });
        count.set(count.get() + u32::from(sync));
        if sync && count.get() < 3 { Fault::Swallow } else { Fault::None }
    });
    world.confirm();
    world.pass(&time, 10);
    assert_eq!((world.open_on_disk(), syncs.get()), (vec![0], 1), "its fdatasync has not ended");
    drop(world);

    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, 4096));
    world.consume();
    world.confirm();
    for n in 0..6 {
        world.pass(&time, 1);
        world.put(0, 4096, &pattern(n, 512));
        world.consume();
        world.confirm();
    }
    assert_eq!(world.open_on_disk(), [0], "it is written all the time");
    world.pass(&time, 10);
    assert_eq!(world.open_on_disk(), [] as [u64; 0]);
    assert_eq!(world.states[0].read().open_regions, 0);
}

#[test]
fn an_fdatasync_that_began_before_the_write_ended_closes_nothing() {
    let (time, _simulated) = Skipping::new();
    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, 4096));
    let before = world.taps[0].flushes_begun();
    world.flush(0);
    world.put(0, 512, &pattern(2, 512));
    world.consume();
    world.confirm();
    world.pass(&time, 10);
    assert!(world.taps[0].flushes_begun() > before + 1, "one of its own was needed");
    assert_eq!(world.open_on_disk(), [] as [u64; 0]);
}

#[test]
fn whatever_is_closed_meanwhile_every_write_finds_its_bit_on_disk() {
    let (time, _simulated) = Skipping::new();
    for seed in 1..6 {
        let mut world = Setup { lane_bytes: 16 * MIB, ..Setup::new(EngineKind::Auto) }.open();
        world.watch_writes();
        let mut rng = Rng(seed);
        let mut flying = Vec::new();
        let mut closed = 0;
        for _ in 0..400 {
            match rng.below(6) {
                0..=2 => {
                    let (offset, len) = (rng.below(4 * MIB - 9000), rng.below(9000) + 1);
                    flying.extend(world.write(0, offset, &pattern(seed, len as usize), rng.below(4) == 0));
                }
                3 => {
                    world.consume();
                    world.confirm();
                }
                4 => time.skip(Duration::from_millis(rng.below(5000))),
                _ => {}
            }
            world.turn();
            let open = world.states[0].read().open_regions;
            closed += u32::from(open < 3);
        }
        for id in flying {
            assert_eq!(world.errno(id), 0);
        }
        assert!(closed > 0);
        world.assert_log_is_disk();
        world.confirm();
        world.pass(&time, 12);
        assert_eq!(world.open_on_disk(), [] as [u64; 0], "seed {seed}");
    }
}

#[test]
fn a_map_that_cannot_be_written_refuses_what_a_power_cut_would_forget() {
    let mut world = Setup::new(EngineKind::Auto).open();
    world.put(0, 0, &pattern(1, 4096));
    let mut left = 1;
    world.faults(move |io| {
        left -= i32::from(matches!(io, Io::Call(_)));
        if matches!(io, Io::Call(_)) && left >= 0 { Fault::Before(libc::EIO) } else { Fault::None }
    });
    let id = world.write(0, 5 * REGION, &[7; 512], false).unwrap();
    assert_eq!(world.errno(id), libc::EIO, "its bit is not durable");
    assert!(world.states[0].read().map_failed);
    world.put(0, 512, &pattern(2, 512)); // its bit is
    let id = world.write(0, 6 * REGION, &[7; 512], false).unwrap();
    assert_eq!(world.errno(id), libc::EIO);
    world.assert_log_is_disk();
    assert_eq!(world.records.len(), 2);
}

#[test]
fn a_map_that_could_be_removed_holds_nothing_up() {
    let mut world = Setup::new(EngineKind::Auto).open();
    let path = map_path(world.dir.path(), 0);
    // Whatever is written to it fails, and it can be unlinked.
    world.taps[0].spoil_map();
    world.put(0, 5 * REGION, &pattern(1, 4096));
    world.put(0, 6 * REGION, &pattern(1, 4096));
    assert!(world.states[0].read().map_failed && !path.exists());
    world.assert_log_is_disk();
}

#[test]
fn digests_say_what_the_disk_holds_at_their_seq() {
    with_both(|kind| {
        let sizes = vec![3 * MIB + 512 * 7];
        let mut world = Setup { sizes, lane_bytes: 4 * MIB, ..Setup::new(kind) }.open();
        let mut rng = Rng(5);
        world.put(0, 0, &pattern(1, 700_000));
        world.consume();
        world.taps[0].begin_digests();
        assert_eq!(world.states[0].read().digests_left, 3 * MIB + 512 * 7);
        let mut flying = Vec::new();
        while world.states[0].read().digests_left > 0 || !flying.is_empty() {
            if flying.len() < 8 && world.states[0].read().digests_left > 0 {
                let offset = rng.below(3 * MIB - 5000);
                flying.extend(world.write(0, offset, &pattern(offset, 4096), false));
            }
            world.turn();
            flying.retain(|id| world.answers.remove(id).map(|r| assert!(r.is_ok())).is_none());
            world.consume_checked();
        }
        world.consume_checked();
        let hashed: Vec<_> = world.records.iter().filter(|r| r.op == Op::Digest).map(|r| (r.offset, r.len)).collect();
        assert_eq!(hashed, [(0, MIB), (MIB, MIB), (2 * MIB, MIB), (3 * MIB, 512 * 7)]);
        world.assert_log_is_disk();
    });
}

impl World {
    /// As [`World::consume`]; each digest is held against the image that the log has made up to it.
    fn consume_checked(&mut self) {
        while let Some(next) = self.consumer.take().unwrap() {
            let record = *next.record();
            let image = &mut self.images[usize::from(record.disk.0)];
            let bytes = &mut image[record.offset as usize..(record.offset + record.len) as usize];
            match record.op {
                Op::Digest => assert_eq!(next.payload(), farshore_changelog::ids::Hash::of(bytes).0),
                Op::Write => bytes.copy_from_slice(next.payload()),
                op => panic!("{op:?} was not asked for"),
            }
            self.records.push(record);
            self.consumer.release(self.consumer.position(), vec![next]);
        }
    }
}
