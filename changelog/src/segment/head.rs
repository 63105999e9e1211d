//! The header of a segment. [`UnverifiedHead`] is what its bytes claim; [`SegmentHead`] is what was proved by the hash.

use super::error::limit;
use super::layout::{HEADER_MAGIC, TOTAL_MAX_BYTES, TOTAL_MIN_BYTES, VERSION_1, VERSION_2, header};
use super::{Codec, Kind, SegmentError};
use crate::ids::{Epoch, GroupName, Hash, SegmentNo, Seq};
use crate::units::UnixMicros;

/// What a segment says of itself. One that comes out of [`super::Index`] was proved by the segment's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHead {
    /// What it is for.
    pub kind: Kind,
    /// The protection group it belongs to.
    pub group: GroupName,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// Its number within the epoch (undo: within the journal), from 1.
    pub number: SegmentNo,
    /// First seq it covers.
    pub first_seq: Seq,
    /// Last seq it covers; `first_seq - 1` when it covers none.
    pub last_seq: Seq,
    /// Earliest time of its records; `created` when it has none.
    pub min_time: UnixMicros,
    /// Latest time of its records; `created` when it has none.
    pub max_time: UnixMicros,
    /// When it was sealed.
    pub created: UnixMicros,
    /// Every segment of the epoch up to this number is confirmed in the vault, as its writer had noted durably.
    pub watermark: SegmentNo,
    /// Hash of the predecessor; zero where there is none.
    pub prev: Hash,
    /// The epoch that a seal makes way for; 0 in other kinds.
    pub successor: Epoch,
    /// Nonce of the successor's opener; 0 in other kinds.
    pub nonce: [u8; 16],
}

/// What the writer of a log segment or undo batch adds to its records when it seals them. The fields mean what they
/// mean in [`SegmentHead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The protection group.
    pub group: GroupName,
    /// The epoch.
    pub epoch: Epoch,
    /// The number within the epoch (undo: within the journal), from 1.
    pub number: SegmentNo,
    /// First seq covered, of records that were folded away or void too.
    pub first_seq: Seq,
    /// Last seq covered; `first_seq - 1` when none is.
    pub last_seq: Seq,
    /// Now.
    pub created: UnixMicros,
    /// The durably noted watermark.
    pub watermark: SegmentNo,
    /// Hash of the predecessor.
    pub prev: Hash,
}

/// A header whose segment's hash was not compared yet. It gives away only where to look for the hash.
pub(super) struct UnverifiedHead {
    claim: SegmentHead,
    version: u16,
    codec: Codec,
    total_len: u64,
}

impl UnverifiedHead {
    /// Parses the first bytes of a segment; `total_len` is within its limits then.
    pub(super) fn parse(bytes: &[u8; header::BYTES]) -> Result<Self, SegmentError> {
        if header::MAGIC.get(bytes) != HEADER_MAGIC {
            return Err(SegmentError::BadMagic);
        }
        let version = header::VERSION.u16(bytes);
        if !(VERSION_1..=VERSION_2).contains(&version) {
            return Err(SegmentError::Version { found: version });
        }
        if !header::RESERVED_A.is_zero(bytes) || !header::RESERVED_B.is_zero(bytes) {
            return Err(SegmentError::Damaged { what: "a reserved byte of the header is not zero" });
        }
        let total_len = header::TOTAL_LEN.u64(bytes);
        limit("total_len", total_len, TOTAL_MAX_BYTES)?;
        if total_len < TOTAL_MIN_BYTES {
            return Err(SegmentError::Damaged { what: "total_len is less than a header and a footer take" });
        }
        let claim = SegmentHead {
            kind: Kind::from_code(header::KIND.u8(bytes))?,
            group: parse_group(header::GROUP.get(bytes))?,
            epoch: Epoch(header::EPOCH.u64(bytes)),
            number: SegmentNo(header::NUMBER.u64(bytes)),
            first_seq: Seq(header::FIRST_SEQ.u64(bytes)),
            last_seq: Seq(header::LAST_SEQ.u64(bytes)),
            min_time: UnixMicros(header::MIN_TIME.u64(bytes)),
            max_time: UnixMicros(header::MAX_TIME.u64(bytes)),
            created: UnixMicros(header::CREATED.u64(bytes)),
            watermark: SegmentNo(header::WATERMARK.u64(bytes)),
            prev: Hash(header::PREV.array(bytes)),
            successor: Epoch(header::SUCCESSOR.u64(bytes)),
            nonce: header::NONCE.array(bytes),
        };
        Ok(Self { claim, version, codec: Codec::from_code(header::CODEC.u8(bytes))?, total_len })
    }

    /// Bytes of the whole segment, as claimed, within the limits.
    pub(super) fn total_len(&self) -> u64 {
        self.total_len
    }

    /// The head, the codec and the version, once the segment's hash was compared and is right: that is what `_proof` stands for.
    pub(super) fn verified(self, _proof: &super::footer::Proof) -> (SegmentHead, Codec, u16) {
        (self.claim, self.codec, self.version)
    }
}

/// A name field: the name, then zero bytes and nothing else.
fn parse_group(field: &[u8]) -> Result<GroupName, SegmentError> {
    let damaged = SegmentError::Damaged { what: "the group is not a valid name" };
    let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at(len);
    if padding.iter().any(|b| *b != 0) {
        return Err(damaged);
    }
    let name = std::str::from_utf8(name).ok().and_then(|name| GroupName::new(name).ok());
    name.ok_or(damaged)
}

/// The header's bytes.
pub(super) fn encode(head: &SegmentHead, version: u16, codec: Codec, total_len: u64) -> [u8; header::BYTES] {
    let mut bytes = [0; header::BYTES];
    let mut group = [0; crate::ids::GROUP_NAME_MAX_BYTES];
    group[..head.group.as_str().len()].copy_from_slice(head.group.as_str().as_bytes());
    header::MAGIC.put(&mut bytes, &HEADER_MAGIC);
    header::VERSION.put(&mut bytes, &version.to_le_bytes());
    header::KIND.put(&mut bytes, &[head.kind.code()]);
    header::CODEC.put(&mut bytes, &[codec.code()]);
    header::TOTAL_LEN.put(&mut bytes, &total_len.to_le_bytes());
    header::GROUP.put(&mut bytes, &group);
    header::EPOCH.put(&mut bytes, &head.epoch.0.to_le_bytes());
    header::NUMBER.put(&mut bytes, &head.number.0.to_le_bytes());
    header::FIRST_SEQ.put(&mut bytes, &head.first_seq.0.to_le_bytes());
    header::LAST_SEQ.put(&mut bytes, &head.last_seq.0.to_le_bytes());
    header::MIN_TIME.put(&mut bytes, &head.min_time.0.to_le_bytes());
    header::MAX_TIME.put(&mut bytes, &head.max_time.0.to_le_bytes());
    header::CREATED.put(&mut bytes, &head.created.0.to_le_bytes());
    header::WATERMARK.put(&mut bytes, &head.watermark.0.to_le_bytes());
    header::PREV.put(&mut bytes, &head.prev.0);
    header::SUCCESSOR.put(&mut bytes, &head.successor.0.to_le_bytes());
    header::NONCE.put(&mut bytes, &head.nonce);
    bytes
}
