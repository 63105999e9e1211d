use std::path::Path;

use bytes::Bytes;
use farshore_changelog::op::RecordFlags;
use farshore_vault::{EpochObject, GroupVault, Nonce, Opened, Put, Reason};

use super::*;
use crate::processor::{Processor, ProcessorConfig};
use crate::stop::Stop;
use crate::testing::{Disks, Rng, Source};
use crate::view::ReadDisk;

/// A source with a vault and a target, all in one folder.
struct Site {
    tmp: tempfile::TempDir,
    vault: Vault,
    source: Source,
    rng: Rng,
}

impl Site {
    async fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let vault = Vault::init(&format!("file://{}/vault", tmp.path().display())).await.unwrap();
        let source = Source::new("web01", 2);
        let site = Self { tmp, vault, source, rng: Rng(7) };
        assert!(matches!(site.group().create_epoch(&site.source.object).await.unwrap(), Opened::Mine(_)));
        site
    }

    fn group(&self) -> GroupVault {
        self.vault.group(&self.source.group)
    }

    fn target(&self) -> std::path::PathBuf {
        self.tmp.path().join("target")
    }

    fn dir(&self) -> GroupDir {
        GroupDir::new(&self.target(), &self.source.group)
    }

    /// The source writes and ships.
    async fn ship(&mut self, segments: usize) {
        for _ in 0..segments {
            for _ in 0..8 {
                self.source.random(&mut self.rng);
            }
            let sealed = self.source.seal();
            let put = self.group().put_segment(sealed.head.epoch, sealed.head.number, Bytes::from(sealed.bytes)).await;
            assert_eq!(put.unwrap(), Put::Created);
        }
    }

    /// The target replays what there is, and the processor ends.
    async fn process(&self) {
        let (config, vault) = (ProcessorConfig::new(self.vault.url(), self.target()), self.vault.clone());
        let outcomes = std::thread::spawn(move || Processor::open_vault(config, vault).unwrap().run_once().unwrap());
        let outcomes = outcomes.join().unwrap();
        assert!(outcomes.iter().all(|o| o.error.is_none()), "{outcomes:?}");
    }

    fn request(&self, point: &str, name: &str) -> Request {
        let point = point.parse().unwrap();
        Request { target: self.target(), group: self.source.group.clone(), point, name: name.into() }
    }

    async fn fail_over(&self, point: &str, name: &str) -> Result<FailedOver, FailoverError> {
        failover(&self.vault, &self.request(point, name), &mut |_| {}).await
    }
}

