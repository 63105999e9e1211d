//! What a ring is made for: its group and epoch, its disks, its size.

use std::io;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::ids::{DiskName, Epoch, GroupName};
use crate::units::UnixMicros;

/// What a source disk lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// Which disk it is, whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskIdentity {
    /// File or block device.
    pub kind: DiskKind,
    /// `st_dev` of a file, `st_rdev` of a block device.
    pub device: u64,
    /// `st_ino` of a file, 0 of a block device.
    pub inode: u64,
}

/// One row of the ring's disk table; the row's number is the disk's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// Its name within the group.
    pub name: DiskName,
    /// Its size in bytes; no record reaches beyond it.
    pub size_bytes: u64,
    /// Which file or device it is: another one loses the ring.
    pub identity: DiskIdentity,
    /// Its block size for direct I/O, in bytes.
    pub block_bytes: u32,
}

/// What a ring is made for, and how large it is. Fixed for the ring's life and proved by its header's CRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingSpec {
    /// The protection group.
    pub group: GroupName,
    /// The epoch: one ring, one epoch.
    pub epoch: Epoch,
    /// The boot in which it was made ([`boot_id`]).
    pub boot_id: [u8; 16],
    /// Lanes, one a capture thread: 1 to 64.
    pub lanes: u32,
    /// Slots a lane: a power of two, 64 to 1,048,576.
    pub slots_per_lane: u32,
    /// Payload bytes a lane: a multiple of 4096, at least 4 MiB.
    pub payload_bytes_per_lane: u64,
    /// When it was made.
    pub created: UnixMicros,
    /// The group's disks in index order: 1 to 32.
    pub disks: Vec<DiskEntry>,
}

/// Identity of the running boot of this machine.
///
/// # Errors
/// Of reading `/proc/sys/kernel/random/boot_id`, or `InvalidData` when it does not hold a UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    if let Some(boot) = clock::boot() {
        return Ok(boot);
    }
    let text = std::fs::read_to_string(PATH)?;
    parse_uuid(text.trim())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{PATH} holds no UUID: {text:?}")))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| *b != b'-')
        .map(|b| char::from(b).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(id)
}

/// Where the ring of `group` lies in `dir`: `farshore-<group>.ring`.
#[must_use]
pub fn path_in(dir: &Path, group: &GroupName) -> PathBuf {
    dir.join(format!("farshore-{group}.ring"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes_of_hex_with_dashes() {
        assert_eq!(
            parse_uuid("00010203-0405-0607-0809-0a0b0c0d0eff"),
            Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255])
        );
        for bad in ["", "0001", "zz010203-0405-0607-0809-0a0b0c0d0e0f", "00010203-0405-0607-0809-0a0b0c0d0e0f00"] {
            assert_eq!(parse_uuid(bad), None, "{bad:?}");
        }
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
