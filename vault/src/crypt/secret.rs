//! Thirty-two secret bytes, and others that are made from them.

use std::fmt;

use farshore_changelog::clock;
use zeroize::Zeroizing;

/// A key. Wiped from memory when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Of these bytes.
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A random one.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&clock::nonce());
        bytes[16..].copy_from_slice(&clock::nonce());
        Self::new(bytes)
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another key, for `purpose`, which is ours alone, and for `parts`: whoever has it learns nothing of this one. No two lists of parts
    /// are hashed as the same bytes, as each is led by its length (BLAKE3's `derive_key` mode).
    pub(crate) fn derive(&self, purpose: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(self.bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self::new(hasher.finalize().into())
    }

    /// What only the holders of this key can say of `message`.
    pub(crate) fn tag(&self, message: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(self.bytes(), message)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_for_different_purposes_and_parts_differ() {
        let secret = Secret::new([7; 32]);
        let all = [
            secret.derive("a", &[b"x", b"y"]),
            secret.derive("b", &[b"x", b"y"]),
            secret.derive("a", &[b"xy"]),
            secret.derive("a", &[b"", b"xy"]),
            Secret::new([8; 32]).derive("a", &[b"x", b"y"]),
            secret.clone(),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| other != one), "{i}");
        }
        assert_eq!(secret.derive("a", &[b"x"]), secret.derive("a", &[b"x"]));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
