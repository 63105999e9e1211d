//! What the stages are given to do.

use std::time::Instant;

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Sealed, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;
use farshore_vault::{EpochDisk, EpochObject, Nonce, Reason};

/// Repeatable randomness (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Bytes that compress to about half: of each 512 the first half is noise.
pub fn half_compressible(len: usize) -> Vec<u8> {
    let (mut dice, mut bytes) = (Dice(len as u64), vec![b'f'; len]);
    for noise in bytes.chunks_exact_mut(512).flat_map(|sector| sector[..256].chunks_exact_mut(8)) {
        noise.copy_from_slice(&dice.next().to_le_bytes());
    }
    bytes
}

/// Seconds that `work` takes.
///
/// # Errors
/// Those of `work`.
pub fn seconds<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let begun: Instant = clock::mono();
    let done = work()?;
    Ok((clock::mono().duration_since(begun).as_secs_f64(), done))
}

/// The group of everything here.
pub fn group() -> GroupName {
    GroupName::new("bench").expect("a valid name")
}

/// Its first epoch, with one disk.
pub fn epoch(disk_bytes: u64) -> EpochObject {
    EpochObject {
        group: group(),
        epoch: Epoch(1),
        parent: None,
        reason: Reason::FirstStart,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").expect("a valid name"), size_bytes: disk_bytes }],
    }
}

/// Seals segments of writes, one after the other.
pub struct Log {
    number: SegmentNo,
    prev: Hash,
    seq: u64,
    time: UnixMicros,
}

impl Log {
    pub fn new(epoch: &EpochObject) -> Self {
        Self { number: SegmentNo(0), prev: Hash::of(&epoch.encoded()), seq: 0, time: clock::wall() }
    }

    /// A segment that writes `payload` in pieces to `offsets`.
    ///
    /// # Errors
    /// Of the codec.
    pub fn seal(&mut self, offsets: &[u64], payload: &[u8]) -> anyhow::Result<Sealed> {
        let (first_seq, piece) = (Seq(self.seq + 1), payload.len() / offsets.len());
        let mut writer = SegmentWriter::new(Kind::Log, Some(1));
        for (offset, bytes) in offsets.iter().zip(payload.chunks_exact(piece)) {
            self.seq += 1;
            let (op, flags, disk) = (Op::Write, RecordFlags::NONE, DiskIndex(0));
            let len = piece as u64;
            writer
                .push(&Record { seq: Seq(self.seq), time: self.time, disk, op, flags, offset: *offset, len }, bytes)?;
        }
        self.number = self.number.next();
        let sealed = writer.seal(Stamp {
            group: group(),
            epoch: Epoch(1),
            number: self.number,
            first_seq,
            last_seq: Seq(self.seq),
            created: self.time,
            watermark: SegmentNo(0),
            prev: self.prev,
        })?;
        self.prev = sealed.hash;
        Ok(sealed)
    }
}
