//! The loss receipt: what a source logged and no target will replay. It lies in the spool, in what was set aside there, in the
//! spools that an adoption moved aside, and, where a put was late, in the vault above the cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use farshore_changelog::ids::{Epoch, SegmentNo};
use farshore_changelog::segment::{Index, Kind, Segment};
use farshore_changelog::units::ByteRange;
use farshore_shipper::spool::{self, Found};
use farshore_shipper::{Fenced, SourceState};
use farshore_vault::{EpochDisk, GroupVault, PUT_AHEAD_MAX};
use serde::Serialize;

use crate::config::Config;

/// Most segments above a cut that are looked for in the vault: a fenced source puts few, a spool is far smaller than this.
const LATE_MAX: u64 = 10_000;

/// Everything that is known to be lost.
#[derive(Debug, Serialize)]
pub struct Receipt {
    /// The group.
    pub group: String,
    /// What ended the source's epoch; none when nobody has.
    pub fenced: Option<FencedBy>,
    /// The segments, in order.
    pub segments: Vec<LostSegment>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

/// The epoch that ended the source's.
#[derive(Debug, Serialize)]
pub struct FencedBy {
    /// The source's.
    pub epoch: u64,
    /// The one that ended it.
    pub by_epoch: u64,
    /// Why that was opened.
    pub reason: String,
    /// When.
    pub at: String,
}

/// One segment.
#[derive(Debug, Serialize)]
pub struct LostSegment {
    /// `spool`, `set aside`, or `vault`.
    pub place: &'static str,
    /// The file, or the number in the vault.
    pub at: String,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// What is wrong with it; the rest is not known then.
    pub problem: Option<String>,
    /// The first seq it covers.
    pub first_seq: u64,
    /// The last seq.
    pub last_seq: u64,
    /// Time of its first record (source's clock).
    pub from: String,
    /// Time of its last record.
    pub to: String,
    /// What it changed.
    pub disks: Vec<LostDisk>,
}

/// What a segment changed of one disk.
#[derive(Debug, Serialize)]
pub struct LostDisk {
    /// Its name, or its index where the name is not known.
    pub disk: String,
    /// Bytes changed.
    pub bytes: u64,
    /// The ranges, in order: first byte and one past the last.
    pub ranges: Vec<(u64, u64)>,
}

/// Collects it. The vault is asked when there is one: a source need not be allowed to read its log.
///
/// # Errors
/// When the source's notes cannot be read.
pub async fn receipt(config: &Config, vault: Option<&GroupVault>) -> Result<Receipt> {
    let state = SourceState::new(&config.state_dir);
    let (noted, fenced) = (state.epoch()?, state.fenced()?);
    let disks = noted.map(|n| n.disks).unwrap_or_default();
    let mut receipt = Receipt {
        group: config.group.to_string(),
        fenced: fenced.as_ref().map(fenced_by).transpose()?,
        segments: Vec::new(),
        unseen: Vec::new(),
    };
    // Number of the first segment of each epoch that cannot be where replay finds it.
    let mut late: BTreeMap<Epoch, SegmentNo> = BTreeMap::new();
    if let Some(fenced) = &fenced {
        let confirmed = state.watermark()?.filter(|w| w.epoch == fenced.epoch);
        late.insert(fenced.epoch, confirmed.map_or(SegmentNo(1), |w| w.number.next()));
    }
    for dir in spools(&config.spool_dir) {
        let found = match spool::list(&dir, &config.group) {
            Ok(found) => found,
            Err(e) => {
                receipt.unseen.push(format!("{}: {e}", dir.display()));
                continue;
            }
        };
        // What waits in the spool of a source that is not fenced is on its way.
        let lost = found.into_iter().filter(|f| f.aside || dir != config.spool_dir || fenced.is_some());
        for file in lost {
            let first = late.entry(file.epoch).or_insert(file.number);
            *first = (*first).min(file.number);
            receipt.segments.push(in_file(&file, &disks));
        }
    }
    for (epoch, first) in late {
        let Some(vault) = vault else { continue };
        match above_the_cut(vault, epoch, first, &disks).await {
            Ok(segments) => receipt.segments.extend(segments),
            Err(e) => receipt.unseen.push(format!("epoch {epoch} in the vault: {e}")),
        }
    }
    receipt.segments.sort_by_key(|s| (s.epoch, s.number));
    Ok(receipt)
}

fn fenced_by(fenced: &Fenced) -> Result<FencedBy> {
    Ok(FencedBy {
        epoch: fenced.epoch.0,
        by_epoch: fenced.by.epoch.0,
        reason: serde_json::to_value(fenced.by.reason)?.as_str().unwrap_or_default().to_owned(),
        at: fenced.by.created.to_string(),
    })
}

/// The spool, and those that an adoption has moved aside.
fn spools(dir: &Path) -> Vec<PathBuf> {
    let mut kept = dir.file_name().unwrap_or_default().to_os_string();
    kept.push(".kept-");
    let beside = dir.parent().map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
    let mut all: Vec<_> = beside
        .filter(|e| e.file_name().as_encoded_bytes().starts_with(kept.as_encoded_bytes()))
        .map(|e| e.path())
        .collect();
    all.push(dir.to_owned());
    all
}

fn in_file(file: &Found, disks: &[EpochDisk]) -> LostSegment {
    let place = if file.aside { "set aside" } else { "spool" };
    let at = file.path.display().to_string();
    let index = file.segment.as_ref().map_err(Clone::clone).and_then(|_| {
        let mut opened = File::open(&file.path).map_err(|e| e.to_string())?;
        Index::read(&mut opened, 0, None).map_err(|e| e.to_string())
    });
    described(place, at, file.epoch, file.number, index.as_ref(), disks)
}

/// Log segments of `epoch` above its first seal, from `first` on.
async fn above_the_cut(
    vault: &GroupVault,
    epoch: Epoch,
    first: SegmentNo,
    disks: &[EpochDisk],
) -> Result<Vec<LostSegment>> {
    let (mut sealed, mut free) = (false, 0);
    let mut late = Vec::new();
    for number in (first.0..).take(usize::try_from(LATE_MAX)?).map(SegmentNo) {
        // Numbers above the first seal may be free, and others above them not: the source puts several at once.
        let Some(bytes) = vault.get_segment(epoch, number).await? else {
            free += 1;
            if !sealed || free > PUT_AHEAD_MAX {
                break;
            }
            continue;
        };
        free = 0;
        let parsed = Segment::parse(bytes);
        let is_seal = parsed.as_ref().is_ok_and(|s| s.index().head().kind == Kind::Seal);
        if is_seal {
            sealed = true;
        } else if sealed {
            let at = format!("segment {number} of epoch {epoch}");
            let index = parsed.as_ref().map(Segment::index).map_err(ToString::to_string);
            late.push(described("vault", at, epoch, number, index, disks));
        }
    }
    Ok(late)
}

fn described(
    place: &'static str,
    at: String,
    epoch: Epoch,
    number: SegmentNo,
    index: Result<&Index, impl ToString>,
    disks: &[EpochDisk],
) -> LostSegment {
    let mut lost = LostSegment {
        place,
        at,
        epoch: epoch.0,
        number: number.0,
        problem: None,
        first_seq: 0,
        last_seq: 0,
        from: String::new(),
        to: String::new(),
        disks: Vec::new(),
    };
    match index {
        Err(e) => lost.problem = Some(e.to_string()),
        Ok(index) => {
            let head = index.head();
            (lost.first_seq, lost.last_seq) = (head.first_seq.0, head.last_seq.0);
            (lost.from, lost.to) = (head.min_time.to_string(), head.max_time.to_string());
            lost.disks = changed(index, disks);
        }
    }
    lost
}

fn changed(index: &Index, names: &[EpochDisk]) -> Vec<LostDisk> {
    let mut disks: BTreeMap<u16, Vec<ByteRange>> = BTreeMap::new();
    for record in index.records().iter().map(|r| &r.record).filter(|r| r.op.changes_disk()) {
        disks.entry(record.disk.0).or_default().push(record.range());
    }
    let name = |index: u16| names.get(usize::from(index)).map_or_else(|| index.to_string(), |d| d.name.to_string());
    let lost = |(index, ranges)| {
        let ranges = joined(ranges);
        LostDisk { disk: name(index), bytes: ranges.iter().map(|(start, end)| end - start).sum(), ranges }
    };
    disks.into_iter().map(lost).collect()
}

/// The ranges in order, those that touch or overlap as one.
fn joined(mut ranges: Vec<ByteRange>) -> Vec<(u64, u64)> {
    ranges.sort_by_key(|r| r.start);
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some((_, end)) if range.start <= *end => *end = (*end).max(range.end),
            _ => joined.push((range.start, range.end)),
        }
    }
    joined
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
