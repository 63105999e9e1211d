//! The header page: encoded once when a ring is made, and proved before anything of a file is believed. Bytes that were read
//! are [`Unverified`]; only [`Unverified::verify`] gives a [`Verified`], and only that has a geometry to map.

use crate::ids::{DISKS_PER_GROUP_MAX, DiskName, Epoch, GroupName};
use crate::units::{SECTOR_BYTES, UnixMicros};

use super::layout::*;
use super::spec::{DiskEntry, DiskIdentity, DiskKind, RingSpec};

/// Why a header is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a ring.
    #[error("{0}")]
    Refused(String),
    /// Of a version this code does not know, and sound as far as every version can be proved.
    #[error("version {0}")]
    Version(u32),
    /// A ring whose header contradicts itself or the file.
    #[error("{0}")]
    Damaged(String),
}

/// The first 4096 bytes of a file that may be a ring.
#[derive(Debug, Clone, Copy)]
pub struct Unverified<'a>(&'a [u8]);

/// A header that was proved: magic, version, checksum, reserved bytes, ranges, and the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    spec: RingSpec,
    geometry: Geometry,
}

impl<'a> Unverified<'a> {
    /// Takes bytes as they come; nothing is read yet.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Proves the header of a file of `file_bytes` bytes. Does not look at the atomic words, which other processes may be
    /// changing, nor at the boot.
    ///
    /// # Errors
    /// [`HeaderError`] with the first thing that is wrong.
    pub fn verify(self, file_bytes: u64) -> Result<Verified, HeaderError> {
        let damaged = |what: String| Err(HeaderError::Damaged(what));
        let Some(page) = self.0.first_chunk::<HEADER_BYTES>() else {
            return damaged(format!("{} bytes, too short for a header of {HEADER_BYTES}", self.0.len()));
        };
        if page[H_MAGIC..H_VERSION] != MAGIC {
            return Err(HeaderError::Refused("it does not begin as a ring does".into()));
        }
        // The checksum has its place in every version: a damaged version must not pass for another's.
        let (stored, computed) = (u32_at(page, H_CRC), checksum(page));
        if stored != computed {
            return damaged(format!("header checksum {stored:08x}, computed {computed:08x}"));
        }
        let version = u32_at(page, H_VERSION);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if let Some(at) = unused().find(|at| page[*at] != 0) {
            return damaged(format!("reserved byte {at} of the header is not zero"));
        }
        let spec = decode(page).map_err(HeaderError::Damaged)?;
        let geometry = check_spec(&spec).map_err(HeaderError::Damaged)?;
        if file_bytes != geometry.file_bytes() {
            return damaged(format!("{file_bytes} bytes long, where its header says {}", geometry.file_bytes()));
        }
        Ok(Verified { spec, geometry })
    }
}

impl Verified {
    /// What the ring is made for.
    #[must_use]
    pub fn spec(&self) -> &RingSpec {
        &self.spec
    }

    /// The proved numbers that offsets are computed from.
    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Takes the description out.
    pub(super) fn into_spec(self) -> RingSpec {
        self.spec
    }
}

/// Whether a ring can be made for `spec`; if so its geometry, else what is wrong.
pub(super) fn check_spec(spec: &RingSpec) -> Result<Geometry, String> {
    if spec.epoch.0 == 0 {
        return Err("epoch 0, where the first is 1".into());
    }
    if spec.disks.is_empty() || spec.disks.len() > DISKS_PER_GROUP_MAX {
        return Err(format!("{} disks, where 1 to {DISKS_PER_GROUP_MAX} are possible", spec.disks.len()));
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        let name = &disk.name;
        if disk.size_bytes == 0 || !disk.size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(format!(
                "disk {name} has {} bytes, which are not whole sectors of {SECTOR_BYTES}",
                disk.size_bytes
            ));
        }
        if !disk.block_bytes.is_power_of_two() || u64::from(disk.block_bytes) < SECTOR_BYTES {
            return Err(format!(
                "disk {name} has blocks of {} bytes, where a power of two from {SECTOR_BYTES} on is needed",
                disk.block_bytes
            ));
        }
        if disk.identity.kind == DiskKind::BlockDevice && disk.identity.inode != 0 {
            return Err(format!("disk {name} is a block device with an inode"));
        }
        if spec.disks[..index].iter().any(|other| other.name == *name) {
            return Err(format!("two disks are named {name}"));
        }
    }
    Geometry::new(spec.lanes, spec.slots_per_lane, spec.payload_bytes_per_lane)
}

