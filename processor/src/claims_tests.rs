use super::*;
use farshore_vault::FaultStore;
use farshore_vault::Vault;

struct World {
    vault: Vault,
    dirs: Vec<tempfile::TempDir>,
}

impl World {
    async fn new(targets: usize) -> Self {
        let vault = Vault::init_store(FaultStore::in_memory(), "memory:").await.unwrap();
        Self { vault, dirs: (0..targets).map(|_| tempfile::tempdir().unwrap()).collect() }
    }

    fn claimant(&self, n: usize, limit: usize) -> Claimant {
        Claimant::open(self.dirs[n].path(), limit).unwrap()
    }

    fn group(&self, name: &str) -> GroupVault {
        self.vault.group(&GroupName::new(name).unwrap())
    }
}

#[tokio::test]
async fn each_group_has_one_owner_and_no_target_more_than_its_limit() {
    let world = World::new(4).await;
    let claimants: Vec<Claimant> = (0..4).map(|n| world.claimant(n, 12)).collect();
    let names: Vec<String> = (0..40).map(|n| format!("g{n:02}")).collect();
    let claims = names.iter().flat_map(|name| claimants.iter().map(move |c| (c.id, name, c)));
    let claimed = futures::future::join_all(claims.map(|(id, name, c)| {
        let group = world.group(name);
        async move { (id, name, c.claim(&group).await.unwrap()) }
    }))
    .await;
    for name in &names {
        let ours = claimed.iter().filter(|(_, of, owner)| *of == name && *owner == Owner::Ours).count();
        assert_eq!(ours, 1, "{name}");
    }
    for c in &claimants {
        let of = claimed.iter().filter(|(id, _, owner)| *id == c.id && *owner == Owner::Ours).count();
        assert!(of <= 12, "{of} groups at {}", c.place);
        assert_eq!(c.held().len(), of, "what was not got is not counted");
    }
}

#[tokio::test]
async fn a_target_knows_its_groups_again_and_takes_no_others() {
    let world = World::new(2).await;
    assert_eq!(world.claimant(0, 9).claim(&world.group("a")).await.unwrap(), Owner::Ours);
    assert_eq!(world.claimant(0, 0).claim(&world.group("a")).await.unwrap(), Owner::Ours, "it is the same folder");
    let other = world.claimant(1, 9).claim(&world.group("a")).await.unwrap();
    let Owner::Other(place, _) = &other else { panic!("{other:?}") };
    assert!(place.ends_with(&world.dirs[0].path().display().to_string()), "{place}");
    assert!(other.to_string().contains("farshore release"), "{other}");
    assert_eq!(world.claimant(1, 0).claim(&world.group("b")).await.unwrap(), Owner::Full);
}

#[tokio::test]
async fn a_group_moves_only_when_it_was_released_or_its_target_is_said_to_be_lost() {
    let world = World::new(3).await;
    let (a, b, c) = (world.claimant(0, 9), world.claimant(1, 9), world.claimant(2, 9));
    let group = world.group("g");
    assert_eq!(a.claim(&group).await.unwrap(), Owner::Ours);
    assert!(matches!(b.adopt(&group, false).await.unwrap(), Owner::Other(..)));
    assert!(matches!(b.release(&group).await.unwrap(), Some(Owner::Other(..))), "another's is not ours to release");
    assert_eq!(a.release(&group).await.unwrap(), Some(Owner::Ours));
    for claimant in [&a, &b] {
        assert!(matches!(claimant.claim(&group).await.unwrap(), Owner::Released(..)), "nobody takes it by itself");
    }
    assert_eq!(b.adopt(&group, false).await.unwrap(), Owner::Ours);
    assert!(matches!(a.claim(&group).await.unwrap(), Owner::Other(..)));
    assert_eq!(c.adopt(&group, true).await.unwrap(), Owner::Ours);
    assert!(matches!(b.claim(&group).await.unwrap(), Owner::Other(..)));
    assert_eq!(world.claimant(0, 9).release(&world.group("never")).await.unwrap(), None);
}

#[tokio::test]
async fn a_wish_to_release_holds_as_long_as_whoever_has_it_lives() {
    let world = World::new(1).await;
    let (a, group) = (world.claimant(0, 9), world.group("g"));
    let dir = GroupDir::new(world.dirs[0].path(), group.group());
    std::fs::create_dir_all(dir.root()).unwrap();
    let wish = lock_soon(&dir.release_wish()).unwrap();
    assert_eq!(a.claim(&group).await.unwrap(), Owner::Leaving);
    drop(wish);
    assert!(dir.release_wish().exists(), "as a killed process leaves it");
    assert_eq!(a.claim(&group).await.unwrap(), Owner::Ours);
}
