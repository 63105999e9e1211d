//! A group that is begun is announced once, so that a target need not list the groups to find it.

use std::cell::Cell;
use std::time::Duration;

use farshore_changelog::ids::Epoch;
use farshore_changelog::ring::ShipperState;
use farshore_vault::VaultError;
use farshore_vault::fault::{Fault, On};

use super::simulated::{drive, kill_after, simulated, until, until_confirmed, while_shipping};
use super::world::World;

const SOON: Duration = Duration::from_secs(90);

/// How many announcements there are.
fn announced(world: &World) -> u64 {
    world.block_on(world.vault.next_announced()).unwrap().unwrap() - 1
}

fn ship(world: &World) {
    while_shipping(&world.runtime, world.open().unwrap(), until_confirmed(&world.ring, SOON));
}

#[test]
fn the_first_epoch_of_a_group_is_announced_once_and_no_other() {
    let mut world = World::paused();
    let _time = simulated(&world);
    world.write_some(2);
    ship(&world);
    assert_eq!(announced(&world), 1);
    world.write_some(2);
    ship(&world);
    world.next_epoch();
    world.write_some(2);
    ship(&world);
    assert_eq!((announced(&world), world.state.watermark().unwrap().unwrap().epoch), (1, Epoch(2)));
}

#[test]
fn a_crash_anywhere_leaves_the_group_announced_and_at_most_a_duplicate() {
    let mut seen = [false; 2];
    for polls in (1..).step_by(3) {
        let mut world = World::paused();
        let _time = simulated(&world);
        world.write_some(2);
        // What is announced lies behind a store that takes its time, so that a kill can come in between.
        world.store.inject(On::Put, "announced", 1, Fault::Delay(Duration::from_millis(5)));
        let killed = kill_after(&world, world.open().unwrap(), polls);
        assert!(
            !world.state.epoch().unwrap().unwrap().opened || announced(&world) > 0,
            "after {polls} polls it is noted as opened and was not announced"
        );
        if world.ring.confirmed_seq() > farshore_changelog::ids::Seq(0) {
            break;
        }
        assert!(killed, "it ended by itself");
        ship(&world);
        let times = announced(&world);
        assert!((1..=2).contains(&times), "{times} times after {polls} polls");
        seen[times as usize - 1] = true;
    }
    assert!(seen[0], "no kill came before it was announced");
}

#[test]
fn a_lost_answer_makes_a_duplicate_and_no_more() {
    let mut world = World::paused();
    let _time = simulated(&world);
    world.store.inject(On::Put, "announced", 1, Fault::After);
    world.write_some(2);
    ship(&world);
    assert_eq!(announced(&world), 2);
}

#[test]
fn a_crash_between_the_announcement_and_the_note_of_it_makes_a_duplicate_and_no_more() {
    let mut world = World::paused();
    let _time = simulated(&world);
    world.write_some(2);
    let object = world.state.epoch().unwrap().unwrap().object();
    world.block_on(world.group_vault().create_epoch(&object)).unwrap();
    world.block_on(world.vault.announce()).unwrap();
    ship(&world);
    assert_eq!(announced(&world), 2);
    ship(&world);
    assert_eq!(announced(&world), 2);
}

#[test]
fn rights_that_lack_it_are_said_by_name_and_waited_for() {
    let mut world = World::paused();
    let _time = simulated(&world);
    world.write_some(2);
    for (on, doing) in [(On::Put, "put announced/"), (On::Get, "get announced/")] {
        world.store.inject(on, "announced", 1, Fault::Denied);
        let refused = world.block_on(world.vault.announce()).unwrap_err();
        assert!(matches!(refused, VaultError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains(doing) && refused.to_string().contains("rights"), "{refused}");
    }
    world.store.inject(On::Put, "announced", u64::MAX, Fault::Denied);
    let stop = Cell::new(false);
    world.runtime.block_on(async {
        let act = async {
            until("it is said", SOON, || world.ring.shipper_state() == ShipperState::VaultUnreachable).await;
            assert_eq!(world.state.watermark().unwrap(), None, "nothing is shipped until it is announced");
            world.store.forget();
            until_confirmed(&world.ring, SOON).await;
            stop.set(true);
        };
        let (ended, ()) = tokio::join!(drive(world.open().unwrap(), &stop), act);
        ended.unwrap();
    });
    assert_eq!(announced(&world), 1);
}

#[test]
fn numbers_in_disorder_keep_no_source_from_shipping() {
    use object_store::{ObjectStoreExt, PutPayload};
    let mut world = World::paused();
    let _time = simulated(&world);
    for power in 0..=20 {
        let key = farshore_vault::keys::Key::Announced(1 << power).path();
        world.block_on(world.store.put(&key, PutPayload::from_static(b"?"))).unwrap();
    }
    world.write_some(2);
    ship(&world);
}
