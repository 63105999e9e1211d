//! What must hold, looked at from outside after every step of a target, and once more when all is healed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farshore_changelog::ids::{Epoch, GroupName, Hash, Position, Seq};
use farshore_processor::points::{self, Point, PointKind};
use farshore_processor::position::ReplayPosition;
use farshore_processor::resolve::PointSpec;
use farshore_processor::target::GroupDir;
use farshore_processor::view::PointView;
use farshore_processor::view::read_disk::ReadDisk;

use crate::history::{History, Stamp};
use crate::log::{Fold, Log};
use crate::rng::Rng;
use crate::store::SimStore;

/// A point as it was when it was first seen.
struct Known {
    position: Position,
    hash: Hash,
}

/// The oracle of one group.
pub struct Oracle {
    group: GroupName,
    target: std::path::PathBuf,
    names: Vec<String>,
    pub log: Log,
    at_position: Fold,
    at_points: Fold,
    known: BTreeMap<u64, Known>,
    /// When each mark was put: everything that was answered before is in its point.
    marks: BTreeMap<String, Stamp>,
    /// The newest position that was seen, which a healthy target never goes back behind.
    rng: Rng,
    /// How often each kind of thing was looked at.
    pub looked: Looked,
}

/// Counts, so that a run that looked at nothing is seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Looked {
    pub positions: u64,
    pub consistent: u64,
    pub points: u64,
    pub again: u64,
}

impl Oracle {
    pub fn new(seed: u64, group: &GroupName, target: &Path, disks: &[(String, u64)], store: &Arc<SimStore>) -> Self {
        let sizes: Vec<u64> = disks.iter().map(|(_, size)| *size).collect();
        Self {
            group: group.clone(),
            target: target.to_path_buf(),
            names: disks.iter().map(|(name, _)| name.clone()).collect(),
            log: Log::new(group.clone(), Arc::clone(store)),
            at_position: Fold::new(&sizes),
            at_points: Fold::new(&sizes),
            known: BTreeMap::new(),
            marks: BTreeMap::new(),
            rng: Rng::new(seed, 5),
            looked: Looked::default(),
        }
    }

    pub fn marked(&mut self, name: &str, at: Stamp) {
        self.marks.insert(name.to_owned(), at);
    }

    fn dir(&self) -> GroupDir {
        GroupDir::new(&self.target, &self.group)
    }

    /// Where replay stands, `None` before it began.
    pub fn position(&self) -> Result<Option<ReplayPosition>, String> {
        ReplayPosition::read(&self.dir().position()).map_err(|e| format!("the position cannot be read: {e}"))
    }

