//! Proof that a store honours put-if-absent. Everything that keeps two sites from writing over each other is built on it, and a store
//! that takes the condition and ignores it (some that speak S3 do) answers every put with success. So the store itself is asked: at
//! `init` by a race, at every opening by a put that must be refused.

use bytes::Bytes;
use futures::future::join_all;

use crate::error::VaultError;
use crate::keys::Key;
use crate::objects::{Nonce, OBJECT_MAX_BYTES};
use crate::store::{Put, Store};

/// Writers of the race.
const RACERS: u8 = 8;

/// Puts `bytes` where they are: it must be refused, and changes nothing where it is not. Credentials that may not write there prove
/// nothing, and are no error.
///
/// # Errors
/// [`VaultError::Unconditional`]; those of the store.
pub(crate) async fn refuses(store: &Store, url: &str, key: &Key, bytes: Bytes) -> Result<(), VaultError> {
    match store.put_new(key, bytes).await {
        Ok(Put::Exists) => Ok(()),
        Ok(Put::Created) => Err(unconditional(url, format!("{key} was there, and was put again"))),
        Err(VaultError::Refused { source, .. }) => {
            tracing::debug!(%key, error = %source, "whether the store honours conditional puts could not be tried with these credentials");
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Has several writers put different bytes under one new key at once: one must win, and its bytes must be there.
///
/// # Errors
/// As [`refuses`].
pub(crate) async fn decides_races(store: &Store, url: &str) -> Result<(), VaultError> {
    if store.is_folder() {
        // A name is made by link(2), which fails where one is: nothing to find out by a race.
        return Ok(());
    }
    let key = Key::Probe(Nonce::random());
    let put = |racer: u8| {
        let key = key.clone();
        async move { (racer, store.put_once(&key, Bytes::from(vec![racer; 64])).await) }
    };
    let ended = join_all((0..RACERS).map(put)).await;
    let winners: Vec<u8> = ended.iter().filter(|(_, put)| matches!(put, Ok(Put::Created))).map(|(n, _)| *n).collect();
    let stored = store.get(&key, OBJECT_MAX_BYTES).await?;
    if let Err(e) = store.delete(&key).await {
        tracing::debug!(%key, error = %e, "an object of a test stays in the vault");
    }
    // An attempt whose answer was lost may be the winner.
    let lost = ended.iter().any(|(_, put)| put.is_err());
    match (winners.as_slice(), stored) {
        ([winner], Some(stored)) if stored == vec![*winner; 64] => Ok(()),
        ([], Some(_)) if lost => Ok(()),
        // Nobody came through: what the store said to one of them.
        ([], None) if lost => ended.into_iter().find_map(|(_, put)| put.err()).map_or(Ok(()), Err),
        (winners, _) => {
            let what =
                format!("of {RACERS} writers of one new object {} were told that they created it", winners.len());
            Err(unconditional(url, what))
        }
    }
}

fn unconditional(url: &str, what: String) -> VaultError {
    VaultError::Unconditional { url: url.to_owned(), what }
}
