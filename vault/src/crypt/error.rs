//! What can go wrong with keys. Data that was tampered with is [`crate::VaultError::Damaged`].

use crate::crypt::keys::Fingerprint;

/// Why a key cannot be had, or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error(
        "{url} is encrypted (vault {id}, key {wanted}), and there is no key for it: {looked}; put its key there, or give it with \
         FARSHORE_VAULT_KEY_FILE. If every copy of it is lost, what the vault holds cannot be read by anybody: make another vault with \
         `farshore init`"
    )]
    Missing {
        /// The vault.
        url: String,
        /// Its id.
        id: String,
        /// The key that it was made with.
        wanted: Fingerprint,
        /// Where a key was looked for.
        looked: String,
    },
    /// The keys that are there are of something else.
    #[error("{place} is sealed for the key {wanted}, and {given} holds {held}: give the key that belongs to it")]
    Wrong {
        /// The vault, or the object.
        place: String,
        /// The key it needs.
        wanted: String,
        /// Where the keys come from.
        given: String,
        /// Those that are there.
        held: String,
    },
    /// There is a key for a vault that says it is not encrypted.
    #[error(
        "{url} says that it is not encrypted, and {given} holds a key for it: somebody may have put another vault in its place; compare its \
         id ({id}), and if it is right so, take the key away"
    )]
    Plain {
        /// The vault.
        url: String,
        /// Its id.
        id: String,
        /// Where the key comes from.
        given: String,
    },
    /// The vault is not as the configuration wants it.
    #[error("{url} is {found}, and the configuration says encryption = \"{wanted}\": {next}")]
    NotAsAsked {
        /// The vault.
        url: String,
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What to do.
        next: &'static str,
    },
    /// The keys cannot be read.
    #[error("the keys in {given} cannot be used: {what}")]
    Unreadable {
        /// Where they come from.
        given: String,
        /// Why not, without a byte of them.
        what: String,
    },
}

impl KeyError {
    /// The vault, the object or the place it is about.
    #[must_use]
    pub fn at(&self) -> &str {
        match self {
            Self::Missing { url, .. } | Self::Plain { url, .. } | Self::NotAsAsked { url, .. } => url,
            Self::Wrong { place, .. } => place,
            Self::Unreadable { given, .. } => given,
        }
    }
}