/// The header page of a new ring for `spec`, which [`check_spec`] has passed.
pub(super) fn encode(spec: &RingSpec) -> [u8; HEADER_BYTES] {
    let mut page = [0; HEADER_BYTES];
    put(&mut page, H_MAGIC, &MAGIC);
    put(&mut page, H_VERSION, &VERSION.to_le_bytes());
    put(&mut page, H_LANE_COUNT, &spec.lanes.to_le_bytes());
    put(&mut page, H_GROUP, spec.group.as_str().as_bytes());
    put(&mut page, H_EPOCH, &spec.epoch.0.to_le_bytes());
    put(&mut page, H_SLOTS_PER_LANE, &spec.slots_per_lane.to_le_bytes());
    put(&mut page, H_DISK_COUNT, &(spec.disks.len() as u32).to_le_bytes());
    put(&mut page, H_PAYLOAD_BYTES, &spec.payload_bytes_per_lane.to_le_bytes());
    put(&mut page, H_BOOT_ID, &spec.boot_id);
    put(&mut page, H_CREATED, &spec.created.0.to_le_bytes());
    for (index, disk) in spec.disks.iter().enumerate() {
        let at = H_DISKS + index * DISK_BYTES;
        put(&mut page, at + D_NAME, disk.name.as_str().as_bytes());
        put(&mut page, at + D_SIZE, &disk.size_bytes.to_le_bytes());
        put(&mut page, at + D_DEVICE, &disk.identity.device.to_le_bytes());
        put(&mut page, at + D_INODE, &disk.identity.inode.to_le_bytes());
        put(&mut page, at + D_BLOCK, &disk.block_bytes.to_le_bytes());
        put(&mut page, at + D_KIND, &kind_code(disk.identity.kind).to_le_bytes());
    }
    let crc = checksum(&page);
    put(&mut page, H_CRC, &crc.to_le_bytes());
    // Seqs begin with 1, so nothing was taken, read or voided yet. All other words begin with 0.
    for word in [H_NEXT_SEQ, H_VOID_BELOW, H_READ_SEQ] {
        put(&mut page, word, &1u64.to_le_bytes());
    }
    page
}

fn decode(page: &[u8; HEADER_BYTES]) -> Result<RingSpec, String> {
    let group = name_field(&page[H_GROUP..H_EPOCH], "group")?;
    let disk_count = u32_at(page, H_DISK_COUNT) as usize;
    if disk_count > DISKS_PER_GROUP_MAX {
        return Err(format!("{disk_count} disks, where {DISKS_PER_GROUP_MAX} are possible"));
    }
    let mut boot_id = [0; 16];
    boot_id.copy_from_slice(&page[H_BOOT_ID..H_CREATED]);
    let (used, free) = page[H_DISKS..].split_at(disk_count * DISK_BYTES);
    if free.iter().any(|b| *b != 0) {
        return Err("an unused row of the disk table is not zero".into());
    }
    Ok(RingSpec {
        group: GroupName::new(group).map_err(|e| e.to_string())?,
        epoch: Epoch(u64_at(page, H_EPOCH)),
        boot_id,
        lanes: u32_at(page, H_LANE_COUNT),
        slots_per_lane: u32_at(page, H_SLOTS_PER_LANE),
        payload_bytes_per_lane: u64_at(page, H_PAYLOAD_BYTES),
        created: UnixMicros(u64_at(page, H_CREATED)),
        disks: used.chunks_exact(DISK_BYTES).map(decode_disk).collect::<Result<_, _>>()?,
    })
}

fn decode_disk(entry: &[u8]) -> Result<DiskEntry, String> {
    let name = name_field(&entry[D_NAME..D_SIZE], "disk")?;
    if entry[D_RESERVED..].iter().any(|b| *b != 0) {
        return Err(format!("a reserved byte of disk {name} is not zero"));
    }
    let kind = match u32_at(entry, D_KIND) {
        1 => DiskKind::File,
        2 => DiskKind::BlockDevice,
        other => return Err(format!("disk {name} is of the unknown kind {other}")),
    };
    Ok(DiskEntry {
        name: DiskName::new(name).map_err(|e| e.to_string())?,
        size_bytes: u64_at(entry, D_SIZE),
        identity: DiskIdentity { kind, device: u64_at(entry, D_DEVICE), inode: u64_at(entry, D_INODE) },
        block_bytes: u32_at(entry, D_BLOCK),
    })
}

fn kind_code(kind: DiskKind) -> u32 {
    match kind {
        DiskKind::File => 1,
        DiskKind::BlockDevice => 2,
    }
}

/// CRC-32 of what never changes: the bytes before the checksum, and the disk table.
fn checksum(page: &[u8; HEADER_BYTES]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..H_CRC]);
    crc.update(&page[H_DISKS..]);
    crc.finalize()
}

/// The bytes of the page that belong to no field.
fn unused() -> impl Iterator<Item = usize> {
    let words64 = [H_NEXT_SEQ, H_VOID_BELOW, H_READ_SEQ, H_CONFIRMED_SEQ, H_SHIPPER_SEEN, H_SPOOL_BYTES, H_RESYNC_END];
    let words32 = [H_DOORBELL, H_SHIPPER_STATE];
    (H_RESERVED..H_DISKS).filter(move |at| {
        !words64.iter().any(|w| (*w..*w + 8).contains(at)) && !words32.iter().any(|w| (*w..*w + 4).contains(at))
    })
}

fn name_field<'a>(field: &'a [u8], what: &str) -> Result<&'a str, String> {
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at(len);
    if padding.iter().any(|b| *b != 0) {
        return Err(format!("the {what} name is followed by something"));
    }
    std::str::from_utf8(name).map_err(|_| format!("the {what} name is not UTF-8"))
}

fn put(page: &mut [u8; HEADER_BYTES], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
