//! Which store a vault URL names.
//!
//! A new backend is a new arm in `Place::open`: its store with put-if-absent, its root prefix by `object_store::prefix::PrefixStore`.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::error::VaultError;
use crate::folder::Folder;

/// The schemes of stores that the design knows and this build does not have.
const NOT_YET: [&str; 3] = ["s3", "az", "gs"];

/// What a URL names, proved but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine (or of a mount), absolute.
    Folder(PathBuf),
}

/// A store that was opened.
pub struct OpenStore {
    /// The store, rooted at the vault.
    pub store: Arc<dyn ObjectStore>,
    /// Present when it is a folder.
    pub folder: Option<Folder>,
}

/// Proves a URL. A path after `file://` that is not absolute is taken from the current folder.
///
/// # Errors
/// [`VaultError::BadUrl`].
pub fn parse(text: &str) -> Result<Place, VaultError> {
    let bad = |why: String| VaultError::BadUrl { url: text.to_owned(), why };
    let what_works = "use file:///ABSOLUTE/FOLDER";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!("it has no scheme; {what_works}")));
    };
    match scheme {
        "file" if rest.is_empty() => Err(bad(format!("it names no folder; {what_works}"))),
        "file" if rest.starts_with('/') => {
            let url = url::Url::parse(text).map_err(|e| bad(format!("{e}; {what_works}")))?;
            if url.query().is_some() || url.fragment().is_some() {
                return Err(bad(format!(
                    "a folder has no query and no fragment; {what_works}, with ? and # as %3F and %23"
                )));
            }
            url.to_file_path().map(Place::Folder).map_err(|()| bad(format!("it is not a path; {what_works}")))
        }
        "file" => {
            let path = std::path::absolute(rest).map_err(|e| bad(format!("{e}; {what_works}")))?;
            Ok(Place::Folder(path))
        }
        _ if NOT_YET.contains(&scheme) => Err(bad(format!("{scheme}:// is not yet built in; {what_works}"))),
        _ => Err(bad(format!("{scheme}:// is not a store farshore knows; {what_works}"))),
    }
}

impl Place {
    /// The URL in one form: absolute, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Folder(path) => {
                let url = url::Url::from_file_path(path).expect("parse() gives absolute paths only");
                let text = url.as_str();
                if text == "file:///" { text.to_owned() } else { text.trim_end_matches('/').to_owned() }
            }
        }
    }

    /// Makes what must be there before the store can be opened.
    ///
    /// # Errors
    /// [`VaultError::Refused`] when the folder cannot be made.
    pub fn prepare(&self) -> Result<(), VaultError> {
        match self {
            Self::Folder(path) => farshore_changelog::crashsafe::create_dir_all(path).map_err(|e| {
                VaultError::Refused { what: format!("make the folder of {}", self.url()), source: Box::new(e) }
            }),
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`VaultError::NotAVault`] when the folder is absent; [`VaultError::Unreachable`] or [`VaultError::Refused`].
    pub fn open(&self) -> Result<OpenStore, VaultError> {
        match self {
            Self::Folder(path) => {
                if !path.is_dir() {
                    return Err(VaultError::NotAVault { url: self.url() });
                }
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|e| VaultError::of_store(format!("open {}", self.url()), e))?
                    .with_fsync(true);
                Ok(OpenStore { store: Arc::new(store), folder: Some(Folder::new(path.clone())) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_absolute() {
        let place = |text: &str| parse(text).unwrap();
        assert_eq!(place("file:///var/lib/vault/"), Place::Folder("/var/lib/vault/".into()));
        assert_eq!(place("file:///var/lib/vault/").url(), "file:///var/lib/vault");
        assert_eq!(place("file:///with%20space").url(), "file:///with%20space");
        let here = std::env::current_dir().unwrap();
        assert_eq!(place("file://vault"), Place::Folder(here.join("vault")));
        assert_eq!(place("file://./vault"), Place::Folder(here.join("vault")));
    }

    #[test]
    fn what_is_not_built_in_is_said_with_what_works() {
        for (url, word) in [
            ("s3://bucket/x", "not yet built in"),
            ("az://c/x", "not yet built in"),
            ("gs://b/x", "not yet built in"),
            ("ftp://x/y", "not a store"),
            ("/var/lib/vault", "no scheme"),
            ("file://", "no folder"),
            ("file:///a?b", "no query"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("file:///"), "{url}: {error}");
        }
    }
}