fn read(disks: &[ViewDisk]) -> Disks {
    let read = |disk: &ViewDisk| {
        let mut bytes = vec![0; disk.size_bytes() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    disks.iter().map(read).collect()
}

#[tokio::test]
async fn the_target_takes_over_with_all_that_was_shipped() {
    let mut site = Site::new().await;
    site.ship(3).await;
    site.process().await;
    site.ship(4).await;
    let mut heard = Vec::new();
    let done = failover(&site.vault, &site.request("latest", DEFAULT_NAME), &mut |p| heard.push(p)).await.unwrap();
    assert_eq!((done.epoch, done.cut), (Epoch(2), Cut { epoch: Epoch(1), number: SegmentNo(7) }));
    assert_eq!(done.point.position, site.source.position());
    assert!(read(&done.disks) == site.source.logged);
    assert_eq!(heard[..2], [Progress::Opened(Epoch(2)), Progress::Sealed(done.cut)]);
    // The source is fenced: its next number is taken, and so is the next epoch.
    site.source.write(0, 0, 8, 99, RecordFlags::NONE);
    let late = site.source.seal();
    let put = site.group().put_segment(late.head.epoch, late.head.number, Bytes::from(late.bytes)).await.unwrap();
    assert_eq!(put, Put::Exists);
    let next = site.source.next_epoch();
    let taken = site.group().create_epoch(&next).await.unwrap();
    assert!(matches!(taken, Opened::Taken(EpochObject { reason: Reason::Failover, .. })));
    // What the VM writes stays, the same command serves it again, and status can say so.
    done.disks[1].write_at(&[5; 700], 100).unwrap();
    done.disks[1].flush().unwrap();
    let written = read(&done.disks);
    drop(done);
    let again = site.fail_over("latest", DEFAULT_NAME).await.unwrap();
    assert!(read(&again.disks) == written);
    assert_eq!(again.epoch, Epoch(2));
    assert_eq!(site.group().newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(2));
    let notes = note::list(site.dir().root()).unwrap();
    assert_eq!((notes.len(), notes[0].1.stage), (1, Stage::FailedOver));
}

#[tokio::test]
async fn a_failover_that_died_anywhere_goes_on() {
    // Steps done before the crash: noted, created, created and noted, sealed, sealed and noted.
    for steps in 0..5 {
        let mut site = Site::new().await;
        site.ship(2).await;
        site.process().await;
        site.ship(2).await;
        let epoch = EpochObject {
            group: site.source.group.clone(),
            epoch: Epoch(2),
            parent: Some(Epoch(1)),
            reason: Reason::Failover,
            nonce: Nonce([9; 16]),
            created: jiff::Timestamp::UNIX_EPOCH,
            disks: site.source.object.disks.clone(),
        };
        let stage = [Stage::Opening, Stage::Opening, Stage::Opened, Stage::Opened, Stage::Sealed][steps];
        let seal = (stage == Stage::Sealed).then_some(SegmentNo(5));
        let group = site.source.group.clone();
        let note = Note { format: note::FORMAT, group, stage, epoch: epoch.clone(), seal, point: None };
        crashsafe::create_dir_all(&site.dir().overlay("failover")).unwrap();
        note.write(&note::path(&site.dir(), "failover")).unwrap();
        if steps >= 1 {
            assert!(matches!(site.group().create_epoch(&epoch).await.unwrap(), Opened::Mine(_)));
        }
        if steps >= 3 {
            assert_eq!(site.group().seal(Epoch(1), SegmentNo(0), &epoch).await.unwrap(), SegmentNo(5));
            // Replay passes the seal before the command is given again.
            site.process().await;
        }
        let done = site.fail_over("latest", "failover").await.unwrap();
        assert_eq!((done.epoch, done.cut.number), (Epoch(2), SegmentNo(4)), "after {steps} steps");
        assert!(read(&done.disks) == site.source.logged, "after {steps} steps");
    }
}

#[tokio::test]
async fn a_source_that_opened_an_epoch_meanwhile_is_fenced_in_the_next() {
    let mut site = Site::new().await;
    site.ship(3).await;
    site.process().await;
    // Noted, and before it is created the source's ring is lost: it opens epoch 2 and dies before it seals epoch 1.
    let early = EpochObject {
        epoch: Epoch(2),
        parent: Some(Epoch(1)),
        reason: Reason::Failover,
        nonce: Nonce([9; 16]),
        ..site.source.object.clone()
    };
    let group = site.source.group.clone();
    let note = Note { format: note::FORMAT, group, stage: Stage::Opening, epoch: early, seal: None, point: None };
    crashsafe::create_dir_all(&site.dir().overlay("failover")).unwrap();
    note.write(&note::path(&site.dir(), "failover")).unwrap();
    let next = site.source.next_epoch();
    assert!(matches!(site.group().create_epoch(&next).await.unwrap(), Opened::Mine(_)));
    let expected = site.source.logged.clone();
    site.source.resync_begin(512);
    site.source.resync(0, 0, 1);
    let sealed = site.source.seal();
    site.group().put_segment(Epoch(2), SegmentNo(1), Bytes::from(sealed.bytes)).await.unwrap();
    let done = site.fail_over("latest", "failover").await.unwrap();
    assert_eq!((done.epoch, done.cut), (Epoch(3), Cut { epoch: Epoch(2), number: SegmentNo(1) }));
    // The resync did not end: the newest consistent position is in epoch 1.
    assert_eq!(done.point.position.epoch, Epoch(1));
    assert!(read(&done.disks) == expected);
}

#[tokio::test]
async fn a_processor_that_runs_is_waited_for() {
    let mut site = Site::new().await;
    site.ship(2).await;
    site.process().await;
    let (stop, config, vault) =
        (Stop::new(), ProcessorConfig::new(site.vault.url(), site.target()), site.vault.clone());
    let asked = stop.clone();
    let running = std::thread::spawn(move || Processor::open_vault(config, vault).unwrap().run(&asked));
    while site.dir().take_lock().is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.ship(6).await;
    let done = site.fail_over("latest", "failover").await.unwrap();
    assert!(read(&done.disks) == site.source.logged);
    stop.request();
    running.join().unwrap();
}

#[tokio::test]
async fn another_point_is_another_overlay_and_not_another_epoch() {
    let mut site = Site::new().await;
    site.source.mark("one");
    site.ship(2).await;
    site.process().await;
    let points = crate::points::read(&site.dir().points()).unwrap();
    let first = points.first().unwrap().clone();
    let done = site.fail_over("latest", "failover").await.unwrap();
    let id = format!("p{}", first.id);
    assert!(matches!(
        site.fail_over(&id, "failover").await,
        Err(FailoverError::View(_) | FailoverError::OtherPoint { .. })
    ));
    drop(done);
    let refused = site.fail_over(&id, "failover").await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, FailoverError::OtherPoint { .. }), "{refused}");
    let other = site.fail_over(&id, "older").await.unwrap();
    assert_eq!((other.point.position, other.epoch), (first.position, Epoch(2)));
    assert!(read(&other.disks) == site.source.after[&first.position]);
    // Both are held on to.
    let needed = crate::lease::oldest_needed(site.dir().root()).unwrap();
    assert_eq!(needed, Some(first.undo_end));
}

