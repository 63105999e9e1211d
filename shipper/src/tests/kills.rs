//! A shipper that is killed at any of its awaits, again and again, under a store that fails and loses answers.

use std::collections::BTreeSet;
use std::time::Duration;

use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_vault::fault::{Fault, On};

use super::shipping::Dice;
use super::simulated::{kill_after, simulated, until_confirmed, while_shipping, write_noise};
use super::world::{WINDOW, World};

/// Worlds, of which each is the same world in every run.
const SEEDS: u64 = 60;
/// Lives of a shipper in each.
const LIVES: u64 = 25;

/// The numbers in the vault of epoch 1.
fn stored(world: &World) -> BTreeSet<u64> {
    let listed = world.block_on(world.group_vault().list_segments(Epoch(1), SegmentNo(1)));
    listed.unwrap().into_iter().map(|(number, _)| number.0).collect()
}

#[test]
fn a_segment_that_is_uploaded_twice_is_one_segment_and_none_is_confirmed_before_the_one_below_it() {
    let (mut killed, mut twice, mut above_a_hole) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::paused();
        let _time = simulated(&world);
        let mut dice = Dice(seed);
        let mut written = 0;
        for _ in 0..LIVES {
            for _ in 0..dice.below(12) {
                assert!(write_noise(&mut world.lanes[0], written, 8192));
                written += 1;
            }
            for _ in 0..dice.below(4) {
                let fault = [Fault::Before, Fault::After, Fault::Undecided, Fault::Delay(Duration::from_secs(90))];
                let (on, key) = [(On::Put, "/log/"), (On::Put, "/epochs/"), (On::Get, "/log/")][dice.below(3) as usize];
                world.store.inject(on, key, 1, fault[dice.below(4) as usize]);
            }
            killed += u64::from(kill_after(&world, world.open().unwrap(), 1 + dice.below(70)));
            let (stored, confirmed) = (stored(&world), world.state.watermark().unwrap().map_or(0, |w| w.number.0));
            let newest = stored.last().copied().unwrap_or(0);
            // What counts is there without a gap, and nothing lies further above it than may be on its way.
            let whole = (1..).take_while(|n| stored.contains(n)).last().unwrap_or(0);
            assert!(confirmed <= whole, "seed {seed}: {confirmed} is confirmed, and {stored:?} is there");
            assert!(
                newest <= confirmed + WINDOW as u64,
                "seed {seed}: {newest} is there, and {confirmed} is confirmed"
            );
            above_a_hole += u64::from(newest > whole);
            twice += u64::from(newest > confirmed);
        }
        world.store.forget();
        while_shipping(&world.runtime, world.open().unwrap(), until_confirmed(&world.ring, Duration::from_secs(600)));
        let seqs: Vec<u64> = world.read_records(1).iter().map(|r| r.seq.0).collect();
        assert_eq!(seqs, (1..world.ring.next_seq().0).collect::<Vec<_>>(), "seed {seed}");
        assert!(world.spool_files().is_empty() && world.state.fenced().unwrap().is_none(), "seed {seed}");
    }
    assert!(
        killed > SEEDS * LIVES / 2 && twice > SEEDS && above_a_hole > SEEDS / 4,
        "killed {killed} times, {twice} times between a put and its note, {above_a_hole} times with a segment above a hole"
    );
}
