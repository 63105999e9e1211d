//! A store that fails in bursts: errors before and after the work, bodies and listings that break off, answers that take their
//! time. Replay waits, says that it is behind, takes everything in order, and needs no hand.

use super::*;
use crate::position::ReplayPosition;

/// A burst of faults on what a reader does.
fn burst(site: &Site, rng: &mut Rng) {
    for _ in 0..6 {
        let fault = match rng.below(5) {
            0 => Fault::Before,
            1 => Fault::After,
            2 | 3 => Fault::Reset,
            _ => Fault::Delay(Duration::from_millis(3)),
        };
        let on = if rng.one_in(4) { On::List } else { On::Get };
        site.store.inject(on, "groups/web01", 1 + rng.below(3), fault);
    }
}

#[test]
fn replay_outlives_a_storm_in_order_and_without_a_hand() {
    for seed in 60..66 {
        let site = Site::new();
        let mut source = shipped(&site, "web01", seed, 2);
        let processor = site.processor();
        let mut task = processor.task(source.group.clone());
        let mut rng = Rng(seed);
        let (mut away, mut positions) = (0, vec![Position::default()]);
        for round in 0..8 {
            for _ in 0..4 {
                source.random(&mut rng);
            }
            site.ship(&mut source);
            if round == 4 {
                site.next_epoch(&mut source);
                source.random_resync(&mut rng);
                site.ship(&mut source);
            }
            burst(&site, &mut rng);
            let patience = clock::mono() + Duration::from_secs(20);
            loop {
                let turn = task.turn(&Stop::new());
                assert!(!matches!(turn, Turn::Stopped { .. }), "a storm stops nobody: {:?}", task.stopped);
                away += u32::from(turn == Turn::VaultAway);
                let position = ReplayPosition::read(&site.dir(&source).position()).unwrap();
                let here = position.as_ref().map_or(Position::default(), ReplayPosition::position);
                assert!(here >= *positions.last().unwrap(), "it went back");
                positions.push(here);
                assert_eq!(turn == Turn::VaultAway, task.vault_problem.is_some());
                if here == source.position() && turn == Turn::CaughtUp {
                    break;
                }
                assert!(clock::mono() < patience, "round {round} was not followed");
            }
            site.store.forget();
        }
        assert!(away > 5, "{away} turns met the storm");
        drop(task);
        site.check(&source);
    }
}

#[test]
fn a_target_whose_vault_is_away_says_so_and_how_its_lag_grows_until_it_is_back() {
    let site = Site::new();
    let mut source = shipped(&site, "web01", 67, 2);
    let processor = site.processor();
    let mut task = processor.task(source.group.clone());
    while task.turn(&Stop::new()) != Turn::CaughtUp {}
    source.write(0, 0, 8, 77, RecordFlags::NONE);
    site.ship(&mut source);
    site.store.set_down(true);
    let status = || GroupStatus::read(&site.dir(&source)).unwrap().unwrap();
    let mut turns_until = |what: &str, done: &dyn Fn(&GroupStatus) -> bool| {
        let patience = clock::mono() + Duration::from_secs(20);
        while !done(&status()) {
            assert!(clock::mono() < patience, "never: {what}: {:?}", status());
            task.turn(&Stop::new());
            clock::sleep(Duration::from_millis(20));
        }
        status()
    };
    let first = turns_until("the problem", &|status| status.vault_problem.is_some());
    // What changed is only how late it is: it is said again after a while all the same.
    let later = turns_until("the lag", &|status| status.lag_ms > first.lag_ms);
    assert!(later.vault_problem.is_some() && later.position == first.position);
    site.store.set_down(false);
    let back = turns_until("the way back", &|status| status.vault_problem.is_none());
    assert_eq!(back.position.unwrap().position, source.position());
    drop(task);
    site.check(&source);
}