#[tokio::test]
async fn a_point_that_cannot_be_had_fences_nobody() {
    let mut site = Site::new().await;
    site.ship(2).await;
    site.process().await;
    for point in ["p4711", "1970-01-01T00:00:00Z"] {
        assert!(site.fail_over(point, "failover").await.is_err());
    }
    for name in ["", "..", "a/b", ".x"] {
        assert!(matches!(site.fail_over("latest", name).await, Err(FailoverError::Name { .. })));
    }
    assert_eq!(site.group().newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(1));
    let other = Vault::init(&format!("file://{}/other", site.tmp.path().display())).await.unwrap();
    let wrong = failover(&other, &site.request("latest", "failover"), &mut |_| {}).await.map(|_| ()).unwrap_err();
    assert!(matches!(wrong, FailoverError::OtherVault { .. }), "{wrong}");
}

#[tokio::test]
async fn a_group_that_another_target_took_over_is_left_alone() {
    let mut site = Site::new().await;
    site.ship(2).await;
    site.process().await;
    let copy = site.tmp.path().join("second");
    let copied = std::process::Command::new("cp").arg("-a").arg(site.target()).arg(&copy).status().unwrap();
    assert!(copied.success());
    drop(site.fail_over("latest", "failover").await.unwrap());
    let request = Request { target: Path::new(&copy).to_path_buf(), ..site.request("latest", "failover") };
    let e = failover(&site.vault, &request, &mut |_| {}).await.map(|_| ()).unwrap_err();
    assert!(matches!(e, FailoverError::Elsewhere { epoch: Epoch(2), .. }), "{e}");
}

#[tokio::test]
async fn a_damaged_log_stops_before_the_cut_and_older_points_can_be_had() {
    let mut site = Site::new().await;
    site.source.mark("one");
    site.ship(2).await;
    site.process().await;
    let before = site.source.position();
    let noise: Vec<u8> = (0..8192u64).map(|i| ((i * i * 2_654_435_761) >> 13) as u8).collect();
    let range = farshore_changelog::units::ByteRange { start: 0, end: 8192 };
    site.source.log(farshore_changelog::op::Op::Write, RecordFlags::NONE, 0, range, &noise);
    site.ship(2).await;
    let path = find(&site.tmp.path().join("vault"), "00000000000000000003");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let e = site.fail_over("latest", "failover").await.map(|_| ()).unwrap_err();
    assert!(matches!(e, FailoverError::Replay(GroupError::Damaged { .. })), "{e}");
    let at = crate::view::window::position(&site.dir()).unwrap().unwrap();
    assert_eq!(at.position(), before);
    let done = site.fail_over(&before.to_string(), "failover").await.unwrap();
    assert_eq!((done.point.position, done.epoch), (before, Epoch(2)));
    assert!(read(&done.disks) == site.source.after[&before]);
}

#[tokio::test]
async fn a_point_behind_damaged_undo_is_refused_by_name_and_fences_nobody() {
    let mut site = Site::new().await;
    site.source.mark("one");
    site.ship(2).await;
    site.process().await;
    let first = crate::points::read(&site.dir().points()).unwrap().remove(0);
    let undo = site.dir().undo();
    let file = crate::undo::files::list(&undo).unwrap().into_iter().find(|f| f.start == first.undo_end).unwrap();
    let mut bytes = std::fs::read(&file.path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file.path, bytes).unwrap();
    crate::undo::damage::note(&undo, first.undo_end, "found by somebody");
    let e = site.fail_over(&format!("p{}", first.id), DEFAULT_NAME).await.map(|_| ()).unwrap_err();
    assert!(e.to_string().contains(&format!("point p{}", first.id)) && e.to_string().contains("unusable"), "{e}");
    assert_eq!(site.group().newest_epoch(Epoch(1)).await.unwrap().unwrap().0.epoch, Epoch(1));
    let done = site.fail_over("latest", DEFAULT_NAME).await.unwrap();
    assert!(read(&done.disks) == site.source.logged);
}

#[tokio::test]
async fn a_hole_below_the_watermark_is_no_free_number() {
    let mut site = Site::new().await;
    site.ship(3).await;
    site.process().await;
    site.ship(2).await;
    site.source.watermark = 5;
    site.ship(1).await;
    // Confirmed by the source, and gone from the vault since: a seal in its place would end the log there in silence.
    site.group().delete_segment(Epoch(1), SegmentNo(4)).await.unwrap();
    let failed = site.fail_over("latest", DEFAULT_NAME).await.map(|_| ()).unwrap_err();
    assert!(matches!(failed, FailoverError::Replay(GroupError::Gap { .. })), "{failed:?}");
    assert_eq!(site.group().get_segment(Epoch(1), SegmentNo(4)).await.unwrap(), None, "no seal lies in the hole");
}

fn find(folder: &Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap().to_string_lossy().starts_with(name) {
                return path;
            }
        }
    }
    panic!("no {name}");
}
