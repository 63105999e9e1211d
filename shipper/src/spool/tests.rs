use farshore_changelog::segment::{Kind, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;

use nix::errno::Errno;

use super::*;
use crate::tests::disk::BadDisk;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn sealed(number: u64) -> Arc<Sealed> {
    let stamp = Stamp {
        group: group(),
        epoch: Epoch(1),
        number: SegmentNo(number),
        first_seq: Seq(1),
        last_seq: Seq(0),
        created: UnixMicros(5),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    Arc::new(SegmentWriter::new(Kind::Log, Some(1)).seal(stamp).unwrap())
}

/// A spool in `dir/spool`, its reserve in `dir`.
fn spool(dir: &Path) -> Spool {
    Spool::new(&dir.join("spool"), &group(), Reserve::in_folder(dir), 0)
}

fn whole(found: &[Found]) -> Vec<Spooled> {
    found.iter().map(|f| f.segment.clone().unwrap()).collect()
}

#[test]
fn what_was_put_is_found_again_in_order_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let one = spool(dir.path());
    assert!(one.look_through().unwrap().is_empty() && one.is_empty());
    let put: Vec<_> = [10, 2, 1].map(|n| one.put(&sealed(n)).unwrap()).into();
    let again = spool(dir.path());
    let found = whole(&again.look_through().unwrap());
    assert_eq!(found, put.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!((again.bytes(), again.bytes() > 0), (one.bytes(), true));
    assert_eq!(again.read(&found[0]).unwrap(), sealed(1).bytes);
    for spooled in &found {
        again.remove(spooled.epoch, spooled.number).unwrap();
    }
    assert!(again.is_empty() && again.bytes() == 0);
    assert!(matches!(again.read(&found[0]), Err(ShipError::Spool { .. })));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    spool.look_through().unwrap();
    let path = spool.path(Epoch(1), SegmentNo(3));
    std::fs::write(&path, &sealed(4).bytes).unwrap();
    let found = spool.look_through().unwrap();
    assert_eq!((found[0].epoch, found[0].number), (Epoch(1), SegmentNo(3)));
    assert!(found[0].segment.as_ref().unwrap_err().contains("is segment 4"));
    std::fs::write(&path, &sealed(3).bytes).unwrap();
    assert!(spool.look_through().unwrap()[0].segment.is_ok());
    let others =
        Spool::new(&dir.path().join("spool"), &GroupName::new("db01").unwrap(), Reserve::in_folder(dir.path()), 0);
    assert!(others.look_through().unwrap()[0].segment.is_err());
}

#[test]
fn what_was_set_aside_is_no_part_of_the_spool_and_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    spool.look_through().unwrap();
    spool.put(&sealed(1)).unwrap();
    spool.put(&sealed(2)).unwrap();
    let found = spool.look_through().unwrap();
    spool.set_aside(&found[1]).unwrap();
    assert_eq!(spool.bytes(), found[0].segment.as_ref().unwrap().bytes);
    assert_eq!(whole(&spool.look_through().unwrap()), whole(&found[..1]));
    let listed: Vec<_> =
        list(&dir.path().join("spool"), &group()).unwrap().iter().map(|f| (f.number.0, f.aside)).collect();
    assert_eq!(listed, [(1, false), (2, true)]);
    assert!(list(&dir.path().join("absent"), &group()).unwrap().is_empty());
}

#[test]
fn nothing_is_put_into_a_folder_that_has_taken_the_place_of_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    spool.look_through().unwrap();
    let held = spool.put(&sealed(1)).unwrap();
    let (folder, elsewhere) = (dir.path().join("spool"), dir.path().join("unmounted"));
    std::fs::rename(&folder, &elsewhere).unwrap();
    assert!(matches!(spool.put(&sealed(2)), Err(ShipError::Io { .. })), "the folder is gone");
    std::fs::create_dir(&folder).unwrap();
    let ShipError::Io { source, .. } = spool.put(&sealed(2)).unwrap_err() else { panic!("another error") };
    assert!(source.to_string().contains("mounted"), "{source}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // Back, or copied to another disk with all that it held.
    std::fs::copy(elsewhere.join(held_name(&held)), folder.join(held_name(&held))).unwrap();
    spool.put(&sealed(2)).unwrap();
}

fn held_name(spooled: &Spooled) -> String {
    file_name(spooled.epoch, spooled.number)
}

#[test]
fn a_note_finds_room_on_a_full_disk_and_nothing_is_put_until_there_is_some_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    spool.look_through().unwrap();
    let held = spool.put(&sealed(1)).unwrap();
    let reserve = dir.path().join("reserve");
    assert!(reserve.exists());
    let (disk, _medium) = BadDisk::here();
    // The disk has just the room of the reserve, which a note fits into, and a segment or a new reserve does not.
    let last_room = reserve.clone();
    disk.rule(move |_, bytes| (bytes > 100 || (bytes > 0 && last_room.exists())).then_some(Errno::ENOSPC));
    assert_eq!(Trouble::of(&spool.put(&sealed(2)).unwrap_err()), Some(Trouble::Full));
    let note = dir.path().join("note");
    let write = || crashsafe::replace(&note, b"confirmed").map_err(ShipError::io("note"));
    assert!(write().is_err());
    spool.note(write).unwrap();
    assert_eq!(std::fs::read(&note).unwrap(), b"confirmed");
    assert!(!reserve.exists());
    assert!(spool.put(&sealed(2)).is_err());
    disk.heal();
    spool.remove(held.epoch, held.number).unwrap();
    assert!(reserve.exists(), "the room of the removed segment is the reserve's first");
    spool.put(&sealed(2)).unwrap();
}

#[test]
fn a_name_goes_both_ways_or_is_not_ours() {
    let name = file_name(Epoch(3), SegmentNo(12));
    assert_eq!(name, "0000000003-00000000000000000012.seg");
    assert_eq!(parse_name(&name), Some((Epoch(3), SegmentNo(12))));
    for strange in
        ["3-12.seg", "0000000003-+0000000000000000012.seg", "0000000003-00000000000000000012.seg.tmp", "-.seg", "x"]
    {
        assert_eq!(parse_name(strange), None, "{strange}");
    }
}

#[test]
fn only_the_segments_of_the_epoch_are_discarded() {
    let dir = tempfile::tempdir().unwrap();
    discard(&dir.path().join("absent"), Epoch(1)).unwrap();
    let (spool, folder) = (spool(dir.path()), dir.path().join("spool"));
    spool.look_through().unwrap();
    spool.put(&sealed(1)).unwrap();
    std::fs::write(folder.join("notes"), "mine").unwrap();
    discard(&folder, Epoch(2)).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    discard(&folder, Epoch(1)).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn what_is_in_memory_is_not_read_back_and_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let one = sealed(1);
    let spool = Spool::new(&dir.path().join("spool"), &group(), Reserve::in_folder(dir.path()), one.bytes.len() as u64);
    spool.look_through().unwrap();
    let (first, second) = (spool.put(&one).unwrap(), spool.put(&sealed(2)).unwrap());
    for spooled in [&first, &second] {
        crashsafe::remove(&spool.path(spooled.epoch, spooled.number)).unwrap();
    }
    assert_eq!(spool.read(&first).unwrap(), one.bytes);
    assert!(matches!(spool.read(&second), Err(ShipError::Spool { .. })), "beyond the limit");
    spool.remove(first.epoch, first.number).unwrap();
    assert!(spool.read(&first).is_err(), "what is confirmed goes from memory too");
    spool.put(&sealed(3)).unwrap();
    assert_eq!(spool.held().memory.len(), 1, "and makes room");
}
