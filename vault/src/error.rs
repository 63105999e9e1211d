//! What can go wrong with the vault, by what the caller does about it.

use crate::cloud::http::{Special, special_of};
use crate::crypt::KeyError;

/// Why a vault operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The store did not answer, or answered that it cannot now. The operation may have been done all the same. Trying again
    /// later can help.
    #[error("cannot {what}: the store of the vault does not answer as it should; check that it can be reached")]
    Unreachable {
        /// The operation and its key.
        what: String,
        /// What the store or the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store answered that it will not do this: rights, credentials, or something it does not support.
    #[error("cannot {what}: the store refuses it; check the rights of these credentials on the vault")]
    Refused {
        /// The operation and its key.
        what: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store asks for fewer requests. Trying again later can help.
    #[error("cannot {what}: the store asks for fewer requests")]
    Throttled {
        /// The operation and its key.
        what: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the vault lies in is not there.
    #[error("cannot {what}: the bucket of the vault is not there; check its name, region and endpoint, or make it")]
    Gone {
        /// The operation and its key.
        what: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store takes a put-if-absent and puts where something is.
    #[error(
        "{url} cannot hold a vault: its store overwrites an object where it was told to create one only if there is none \
         ({what}), so that two sites could write over each other; use a store that honours If-None-Match"
    )]
    Unconditional {
        /// The URL, or the key.
        url: String,
        /// What was seen.
        what: String,
    },
    /// There is no vault object under this URL.
    #[error("{url} holds no vault; check the URL, or make one with `farshore init --vault {url}`")]
    NotAVault {
        /// The URL that was opened.
        url: String,
    },
    /// Another vault lies under this URL than the one that the group belongs to.
    #[error("{url} is another vault ({found}) than the one that the group ships to ({wanted})")]
    OtherVault {
        /// The URL.
        url: String,
        /// The id that was found.
        found: String,
        /// The id that was noted.
        wanted: String,
    },
    /// `init` found a vault under this URL. It is left as it is and can be used.
    #[error("{url} is a vault already; it was left as it is and is ready for use")]
    AlreadyAVault {
        /// The URL.
        url: String,
    },
    /// The object has a format that this build does not know.
    #[error("{key} has format {found}, this farshore reads format {supported}; use the version that wrote it")]
    Version {
        /// The object.
        key: String,
        /// Its format.
        found: u64,
        /// The format that is read.
        supported: u64,
    },
    /// What lies under the key is not what belongs there.
    #[error("{key} is damaged: {what}; nothing was taken from it")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// A key is missing, is another's, or cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The URL names no store that this build knows.
    #[error("{url:?} does not name a vault: {why}")]
    BadUrl {
        /// The URL as it was given.
        url: String,
        /// What is wrong with it and what works.
        why: String,
    },
}

impl VaultError {
    /// Whether trying again later can help without anybody doing something.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Throttled { .. })
    }

    /// Sorts what a store said by what to do about it. `NotFound` and `AlreadyExists` are answers, not errors, and are
    /// taken out before this is asked.
    pub(crate) fn of_store(what: String, source: object_store::Error) -> Self {
        use object_store::Error as E;
        match special_of(&source) {
            Some(Special::Throttled { .. }) => return Self::Throttled { what, source: Box::new(source) },
            Some(Special::Undecided) => return Self::Unreachable { what, source: Box::new(source) },
            None => {}
        }
        if let E::NotFound { .. } = source {
            return Self::Gone { what, source: Box::new(source) };
        }
        let refused = match &source {
            E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. } => true,
            E::Generic { source, .. } => denied(source.as_ref()) || delete_denied(source.as_ref()),
            _ => false,
        };
        let source = Box::new(source);
        if refused { Self::Refused { what, source } } else { Self::Unreachable { what, source } }
    }
}

/// Whether a folder's answer was about rights: `object_store` gives these as generic errors around the `io::Error`.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| {
            matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
        })
    })
}

/// Whether S3 refused one key of a bulk delete: the request itself succeeds, and of the error for the key `object_store` shows only text.
fn delete_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let text = error.to_string();
    text.starts_with("DeleteObjects request failed for key") && text.ends_with("(code: AccessDenied)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(kind: std::io::ErrorKind) -> VaultError {
        let source = Box::new(std::io::Error::from(kind));
        VaultError::of_store("put x".into(), object_store::Error::Generic { store: "LocalFileSystem", source })
    }

    #[test]
    fn rights_are_final_and_the_rest_is_transient() {
        assert!(!generic(std::io::ErrorKind::PermissionDenied).is_transient());
        assert!(!generic(std::io::ErrorKind::ReadOnlyFilesystem).is_transient());
        assert!(generic(std::io::ErrorKind::StorageFull).is_transient());
        assert!(generic(std::io::ErrorKind::TimedOut).is_transient());
    }
}
