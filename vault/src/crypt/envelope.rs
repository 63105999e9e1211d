//! The envelope that every object of a group has in an encrypted vault (`docs/format.md`, "Encryption"). Pure: bytes in, bytes out.
//!
//! Each object has a key of its own, made from the key that it is under, from its place, and from a salt that is a keyed hash of its
//! content. So no key ever seals two contents, whatever is put again after a crash, and what is put again is the same bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as AeadNonce, UnboundKey};
use bytes::Bytes;

use crate::crypt::keys::{Fingerprint, SEALED_KEY_BYTES};
use crate::crypt::secret::Secret;

const MAGIC: &[u8; 8] = b"FARSHENV";
/// The only version there is.
const VERSION: u16 = 1;
/// The only suite there is: AES-256-GCM, keys by BLAKE3, data keys by HPKE.
const SUITE: u8 = 1;
const HEADER: usize = 64;
const TAG: usize = 16;
/// Most bytes that an envelope adds to its content.
pub(crate) const OVERHEAD: u64 = (HEADER + SEALED_KEY_BYTES + TAG) as u64;

const SALT: &str = "farshore 2026-11-27 salt";
const KEY: &str = "farshore 2026-11-27 object key";

/// The key that an object is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Under {
    /// The group's: everything but segments of its log.
    Group,
    /// The data key of its epoch: segments of the log.
    Data,
}

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// It is none.
    #[error("it is not encrypted, and everything in this vault is: somebody without the vault's key has put it there")]
    NotOne,
    /// It says something that this build does not know.
    #[error("it has version {0} of the envelope, this farshore reads version {VERSION}")]
    Version(u16),
    /// It is shorter or longer than it says, or says what no version 1 can.
    #[error("{0}")]
    Layout(String),
    /// The tag is not right.
    #[error(
        "its seal is broken: it was changed after it was sealed, or belongs somewhere else (restore it from a copy of the bucket, or ask \
         the source for it again with `farshore resync GROUP --full`)"
    )]
    Tampered,
}

/// An envelope whose layout is right; nothing of it is proved before [`Envelope::open`].
pub(crate) struct Envelope<'a> {
    /// The key that it is under.
    pub(crate) under: Under,
    /// The vault key that this one belongs to.
    pub(crate) fingerprint: Fingerprint,
    /// The data key of the epoch, sealed, in an epoch object.
    pub(crate) data_key: Option<&'a [u8]>,
    salt: &'a [u8],
    head: &'a [u8],
    sealed: &'a [u8],
}

/// Seals `content`, whose `digest` no other content has, for `place`, the vault's id and the key it lies under.
pub(crate) fn seal(
    key: &Secret,
    under: Under,
    fingerprint: Fingerprint,
    data_key: Option<&[u8]>,
    place: &[u8],
    digest: &[u8; 32],
    content: &[u8],
) -> Bytes {
    let sealed_key = data_key.unwrap_or_default();
    let salt = key.derive(SALT, &[place, digest]);
    let total = HEADER + sealed_key.len() + content.len() + TAG;
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(SUITE);
    bytes.push(match under {
        Under::Group => 1,
        Under::Data => 2,
    });
    bytes.extend_from_slice(&[u8::from(data_key.is_some()), 0, 0, 0]);
    bytes.extend_from_slice(&(total as u64).to_le_bytes());
    bytes.extend_from_slice(&fingerprint.0);
    bytes.extend_from_slice(salt.bytes());
    bytes.extend_from_slice(sealed_key);
    let head = bytes.len();
    bytes.extend_from_slice(content);
    let (head, body) = bytes.split_at_mut(head);
    let aad = [place, head].concat();
    let tag = cipher(key, place, salt.bytes())
        .seal_in_place_separate_tag(nonce(), Aad::from(aad), body)
        .expect("a segment is far below what AES-GCM can seal");
    bytes.extend_from_slice(tag.as_ref());
    Bytes::from(bytes)
}

impl<'a> Envelope<'a> {
    /// Proves the layout.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Broken> {
        let layout = |what: String| Err(Broken::Layout(what));
        if bytes.len() < MAGIC.len() || &bytes[..8] != MAGIC {
            return Err(Broken::NotOne);
        }
        if bytes.len() < HEADER + TAG {
            return layout(format!("it has {} bytes, an envelope has {} at least", bytes.len(), HEADER + TAG));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        let total = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        if total != bytes.len() as u64 {
            return layout(format!("it has {} bytes, and was sealed with {total}", bytes.len()));
        }
        if bytes[10] != SUITE {
            return layout(format!("it is sealed with suite {}, this farshore knows suite {SUITE}", bytes[10]));
        }
        let under = match bytes[11] {
            1 => Under::Group,
            2 => Under::Data,
            other => return layout(format!("it is under a key of kind {other}")),
        };
        if bytes[12] > 1 || bytes[13..16] != [0; 3] {
            return layout("it has reserved bytes that are not zero".to_owned());
        }
        let head = HEADER + usize::from(bytes[12]) * SEALED_KEY_BYTES;
        if bytes.len() < head + TAG {
            return layout("it ends inside the sealed data key".to_owned());
        }
        let fingerprint = Fingerprint(bytes[24..32].try_into().expect("eight bytes"));
        Ok(Self {
            under,
            fingerprint,
            data_key: (bytes[12] == 1).then(|| &bytes[HEADER..head]),
            salt: &bytes[32..HEADER],
            head: &bytes[..head],
            sealed: &bytes[head..],
        })
    }

    /// The content, proved to have been sealed with `key` for `place`.
    pub(crate) fn open(&self, key: &Secret, place: &[u8]) -> Result<Bytes, Broken> {
        let (body, tag) = self.sealed.split_at(self.sealed.len() - TAG);
        let aad = [place, self.head].concat();
        let mut content = vec![0; body.len()];
        cipher(key, place, self.salt)
            .open_separate_gather(nonce(), Aad::from(aad), body, tag, &mut content)
            .map_err(|_| Broken::Tampered)?;
        Ok(Bytes::from(content))
    }
}

/// The cipher with the object's own key.
fn cipher(key: &Secret, place: &[u8], salt: &[u8]) -> LessSafeKey {
    let own = key.derive(KEY, &[place, salt]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, own.bytes()).expect("AES-256 has keys of 32 bytes"))
}

/// The nonce: always the same, as each key seals one content.
fn nonce() -> AeadNonce {
    AeadNonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
