//! Shipping by one core: fold, compress, hash, seal. Ring and spool lie in memory, so no disk is measured, and nothing is uploaded.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, SegmentNo, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind, Draft, Producer, Ring, RingSpec, boot_id};
use farshore_shipper::bandwidth::Bandwidth;
use farshore_shipper::{Compression, Filler, Shipper, ShipperConfig, SourceEpoch, SourceState};
use farshore_vault::{DataKey, Put, Vault, VaultKey};

use crate::work::{Log, epoch, group, seconds};

const DISK_BYTES: u64 = 1 << 30;
const RECORD: usize = 4096;
const SEGMENT_BYTES: usize = 8 << 20;

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// From the full ring until all of it is in the spool.
    pub seconds: f64,
    /// Bytes there, in segments as they are uploaded, of each byte that was written.
    pub stored: f64,
}

/// Ships `data`, which the ring holds whole, in records of 4 KiB.
///
/// # Errors
/// Of the shipper; when `data` is larger than the ring.
pub fn shipped(data: &[u8]) -> Result<Shipped> {
    let store = std::sync::Arc::new(object_store::memory::InMemory::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let vault = runtime.block_on(Vault::init_store(store, "memory:"))?;
    shipped_with(vault, data)
}

/// The segments of 8 MiB that `data` is shipped as, in records of 4 KiB.
///
/// # Errors
/// Of the codec.
pub fn segments(data: &[u8]) -> Result<Vec<Bytes>> {
    let mut log = Log::new(&epoch(group(), DISK_BYTES));
    let offsets: Vec<u64> = (0..SEGMENT_BYTES / RECORD).map(|n| (n * RECORD) as u64).collect();
    let segments =
        data.chunks(SEGMENT_BYTES).map(|part| Ok(log.seal(&offsets[..part.len() / RECORD], part)?.bytes.into()));
    segments.collect()
}

/// Seconds that one core takes to put `segments` into a vault in memory: what is left of shipping after the spool. Each is taken away again,
/// as memory is given back when a store has taken it. Encrypted or not is the only difference.
///
/// # Errors
/// Of the vault.
pub fn put(segments: &[Bytes], encrypted: bool) -> Result<f64> {
    let store = std::sync::Arc::new(object_store::memory::InMemory::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let vault = if encrypted {
            Vault::init_store_encrypted(store, "memory:", &VaultKey::generate()).await?
        } else {
            Vault::init_store(store, "memory:").await?
        };
        let (in_vault, first) = (vault.group(&group()), Epoch(1));
        in_vault.know_data_key(first, DataKey::generate());
        let begun = clock::mono();
        for (n, segment) in (1..).zip(segments) {
            let number = SegmentNo(n);
            let put = in_vault.put_segment(first, number, segment.clone()).await?;
            ensure!(put == Put::Created, "{number} is there already");
            in_vault.delete_segment(first, number).await?;
        }
        Ok(clock::mono().duration_since(begun).as_secs_f64())
    })
}

fn shipped_with(vault: Vault, data: &[u8]) -> Result<Shipped> {
    let dir = std::path::Path::new("/dev/shm/farshore-bench-ship");
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir(dir)?;
    let object = epoch(group(), DISK_BYTES);
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
    let config = ShipperConfig {
        group: group(),
        ring_path: dir.join("ring"),
        vault_url: "file:///nowhere".into(),
        access: farshore_vault::Access::of_process(),
        state_dir: dir.to_owned(),
        spool_dir: dir.join("spool"),
        segment_bytes: SEGMENT_BYTES as u64,
        max_delay: Duration::from_millis(10),
        heartbeat: Duration::from_secs(60),
        spool_limit_bytes: 1 << 30,
        compression: Compression::Level(1),
        threads: 0,
        uploads: 1,
        bandwidth: Bandwidth::default(),
    };
    let (mut filler, _uploader) = Shipper::open_on(config, vault)?.split();
    let mut lane = ring.producer(0);
    // The first pass touches the memory of the ring for the first time, which a shipper does once in its life.
    fill_and_ship(&mut lane, &ring, &mut filler, data)?;
    let before = filler.spool_bytes();
    let seconds = fill_and_ship(&mut lane, &ring, &mut filler, data)?;
    let stored = (filler.spool_bytes() - before) as f64 / data.len() as f64;
    drop(filler);
    std::fs::remove_dir_all(dir)?;
    Ok(Shipped { seconds, stored })
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
