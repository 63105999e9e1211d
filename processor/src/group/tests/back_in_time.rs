//! An old copy of the vault in the place of the present one, and a log whose end was deleted: refused, as soon as it is looked at, with what
//! is gone; what was applied stays good, and when the present comes back replay goes on.

use super::*;

/// Five segments, of which `applied` were.
fn site_with(applied: u64) -> (Site, Source) {
    let site = Site::new();
    let mut source = Source::new("web01", 1);
    let mut rng = Rng(7);
    site.open_epoch(&source);
    source.random_resync(&mut rng);
    for segment in 1..=5 {
        for _ in 0..4 {
            source.random(&mut rng);
        }
        source.mark(&format!("m{segment}"));
        site.ship(&mut source);
        if segment == applied {
            assert!(all_good(&site.once()));
        }
    }
    (site, source)
}

fn refused(site: &Site, source: &Source, words: &[&str]) {
    let outcomes = site.once();
    assert!(!all_good(&outcomes), "a vault that went back in time was taken for the present: {outcomes:?}");
    let GroupState::Stopped { reason, .. } = site.state(source) else { panic!("{:?}", site.state(source)) };
    for word in ["gone back in time"].iter().chain(words) {
        assert!(reason.contains(word), "{word:?} is not in: {reason}");
    }
}

#[test]
fn a_vault_that_went_back_in_time_is_refused() {
    let (site, source) = site_with(5);
    let gone: Vec<Vec<u8>> = (3..=5).map(|number| site.take_away(&source, Epoch(1), number)).collect();
    refused(&site, &source, &["segment 5 of epoch 1", "was applied here"]);
    site.check(&source);
    for (number, bytes) in (3..=5).zip(gone) {
        site.put_at(&source, Epoch(1), SegmentNo(number), bytes);
    }
    assert!(all_good(&site.once()));
    site.check(&source);
}

#[test]
fn what_was_seen_and_not_applied_is_missed_too_also_by_another_processor() {
    let (site, source) = site_with(2);
    // It stops at a segment that is damaged, and has seen that the log goes on to 5.
    let third = site.take_away(&source, Epoch(1), 3);
    let mut bad = third.clone();
    bad[300] ^= 1;
    site.put_at(&source, Epoch(1), SegmentNo(3), bad);
    assert!(!all_good(&site.once()));
    let later: Vec<Vec<u8>> = (3..=5).map(|number| site.take_away(&source, Epoch(1), number)).collect();
    refused(&site, &source, &["segment 5 was seen there before", "ends with segment 2"]);
    site.put_at(&source, Epoch(1), SegmentNo(3), third);
    for (number, bytes) in (4..=5).zip(later.into_iter().skip(1)) {
        site.put_at(&source, Epoch(1), SegmentNo(number), bytes);
    }
    assert!(all_good(&site.once()));
    site.check(&source);
}

#[test]
fn an_epoch_that_is_gone_is_missed() {
    let (site, mut source) = site_with(5);
    site.next_epoch(&mut source);
    source.mark("second");
    site.ship(&mut source);
    assert!(all_good(&site.once()));
    let path = farshore_vault::keys::Key::Epoch(source.group.clone(), Epoch(2)).path();
    let store: Arc<dyn object_store::ObjectStore> = site.store.clone();
    let object = site.runtime.block_on(async {
        use object_store::ObjectStoreExt;
        let object = store.get(&path).await.unwrap().bytes().await.unwrap();
        store.delete(&path).await.unwrap();
        object
    });
    refused(&site, &source, &["epoch 2, which had begun"]);
    site.runtime.block_on(async {
        use object_store::ObjectStoreExt;
        store.put(&path, object.into()).await.unwrap()
    });
    assert!(all_good(&site.once()));
    site.check(&source);
}