    pub fn images(&self) -> Result<Vec<Vec<u8>>, String> {
        let read = |name: &String| {
            let path = self.dir().root().join(format!("{name}.raw"));
            std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        self.names.iter().map(read).collect()
    }

    /// A processor that works, and has just ended a turn: G1, and no point where none may be.
    pub fn check_target(&mut self, history: &History) -> Result<(), String> {
        self.log.refresh()?;
        let Some(here) = self.position()? else { return Ok(()) };
        let at = here.position();
        self.at_position.go_to(&self.log, at)?;
        let images = self.images()?;
        self.looked.positions += 1;
        for (disk, (image, expected)) in images.iter().zip(&self.at_position.images).enumerate() {
            if image != expected {
                let byte =
                    image.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(image.len().min(expected.len()));
                return Err(format!(
                    "G1: at {at} the image of disk {disk} is not the fold of the log: they differ at byte {byte}"
                ));
            }
        }
        if here.resync != self.at_position.resync {
            return Err(format!("at {at} the target says resync {}, the log {}", here.resync, self.at_position.resync));
        }
        if !here.resync && here.consistent.exists() {
            self.looked.consistent += 1;
            history.check_prefix(self.at_position.newest().0, &images, 0).map_err(|e| format!("G1: at {at}: {e}"))?;
        }
        self.check_new_points(history)
    }

    /// A source that counts everything up to `seq` as stored is right (G10).
    pub fn check_confirmed(&mut self, epoch: Epoch, seq: Seq) -> Result<(), String> {
        self.log.refresh()?;
        let reaches = self.log.reaches(epoch);
        if seq > reaches {
            return Err(format!("G10: seq {seq} of epoch {epoch} counts as stored, and the log goes to {reaches}"));
        }
        Ok(())
    }

    /// Disks that somebody is shown as the state at `position` are that.
    pub fn check_state(&mut self, history: &History, position: Position, shown: &[Vec<u8>]) -> Result<(), String> {
        self.log.refresh()?;
        self.at_points.go_to(&self.log, position)?;
        if self.at_points.resync || shown != self.at_points.images {
            return Err(format!("what is shown as the state at {position} is not the fold of the log"));
        }
        history.check_prefix(self.at_points.newest().0, shown, 0).map_err(|e| format!("at {position}: {e}"))
    }

    /// Those that count where replay stands.
    fn points(&self) -> Result<Vec<Point>, String> {
        let at =
            ReplayPosition::read(&self.dir().position()).map_err(|e| format!("the position cannot be read: {e}"))?;
        let Some(at) = at else { return Ok(Vec::new()) };
        points::counting(&self.dir().points(), &at).map_err(|e| format!("the catalogue cannot be read: {e}"))
    }

    /// Points that were not there before.
    fn check_new_points(&mut self, history: &History) -> Result<(), String> {
        for point in self.points()? {
            if self.known.get(&point.id).is_some_and(|known| known.position == point.position) {
                continue;
            }
            let (id, at) = (point.id, point.position);
            if self.known.contains_key(&id) {
                return Err(format!("G8: point {id} was at {} and is at {at} now", self.known[&id].position));
            }
            self.at_points.go_to(&self.log, at)?;
            if self.at_points.resync {
                return Err(format!("point {id} was cut at {at}, inside a resync or an overflow"));
            }
            let seen = self.view(id)?;
            self.looked.points += 1;
            if seen != self.at_points.images {
                return Err(format!("point {id} at {at} does not show the fold of the log"));
            }
            let since = match &point.kind {
                PointKind::Mark(name) => self.marks.get(name).copied().ok_or(format!("nobody put the mark {name}"))?,
                PointKind::Periodic => 0,
            };
            history
                .check_prefix(self.at_points.newest().0, &seen, since)
                .map_err(|e| format!("point {id} at {at}: {e}"))?;
            self.known.insert(id, Known { position: at, hash: hash(&seen) });
        }
        Ok(())
    }

    /// All disks of a point.
    fn view(&self, id: u64) -> Result<Vec<Vec<u8>>, String> {
        let view = PointView::open(&self.target, &self.group, &PointSpec::Id(id));
        let view = view.map_err(|e| format!("point {id} cannot be viewed: {e} ({e:?})"))?;
        let read = |disk: farshore_processor::view::point::PointDisk| {
            let mut bytes = vec![0; disk.size_bytes() as usize];
            disk.read_at(&mut bytes, 0).map_err(|e| format!("point {id} cannot be read: {e}"))?;
            Ok(bytes)
        };
        view.disks().into_iter().map(read).collect()
    }

    /// Points that are known are what they were: `all` of them, or one by chance (G8). Those that retention may have removed,
    /// or that lie beyond a position that a power cut took back, are passed over.
    pub fn check_old_points(&mut self, all: bool) -> Result<(), String> {
        let mut there: Vec<Point> = self.points()?;
        if !all && !there.is_empty() {
            let one = self.rng.below(there.len() as u64) as usize;
            there = vec![there.swap_remove(one)];
        }
        for point in there {
            let Some(known) = self.known.get(&point.id) else { continue };
            self.looked.again += 1;
            if hash(&self.view(point.id)?) != known.hash {
                return Err(format!(
                    "G8: point {} at {} does not show what it showed before",
                    point.id, point.position
                ));
            }
        }
        Ok(())
    }

    /// Nothing of the known points is gone.
    pub fn check_points_are_there(&self) -> Result<(), String> {
        let there: Vec<u64> = self.points()?.iter().map(|p| p.id).collect();
        match self.known.keys().find(|id| !there.contains(id)) {
            Some(id) => Err(format!("G8: point {id} is gone, and no retention removes any here")),
            None => Ok(()),
        }
    }
}

fn hash(disks: &[Vec<u8>]) -> Hash {
    Hash::of(&disks.concat())
}
