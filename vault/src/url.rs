//! Which store a vault URL names.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::cloud::{Bucket, Cloud, Variables};
use crate::error::VaultError;
use crate::folder::Folder;

/// What a URL names, proved but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine (or of a mount), absolute.
    Folder(PathBuf),
    /// A bucket of a cloud, or of what speaks like one.
    Bucket(Bucket),
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
    let what_works = "use file:///ABSOLUTE/FOLDER, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX";
    let bucket = |cloud| Bucket::parse(cloud, text).map(Place::Bucket);
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
        "s3" => bucket(Cloud::S3).map_err(|why| bad(format!("{why}; {what_works}"))),
        "az" => bucket(Cloud::Azure).map_err(|why| bad(format!("{why}; {what_works}"))),
        "gs" => bucket(Cloud::Google).map_err(|why| bad(format!("{why}; {what_works}"))),
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
            Self::Bucket(bucket) => bucket.url(),
        }
    }

    /// Makes what must be there before the store can be opened. A bucket is made by those who pay for it.
    ///
    /// # Errors
    /// [`VaultError::Refused`] when the folder cannot be made.
    pub fn prepare(&self) -> Result<(), VaultError> {
        match self {
            Self::Folder(path) => farshore_changelog::crashsafe::create_dir_all(path).map_err(|e| {
                VaultError::Refused { what: format!("make the folder of {}", self.url()), source: Box::new(e) }
            }),
            Self::Bucket(_) => Ok(()),
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`VaultError::NotAVault`] when the folder is absent; [`VaultError::Unreachable`] or [`VaultError::Refused`]. Of a bucket nothing is asked
    /// yet.
    pub fn open(&self, variables: &Variables) -> Result<OpenStore, VaultError> {
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
            Self::Bucket(bucket) => Ok(OpenStore { store: bucket.open(variables)?, folder: None }),
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
    fn what_cannot_be_a_vault_is_said_with_what_works() {
        for (url, word) in [
            ("s3:///x", "no bucket"),
            ("az://key@c/x", "no name and no key"),
            ("gs://b/x?y", "more than a bucket"),
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
