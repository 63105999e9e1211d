//! Random requests of several clients, overlapping in flight, on every engine and block size: the log gives the disk.

use super::*;

/// Requests in flight at once: more than overlap by chance alone.
const IN_FLIGHT: usize = 24;

struct Load {
    rng: Rng,
    /// Where requests fall: a few hot places, so that they overlap.
    span: u64,
    max_len: u64,
}

impl Load {
    fn range(&mut self) -> (u64, u64) {
        let align = [1, 512, 4096][self.rng.below(3) as usize];
        let len = (self.rng.below(self.max_len) + 1).next_multiple_of(align).min(self.span);
        let offset = (self.rng.below(self.span - len + 1) / align) * align;
        (offset, len)
    }

    /// Submits one request; `None` when the ring has no room for it.
    fn step(&mut self, world: &mut World) -> Option<RequestId> {
        let disk = self.rng.below(world.taps.len() as u64) as usize;
        let (offset, len) = self.range();
        let fua = self.rng.below(8) == 0;
        let request = match self.rng.below(20) {
            0 => Request::Flush,
            1 | 2 => Request::Trim { offset, len, fua },
            3..6 => Request::WriteZeroes { offset, len, fua, no_hole: self.rng.below(2) == 0, fast: false },
            6 | 7 => Request::Read { offset, len: len as u32 },
            8 => Request::BlockStatus { offset, len, one: false },
            _ => {
                let mut bytes = vec![0; len as usize];
                self.rng.fill(&mut bytes);
                return world.write(disk, offset, &bytes, fua);
            }
        };
        Some(world.submit(disk, request, None))
    }
}

fn run(mut world: World, seed: u64, rounds: usize, steps: usize, max_len: u64) {
    let span = world.images.iter().map(Vec::len).min().unwrap() as u64;
    let mut load = Load { rng: Rng(seed), span, max_len };
    for round in 0..rounds {
        let (mut submitted, mut flying) = (0, Vec::new());
        let start = clock::mono();
        while submitted < steps || !flying.is_empty() {
            assert!(start.elapsed() < HANG, "seed {seed} round {round}: {} in flight after {submitted}", flying.len());
            while submitted < steps && flying.len() < IN_FLIGHT {
                let Some(id) = load.step(&mut world) else { break };
                flying.push(id);
                submitted += 1;
            }
            world.turn();
            flying.retain(|id| match world.answers.remove(id) {
                Some(result) => result.map(|_| false).unwrap_or_else(|e| panic!("seed {seed}: {e}")),
                None => true,
            });
            if load.rng.below(3) == 0 {
                world.consume();
            }
        }
        for disk in 0..world.taps.len() {
            let id = world.submit(disk, Request::Flush, None);
            world.turn_until("the flush", |w| {
                w.consume(); // it may have to wait for a slot
                w.answers.contains_key(&id)
            });
        }
        world.assert_log_is_disk();
    }
    seqs_are_dense_but_for(&world.records, 0);
    assert_eq!(world.ring.next_seq(), world.consumer.position().next());
}

#[test]
fn small_overlapping_requests() {
    with_both(|kind| run(Setup { sizes: vec![64 * KIB], ..Setup::new(kind) }.open(), 1, 12, 300, 12 * KIB));
}

#[test]
fn blocks_of_a_page() {
    with_both(|kind| {
        run(Setup { sizes: vec![64 * KIB], block_bytes: Some(4096), ..Setup::new(kind) }.open(), 2, 12, 300, 12 * KIB);
    });
}

#[test]
fn a_disk_of_odd_sectors_goes_through_the_cache() {
    with_both(|kind| run(Setup { sizes: vec![64 * KIB + 512], ..Setup::new(kind) }.open(), 3, 6, 200, 12 * KIB));
}

#[test]
fn large_requests_in_a_small_ring() {
    with_both(|kind| {
        let setup = Setup { sizes: vec![8 * MIB], lane_bytes: 16 * MIB, ..Setup::new(kind) };
        run(setup.open(), 4, 4, 60, 3 * MIB);
    });
}

#[test]
fn two_disks_on_one_lane_and_on_two() {
    with_both(|kind| {
        for lanes in [1, 2] {
            let setup = Setup { sizes: vec![64 * KIB, 128 * KIB], lanes, ..Setup::new(kind) };
            run(setup.open(), 5, 6, 200, 12 * KIB);
        }
    });
}

#[test]
fn with_a_disk_that_fails_and_shortens_at_random() {
    with_both(|kind| {
        let mut world = Setup { sizes: vec![64 * KIB], ..Setup::new(kind) }.open();
        let mut rng = Rng(99);
        world.faults(move |io| match (io, rng.below(20)) {
            (Io::Write { .. }, 0 | 1) => Fault::Short,
            (Io::Read { .. }, 0) => Fault::None,
            (Io::Write { .. }, 2) => Fault::Before(libc::ENOSPC),
            (Io::Write { .. }, 3) => Fault::After(libc::EIO),
            _ => Fault::None,
        });
        let mut load = Load { rng: Rng(6), span: 64 * KIB, max_len: 12 * KIB };
        let mut failed = 0;
        for _ in 0..10 {
            let mut flying: Vec<_> = (0..60).filter_map(|_| load.step(&mut world)).collect();
            world.turn_until("the load", |w| {
                w.consume();
                flying.retain(|id| w.answers.remove(id).inspect(|r| failed += usize::from(r.is_err())).is_none());
                flying.is_empty()
            });
            world.assert_log_is_disk();
        }
        assert!(failed > 10, "{failed} requests failed");
        assert_eq!(world.states[0].read().lost_regions, 0, "everything could be read back");
        assert!(world.records.iter().any(|r| r.flags.has(farshore_changelog::op::RecordFlags::REREAD)));
    });
}

/// One after the other, so that the outcome is known; in a ring so small that its memory is used again and again.
#[test]
fn one_request_at_a_time_does_what_was_asked() {
    with_both(|kind| {
        for block in [512, 4096] {
            let sizes = vec![256 * KIB];
            let mut world = Setup { sizes, lane_bytes: 4 * MIB, block_bytes: Some(block), ..Setup::new(kind) }.open();
            let mut load = Load { rng: Rng(u64::from(block)), span: 256 * KIB, max_len: 40 * KIB };
            let mut model = vec![0; 256 << 10];
            for step in 0..400 {
                let (offset, len) = load.range();
                let range = offset as usize..(offset + len) as usize;
                let id = match load.rng.below(4) {
                    0 => {
                        model[range].fill(0);
                        let zero =
                            Request::WriteZeroes { offset, len, fua: false, no_hole: step % 2 == 0, fast: false };
                        world.submit(0, zero, None)
                    }
                    1 => {
                        let whole = ByteRange::at(offset, len).unwrap().shrink_to(block.into());
                        model[whole.start as usize..whole.end as usize].fill(0);
                        world.submit(0, Request::Trim { offset, len, fua: false }, None)
                    }
                    _ => {
                        load.rng.fill(&mut model[range.clone()]);
                        world.write(0, offset, &model[range], false).unwrap()
                    }
                };
                assert_eq!(world.errno(id), 0);
                let (offset, len) = load.range();
                assert!(
                    world.read(0, offset, len as u32) == model[offset as usize..(offset + len) as usize],
                    "step {step}"
                );
                world.consume();
            }
            world.assert_log_is_disk();
            assert!(world.file(0) == model);
        }
    });
}
