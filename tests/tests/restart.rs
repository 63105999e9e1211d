//! SIGKILL of the agent, of its shipper and of the processor, at any moment of a load: nothing is lost, nothing is copied
//! again, and in the end target and source are equal.

use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Epoch;
use farshore_changelog::op::Op;
use farshore_tests::chaos::{Chaos, ChaosSpec};
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::site::{GROUP, Site, SiteSpec};

const DISK_BYTES: u64 = 48 << 20;
/// Kills of each kind.
const KILLS: usize = 4;
/// The longest time between two kills.
const PAUSE_MAX_MS: u64 = 700;

fn loaded_site() -> (Site, Vec<Chaos>) {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES, DISK_BYTES], ..SiteSpec::default() });
    site.start_agent();
    site.start_processor();
    site.wait_protected();
    let chaos = |n: usize| {
        Chaos::start(&ChaosSpec {
            socket: site.disks[n].socket.clone(),
            export: site.disks[n].name.clone(),
            range: 0..DISK_BYTES,
            connections: 2,
            len_max: 200_000,
            align: 1,
            seed: 40 + n as u64,
        })
    };
    let loads = vec![chaos(0), chaos(1)];
    (site, loads)
}

/// Ends the load, lets everything catch up, and compares. `reconnects`: whether the load must have noticed.
fn assert_nothing_was_lost(mut site: Site, loads: Vec<Chaos>, reconnects: bool) {
    for load in loads {
        let done = load.finish();
        println!("{done:?}");
        assert!(done.writes > 0);
        assert_eq!(done.reconnects > 0, reconnects, "{done:?}");
    }
    let newest = site.newest();
    assert_eq!(newest.epoch, Epoch(1), "a crash of a process does not open an epoch");
    site.wait_shipped(newest);
    site.wait_replayed(newest);
    site.assert_equal();
    let indexes: Vec<_> = durable::segment_files(&site.vault, GROUP, 1).iter().map(|f| durable::index(f)).collect();
    let count = |op: Op| indexes.iter().flat_map(|i| i.records()).filter(|r| r.record.op == op).count();
    // The disks were new when the group was made: their initial replication is the only one.
    assert!(count(Op::ResyncBegin) <= 1, "the disks were copied again");
    assert_eq!(count(Op::ResyncBegin), count(Op::ResyncEnd));
    assert!(!site.vault.join(format!("groups/{GROUP}/to-source/epochs/0000000002.json")).exists());
    site.stop_agent();
    assert!(site.stop_processor().success());
    let _ = site.verb(["verify", "--vault", &site.vault_url(), "--target", &site.target.display().to_string()]).good();
}

fn pause(rng: &mut Rng) {
    clock::sleep(Duration::from_millis(50 + rng.below(PAUSE_MAX_MS)));
}

#[test]
fn a_killed_agent_settles_what_was_in_flight() {
    let (mut site, loads) = loaded_site();
    let mut rng = Rng::new(1);
    for _ in 0..KILLS {
        pause(&mut rng);
        site.kill_agent();
        site.start_agent();
    }
    pause(&mut rng);
    assert_nothing_was_lost(site, loads, true);
}

#[test]
fn an_agent_killed_with_its_shipper_settles_what_was_in_flight() {
    let (mut site, loads) = loaded_site();
    let mut rng = Rng::new(2);
    for _ in 0..KILLS {
        pause(&mut rng);
        site.lose_source();
        site.start_agent();
    }
    pause(&mut rng);
    assert_nothing_was_lost(site, loads, true);
}

#[test]
fn a_killed_shipper_is_started_again_and_ships_the_same_objects() {
    let (mut site, loads) = loaded_site();
    let mut rng = Rng::new(3);
    for _ in 0..KILLS {
        pause(&mut rng);
        site.kill_shipper();
    }
    pause(&mut rng);
    assert_nothing_was_lost(site, loads, false);
}

#[test]
fn a_killed_processor_goes_on_where_its_images_stand() {
    let (mut site, loads) = loaded_site();
    let mut rng = Rng::new(4);
    for _ in 0..2 * KILLS {
        pause(&mut rng);
        site.kill_processor();
        site.start_processor();
    }
    pause(&mut rng);
    assert_nothing_was_lost(site, loads, false);
}
