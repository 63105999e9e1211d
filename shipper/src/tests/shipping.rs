//! What is logged arrives: once, in order, as a chain, and with the right content at every boundary.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use farshore_changelog::ids::{Epoch, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::ring::ShipperState;
use farshore_changelog::segment::SegmentError;

use super::world::{DISK_BYTES, DISKS, World, wait_for};
use crate::fold::is_boundary;
use crate::{ShipError, Shipper, Watermark};

/// What the disks hold.
#[derive(Clone, PartialEq)]
struct Disks(Vec<u8>);

impl Disks {
    fn apply(&mut self, record: &Record, payload: &[u8]) {
        if record.op.changes_disk() {
            let start = (u64::from(record.disk.0) * DISK_BYTES + record.offset) as usize;
            let range = &mut self.0[start..start + record.len as usize];
            if record.op.zeroes() { range.fill(0) } else { range.copy_from_slice(payload) }
        }
    }

    fn hash(&self) -> farshore_changelog::ids::Hash {
        farshore_changelog::ids::Hash::of(&self.0)
    }
}

/// A small generator, so that a failing run is the same run again.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn everything_arrives_once_and_in_order_with_the_right_content_at_every_boundary() {
    let mut world = World::on_folder();
    let shipper = world.start();
    let mut dice = Dice(7);
    let mut disks = Disks(vec![0; DISK_BYTES as usize * usize::from(DISKS)]);
    let mut at_boundary = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        let disk = dice.below(u64::from(DISKS)) as u16;
        let sectors = 1 + dice.below(64);
        let offset = dice.below(DISK_BYTES / 512 - sectors) * 512;
        let fua = if dice.below(20) == 0 { RecordFlags::FUA } else { RecordFlags::NONE };
        let fill = vec![dice.below(256) as u8; (sectors * 512) as usize];
        let (op, flags, offset, len, payload) = match dice.below(10) {
            0 => (Op::Flush, RecordFlags::NONE, 0, 0, &[][..]),
            1 => (Op::Trim, RecordFlags::NONE, offset, sectors * 512, &[][..]),
            2 => (Op::WriteZeroes, fua, offset, sectors * 512, &[][..]),
            _ => (Op::Write, fua, offset, sectors * 512, &fill[..]),
        };
        let seq = world.log_flagged(op, flags, disk, offset, len, payload);
        let disk = farshore_changelog::ids::DiskIndex(disk);
        let record = Record { seq, time: Default::default(), disk, op, flags, offset, len };
        disks.apply(&record, payload);
        if is_boundary(&record) {
            at_boundary.insert(seq, disks.hash());
        }
    }
    let end = disks.hash();
    shipper.stop().unwrap();

    let segments = world.read_back(1);
    assert!(segments.len() > 50, "only {} segments", segments.len());
    let last = segments.last().unwrap().index().head();
    assert_eq!((last.last_seq, world.ring.confirmed_seq()), (Seq(3000), Seq(3000)));
    let mut arrived = Disks(vec![0; disks.0.len()]);
    let mut checked = 0;
    for segment in &segments {
        segment
            .for_each::<SegmentError>(|record, payload| {
                arrived.apply(record, payload);
                if record.flags.has(RecordFlags::BOUNDARY)
                    && let Some(hash) = at_boundary.get(&record.seq)
                {
                    assert_eq!(arrived.hash(), *hash, "at seq {}", record.seq);
                    checked += 1;
                }
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(checked, at_boundary.len(), "every boundary that was logged is one that arrived");
    assert!(arrived.hash() == end);
    assert!(world.spool_files().is_empty());
    let watermark = Watermark {
        epoch: Epoch(1),
        number: last.number,
        hash: segments.last().unwrap().index().hash(),
        last_seq: Seq(3000),
    };
    assert_eq!(world.state.watermark().unwrap(), Some(watermark));
}

#[test]
fn the_epoch_is_opened_before_anything_is_shipped_and_says_so_at_once() {
    let world = World::new();
    let shipper = world.start();
    wait_for("the first heartbeat", || {
        world.ring.shipper_state() == ShipperState::Shipping && world.read_back(1).len() == 1
    });
    wait_for("the note", || world.state.epoch().unwrap().unwrap().opened);
    let (object, _) = world.block_on(world.group_vault().get_epoch(Epoch(1))).unwrap().unwrap();
    assert_eq!(object, world.state.epoch().unwrap().unwrap().object());
    assert_eq!(world.read_back(1)[0].index().records(), []);
    shipper.stop().unwrap();
    assert_eq!(world.ring.shipper_state(), ShipperState::Starting);
}

#[test]
fn an_epoch_that_is_noted_while_the_one_before_is_opened_is_not_said_to_be_opened() {
    let mut world = World::new();
    let shipper = world.open().unwrap();
    world.next_epoch();
    let ended = shipper.run(&AtomicBool::new(false));
    assert!(matches!(ended, Err(ShipError::State { .. })), "{ended:?}");
    let noted = world.state.epoch().unwrap().unwrap();
    assert_eq!((noted.epoch, noted.opened, noted.vault), (Epoch(2), false, None));
}

#[test]
fn heartbeats_come_while_there_is_nothing_to_ship() {
    let mut world = World::new();
    let mut config = world.config();
    config.heartbeat = Duration::from_millis(30);
    let shipper = world.start_with(config);
    wait_for("five heartbeats", || world.read_back(1).len() >= 5);
    world.write_some(1);
    wait_for("a write", || world.ring.confirmed_seq() == Seq(2));
    wait_for("heartbeats after it", || {
        let segments = world.read_back(1);
        let after = segments.iter().rev().take_while(|s| s.index().records().is_empty());
        after.count() >= 3 && segments.last().unwrap().index().head().last_seq == Seq(2)
    });
    shipper.stop().unwrap();
}

#[test]
fn a_segment_says_what_its_source_knew_to_be_confirmed() {
    let mut world = World::new();
    for _ in 0..5 {
        world.write_some(3);
        world.ship_all();
    }
    let watermarks: Vec<u64> = world.read_back(1).iter().map(|s| s.index().head().watermark.0).collect();
    assert!(watermarks.is_sorted() && *watermarks.last().unwrap() > 0, "{watermarks:?}");
}

#[test]
fn the_next_epoch_seals_the_one_before_above_its_watermark() {
    let mut world = World::new();
    world.write_some(10);
    world.ship_all();
    let confirmed = world.state.watermark().unwrap().unwrap().number;
    world.next_epoch();
    world.write_some(4);
    world.ship_all();
    let sealed = world.block_on(world.group_vault().get_segment(Epoch(1), confirmed.next())).unwrap().unwrap();
    let sealed = farshore_changelog::segment::Segment::parse(sealed).unwrap();
    assert_eq!(sealed.index().head().successor, Epoch(2));
    assert_eq!(world.read_back(1).last().unwrap().index().head().number, confirmed);
    assert_eq!(world.read_back(2).last().unwrap().index().head().last_seq, Seq(8));
    assert_eq!(world.state.watermark().unwrap().unwrap().epoch, Epoch(2));
}

#[test]
fn a_second_shipper_of_the_group_is_refused() {
    let world = World::new();
    let first = world.open().unwrap();
    assert!(matches!(world.open(), Err(ShipError::Locked { .. })));
    drop(first);
    world.open().unwrap();
}

#[test]
fn values_that_cannot_work_are_refused() {
    let world = World::new();
    let config = world.config();
    let refusal = |change: &dyn Fn(&mut crate::ShipperConfig)| {
        let mut config = config.clone();
        change(&mut config);
        Shipper::open(config).err().unwrap().to_string()
    };
    assert!(refusal(&|c| c.segment_bytes = 1).contains("segment"));
    assert!(refusal(&|c| c.segment_bytes = 32 << 20).contains("segment"));
    assert!(refusal(&|c| c.spool_limit_bytes = 1).contains("spool"));
    assert!(refusal(&|c| c.heartbeat = Duration::ZERO).contains("heartbeat"));
    assert!(Shipper::open(crate::ShipperConfig { vault_url: "ftp://b".into(), ..config.clone() }).is_err());
    let elsewhere = crate::ShipperConfig { group: farshore_changelog::ids::GroupName::new("db01").unwrap(), ..config };
    assert!(matches!(Shipper::open(elsewhere), Err(ShipError::State { .. })));
}

#[test]
fn segment_numbers_begin_at_one() {
    let mut world = World::new();
    world.write_some(1);
    world.ship_all();
    assert_eq!(world.read_back(1)[0].index().head().number, SegmentNo(1));
}
