use std::sync::Arc;

use farshore_changelog::clock::Time;
use farshore_vault::fault::{Fault, On};
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{CountingStore, FaultStore, Requests};
use object_store::ObjectStoreExt;
use tokio::runtime::Runtime;

use super::*;
use crate::testing::Source;
use crate::testing::hand_clock::HandClock;

struct World {
    counts: Arc<CountingStore>,
    faults: Arc<FaultStore>,
    vault: Vault,
    runtime: Runtime,
    discovery: Discovery,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let counts = CountingStore::in_memory();
        let faults = FaultStore::new(counts.clone());
        let vault = runtime.block_on(Vault::init_store(faults.clone(), "counted:")).unwrap();
        let vault = vault.with_retry(RetryPolicy::ONCE);
        Self { counts, faults, vault, runtime, discovery: Discovery::default() }
    }

    /// A source begins a group, and says so or not.
    fn begin(&self, group: &str, announced: bool) {
        let object = Source::new(group, 1).object;
        self.runtime.block_on(async {
            self.vault.group(&object.group).create_epoch(&object).await.unwrap();
            if announced {
                self.vault.announce().await.unwrap();
            }
        });
    }

    fn try_look(&mut self) -> Result<Option<Vec<String>>, VaultError> {
        let groups = self.runtime.block_on(self.discovery.look(&self.vault))?;
        Ok(groups.map(|groups| groups.iter().map(ToString::to_string).collect()))
    }

    /// The groups, and what was asked for them.
    fn look(&mut self) -> (Option<Vec<String>>, Requests) {
        let before = self.counts.requests();
        let groups = self.try_look().unwrap();
        (groups, self.counts.requests().since(before))
    }

    /// A look finds that nothing was announced.
    fn finds_nothing(&mut self) {
        assert_eq!(self.look(), (None, Requests { misses: 1, ..Requests::default() }));
    }

    /// A look lists these, once.
    fn finds(&mut self, groups: &[&str]) {
        let (found, asked) = self.look();
        assert_eq!((found, asked.lists), (Some(groups.iter().map(ToString::to_string).collect()), 1));
        assert!(asked.gets + asked.misses <= 8, "{asked:?}");
    }
}

#[test]
fn a_group_that_begins_later_is_found_by_one_get_and_nothing_is_listed_before() {
    let mut world = World::new();
    let time = HandClock::new();
    let _simulation = clock::simulate(time.clone());
    world.begin("old", true);
    world.finds(&["old"]);
    for _ in 0..100 {
        time.sleep(DISCOVER_EVERY);
        world.finds_nothing();
    }
    world.begin("new", true);
    world.finds(&["new", "old"]);
    world.finds_nothing();
    // Several at once, one of them twice: its source crashed before it had noted it.
    world.begin("a", true);
    world.begin("b", true);
    world.runtime.block_on(world.vault.announce()).unwrap();
    world.finds(&["a", "b", "new", "old"]);
    world.finds_nothing();
}

#[test]
fn a_group_whose_source_says_nothing_is_found_within_the_hour() {
    let mut world = World::new();
    let time = HandClock::new();
    let _simulation = clock::simulate(time.clone());
    world.finds(&[]);
    world.begin("silent", false);
    let looks = (LISTED_EVERY.as_secs() / DISCOVER_EVERY.as_secs()) as usize;
    for _ in 1..looks {
        time.sleep(DISCOVER_EVERY);
        world.finds_nothing();
    }
    time.sleep(DISCOVER_EVERY);
    world.finds(&["silent"]);
    world.finds_nothing();
}

#[test]
fn an_announcement_that_nobody_can_read_is_one_and_a_mess_costs_an_hour() {
    let mut world = World::new();
    let time = HandClock::new();
    let _simulation = clock::simulate(time.clone());
    world.finds(&[]);
    let put = |world: &World, n: u64, bytes: usize| {
        let key = farshore_vault::keys::Key::Announced(n).path();
        world.runtime.block_on(world.counts.put(&key, vec![b'?'; bytes].into())).unwrap();
    };
    put(&world, 1, 1 << 20);
    world.finds(&[]);
    world.finds_nothing();
    (0..=20).for_each(|power| put(&world, 1 << power, 1));
    let (found, asked) = world.look();
    assert_eq!((found, asked.lists), (Some(Vec::new()), 1), "it was waited for");
    world.begin("new", true);
    assert_eq!(world.look(), (None, Requests::default()), "there is no number to wait for");
    time.sleep(LISTED_EVERY);
    let (found, asked) = world.look();
    assert_eq!((found, asked.lists), (Some(vec!["new".to_owned()]), 1));
}

#[test]
fn what_could_not_be_listed_is_listed_at_the_next_look() {
    let mut world = World::new();
    world.finds(&[]);
    world.begin("new", true);
    for (on, part) in [(On::Get, "announced"), (On::Get, "groups")] {
        world.faults.inject(on, part, 1, Fault::Before);
        assert!(world.try_look().is_err(), "{part}");
    }
    world.finds(&["new"]);
    world.finds_nothing();
}
