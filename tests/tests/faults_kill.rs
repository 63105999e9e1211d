//! SIGKILL of agent, shipper and processor, alone and together, in any order and at any moment, under a VM's disk on which fio
//! writes and verifies: the VM sees a pause, nothing is lost, nothing is copied again.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::op::Op;
use farshore_tests::log_watch::LogWatch;
use farshore_tests::pattern::Rng;
use farshore_tests::protected::{assert_good, verified_load};
use farshore_tests::rounds;
use farshore_tests::site::{Site, SiteSpec};
use farshore_tests::vm_disk::VmDisk;

const DISK_BYTES: u64 = 48 << 20;
/// Rounds in `make test`.
const ROUNDS: u32 = 10;
/// What fio writes and reads back, twice a round.
const ROUND_BYTES: u64 = 12 << 20;
/// About how many operations that makes.
const ROUND_OPS: u64 = 2800;
/// In one of so many rounds the first kill comes at any time; in the others after any number of operations, which is while
/// fio writes.
const ANY_TIME_IN: u64 = 4;
/// The longest a first kill waits.
const FIRST_KILL_MAX_MS: u64 = 1200;
/// The longest between two kills or starts of one round.
const BETWEEN_MAX_MS: u64 = 60;
/// In one of so many rounds in which the agent dies the VM dies with it: nobody repeats what was in flight.
const VM_DIES_IN: u64 = 2;
/// So many killed agents have met writes in flight, whatever the machine's mood.
const SOME_IN_FLIGHT: u32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Shipper,
    Processor,
}

/// One to three victims in any order; each subset is as likely as any other.
fn victims(rng: &mut Rng) -> Vec<Victim> {
    let mut all = vec![Victim::Agent, Victim::Shipper, Victim::Processor];
    let subset = 1 + rng.below(7);
    let mut n = 0;
    all.retain(|_| {
        n += 1;
        subset >> (n - 1) & 1 == 1
    });
    for last in (1..all.len()).rev() {
        all.swap(last, rng.below(last as u64 + 1) as usize);
    }
    all
}

fn pause(rng: &mut Rng, max_ms: u64) {
    clock::sleep(Duration::from_millis(rng.below(max_ms)));
}

/// The moment of the first kill.
fn moment(site: &Site, rng: &mut Rng) {
    if rng.below(ANY_TIME_IN) == 0 {
        return pause(rng, FIRST_KILL_MAX_MS);
    }
    let ops = site.newest().seq.0 + rng.below(ROUND_OPS);
    let latest = clock::mono() + Duration::from_millis(FIRST_KILL_MAX_MS);
    while site.newest().seq.0 < ops && clock::mono() < latest {
        clock::sleep(Duration::from_micros(200));
    }
}

fn kill(site: &mut Site, victim: Victim) {
    match victim {
        Victim::Agent => site.kill_agent(),
        Victim::Shipper => site.kill_shipper_if_any(),
        Victim::Processor => site.kill_processor(),
    }
}

fn start(site: &mut Site, victim: Victim) {
    match victim {
        Victim::Agent => site.start_agent(),
        // Its agent starts it.
        Victim::Shipper => {}
        Victim::Processor => site.start_processor(),
    }
}

#[test]
fn kills_at_any_moment_lose_nothing_copy_nothing_again_and_are_a_pause_to_the_vm() {
    let rounds = rounds::count("FARSHORE_KILL_ROUNDS", ROUNDS);
    let mut rng = rounds::chance();
    let mut site = Site::protected(SiteSpec {
        disks: vec![DISK_BYTES],
        config: "ring_size = \"96MiB\"".into(),
        ..SiteSpec::default()
    });
    let mut vm = VmDisk::attach(&site, 0);
    let mut log = LogWatch::of(1);
    let mut agents_killed = 0;
    for round in 1..=rounds {
        let offset = rng.below((DISK_BYTES - ROUND_BYTES) >> 16) << 16;
        let mut fio = verified_load(&vm, offset, ROUND_BYTES, 2, rng.below(1 << 30));
        moment(&site, &mut rng);
        let victims = victims(&mut rng);
        let agent_dies = victims.contains(&Victim::Agent);
        let vm_dies = agent_dies && rng.below(VM_DIES_IN) == 0;
        println!("round {round}: {victims:?}{}", if vm_dies { " and the VM" } else { "" });
        agents_killed += u32::from(agent_dies);
        for victim in &victims {
            kill(&mut site, *victim);
            pause(&mut rng, BETWEEN_MAX_MS);
        }
        if vm_dies {
            vm.kill();
            fio.kill_all();
        }
        for victim in victims.iter().rev() {
            start(&mut site, *victim);
            pause(&mut rng, BETWEEN_MAX_MS);
        }
        if vm_dies {
            // Before anything is written that would hide what is missing.
            site.assert_catches_up();
            vm = VmDisk::attach(&site, 0);
        } else {
            assert_good(fio);
        }
        site.assert_nothing_is_copied_again(&mut log);
    }
    site.assert_catches_up();
    site.assert_nothing_is_copied_again(&mut log);
    let log = log.look(&site);
    println!("{agents_killed} agents were killed, and their successors found {} operations in flight", log.reread());
    assert_eq!(log.ops(Op::ResyncBegin), log.ops(Op::ResyncEnd));
    assert!(
        log.reread() > 0 || agents_killed < SOME_IN_FLIGHT,
        "no kill met a write in flight: this run has shown nothing"
    );
    vm.assert_alive();
    site.end_and_verify();
}
