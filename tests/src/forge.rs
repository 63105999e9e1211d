//! Durable files changed by hand, with right checksums again: what another version, another group or another source could have
//! written. Offsets are those of `docs/format.md`.

use farshore_changelog::ids::Hash;

/// Where the version lies: after the magic, in all of them.
const VERSION_AT: usize = 8;
const PAGE_BYTES: usize = 4096;

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Which format's checksums are made right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Log segments, seals and undo batches: one of them, whole.
    Segment,
    /// A ring's file.
    Ring,
    /// A dirty map.
    Map,
    /// A position file: both slots.
    Position,
    /// A catalogue of points.
    Points,
    /// An overlay: its header.
    Overlay,
}

impl Format {
    /// Changes the version, which has two bytes in segments and four elsewhere.
    pub fn set_version(self, bytes: &mut [u8], version: u16) {
        let field = u32::from(version).to_le_bytes();
        let field = if self == Self::Segment { &field[..2] } else { &field[..] };
        let slots = if self == Self::Position { bytes.chunks_mut(PAGE_BYTES) } else { bytes.chunks_mut(usize::MAX) };
        slots.filter(|slot| slot.starts_with(b"FARSH")).for_each(|slot| put(slot, VERSION_AT, field));
        self.seal(bytes);
    }

    /// Makes the checksums right.
    ///
    /// # Panics
    /// When there are fewer bytes than the format has.
    pub fn seal(self, bytes: &mut [u8]) {
        match self {
            Self::Segment => {
                // Header, then everything from the index up to the hash.
                let footer = bytes.len() - 88;
                let index = u64::from_le_bytes(bytes[footer..footer + 8].try_into().expect("eight bytes")) as usize;
                let covered = [&bytes[..256], &bytes[index..footer + 48]].concat();
                put(bytes, footer + 48, &Hash::of(&covered).0);
            }
            Self::Ring => {
                let covered = [&bytes[..128], &bytes[1024..PAGE_BYTES]].concat();
                put(bytes, 128, &crc32(&covered));
            }
            Self::Map => {
                let crc = crc32(&bytes[..72]);
                put(bytes, 72, &crc);
            }
            Self::Position => {
                for slot in bytes.chunks_mut(PAGE_BYTES).filter(|slot| slot.starts_with(b"FARSHPOS")) {
                    for at in [224, 296] {
                        let hash = Hash::of(&slot[..at]);
                        put(slot, at, &hash.0);
                    }
                }
            }
            Self::Points => {
                let at = bytes.len() - 32;
                let hash = Hash::of(&bytes[..at]);
                put(bytes, at, &hash.0);
            }
            Self::Overlay => {
                let crc = crc32(&bytes[..144]);
                put(bytes, 144, &crc);
            }
        }
    }
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}
