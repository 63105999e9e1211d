use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, GroupName, Hash, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{SegmentWriter, Stamp};
use farshore_shipper::{SourceEpoch, Watermark};
use farshore_vault::{EpochObject, Nonce, Reason, Vault};

use super::*;
use crate::verbs::block_on;

struct Source {
    dir: tempfile::TempDir,
    config: Config,
    vault: GroupVault,
}

fn epoch(number: u64, reason: Reason) -> EpochObject {
    EpochObject {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(number),
        parent: (number > 1).then(|| Epoch(number - 1)),
        reason,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 20 }],
    }
}

/// A segment of epoch 1: ten writes of a sector each, the last over the first.
fn segment(number: u64) -> Vec<u8> {
    let mut writer = SegmentWriter::new(Kind::Log, None);
    for i in 0..10 {
        let flags = if i == 9 { RecordFlags::FUA.with(RecordFlags::BOUNDARY) } else { RecordFlags::NONE };
        let (seq, offset) = (Seq(number * 10 - 9 + i), i % 9 * 512 + number * 8192);
        let record = Record { seq, time: clock::wall(), disk: DiskIndex(0), op: Op::Write, flags, offset, len: 512 };
        writer.push(&record, &[7; 512]).unwrap();
    }
    let stamp = Stamp {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(1),
        number: SegmentNo(number),
        first_seq: Seq(number * 10 - 9),
        last_seq: Seq(number * 10),
        created: clock::wall(),
        watermark: SegmentNo(0),
        prev: Hash::ZERO,
    };
    writer.seal(stamp).unwrap().bytes
}

impl Source {
    /// In epoch 1, with segment 1 confirmed.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web01.toml");
        let text = "group = \"web01\"\nvault = \"file:///nowhere\"\nstate_dir = \"state\"\n[[disk]]\nname = \"vda\"\n\
                    source = \"vda.raw\"\nlisten = \"unix:vda.sock\"\n";
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        std::fs::create_dir_all(&config.spool_dir).unwrap();
        let url = format!("file://{}", dir.path().join("vault").display());
        let vault = block_on(Vault::init(&url)).unwrap().unwrap().group(&config.group);
        let EpochObject { group, epoch, parent, reason, nonce, created, disks } = self::epoch(1, Reason::FirstStart);
        let noted = SourceEpoch {
            group,
            epoch,
            parent,
            reason,
            nonce,
            created,
            disks,
            vault: None,
            opened: true,
            clean: false,
        };
        let state = SourceState::new(&config.state_dir);
        state.set_epoch(&noted).unwrap();
        let watermark = Watermark { epoch: Epoch(1), number: SegmentNo(1), hash: Hash::ZERO, last_seq: Seq(10) };
        state.set_watermark(&watermark).unwrap();
        let source = Self { dir, config, vault };
        source.upload(1);
        source
    }

    fn upload(&self, number: u64) {
        let put = self.vault.put_segment(Epoch(1), SegmentNo(number), Bytes::from(segment(number)));
        assert_eq!(block_on(put).unwrap().unwrap(), farshore_vault::Put::Created);
    }

    fn spool(&self, number: u64, suffix: &str) -> PathBuf {
        let path = self.config.spool_dir.join(format!("0000000001-{number:020}.seg{suffix}"));
        std::fs::write(&path, segment(number)).unwrap();
        path
    }

    /// Another site takes the group over, and seals epoch 1 at segment 2.
    fn fence(&self) {
        let by = epoch(2, Reason::Failover);
        block_on(self.vault.create_epoch(&by)).unwrap().unwrap();
        assert_eq!(block_on(self.vault.seal(Epoch(1), SegmentNo(1), &by)).unwrap().unwrap(), SegmentNo(2));
        SourceState::new(&self.config.state_dir).set_fenced(&Fenced { epoch: Epoch(1), by }).unwrap();
    }

    fn receipt(&self) -> Receipt {
        assert!(self.dir.path().exists());
        block_on(receipt(&self.config, Some(&self.vault))).unwrap().unwrap()
    }
}

#[test]
fn what_a_fenced_source_could_not_ship_or_shipped_too_late_is_listed_with_its_ranges() {
    let source = Source::new();
    source.spool(2, "");
    source.spool(4, "");
    source.fence();
    source.upload(3);
    // Put at the same time as the fifth, which did not come there.
    source.upload(6);
    let receipt = source.receipt();
    let fenced = receipt.fenced.as_ref().unwrap();
    assert_eq!((fenced.epoch, fenced.by_epoch, &fenced.reason[..]), (1, 2, "failover"));
    let listed: Vec<_> = receipt.segments.iter().map(|s| (s.place, s.number, s.first_seq, s.last_seq)).collect();
    assert_eq!(listed, [("spool", 2, 11, 20), ("vault", 3, 21, 30), ("spool", 4, 31, 40), ("vault", 6, 51, 60)]);
    for segment in &receipt.segments {
        let start = segment.number * 8192;
        let [disk] = &segment.disks[..] else { panic!("{:?}", segment.disks) };
        assert_eq!((&disk.disk[..], disk.bytes, &disk.ranges[..]), ("vda", 9 * 512, &[(start, start + 9 * 512)][..]));
        assert!(segment.problem.is_none() && segment.from <= segment.to && segment.from.starts_with("20"));
    }
    assert!(receipt.unseen.is_empty());
}

#[test]
fn what_is_on_its_way_is_not_lost_and_what_was_set_aside_or_left_by_an_adoption_is() {
    let source = Source::new();
    source.spool(2, "");
    assert!(source.receipt().segments.is_empty());
    source.spool(5, ".aside");
    let kept = source.config.state_dir.join("spool.kept-1-42");
    std::fs::create_dir(&kept).unwrap();
    std::fs::rename(source.spool(3, ""), kept.join("0000000001-00000000000000000003.seg")).unwrap();
    let listed: Vec<_> = source.receipt().segments.iter().map(|s| (s.place, s.number)).collect();
    assert_eq!(listed, [("spool", 3), ("set aside", 5)]);
}

#[test]
fn a_damaged_segment_is_listed_with_what_is_wrong() {
    let source = Source::new();
    let path = source.spool(2, "");
    source.fence();
    std::fs::write(&path, &segment(2)[..300]).unwrap();
    let receipt = source.receipt();
    assert!(receipt.segments[0].problem.as_ref().unwrap().contains("short"), "{:?}", receipt.segments[0]);
}
