//! What lies in a folder vault, with or without its seal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use farshore_vault::keys::Key;
use farshore_vault::retry::RetryPolicy;
use farshore_vault::{Access, KeySource, Vault};

use crate::bin;

/// How an object of an encrypted vault begins.
const MAGIC: &[u8] = b"FARSHENV";

/// The content of a segment's file in a folder vault.
///
/// # Panics
/// When it cannot be read, or its seal is broken.
#[must_use]
pub fn content(path: &Path) -> Bytes {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    if !bytes.starts_with(MAGIC) {
        return bytes.into();
    }
    // VAULT/groups/GROUP/log/EPOCH/NUMBER
    let root = path.ancestors().nth(5).expect("a segment lies five folders deep");
    let key = path.strip_prefix(root).ok().and_then(Path::to_str).and_then(Key::parse);
    let Some(Key::Segment(group, epoch, number)) = key else { panic!("{} is no segment", path.display()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let segment = opened(root).await.group(&group).get_segment(epoch, number).await;
        segment.unwrap_or_else(|e| panic!("{e}")).expect("it was there")
    })
}

/// The vault in a folder, with the key that tests leave for it.
async fn opened(root: &Path) -> Vault {
    static OPENED: Mutex<Option<HashMap<PathBuf, Vault>>> = Mutex::new(None);
    let known = OPENED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().get(root).cloned();
    if let Some(vault) = known {
        return vault;
    }
    let home = ("XDG_CONFIG_HOME".to_owned(), bin::config_home().display().to_string());
    let access = Access::of([home].into_iter().collect());
    let beside = root.with_extension("key");
    let access = if beside.exists() { access.with_keys(KeySource::File(beside)) } else { access };
    let vault = Vault::open_with(&format!("file://{}", root.display()), &access, RetryPolicy::PATIENT).await;
    let vault = vault.unwrap_or_else(|e| panic!("{e}"));
    let mut all = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().insert(root.to_owned(), vault.clone());
    vault
}
