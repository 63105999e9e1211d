//! Verifies a group's target: position, catalogue, every undo batch with all its blocks, images, overlays. Nothing of these is
//! changed; a lease keeps the journal from being pruned meanwhile. Damage of the undo journal is noted beside it, so that
//! the points behind it are refused from then on ([`crate::undo::damage`]).

use std::collections::BTreeSet;
use std::path::Path;

use farshore_changelog::ids::{GroupName, Hash, SegmentNo};
use farshore_changelog::segment::{Index, SegmentError};

use super::report::Report;
use crate::compare::Comparison;
use crate::error::TargetError;
use crate::failover::note;
use crate::lease::Lease;
use crate::overlay;
use crate::points;
use crate::position::ReplayPosition;
use crate::target::{GroupDir, Origin};
use crate::undo::{Found, JournalReader, damage, files, scrub};
use crate::view::read_disk::{RawDisk, ReadDisk};
use crate::view::window;

/// Verifies the target of `group` under `target`. `progress` hears the report after each batch and file.
///
/// # Errors
/// [`TargetError::Io`] when a folder cannot be read at all; what is wrong with the files is in the report.
pub fn verify_target(
    target: &Path,
    group: &GroupName,
    progress: &mut dyn FnMut(&Report),
) -> Result<Report, TargetError> {
    let dir = GroupDir::new(target, group);
    let mut report = Report::default();
    let origin = match Origin::read(&dir) {
        Ok(Some(origin)) => origin,
        Ok(None) => {
            report.damage(dir.root().display(), "there is no target of this group");
            return Ok(report);
        }
        Err(e) => {
            report.damage(e.path().display(), e.to_string());
            return Ok(report);
        }
    };
    let _lease = Lease::take(dir.root(), 0).map_err(TargetError::io("lease", &dir.leases()))?;
    let position = match window::position(&dir) {
        Ok(Some(position)) => position,
        Ok(None) => {
            report.note(dir.position().display(), "nothing was replayed yet");
            return Ok(report);
        }
        Err(e) => {
            report.damage(e.path().display(), e.to_string());
            return Ok(report);
        }
    };
    report.read(0);
    if position.group != *group {
        report.damage(dir.position().display(), format!("it is the position of group {}", position.group));
    }
    images(&dir, &origin, &position, &mut report);
    let wanted = offsets(&dir, &position, &mut report);
    journal(&dir, group, &origin, &position, wanted, &mut report, progress);
    comparison(&dir, &mut report);
    overlays(&dir, &mut report);
    progress(&report);
    Ok(report)
}

fn images(dir: &GroupDir, origin: &Origin, position: &ReplayPosition, report: &mut Report) {
    for disk in origin.disks_at(position.epoch) {
        let path = dir.image(&disk.name);
        match RawDisk::open(&path) {
            Ok(image) if image.size_bytes() < disk.size_bytes => {
                let what = format!("it has {} bytes, its disk has {}", image.size_bytes(), disk.size_bytes);
                report.damage(path.display(), what);
            }
            Ok(_) => report.read(0),
            Err(e) => report.damage(path.display(), e.to_string()),
        }
    }
}

/// The journal offsets that must be where a batch begins or the journal ends, each with who needs it.
type Wanted = BTreeSet<(u64, String)>;

fn offsets(dir: &GroupDir, position: &ReplayPosition, report: &mut Report) -> Wanted {
    let mut wanted = Wanted::new();
    wanted.insert((position.undo_end, "the position".to_owned()));
    if position.consistent.exists() {
        wanted.insert((position.consistent.undo_end, "the newest consistent position".to_owned()));
    }
    match points::counting(&dir.points(), position) {
        Ok(points) => {
            report.read(0);
            wanted.extend(points.iter().map(|point| (point.undo_end, format!("recovery point p{}", point.id))));
        }
        Err(e) => report.damage(e.path().display(), e.to_string()),
    }
    wanted
}

