//! An attacker who holds the bucket, at every kind of object; and what a source's key does not do.

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Hash, SegmentNo, Seq};
use farshore_changelog::segment::{SegmentWriter, Stamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::crypt::held::{Access, KeySource};
use crate::group::GroupVault;
use crate::objects::{EpochDisk, EpochObject, HashPlan, HashedDisk, Reason, Request};
use crate::vault::Vault;

fn name() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn epoch(number: u64) -> EpochObject {
    EpochObject {
        group: name(),
        epoch: Epoch(number),
        parent: number.checked_sub(1).filter(|&n| n > 0).map(Epoch),
        reason: Reason::FirstStart,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 20 }],
    }
}

fn segment(epoch: u64, number: u64) -> Bytes {
    let stamp = Stamp {
        group: name(),
        epoch: Epoch(epoch),
        number: SegmentNo(number),
        first_seq: Seq(1),
        last_seq: Seq(0),
        created: clock::wall(),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    Bytes::from(SegmentWriter::new(Kind::Log, Some(1)).seal(stamp).unwrap().bytes)
}

fn plan() -> HashPlan {
    let disks = vec![HashedDisk { name: DiskName::new("vda").unwrap(), units: 16 }];
    HashPlan { epoch: Epoch(1), seq: Seq(3), unit_bytes: 64 << 10, chunk_units: 8, disks }
}

async fn open(store: &Arc<InMemory>, ring: &KeyRing) -> Result<Vault, VaultError> {
    let access = Access::of(std::iter::empty().collect()).with_keys(KeySource::Held(ring.clone()));
    Vault::open_store(Arc::clone(store) as Arc<dyn ObjectStore>, "memory:", &access).await
}

struct World {
    store: Arc<InMemory>,
    key: VaultKey,
    target: Vault,
    source: Vault,
}

impl World {
    async fn new() -> Self {
        let (store, key) = (Arc::new(InMemory::new()), VaultKey::generate());
        let target =
            Vault::init_store_encrypted(Arc::clone(&store) as Arc<dyn ObjectStore>, "memory:", &key).await.unwrap();
        let source = target.source_key(&name()).unwrap();
        let source = open(&store, &KeyRing::of_source(source)).await.unwrap();
        Self { store, key, target, source }
    }

    /// One object of every kind, written by whoever writes it.
    async fn filled() -> Self {
        let world = Self::new().await;
        let (source, target) = (world.source.group(&name()), world.target.group(&name()));
        source.know_data_key(Epoch(1), DataKey::generate());
        source.create_epoch(&epoch(1)).await.unwrap();
        for number in 1..=3 {
            source.put_segment(Epoch(1), SegmentNo(number), segment(1, number)).await.unwrap();
        }
        target.put_request(&Request::Digests).await.unwrap();
        target.put_hash_chunk(Epoch(1), DiskIndex(0), 0, Bytes::from_static(&[7; 300])).await.unwrap();
        target.put_hash_plan(&plan()).await.unwrap();
        let next = epoch(2);
        target.create_epoch(&next).await.unwrap();
        target.seal(Epoch(1), SegmentNo(3), &next).await.unwrap();
        world
    }

    async fn keys(&self) -> Vec<Key> {
        use futures::TryStreamExt;
        let all: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        all.iter()
            .filter_map(|meta| Key::parse(meta.location.as_ref()))
            .filter(|k| !matches!(k, Key::Probe(_)))
            .collect()
    }

    async fn raw(&self, key: &Key) -> Bytes {
        self.store.get(&key.path()).await.unwrap().bytes().await.unwrap()
    }

    async fn overwrite(&self, key: &Key, bytes: Bytes) {
        self.store.put(&key.path(), bytes.into()).await.unwrap();
    }

    /// What a target that knows nothing yet says of the object under `key`.
    async fn read(&self, key: &Key) -> Result<Option<Bytes>, VaultError> {
        let vault = open(&self.store, &KeyRing::of(self.key.clone())).await?;
        if *key == Key::Vault { Ok(Some(self.raw(key).await)) } else { read(&vault.group(&name()), key).await }
    }
}

async fn read(group: &GroupVault, key: &Key) -> Result<Option<Bytes>, VaultError> {
    group.store.get(key, 1 << 20).await
}

fn is_named(found: Result<Option<Bytes>, VaultError>, key: &Key, doing: &str) {
    match found {
        Err(VaultError::Damaged { key: at, .. }) => {
            assert!(at == key.to_string() || at.contains("/epochs/"), "{doing} {key}: {at}")
        }
        Err(VaultError::Key(KeyError::Wrong { place, .. })) => {
            assert!(place == key.to_string() || *key == Key::Vault, "{doing} {key}: {place}");
        }
        Err(VaultError::Version { .. }) => {}
        other => panic!("{doing} {key} was not noticed: {other:?}"),
    }
}

#[tokio::test]
async fn source_and_target_read_what_the_other_wrote() {
    let world = World::filled().await;
    let (source, target) = (
        world.source.group(&name()),
        open(&world.store, &KeyRing::of(world.key.clone())).await.unwrap().group(&name()),
    );
    assert!(source.is_encrypted() && target.is_encrypted());
    assert_eq!(target.get_segment(Epoch(1), SegmentNo(2)).await.unwrap().unwrap().len(), segment(1, 2).len());
    assert_eq!(target.newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(2));
    assert_eq!(source.get_request(1).await.unwrap(), Some(Request::Digests));
    assert_eq!(source.get_hash_plan(Epoch(1)).await.unwrap(), Some(plan()));
    assert_eq!(source.get_hash_chunk(Epoch(1), DiskIndex(0), 0).await.unwrap().unwrap().as_ref(), [7; 300]);
    for key in world.keys().await.iter().filter(|key| **key != Key::Vault) {
        let raw = world.raw(key).await;
        assert!(raw.starts_with(b"FARSHENV"), "{key}");
        for word in ["FARSHSEG", "web01", "vda", "digests", "unit_bytes"] {
            assert!(!raw.windows(word.len()).any(|w| w == word.as_bytes()), "{word} is to be seen in {key}");
        }
    }
}

#[tokio::test]
async fn whoever_holds_the_bucket_changes_nothing_unnoticed() {
    let world = World::filled().await;
    let keys = world.keys().await;
    assert_eq!(keys.len(), 1 + 2 + 3 + 1 + 1 + 1 + 1, "{keys:?}");
    let other = World::filled().await;
    for key in &keys {
        let good = world.raw(key).await;
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x20;
            world.overwrite(key, bad.into()).await;
            is_named(world.read(key).await, key, &format!("flip of byte {at} of"));
        }
        for len in [0, 1, 8, 63, 64, 80, good.len() / 2, good.len() - 1] {
            world.overwrite(key, good.slice(..len.min(good.len() - 1))).await;
            is_named(world.read(key).await, key, "truncation of");
        }
        for from in keys.iter().filter(|from| *from != key) {
            // Swapped with, replayed from, another place of the same vault.
            world.overwrite(key, world.raw(from).await).await;
            is_named(world.read(key).await, key, &format!("{from} in the place of"));
            world.overwrite(key, good.clone()).await;
        }
        // Forged: of another vault, by somebody who knows the format and has keys of his own; and not sealed at all.
        if *key != Key::Vault {
            world.overwrite(key, other.raw(key).await).await;
            is_named(world.read(key).await, key, "an object of another vault in the place of");
        }
        world.overwrite(key, Bytes::from_static(b"{\"format\":1}")).await;
        is_named(world.read(key).await, key, "a plain object in the place of");
        world.overwrite(key, good).await;
        assert!(world.read(key).await.unwrap().is_some(), "{key}");
    }
}

