use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, Hash, SegmentNo, Seq};
use std::time::Duration;

use super::*;
use crate::count::{CountingStore, LIST_PAGE, Requests};
use crate::epoch::Opened;
use crate::fault::{Fault, FaultStore, On};
use crate::objects::{DiskRange, EpochDisk, EpochObject, HashPlan, HashedDisk, Reason, Request};

fn group_name() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn first_epoch() -> EpochObject {
    EpochObject {
        group: group_name(),
        epoch: Epoch(1),
        parent: None,
        reason: Reason::FirstStart,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 20 }],
    }
}

/// Retries that cost no time.
const QUICK: RetryPolicy =
    RetryPolicy { attempts: 4, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(2) };

async fn faulty() -> (Arc<FaultStore>, GroupVault) {
    let store = FaultStore::in_memory();
    let vault = Vault::init_store(store.clone(), "memory:").await.unwrap().with_retry(QUICK);
    (store, vault.group(&group_name()))
}

fn folder_url(dir: &tempfile::TempDir) -> String {
    format!("file://{}", dir.path().join("deep/vault").display())
}

#[tokio::test]
async fn init_makes_a_vault_that_open_finds_and_a_second_init_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let url = folder_url(&dir);
    assert!(matches!(Vault::open(&url).await, Err(VaultError::NotAVault { .. })));
    let made = Vault::init(&format!("{url}/")).await.unwrap();
    assert_eq!(made.url(), url);
    let opened = Vault::open(&url).await.unwrap();
    assert_eq!(opened.id(), made.id());
    let again = Vault::init(&url).await.unwrap_err();
    assert!(matches!(again, VaultError::AlreadyAVault { .. }), "{again}");
    assert_eq!(Vault::open(&url).await.unwrap().id(), made.id());
}

#[tokio::test]
async fn a_vault_of_another_version_is_refused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("farshore-vault.json");
    std::fs::write(&file, r#"{"format":2,"shards":7}"#).unwrap();
    let url = format!("file://{}", dir.path().display());
    assert!(matches!(Vault::open(&url).await, Err(VaultError::Version { found: 2, .. })));
    assert!(matches!(Vault::init(&url).await, Err(VaultError::Version { found: 2, .. })));
    std::fs::write(&file, "garbage").unwrap();
    assert!(matches!(Vault::open(&url).await, Err(VaultError::Damaged { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"garbage");
}

#[tokio::test]
async fn an_init_whose_answer_was_lost_is_our_own() {
    let store = FaultStore::in_memory();
    store.inject(On::Put, "farshore-vault.json", 1, Fault::After);
    let made = Vault::init_store(store.clone(), "memory:").await.unwrap();
    assert_eq!(Vault::open_store(store, "memory:", &Access::of_process()).await.unwrap().id(), made.id());
}

#[tokio::test]
async fn nothing_is_created_in_the_mount_point_of_a_vault_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let group = Vault::init(&folder_url(&dir)).await.unwrap().with_retry(QUICK).group(&group_name());
    let root = dir.path().join("deep/vault");
    std::fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let refused = group.put_segment(Epoch(1), SegmentNo(1), Bytes::from_static(b"x")).await.unwrap_err();
    assert!(refused.is_transient());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_writers_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::init(&folder_url(&dir)).await.unwrap();
    for number in (1..=8).map(SegmentNo) {
        let writers: Vec<_> = (0..16_u8)
            .map(|me| {
                let group = vault.group(&group_name());
                let bytes = Bytes::from(vec![me; 100_000]);
                tokio::spawn(async move { (me, group.put_segment(Epoch(1), number, bytes).await.unwrap()) })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let (me, put) = writer.await.unwrap();
            if put == Put::Created {
                winners.push(me);
            }
        }
        let stored = vault.group(&group_name()).get_segment(Epoch(1), number).await.unwrap().unwrap();
        assert_eq!(winners.len(), 1, "winners of {number}: {winners:?}");
        assert_eq!(stored, vec![winners[0]; 100_000]);
    }
}

#[tokio::test]
async fn segments_are_listed_in_order_and_strangers_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::init(&folder_url(&dir)).await.unwrap();
    let group = vault.group(&group_name());
    assert_eq!(group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap(), vec![]);
    assert_eq!(vault.groups().await.unwrap(), vec![]);
    for n in [12, 3, 1, 100, 2] {
        let bytes = Bytes::from(vec![0; n as usize]);
        assert_eq!(group.put_segment(Epoch(1), SegmentNo(n), bytes).await.unwrap(), Put::Created);
    }
    let folder = dir.path().join("deep/vault/groups/web01/log/0000000001");
    std::fs::write(folder.join("README"), "stranger").unwrap();
    std::fs::write(folder.join("00000000000000000004#1"), "left by a crash").unwrap();
    let listed = group.list_segments(Epoch(1), SegmentNo(3)).await.unwrap();
    assert_eq!(listed, [3, 12, 100].map(|n| (SegmentNo(n), n)));
    group.delete_segment(Epoch(1), SegmentNo(3)).await.unwrap();
    group.delete_segment(Epoch(1), SegmentNo(3)).await.unwrap();
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(3)).await.unwrap(), None);
    assert_eq!(vault.groups().await.unwrap(), vec![group_name()]);
}

