//! Shipping by one core: fold, compress, hash, seal, against zstd alone on the same data. Ring and spool lie in memory, so no
//! disk is measured.

use std::time::Duration;

use anyhow::{Result, ensure};
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind, Draft, Producer, Ring, RingSpec, boot_id};
use farshore_changelog::segment::BlockPress;
use farshore_shipper::{Compression, Filler, Shipper, ShipperConfig, SourceEpoch, SourceState};
use farshore_vault::Vault;

use crate::report::{Report, median};
use crate::work::{epoch, group, half_compressible, seconds};

const DISK_BYTES: u64 = 1 << 30;
const RECORD: usize = 4096;
/// Bytes of a pass; the ring holds them all.
const PASS_BYTES: usize = 96 << 20;
const BLOCK: usize = 256 << 10;

pub fn measure(report: &mut Report, rounds: u32) -> Result<()> {
    let data = half_compressible(PASS_BYTES);
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let alone = compressed(&data)?;
        let shipped = shipped(&data)?;
        rates.push(PASS_BYTES as f64 / shipped / 1e6);
        ratios.push(alone / shipped);
    }
    report.add("shipping by one core, 4 KiB records, half-compressible", median(rates), "MB/s", "450");
    report.add("the same, against zstd level 1 alone", median(ratios), "×", "aim 1.0");
    Ok(())
}

/// Seconds of zstd level 1 alone, over the blocks of a segment, which it hashes too where a segment does.
fn compressed(data: &[u8]) -> Result<f64> {
    let mut press = zstd::bulk::Compressor::new(1)?;
    let mut room = Vec::with_capacity(2 * BLOCK);
    let (took, stored) = seconds(|| {
        let mut stored = 0;
        for block in data.chunks(BLOCK) {
            room.clear();
            stored += press.compress_to_buffer(block, &mut room)?;
        }
        Ok(stored)
    })?;
    let same = BlockPress::new(Some(1)).press(&data[..BLOCK])?;
    ensure!(stored * 10 < data.len() * 7 && same.stored.len() < BLOCK, "the data is not half-compressible");
    Ok(took)
}

/// Seconds from a full ring to sealed segments in the spool.
fn shipped(data: &[u8]) -> Result<f64> {
    let dir = std::path::Path::new("/dev/shm/farshore-bench-ship");
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir(dir)?;
    let object = epoch(DISK_BYTES);
    let state = SourceState::new(dir);
    state.set_epoch(&SourceEpoch {
        group: group(),
        epoch: object.epoch,
        parent: None,
        reason: object.reason,
        nonce: object.nonce,
        created: object.created,
        disks: object.disks.clone(),
        vault: None,
        opened: false,
        clean: false,
    })?;
    let identity = DiskIdentity { kind: DiskKind::File, device: 1, inode: 1 };
    let name = DiskName::new("vda").map_err(anyhow::Error::msg)?;
    let ring = Ring::create(
        &dir.join("ring"),
        &RingSpec {
            group: group(),
            epoch: object.epoch,
            boot_id: boot_id()?,
            lanes: 1,
            slots_per_lane: 32 << 10,
            payload_bytes_per_lane: 128 << 20,
            created: clock::wall(),
            disks: vec![DiskEntry { name, size_bytes: DISK_BYTES, identity, block_bytes: 512 }],
        },
    )?;
    let store = std::sync::Arc::new(object_store::memory::InMemory::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let vault = runtime.block_on(Vault::init_store(store, "memory:"))?;
    let config = ShipperConfig {
        group: group(),
        ring_path: dir.join("ring"),
        vault_url: "file:///nowhere".into(),
        state_dir: dir.to_owned(),
        spool_dir: dir.join("spool"),
        segment_bytes: 8 << 20,
        max_delay: Duration::from_millis(10),
        heartbeat: Duration::from_secs(60),
        spool_limit_bytes: 1 << 30,
        compression: Compression::Level(1),
        threads: 0,
    };
    let (mut filler, _uploader) = Shipper::open_on(config, vault)?.split();
    let mut lane = ring.producer(0);
    // The first pass touches the memory of the ring for the first time, which a shipper does once in its life.
    fill_and_ship(&mut lane, &ring, &mut filler, data)?;
    let took = fill_and_ship(&mut lane, &ring, &mut filler, data)?;
    drop(filler);
    std::fs::remove_dir_all(dir)?;
    Ok(took)
}

/// Fills the ring; then seconds until all of it is sealed and in the spool.
fn fill_and_ship(lane: &mut Producer, ring: &Ring, filler: &mut Filler, data: &[u8]) -> Result<f64> {
    for (n, payload) in data.chunks_exact(RECORD).enumerate() {
        let mut slot = lane.reserve(RECORD as u32).ok_or_else(|| anyhow::anyhow!("the ring is too small"))?;
        slot.payload_mut().copy_from_slice(payload);
        // Scattered, and every place once.
        let offset = (n * 7919 % (DISK_BYTES as usize / RECORD) * RECORD) as u64;
        let (op, flags, disk, len) = (Op::Write, RecordFlags::NONE, DiskIndex(0), RECORD as u64);
        lane.sequence(&mut [(&mut slot, Draft { time: clock::wall(), disk, op, flags, offset, len })]);
        slot.commit();
    }
    let (last, begun) = (Seq(ring.next_seq().0 - 1), clock::mono());
    let (took, ()) = seconds(|| {
        while ring.read_seq() <= last {
            filler.step(false)?;
            ensure!(clock::mono().duration_since(begun) < Duration::from_secs(60), "it does not end");
        }
        Ok(())
    })?;
    Ok(took)
}