#[tokio::test]
async fn a_vault_that_stops_being_encrypted_is_refused() {
    let world = World::filled().await;
    let text = String::from_utf8(world.raw(&Key::Vault).await.to_vec()).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value.as_object_mut().unwrap().remove("encryption");
    world.overwrite(&Key::Vault, value.to_string().into()).await;
    let refused = open(&world.store, &KeyRing::of(world.key.clone())).await.unwrap_err();
    assert!(matches!(refused, VaultError::Key(KeyError::Plain { .. })), "{refused}");
    // A source need not have a key for it: it says what it wants.
    let mut access = Access::of(std::iter::empty().collect());
    access.encryption = crate::crypt::Encryption::Required;
    let store = Arc::clone(&world.store) as Arc<dyn ObjectStore>;
    let refused = Vault::open_store(store, "memory:", &access).await.unwrap_err();
    assert!(matches!(refused, VaultError::Key(KeyError::NotAsAsked { .. })), "{refused}");
}

#[tokio::test]
async fn a_lost_key_a_wrong_key_and_tampered_data_are_told_apart() {
    let world = World::filled().await;
    let none = Access::of(std::iter::empty().collect());
    let store = || Arc::clone(&world.store) as Arc<dyn ObjectStore>;
    let lost = Vault::open_store(store(), "memory:", &none).await.unwrap_err();
    let wrong = open(&world.store, &KeyRing::of(VaultKey::generate())).await.unwrap_err();
    let key = Key::Segment(name(), Epoch(1), SegmentNo(2));
    let mut bytes = world.raw(&key).await.to_vec();
    bytes[100] ^= 1;
    world.overwrite(&key, bytes.into()).await;
    let tampered = world.read(&key).await.unwrap_err();
    assert!(
        matches!(lost, VaultError::Key(KeyError::Missing { .. })) && lost.to_string().contains("there is no key"),
        "{lost}"
    );
    assert!(
        matches!(wrong, VaultError::Key(KeyError::Wrong { .. })) && wrong.to_string().contains("give the key"),
        "{wrong}"
    );
    assert!(matches!(tampered, VaultError::Damaged { .. }) && tampered.to_string().contains("changed"), "{tampered}");
}