fn journal(
    dir: &GroupDir,
    group: &GroupName,
    origin: &Origin,
    position: &ReplayPosition,
    mut wanted: Wanted,
    report: &mut Report,
    progress: &mut dyn FnMut(&Report),
) {
    let mut reader = match JournalReader::open(&dir.undo(), group.clone()) {
        Ok(reader) => reader,
        Err(e) => return report.damage(e.path().display(), e.to_string()),
    };
    let starts: Vec<u64> = reader.files().iter().map(|file| file.start).collect();
    let Some(mut at) = starts.first().copied() else {
        if position.undo_end != 0 {
            report.damage(dir.undo().display(), "the undo journal is gone");
        }
        return;
    };
    let mut before: Option<(SegmentNo, Hash)> = None;
    let mut reached: BTreeSet<u64> = BTreeSet::from([at]);
    loop {
        let damaged = report.damaged;
        match batch(&mut reader, at, before, report) {
            Ok(Some(index)) => {
                ranges(dir, origin, at, &index, report);
                report.read(index.total_len());
                if report.damaged == damaged {
                    damage::clear(&dir.undo(), at);
                } else if at < position.undo_end {
                    damage::note(&dir.undo(), at, "farshore verify found a damaged undo batch");
                }
                before = Some((index.head().number, index.hash()));
                at += index.total_len();
                // Only what somebody asks for is kept.
                if wanted.range((at, String::new())..).next().is_some_and(|(offset, _)| *offset == at) {
                    reached.insert(at);
                }
                progress(report);
                continue;
            }
            Ok(None) => break,
            Err(Bad::Unfinished(_)) if at >= position.undo_end => report.note(
                files::path_of(&dir.undo(), at).display(),
                "a batch that was never finished, or is being written: no image was touched for it",
            ),
            Err(Bad::Unfinished(what)) => {
                damage::note(&dir.undo(), at, &what);
                report.damage(format!("{} at journal offset {at}", dir.undo().display()), what);
            }
            Err(Bad::Error(e)) => {
                report.damage(e.path().display(), e.to_string());
                if let Ok(what) = scrub::unreadable(e) {
                    damage::note(&dir.undo(), at, &what);
                }
            }
        }
        // The next batch's place is not known; the next file's is.
        before = None;
        match starts.iter().find(|start| **start > at) {
            Some(next) => at = *next,
            None => break,
        }
        reached.insert(at);
    }
    behind(dir, &wanted, report);
    wanted.retain(|(offset, _)| !reached.contains(offset));
    for (offset, who) in wanted {
        let what = format!("{who} needs the undo journal from {offset}, where no batch begins");
        report.damage(dir.undo().display(), what);
    }
}

/// Says who cannot be had any more.
fn behind(dir: &GroupDir, wanted: &Wanted, report: &mut Report) {
    let known = match damage::known(&dir.undo()) {
        Ok(known) => known,
        Err(e) => return report.damage(e.path().display(), e.to_string()),
    };
    for (offset, who) in wanted {
        if let Some(damage) = damage::in_the_way(&known, *offset) {
            let what = format!("{who} is unusable: it lies behind the damage at {} ({})", damage.offset, damage.what);
            report.damage(dir.undo().display(), what);
        }
    }
}

/// Why no batch can be read at a place.
enum Bad {
    /// It is not whole: damaged, never finished, or just being written.
    Unfinished(String),
    /// The file cannot be read, or another's batch lies there.
    Error(TargetError),
}

/// Proves the batch at `at`. `Ok(None)`: the journal ends.
fn batch(
    reader: &mut JournalReader,
    at: u64,
    before: Option<(SegmentNo, Hash)>,
    report: &mut Report,
) -> Result<Option<Box<Index>>, Bad> {
    let index = match reader.batch_at(at) {
        Ok(Found::Batch(index)) => index,
        Ok(Found::End) => return Ok(None),
        Ok(Found::Unfinished { error, .. }) => return Err(Bad::Unfinished(full(&error))),
        Err(e) => return Err(Bad::Error(e)),
    };
    let named = |what: &str| format!("undo batch {} at journal offset {at}: {what}", index.head().number);
    if let Some((number, hash)) = before
        && (index.head().number != number.next() || index.head().prev != hash)
    {
        report.damage("undo journal", named("it does not follow the one before it"));
    }
    for block in 0..u32::try_from(index.block_count()).unwrap_or(u32::MAX) {
        if let Err(e) = reader.block(at, &index, block) {
            report.damage(e.path().display(), named(&format!("block {block}: {e}")));
        }
    }
    Ok(Some(index))
}

fn ranges(dir: &GroupDir, origin: &Origin, at: u64, index: &Index, report: &mut Report) {
    let disks = origin.disks_at(index.head().epoch);
    let outside = index.records().iter().find(|entry| {
        let disk = disks.get(usize::from(entry.record.disk.0));
        disk.is_none_or(|disk| entry.record.range().end > disk.size_bytes)
    });
    if let Some(entry) = outside {
        let what = format!(
            "the batch at {at} saves {} of disk {}, which is not there",
            entry.record.range(),
            entry.record.disk
        );
        report.damage(dir.undo().display(), what);
    }
}

fn comparison(dir: &GroupDir, report: &mut Report) {
    match Comparison::read(dir) {
        Ok(known) => {
            report.read(0);
            let left = known.open().count() as u64 + known.more;
            if left > 0 {
                let what = format!("{left} ranges of the images differ from the source, as far as it was compared");
                report.damage(dir.comparison().display(), what);
            }
        }
        Err(e) => report.damage(e.path().display(), e.to_string()),
    }
}

fn overlays(dir: &GroupDir, report: &mut Report) {
    let notes = match note::list(dir.root()) {
        Ok(notes) => notes,
        Err(e) => return report.damage(e.path().display(), e.to_string()),
    };
    for (name, _) in notes {
        report.read(0);
        let folder = dir.overlay(&name);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "cow") {
                match overlay::check(&path) {
                    Ok(_) => report.read(0),
                    Err(e) => report.damage(path.display(), e.to_string()),
                }
            }
        }
    }
}

fn full(error: &SegmentError) -> String {
    let first: Option<&dyn std::error::Error> = Some(error);
    let texts: Vec<String> = std::iter::successors(first, |e| e.source()).map(ToString::to_string).collect();
    texts.join(": ")
}
