use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::ids::{DiskName, GroupName, Hash, Seq};
use farshore_changelog::segment::Stamp;

use super::*;
use crate::fault::{Fault, FaultStore, On};
use crate::objects::{EpochDisk, Nonce, Reason};
use crate::retry::RetryPolicy;
use crate::vault::Vault;

fn group_name() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn successor() -> EpochObject {
    EpochObject {
        group: group_name(),
        epoch: Epoch(2),
        parent: Some(Epoch(1)),
        reason: Reason::Failover,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 20 }],
    }
}

fn heartbeat(number: u64) -> Bytes {
    let stamp = Stamp {
        group: group_name(),
        epoch: Epoch(1),
        number: SegmentNo(number),
        first_seq: Seq(1),
        last_seq: Seq(0),
        created: clock::wall(),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    Bytes::from(SegmentWriter::new(Kind::Log, Some(1)).seal(stamp).unwrap().bytes)
}

async fn faulty() -> (Arc<FaultStore>, GroupVault) {
    let store = FaultStore::in_memory();
    let quick =
        RetryPolicy { attempts: 4, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(2) };
    let vault = Vault::init_store(store.clone(), "memory:").await.unwrap().with_retry(quick);
    (store, vault.group(&group_name()))
}

#[tokio::test]
async fn a_seal_takes_the_first_free_number_and_is_found_again() {
    let (_, group) = faulty().await;
    let by = successor();
    for number in 1..=3 {
        group.put_segment(Epoch(1), SegmentNo(number), heartbeat(number)).await.unwrap();
    }
    group.put_segment(Epoch(1), SegmentNo(4), Bytes::from(vec![1; 5000])).await.unwrap();
    for above in [0, 2, 4] {
        assert_eq!(group.seal(Epoch(1), SegmentNo(above), &by).await.unwrap(), SegmentNo(5));
    }
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(6)).await.unwrap(), None, "one seal is enough");
    let late = group.put_segment(Epoch(1), SegmentNo(5), heartbeat(5)).await.unwrap();
    assert_eq!(late, Put::Exists, "a late write of the source got the sealed number");
}

#[tokio::test]
async fn a_seal_whose_answer_was_lost_is_not_made_twice() {
    let (store, group) = faulty().await;
    store.inject(On::Put, "/log/", 1, Fault::After);
    assert_eq!(group.seal(Epoch(1), SegmentNo(0), &successor()).await.unwrap(), SegmentNo(1));
    assert_eq!(group.get_segment(Epoch(1), SegmentNo(2)).await.unwrap(), None);
}

#[tokio::test]
async fn two_sealers_and_a_writer_agree_on_the_cut() {
    for _ in 0..20 {
        let (_, group) = faulty().await;
        let by = successor();
        let (one, put, two) = tokio::join!(
            group.seal(Epoch(1), SegmentNo(0), &by),
            group.put_segment(Epoch(1), SegmentNo(1), heartbeat(1)),
            group.seal(Epoch(1), SegmentNo(0), &by),
        );
        let cut = one.unwrap();
        assert_eq!(cut, two.unwrap());
        assert_eq!(cut, if put.unwrap() == Put::Created { SegmentNo(2) } else { SegmentNo(1) });
    }
}

#[tokio::test]
async fn what_is_not_of_this_epoch_stops_the_seal() {
    let (_, group) = faulty().await;
    group.seal(Epoch(1), SegmentNo(0), &successor()).await.unwrap();
    let other = group.seal(Epoch(1), SegmentNo(0), &successor()).await.unwrap_err();
    assert!(matches!(other, VaultError::Damaged { .. }), "{other}");
    let not_next = group.seal(Epoch(3), SegmentNo(0), &successor()).await.unwrap_err();
    assert!(not_next.to_string().contains("successor of epoch 3"), "{not_next}");
}

#[tokio::test]
async fn what_cannot_be_believed_stops_the_seal() {
    let (_, group) = faulty().await;
    group.put_segment(Epoch(1), SegmentNo(1), heartbeat(7)).await.unwrap();
    let moved = group.seal(Epoch(1), SegmentNo(0), &successor()).await.unwrap_err();
    assert!(moved.to_string().contains("segment 7"), "{moved}");
    group.put_segment(Epoch(1), SegmentNo(2), Bytes::from_static(b"short")).await.unwrap();
    assert!(matches!(group.seal(Epoch(1), SegmentNo(1), &successor()).await, Err(VaultError::Damaged { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_may_not_read_its_log_can_seal_it() {
    let (store, group) = faulty().await;
    let by = successor();
    for number in 1..=3 {
        group.put_segment(Epoch(1), SegmentNo(number), heartbeat(number)).await.unwrap();
    }
    store.inject(On::Get, "/log/", 100, Fault::Denied);
    assert_eq!(group.seal(Epoch(1), SegmentNo(1), &by).await.unwrap(), SegmentNo(4));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_may_not_read_its_log_passes_no_free_number_however_undecided_the_store_is() {
    let (store, group) = faulty().await;
    store.inject(On::Get, "/log/", 100, Fault::Denied);
    store.inject(On::Put, "/log/", 4, Fault::Undecided);
    assert_eq!(group.seal(Epoch(1), SegmentNo(0), &successor()).await.unwrap(), SegmentNo(1));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_may_not_read_its_log_seals_the_hole_below_what_it_put_at_once() {
    // What stands of 2 to 20 above the watermark, and what is undecided when it is asked first.
    for (stands, undecided, cut) in [
        (vec![3, 4], 0, 2),
        (vec![3, 4], 1, 2),
        (vec![2, 4, 5], 2, 3),
        (vec![2, 3, 18], 3, 4),
        ((2..18).collect(), 0, 18),
        (vec![], 2, 2),
    ] {
        let (store, group) = faulty().await;
        for number in std::iter::once(&1).chain(&stands) {
            group.put_segment(Epoch(1), SegmentNo(*number), heartbeat(*number)).await.unwrap();
        }
        store.inject(On::Get, "/log/", 100, Fault::Denied);
        store.inject(On::Put, "/log/", undecided, Fault::Undecided);
        let sealed = group.seal(Epoch(1), SegmentNo(1), &successor()).await.unwrap();
        assert_eq!(sealed, SegmentNo(cut), "{stands:?} with {undecided} undecided");
        store.forget();
        let below = group.list_segments(Epoch(1), SegmentNo(1)).await.unwrap().into_iter().map(|(n, _)| n.0);
        assert!(below.take_while(|n| *n < cut).eq(1..cut), "a hole below the seal is left");
    }
}
