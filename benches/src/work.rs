//! What a stage is given to do: content, an epoch, a log of it.

use std::time::Instant;

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, DiskName, Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Kind, Sealed, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;
use farshore_vault::{EpochDisk, EpochObject, Nonce, Reason};

/// Bytes of a sector.
const SECTOR: usize = 512;

/// Repeatable randomness (splitmix64).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Bytes that compress to about half.
#[must_use]
pub fn half_compressible(len: usize) -> Vec<u8> {
    compressible(len, 50)
}

/// Bytes of which about so many in a hundred compress away: the beginning of each 512 is noise.
#[must_use]
pub fn compressible(len: usize, percent: usize) -> Vec<u8> {
    let (mut dice, mut bytes) = (Dice(len as u64), vec![b'f'; len]);
    let noisy = SECTOR - SECTOR * percent / 100;
    for noise in bytes.chunks_exact_mut(SECTOR).flat_map(|sector| sector[..noisy].chunks_mut(8)) {
        noise.copy_from_slice(&dice.next().to_le_bytes()[..noise.len()]);
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

/// The group of a stage that has one.
///
/// # Panics
/// Never.
#[must_use]
pub fn group() -> GroupName {
    GroupName::new("bench").expect("a valid name")
}

/// The first epoch of a group with one disk.
///
/// # Panics
/// Never.
#[must_use]
pub fn epoch(group: GroupName, disk_bytes: u64) -> EpochObject {
    EpochObject {
        group,
        epoch: Epoch(1),
        parent: None,
        reason: Reason::FirstStart,
        nonce: Nonce::random(),
        created: clock::wall().timestamp(),
        disks: vec![EpochDisk { name: DiskName::new("vda").expect("a valid name"), size_bytes: disk_bytes }],
    }
}

/// Seals the segments of a group, one after the other.
#[derive(Debug)]
pub struct Log {
    group: GroupName,
    number: SegmentNo,
    prev: Hash,
    seq: u64,
    time: UnixMicros,
}

impl Log {
    /// The log of an epoch, from its beginning.
    #[must_use]
    pub fn new(epoch: &EpochObject) -> Self {
        Self {
            group: epoch.group.clone(),
            number: SegmentNo(0),
            prev: Hash::of(&epoch.encoded()),
            seq: 0,
            time: clock::wall(),
        }
    }

    /// The number of the newest segment; 0 before the first.
    #[must_use]
    pub fn number(&self) -> SegmentNo {
        self.number
    }

    /// The newest seq; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.seq)
    }

    /// A heartbeat: a segment with nothing in it.
    ///
    /// # Errors
    /// Of the codec.
    pub fn heartbeat(&mut self) -> anyhow::Result<Sealed> {
        self.seal(&[], &[])
    }

    /// A segment that writes `payload` in equal pieces to `offsets`.
    ///
    /// # Errors
    /// Of the codec.
    pub fn seal(&mut self, offsets: &[u64], payload: &[u8]) -> anyhow::Result<Sealed> {
        let (first_seq, piece) = (Seq(self.seq + 1), payload.len() / offsets.len().max(1));
        let mut writer = SegmentWriter::new(Kind::Log, Some(1));
        for (offset, bytes) in offsets.iter().zip(payload.chunks_exact(piece.max(1))) {
            self.seq += 1;
            let (op, flags, disk) = (Op::Write, RecordFlags::NONE, DiskIndex(0));
            let len = piece as u64;
            writer
                .push(&Record { seq: Seq(self.seq), time: self.time, disk, op, flags, offset: *offset, len }, bytes)?;
        }
        self.number = self.number.next();
        let sealed = writer.seal(Stamp {
            group: self.group.clone(),
            epoch: Epoch(1),
            number: self.number,
            first_seq,
            last_seq: Seq(self.seq),
            created: clock::wall(),
            watermark: SegmentNo(0),
            prev: self.prev,
        })?;
        self.prev = sealed.hash;
        Ok(sealed)
    }
}
