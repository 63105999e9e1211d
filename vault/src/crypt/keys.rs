//! The keys of a vault (`docs/format.md`, "Encryption"): the vault's own, of which everything can be opened, and a source's, which
//! seals what it cannot open.

use std::fmt;

use farshore_changelog::ids::{Epoch, GroupName};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};

use crate::crypt::secret::Secret;
use crate::objects::Nonce;

/// Bytes of a data key that was sealed to a vault's key: the encapsulated key, the key, the tag.
pub(crate) const SEALED_KEY_BYTES: usize = 32 + 32 + 16;

const PAIR: &str = "farshore 2026-11-27 vault key pair";
const GROUP: &str = "farshore 2026-11-27 group key";
const OBJECT: &str = "farshore 2026-11-27 vault object";
const DATA_KEY: &[u8] = b"farshore data key";

/// Which vault key: the first 8 bytes of the BLAKE3 of its public half.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 8]);

impl Fingerprint {
    fn of(public: &[u8; 32]) -> Self {
        let hash = blake3::hash(public);
        Self(std::array::from_fn(|i| hash.as_bytes()[i]))
    }

    /// From 16 hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| plain).map(|n| Self(n.to_be_bytes()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a vault: whoever has it can read everything in it and write as any source.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultKey(pub(crate) Secret);

impl VaultKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(Secret::random())
    }

    /// Which key it is.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.public())
    }

    /// What a source of `group` needs to write to the vault `id`. `first` is the key that the vault was made with.
    #[must_use]
    pub fn source_key(&self, id: Nonce, group: &GroupName, first: &Self) -> SourceKey {
        SourceKey {
            vault: id,
            group: group.clone(),
            public: self.public(),
            group_key: self.group_key(id, group),
            object_key: first.object_key(id),
        }
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.pair().1.to_bytes().into()
    }

    pub(crate) fn group_key(&self, id: Nonce, group: &GroupName) -> Secret {
        self.0.derive(GROUP, &[&id.0, group.as_str().as_bytes()])
    }

    pub(crate) fn object_key(&self, id: Nonce) -> Secret {
        self.0.derive(OBJECT, &[&id.0])
    }

    /// Opens a data key that was sealed to this key for an epoch; `None` when it was changed, or sealed for something else.
    pub(crate) fn open_data_key(&self, sealed: &[u8], id: Nonce, group: &GroupName, epoch: Epoch) -> Option<DataKey> {
        let (encapped, sealed) = sealed.split_at_checked(32)?;
        let encapped = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapped).ok()?;
        let info = info(id, group, epoch);
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.pair().0,
            &encapped,
            &info,
            sealed,
            b"",
        );
        let opened = zeroize::Zeroizing::new(opened.ok()?);
        Some(DataKey(Secret::new(opened.as_slice().try_into().ok()?)))
    }

    fn pair(&self) -> (<X25519HkdfSha256 as Kem>::PrivateKey, <X25519HkdfSha256 as Kem>::PublicKey) {
        X25519HkdfSha256::derive_keypair(self.0.derive(PAIR, &[]).bytes())
    }
}

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKey({})", self.fingerprint())
    }
}

/// What a source holds: enough to write its group's log, and to read what the target tells it; not to open what it sealed in an epoch
/// whose data key it has forgotten, nor anything of another group.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceKey {
    pub(crate) vault: Nonce,
    pub(crate) group: GroupName,
    pub(crate) public: [u8; 32],
    pub(crate) group_key: Secret,
    pub(crate) object_key: Secret,
}

impl SourceKey {
    /// The vault key that it seals to.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.public)
    }

    /// The group that it is for.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }
}

impl fmt::Debug for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceKey({} of vault {}, {})", self.group, self.vault, self.fingerprint())
    }
}

/// The key of the segments of one epoch. Random; its source keeps it as long as it has something to seal in that epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataKey(pub(crate) Secret);

impl DataKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(Secret::random())
    }

    /// As 64 hex digits, for the note of its source.
    #[must_use]
    pub fn to_hex(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(blake3::Hash::from_bytes(*self.0.bytes()).to_hex().to_string())
    }

    /// From such a note.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(Secret::new(*hash.as_bytes())))
    }

    /// Sealed to the vault key whose public half is `public`: each time other bytes, which mean the same. `None` when `public` is no
    /// public key.
    pub(crate) fn sealed(&self, public: &[u8; 32], id: Nonce, group: &GroupName, epoch: Epoch) -> Option<Vec<u8>> {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).ok()?;
        let info = info(id, group, epoch);
        let (encapped, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &info,
            self.0.bytes(),
            b"",
        )
        .ok()?;
        Some([encapped.to_bytes().as_slice(), &sealed].concat())
    }
}

/// What a sealed data key is bound to.
fn info(id: Nonce, group: &GroupName, epoch: Epoch) -> Vec<u8> {
    [DATA_KEY, &id.0, &epoch.0.to_le_bytes(), group.as_str().as_bytes()].concat()
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
