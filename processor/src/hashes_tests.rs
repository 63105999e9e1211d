use std::time::Duration;

use farshore_changelog::ids::{DiskName, Seq};
use farshore_vault::Nonce;

use super::*;

fn epoch(reason: Reason) -> EpochObject {
    EpochObject {
        group: "g".parse().unwrap(),
        epoch: Epoch(2),
        parent: Some(Epoch(1)),
        reason,
        nonce: Nonce([0; 16]),
        created: jiff::Timestamp::UNIX_EPOCH,
        disks: Vec::new(),
    }
}

#[test]
fn who_publishes_and_who_compares_is_a_table() {
    use Wanted::{Compare, Nothing, Publish};
    let start = ReplayPosition::start("g".parse().unwrap(), Epoch(2), Hash::ZERO);
    let position = |announced, hashes| ReplayPosition { resync_announced: announced, hashes, ..start.clone() };
    let (large, small) = (PUBLISH_FROM_BYTES, PUBLISH_FROM_BYTES - 1);
    let (useful, needed) = (HashesDue::Useful, HashesDue::Needed);
    let none = Known::default();
    let (published, over, empty) =
        (Known { published: true, ..none }, Known { over: true, ..none }, Known { empty: true, ..none });
    let table = [
        (large, useful, Reason::RingLost, none, Publish),
        (small, useful, Reason::RingLost, none, Nothing),
        (large, useful, Reason::RingLost, empty, Nothing),
        (large, useful, Reason::RingLost, over, Nothing),
        // Replay of one log gives one and the same images.
        (large, useful, Reason::RingLost, published, Nothing),
        // These may be others.
        (small, needed, Reason::RingLost, empty, Publish),
        (small, needed, Reason::RingLost, published, Compare),
        (small, needed, Reason::RingLost, over, Nothing),
        (small, useful, Reason::AskedFor, empty, Publish),
        (small, useful, Reason::AskedFor, published, Compare),
        (small, useful, Reason::AskedFor, Known { over: true, ..published }, Compare),
        (small, useful, Reason::AskedFor, over, Nothing),
        (large, useful, Reason::FirstStart, empty, Nothing),
        (large, needed, Reason::FirstStart, published, Nothing),
    ];
    for (announced, due, reason, known, wanted) in table {
        let found = decide(&position(announced, due), &epoch(reason), known, PUBLISH_FROM_BYTES);
        assert_eq!(found, wanted, "{announced} {due:?} {reason:?} {known:?}");
    }
}

#[test]
fn images_are_hashed_unit_by_unit_and_as_long_as_there_is_time() {
    const UNIT: u64 = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    let sizes = [20 * UNIT + 512, 3 * UNIT];
    let mut images = Vec::new();
    for (i, size) in sizes.into_iter().enumerate() {
        let mut image = Image::create(&folder.path().join(format!("{i}.raw")), size).unwrap();
        image.write(UNIT + 512, &[&[7; 1024]]).unwrap();
        image.write(size - 512, &[&[9; 512]]).unwrap();
        image.sync().unwrap();
        images.push(image);
    }
    let disk = |(i, size_bytes)| TargetDisk { name: DiskName::new(format!("vd{i}")).unwrap(), size_bytes };
    let disks: Vec<TargetDisk> = (0..).zip(sizes).map(disk).collect();
    let mut position = ReplayPosition::start("g".parse().unwrap(), Epoch(2), Hash::ZERO);
    position.seq = Seq(1);
    let mut plan = plan_of(&disks, &position, UNIT as u32);
    assert_eq!(plan.disks.iter().map(|disk| disk.units).collect::<Vec<_>>(), [21, 3]);
    plan.chunk_units = 8;
    let mut job = HashJob::new(position.group.clone(), plan, Wanted::Publish, false);
    assert!(job.next_chunk(&images, clock::mono()).unwrap().is_none(), "there is no time");
    assert!(!job.is_done());
    let mut found: Vec<(u16, u64, Hash)> = Vec::new();
    while let Some((number, chunk)) = job.next_chunk(&images, clock::mono() + Duration::from_secs(60)).unwrap() {
        let chunk = Chunk::parse(&chunk.encode()).unwrap();
        assert_eq!((chunk.number(), chunk.epoch, chunk.seq), (u64::from(number), Epoch(2), Seq(1)));
        found.extend((chunk.first_unit..).zip(&chunk.hashes).map(|(unit, hash)| (chunk.disk.0, unit, *hash)));
    }
    assert!(job.is_done());
    let mut expected = Vec::new();
    for (disk, size) in (0..).zip(sizes) {
        let bytes = std::fs::read(folder.path().join(format!("{disk}.raw"))).unwrap();
        assert_eq!(bytes.len() as u64, size);
        expected.extend((0..).zip(bytes.chunks(UNIT as usize)).map(|(unit, bytes)| (disk, unit, Hash::of(bytes))));
    }
    assert_eq!(found, expected);
}
