//! The files of a spool folder: their names, and the proof of one that was found.

use std::fs::File;
use std::path::{Path, PathBuf};

use farshore_changelog::crashsafe;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo};
use farshore_changelog::segment::{Index, Kind, SegmentError};

use super::Spooled;
use crate::error::ShipError;
use crate::state::at;

/// Digits of the epoch and of the number in a file's name: as in the vault's keys.
const EPOCH_DIGITS: usize = 10;
const NUMBER_DIGITS: usize = 20;
/// Suffix of a segment's file.
const SUFFIX: &str = ".seg";
/// Suffix that [`crashsafe::replace`] gives a file that is not finished.
pub(super) const UNFINISHED: &str = ".seg.tmp";
/// What follows the name of a file that was set aside.
pub(super) const ASIDE: &str = ".aside";

/// A segment's file, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The epoch in its name.
    pub epoch: Epoch,
    /// The number in its name.
    pub number: SegmentNo,
    /// The segment, its header and index proved; or what is wrong with it.
    pub segment: Result<Spooled, String>,
    /// It is not part of the spool any more: an epoch that was over, or could not be finished, left it.
    pub aside: bool,
    /// The file.
    pub path: PathBuf,
}

/// What lies in a spool folder that can be read, in the order of epoch and number: for whoever shows it. A folder that is absent
/// holds nothing.
///
/// # Errors
/// [`ShipError::Io`] when the folder or a file of it cannot be read.
pub fn list(dir: &Path, group: &GroupName) -> Result<Vec<Found>, ShipError> {
    let mut found = Vec::new();
    for path in entries(dir)? {
        let name = name_of(&path);
        let (plain, aside) = name.strip_suffix(ASIDE).map_or((&name[..], false), |plain| (plain, true));
        if let Some((epoch, number)) = parse_name(plain) {
            let segment = prove(&path, group, epoch, number)?;
            found.push(Found { epoch, number, segment, aside, path });
        }
    }
    found.sort_by_key(|f| (f.epoch, f.number, f.aside));
    Ok(found)
}

/// Discards the segments of `epoch`: they were cut from a ring that is gone, the epoch was never opened in the vault, and it begins
/// anew. The agent calls it before it makes that epoch's next ring: its seqs start at 1 again, and must not be taken for those.
///
/// # Errors
/// [`ShipError::Io`].
pub fn discard(dir: &Path, epoch: Epoch) -> Result<(), ShipError> {
    for path in entries(dir)? {
        if parse_name(&name_of(&path)).is_some_and(|(of, _)| of == epoch) {
            crashsafe::remove(&path).map_err(ShipError::io("discard a spool file"))?;
        }
    }
    Ok(())
}

/// The paths in a folder; none when it is absent.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, ShipError> {
    let listed = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let listed = listed.map_err(|e| ShipError::Io { what: "list the spool folder", source: at(dir, &e) })?;
    Ok(listed.iter().map(std::fs::DirEntry::path).collect())
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn file_name(epoch: Epoch, number: SegmentNo) -> String {
    format!("{epoch:0EPOCH_DIGITS$}-{number:0NUMBER_DIGITS$}{SUFFIX}")
}

pub(super) fn parse_name(name: &str) -> Option<(Epoch, SegmentNo)> {
    let (epoch, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (epoch, number) = (Epoch(digits(epoch)?), SegmentNo(digits(number)?));
    (file_name(epoch, number) == name).then_some((epoch, number))
}

/// Proves header, index and length of a file, and that it is what its name says; or says what it is.
///
/// # Errors
/// [`ShipError::Io`] when it cannot be read.
pub(super) fn prove(
    path: &Path,
    group: &GroupName,
    epoch: Epoch,
    number: SegmentNo,
) -> Result<Result<Spooled, String>, ShipError> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|m| (file, m.len())));
    let unreadable = |e: &std::io::Error| ShipError::Io { what: "read the spool", source: at(path, e) };
    let (mut file, bytes) = opened.map_err(|e| unreadable(&e))?;
    let index = match Index::read(&mut file, 0, Some(bytes)) {
        Ok(index) => index,
        Err(SegmentError::Io(e)) if is_of_disk(&e) => return Err(unreadable(&e)),
        Err(e) => return Ok(Err(e.to_string())),
    };
    let head = index.head();
    if (head.kind, &head.group, head.epoch, head.number) != (Kind::Log, group, epoch, number) {
        return Ok(Err(format!("is segment {} of epoch {} of group {}", head.number, head.epoch, head.group)));
    }
    let (prev, first_seq, last_seq) = (head.prev, head.first_seq, head.last_seq);
    Ok(Ok(Spooled { epoch, number, hash: index.hash(), prev, first_seq, last_seq, bytes }))
}

/// Whether an error is the kernel's: of a file that ends too early, or of the decompressor, it is the bytes that are bad.
fn is_of_disk(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some()
}
