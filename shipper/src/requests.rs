//! What the target has asked of this source, in its state folder (`docs/format.md`, "Source state"): the shipper fetches a request
//! from the vault and puts it down here, the agent carries it out and notes that it is done. Both go through these functions.

use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_vault::Request;
use serde::{Deserialize, Serialize};

use crate::error::ShipError;
use crate::state::{at, damaged, read, write};

/// Most requests that wait at a source; the shipper fetches no more until the agent has done some.
pub const PENDING_MAX: usize = 64;

/// Digits of a request's number in its file's name: as in the vault's keys.
const NUMBER_DIGITS: usize = 20;
const SUFFIX: &str = ".json";

/// `requests-done.json`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    done: u64,
}

/// The requests that wait for the agent, oldest first.
///
/// # Errors
/// [`ShipError::Io`]; [`ShipError::State`] for a file that is damaged.
pub fn pending(state_dir: &Path) -> Result<Vec<(u64, Request)>, ShipError> {
    let done = done(state_dir)?;
    let waiting = numbers(state_dir)?.into_iter().filter(|n| *n > done);
    waiting.map(|n| Ok((n, decode(&path(state_dir, n))?))).collect()
}

/// The number up to which the agent has done what was asked; 0 before the first.
///
/// # Errors
/// [`ShipError::Io`]; [`ShipError::State`] when the note is damaged.
pub fn done(state_dir: &Path) -> Result<u64, ShipError> {
    read::<Done>(&done_path(state_dir)).map(|found| found.unwrap_or_default().done)
}

/// Notes that everything up to request `n` is done, and removes it. Nothing of it is fetched again.
///
/// # Errors
/// [`ShipError::Io`].
pub fn set_done(state_dir: &Path, n: u64) -> Result<(), ShipError> {
    write(&done_path(state_dir), &Done { done: n.max(done(state_dir)?) })?;
    for old in numbers(state_dir)?.into_iter().filter(|old| *old <= n) {
        crashsafe::remove(&path(state_dir, old)).map_err(ShipError::io("remove a request that was carried out"))?;
    }
    Ok(())
}

/// The newest request that is done or waits, and how many wait.
pub(crate) fn known(state_dir: &Path) -> Result<(u64, usize), ShipError> {
    let done = done(state_dir)?;
    let waiting: Vec<u64> = numbers(state_dir)?.into_iter().filter(|n| *n > done).collect();
    Ok((waiting.last().copied().unwrap_or(done), waiting.len()))
}

/// Puts a request down for the agent.
pub(crate) fn put(state_dir: &Path, n: u64, request: &Request) -> Result<(), ShipError> {
    crashsafe::create_dir_all(&folder(state_dir)).map_err(ShipError::io("make the folder of requests"))?;
    crashsafe::replace(&path(state_dir, n), &request.encoded()).map_err(ShipError::io("note a request"))
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("requests")
}

fn path(state_dir: &Path, n: u64) -> PathBuf {
    folder(state_dir).join(format!("{n:0NUMBER_DIGITS$}{SUFFIX}"))
}

fn done_path(state_dir: &Path) -> PathBuf {
    state_dir.join("requests-done.json")
}

/// The numbers of the files that are there, in rising order.
fn numbers(state_dir: &Path) -> Result<Vec<u64>, ShipError> {
    let folder = folder(state_dir);
    let listed = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let listed = listed.map_err(|e| ShipError::Io { what: "list the requests", source: at(&folder, &e) })?;
    let number = |name: &str| name.strip_suffix(SUFFIX).and_then(|digits| digits.parse::<u64>().ok());
    // What another hand has put there is named otherwise, and is left alone.
    let ours = |n: &u64, name: &str| *n > 0 && path(state_dir, *n).file_name().is_some_and(|own| own == name);
    let names = listed.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<u64> = names.filter_map(|name| number(&name).filter(|n| ours(n, &name))).collect();
    found.sort_unstable();
    Ok(found)
}

fn decode(path: &Path) -> Result<Request, ShipError> {
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|e| ShipError::Io { what: "read a request", source: at(path, &e) })?;
    Request::decoded(&bytes).map_err(|e| damaged(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Request {
        Request::Resync { full: true, ranges: vec![] }
    }

    #[test]
    fn what_was_put_waits_until_it_is_done_and_is_known_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!((pending(dir).unwrap(), done(dir).unwrap(), known(dir).unwrap()), (vec![], 0, (0, 0)));
        put(dir, 9, &full()).unwrap();
        put(dir, 10, &Request::Digests).unwrap();
        std::fs::write(dir.join("requests/11.json"), "not ours").unwrap();
        assert_eq!(pending(dir).unwrap(), [(9, full()), (10, Request::Digests)]);
        assert_eq!(known(dir).unwrap(), (10, 2));
        set_done(dir, 9).unwrap();
        assert_eq!(pending(dir).unwrap(), [(10, Request::Digests)]);
        set_done(dir, 10).unwrap();
        set_done(dir, 3).unwrap();
        assert_eq!((pending(dir).unwrap(), done(dir).unwrap(), known(dir).unwrap()), (vec![], 10, (10, 0)));
    }

    #[test]
    fn a_request_that_was_done_before_a_crash_removed_it_is_not_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, 1, &Request::Drain).unwrap();
        put(dir, 2, &Request::Digests).unwrap();
        write(&done_path(dir), &Done { done: 1 }).unwrap();
        assert_eq!(pending(dir).unwrap(), [(2, Request::Digests)]);
    }

    #[test]
    fn a_damaged_request_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, 1, &Request::Drain).unwrap();
        std::fs::write(path(dir, 1), r#"{"format":1,"request":"reboot"}"#).unwrap();
        let error = pending(dir).unwrap_err().to_string();
        assert!(error.contains("00000000000000000001.json") && error.contains("damaged"), "{error}");
    }
}