#[tokio::test]
async fn a_source_opens_neither_what_it_sealed_before_nor_anything_of_another_group() {
    let world = World::filled().await;
    let ring = KeyRing::of_source(world.target.source_key(&name()).unwrap());
    let again = open(&world.store, &ring).await.unwrap();
    let refused = again.group(&name()).get_segment(Epoch(1), SegmentNo(1)).await.unwrap_err();
    assert!(refused.to_string().contains("do not open"), "{refused}");
    let refused = again.group(&name()).put_segment(Epoch(1), SegmentNo(9), segment(1, 9)).await.unwrap_err();
    assert!(refused.to_string().contains("data key"), "{refused}");
    let other = GroupName::new("db01").unwrap();
    world.target.group(&other).put_request(&Request::Drain).await.unwrap();
    let refused = again.group(&other).get_request(1).await.unwrap_err();
    assert!(matches!(refused, VaultError::Key(KeyError::Wrong { .. })), "{refused}");
    let refused = again.group(&other).put_request(&Request::Drain).await.unwrap_err();
    assert!(matches!(refused, VaultError::Key(KeyError::Wrong { .. })), "{refused}");
    assert_eq!(again.source_key(&name()), None);
}

#[tokio::test]
async fn a_new_key_is_for_new_epochs_and_old_ones_are_read_with_the_old_key() {
    let world = World::filled().await;
    let new = VaultKey::generate();
    let both = KeyRing { vault: vec![new.clone(), world.key.clone()], source: Vec::new() };
    let target = open(&world.store, &both).await.unwrap();
    assert_eq!(target.fingerprints(), Some((world.key.fingerprint(), new.fingerprint())));
    let source = KeyRing::of_source(target.source_key(&name()).unwrap());
    let source = open(&world.store, &source).await.unwrap().group(&name());
    source.know_data_key(Epoch(3), DataKey::generate());
    source.create_epoch(&epoch(3)).await.unwrap();
    source.put_segment(Epoch(3), SegmentNo(1), segment(3, 1)).await.unwrap();
    let group = target.group(&name());
    assert!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap().is_some());
    assert!(group.get_segment(Epoch(3), SegmentNo(1)).await.unwrap().is_some());
    assert_eq!(group.get_request(1).await.unwrap(), Some(Request::Digests));
    // What the target says is sealed with the key that the source has, also while that is the old one.
    let again = open(&world.store, &both).await.unwrap().group(&name());
    again.put_request(&Request::Drain).await.unwrap();
    assert_eq!(source.get_request(2).await.unwrap(), Some(Request::Drain));
    // Whoever has the old key alone cannot read what was sealed since.
    let old = open(&world.store, &KeyRing::of(world.key.clone())).await.unwrap().group(&name());
    assert!(matches!(old.get_segment(Epoch(3), SegmentNo(1)).await, Err(VaultError::Key(KeyError::Wrong { .. }))));
    assert!(matches!(open(&world.store, &KeyRing::of(new)).await, Err(VaultError::Key(KeyError::Wrong { .. }))));
}

#[tokio::test]
async fn a_source_with_the_old_key_is_spoken_to_in_the_old_key() {
    let world = World::filled().await;
    let both = KeyRing { vault: vec![VaultKey::generate(), world.key.clone()], source: Vec::new() };
    let target = open(&world.store, &both).await.unwrap().group(&name());
    target.put_request(&Request::Drain).await.unwrap();
    assert_eq!(world.source.group(&name()).get_request(2).await.unwrap(), Some(Request::Drain));
    target.create_epoch(&epoch(3)).await.unwrap();
    assert_eq!(world.source.group(&name()).newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(3));
}

#[tokio::test]
async fn what_is_put_again_is_the_same_bytes() {
    let world = World::filled().await;
    let source = world.source.group(&name());
    let bytes = segment(1, 5);
    source.put_segment(Epoch(1), SegmentNo(5), bytes.clone()).await.unwrap();
    let key = Key::Segment(name(), Epoch(1), SegmentNo(5));
    let first = world.raw(&key).await;
    ObjectStoreExt::delete(&*world.store, &Path::from(key.to_string())).await.unwrap();
    source.put_segment(Epoch(1), SegmentNo(5), bytes.clone()).await.unwrap();
    assert_eq!(world.raw(&key).await, first);
    assert_eq!(source.get_segment(Epoch(1), SegmentNo(5)).await.unwrap(), Some(bytes));
}