#[tokio::test]
async fn of_two_openers_of_an_epoch_one_gets_it_and_the_other_sees_whose_it_is() {
    let (_, group) = faulty().await;
    let (a, b) = (first_epoch(), first_epoch());
    let (first, second) = tokio::join!(group.create_epoch(&a), group.create_epoch(&b));
    let hash = Hash::of(&a.encoded());
    match (first.unwrap(), second.unwrap()) {
        (Opened::Mine(found), Opened::Taken(by)) => assert_eq!((found, by), (hash, a.clone())),
        (Opened::Taken(by), Opened::Mine(_)) => assert_eq!(by, b),
        other => panic!("{other:?}"),
    }
    let winner = group.get_epoch(Epoch(1)).await.unwrap().unwrap().0;
    assert!(matches!(group.create_epoch(&winner).await.unwrap(), Opened::Mine(_)), "a second time is ours too");
}

#[tokio::test]
async fn an_epoch_whose_answer_was_lost_is_ours() {
    for fault in [Fault::Before, Fault::After] {
        let (store, group) = faulty().await;
        let ours = first_epoch();
        store.inject(On::Put, "epochs/", 1, fault);
        assert_eq!(group.create_epoch(&ours).await.unwrap(), Opened::Mine(Hash::of(&ours.encoded())), "{fault:?}");
        store.inject(On::Put, "epochs/", 1, fault);
        assert!(
            matches!(group.create_epoch(&first_epoch()).await.unwrap(), Opened::Taken(by) if by == ours),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn an_epoch_that_stays_undecided_is_an_error_and_can_be_asked_again() {
    let (store, group) = faulty().await;
    let ours = first_epoch();
    store.inject(On::Put, "epochs/", 4, Fault::After);
    store.inject(On::Get, "epochs/", 4, Fault::Before);
    assert!(group.create_epoch(&ours).await.unwrap_err().is_transient());
    assert!(matches!(group.create_epoch(&ours).await.unwrap(), Opened::Mine(_)));
}

#[tokio::test]
async fn an_object_with_our_nonce_that_says_something_else_is_not_ours() {
    let (_, group) = faulty().await;
    let ours = first_epoch();
    group.create_epoch(&ours).await.unwrap();
    let other = EpochObject { reason: Reason::AskedFor, ..ours };
    assert!(matches!(group.create_epoch(&other).await, Err(VaultError::Damaged { .. })));
    let foreign = EpochObject { group: GroupName::new("db01").unwrap(), ..first_epoch() };
    assert!(matches!(group.create_epoch(&foreign).await, Err(VaultError::Damaged { .. })));
}

#[tokio::test]
async fn the_newest_epoch_is_found_by_going_up() {
    let (_, group) = faulty().await;
    assert_eq!(group.newest_epoch(Epoch(0)).await.unwrap(), None);
    for epoch in 1..=5 {
        let parent = (epoch > 1).then(|| Epoch(epoch - 1));
        group.create_epoch(&EpochObject { epoch: Epoch(epoch), parent, ..first_epoch() }).await.unwrap();
    }
    assert_eq!(group.newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(5));
    assert_eq!(group.newest_epoch(Epoch(5)).await.unwrap().unwrap().0.epoch, Epoch(5));
    assert_eq!(group.newest_epoch(Epoch(6)).await.unwrap(), None);
}

#[tokio::test]
async fn an_object_copied_to_another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let group = Vault::init(&folder_url(&dir)).await.unwrap().group(&group_name());
    group.create_epoch(&first_epoch()).await.unwrap();
    let epochs = dir.path().join("deep/vault/groups/web01/to-source/epochs");
    std::fs::copy(epochs.join("0000000001.json"), epochs.join("0000000002.json")).unwrap();
    let refused = group.newest_epoch(Epoch(1)).await.unwrap_err();
    assert!(matches!(refused, VaultError::Damaged { .. }), "{refused}");
}

#[tokio::test]
async fn requests_are_numbered_from_one() {
    let (_, group) = faulty().await;
    assert_eq!(group.put_request(&Request::Resync { full: true, ranges: vec![] }).await.unwrap(), 1);
    assert_eq!(group.put_request(&Request::Drain).await.unwrap(), 2);
    assert_eq!(group.get_request(1).await.unwrap(), Some(Request::Resync { full: true, ranges: vec![] }));
    assert_eq!(group.get_request(2).await.unwrap(), Some(Request::Drain));
    assert_eq!(group.get_request(3).await.unwrap(), None);
    assert_eq!((group.newest_request(0).await.unwrap(), group.newest_request(7).await.unwrap()), (2, 7));
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_asked_once() {
    let (store, group) = faulty().await;
    for fault in [Fault::Before, Fault::After] {
        assert_eq!(group.put_request(&Request::Drain).await.unwrap() % 2, 1);
        store.inject(On::Put, "/requests/", 1, fault);
        // The fault meets the first number, which is another's; the next one meets our own.
        store.inject(On::Put, "/requests/", 1, fault);
        assert_eq!(group.put_request(&Request::Digests).await.unwrap() % 2, 0);
    }
    assert_eq!(group.get_request(5).await.unwrap(), None);
    store.set_down(true);
    assert!(group.put_request(&Request::Drain).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_request_that_nobody_could_read_is_not_put() {
    let (store, group) = faulty().await;
    let range = DiskRange { disk: DiskIndex(0), offset: 0, len: 512 };
    let puts = store.puts();
    let refused = group.put_request(&Request::Resync { full: true, ranges: vec![range] }).await;
    assert!(matches!(refused, Err(VaultError::Damaged { .. })));
    assert_eq!(store.puts(), puts);
}

#[tokio::test]
async fn hashes_are_published_chunk_by_chunk_and_removed_with_their_epoch_but_for_the_plan() {
    let (_, group) = faulty().await;
    let disks = vec![HashedDisk { name: DiskName::new("vda").unwrap(), units: 3 }];
    let plan = HashPlan { epoch: Epoch(1), seq: Seq(1), unit_bytes: 1 << 20, chunk_units: 2, disks };
    for (disk, chunk, units) in plan.chunks() {
        let bytes = Bytes::from(vec![units as u8; 10]);
        assert_eq!(group.put_hash_chunk(Epoch(1), disk, chunk, bytes).await.unwrap(), Put::Created);
    }
    assert_eq!(group.get_hash_plan(Epoch(1)).await.unwrap(), None);
    assert_eq!(group.put_hash_plan(&plan).await.unwrap(), Put::Created);
    assert_eq!(group.put_hash_plan(&plan).await.unwrap(), Put::Exists);
    assert_eq!(group.get_hash_plan(Epoch(1)).await.unwrap(), Some(plan.clone()));
    assert_eq!(group.get_hash_chunk(Epoch(1), DiskIndex(0), 1).await.unwrap().unwrap(), vec![1; 10]);
    group.put_hash_chunk(Epoch(2), DiskIndex(0), 0, Bytes::from_static(b"next")).await.unwrap();
    group.delete_hash_chunks(Epoch(1)).await.unwrap();
    assert_eq!(group.get_hash_plan(Epoch(1)).await.unwrap(), Some(plan));
    assert_eq!(group.get_hash_chunk(Epoch(1), DiskIndex(0), 0).await.unwrap(), None);
    assert!(group.get_hash_chunk(Epoch(2), DiskIndex(0), 0).await.unwrap().is_some());
}

#[tokio::test]
async fn transient_errors_are_tried_again_and_then_handed_up() {
    let (store, group) = faulty().await;
    let bytes = Bytes::from_static(b"segment");
    store.inject(On::Put, "/log/", 3, Fault::Before);
    assert_eq!(group.put_segment(Epoch(1), SegmentNo(1), bytes.clone()).await.unwrap(), Put::Created);
    store.inject(On::Put, "/log/", 1, Fault::After);
    assert_eq!(group.put_segment(Epoch(1), SegmentNo(2), bytes.clone()).await.unwrap(), Put::Exists);
    store.inject(On::Get, "/log/", 3, Fault::Before);
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(2)).await.unwrap(), Some(bytes.clone()));
    store.set_down(true);
    assert!(group.put_segment(Epoch(1), SegmentNo(3), bytes).await.unwrap_err().is_transient());
    assert!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap_err().is_transient());
    assert!(group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap_err().is_transient());
    assert!(group.delete_segment(Epoch(1), SegmentNo(1)).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn half_a_body_is_no_object_and_half_a_listing_no_list() {
    let (store, group) = faulty().await;
    let bytes = Bytes::from(vec![7; 100_000]);
    store.inject(On::Put, "/log/", 2, Fault::Reset);
    assert_eq!(group.put_segment(Epoch(1), SegmentNo(1), bytes.clone()).await.unwrap(), Put::Created);
    assert_eq!(group.put_segment(Epoch(1), SegmentNo(2), bytes.clone()).await.unwrap(), Put::Created);
    store.inject(On::Get, "/log/", 3, Fault::Reset);
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap(), Some(bytes));
    store.inject(On::Get, "/log/", 4, Fault::Reset);
    let broken = group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap_err();
    assert!(broken.is_transient(), "{broken}");
    store.inject(On::List, "/log/", 3, Fault::Reset);
    let numbers = |listed: Vec<(SegmentNo, u64)>| listed.into_iter().map(|(number, _)| number.0).collect::<Vec<_>>();
    assert_eq!(numbers(group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap()), [1, 2]);
    store.inject(On::List, "/log/", 4, Fault::Reset);
    assert!(group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap_err().is_transient());
    store.inject(On::Delete, "/log/", 2, Fault::After);
    group.delete_segment(Epoch(1), SegmentNo(1)).await.unwrap();
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up_and_got_again() {
    let (store, group) = faulty().await;
    let bytes = Bytes::from(vec![7; 8 << 20]);
    store.inject(On::Put, "/log/", 1, Fault::Stall);
    let begin = tokio::time::Instant::now();
    assert_eq!(group.put_segment(Epoch(1), SegmentNo(1), bytes.clone()).await.unwrap(), Put::Created);
    let waited = begin.elapsed();
    assert!(waited > Duration::from_secs(60) && waited < Duration::from_secs(200), "given up after {waited:?}");
    store.inject(On::Get, "/log/", 1, Fault::Stall);
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap(), Some(bytes));
    store.inject(On::Get, "/log/", 4, Fault::Stall);
    assert!(group.get_segment(Epoch(1), SegmentNo(1)).await.unwrap_err().is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_waited_for() {
    let (store, group) = faulty().await;
    store.inject(On::Put, "/log/", 1, Fault::Slow(1_000_000));
    let begin = tokio::time::Instant::now();
    let put = group.put_segment(Epoch(1), SegmentNo(1), Bytes::from(vec![7; 32 << 20])).await;
    assert_eq!(put.unwrap(), Put::Created);
    assert_eq!(begin.elapsed().as_secs(), 33);
    assert_eq!(store.most_in_flight_bytes(), 32 << 20);
}

#[tokio::test]
async fn an_object_larger_than_a_segment_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let group = Vault::init(&folder_url(&dir)).await.unwrap().group(&group_name());
    group.put_segment(Epoch(1), SegmentNo(1), Bytes::from_static(b"x")).await.unwrap();
    let file = dir.path().join("deep/vault/groups/web01/log/0000000001/00000000000000000001");
    std::fs::File::options().write(true).open(file).unwrap().set_len(65 << 20).unwrap();
    assert!(matches!(group.get_segment(Epoch(1), SegmentNo(1)).await, Err(VaultError::Damaged { .. })));
}

#[tokio::test]
async fn of_a_long_log_only_the_end_is_listed_when_only_the_end_is_asked_for() {
    let store = CountingStore::in_memory();
    let group = Vault::init_store(store.clone(), "memory:").await.unwrap().group(&group_name());
    for n in 1..=2 * LIST_PAGE {
        group.put_segment(Epoch(1), SegmentNo(n), Bytes::from_static(b"segment")).await.unwrap();
    }
    for (from, pages) in [(1, 2), (2, 2), (LIST_PAGE + 1, 1), (2 * LIST_PAGE, 1), (2 * LIST_PAGE + 1, 1)] {
        let before = store.requests();
        let listed = group.list_segments(Epoch(1), SegmentNo(from)).await.unwrap();
        assert_eq!(listed.first().map(|(n, _)| n.0), Some(from).filter(|n| *n <= 2 * LIST_PAGE));
        assert_eq!(listed.len() as u64, 2 * LIST_PAGE + 1 - from);
        assert_eq!(store.requests().since(before), Requests { lists: pages, ..Requests::default() }, "from {from}");
    }
}
