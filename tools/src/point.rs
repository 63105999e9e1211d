//! What the verbs that show a point have in common: how it is named on the command line, and how it and its disks are printed.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use farshore_capture::server::Listen;
use farshore_changelog::ids::GroupName;
use farshore_processor::resolve::{PointSpec, Resolved};
use farshore_processor::target::GroupDir;
use farshore_processor::view::{PointView, ReadDisk};
use serde::Serialize;

use crate::failure::Next;
use crate::units::show_bytes;
use crate::verbs::verify::against_source::differing;
use crate::view_export::{NamedDisk, uri};

/// Which point of which group.
#[derive(Debug, clap::Args)]
pub struct PointArgs {
    /// The group.
    pub group: GroupName,
    /// The target folder.
    #[arg(long, value_name = "DIR")]
    pub target: PathBuf,
    /// latest, an id (p7), an RFC 3339 time, a seq (1234), or epoch:seq (2:1234).
    #[arg(long, default_value = "latest")]
    pub point: PointSpec,
}

impl PointArgs {
    /// Opens the view of the point.
    ///
    /// # Errors
    /// When there is no such group or point; with the verb that lists them.
    pub fn open(&self) -> Result<Arc<PointView>> {
        PointView::open(&self.target, &self.group, &self.point).next(format!(
            "`farshore points {} --target {}` lists what there is",
            self.group,
            self.target.display()
        ))
    }
}

/// A resolved point, as it is printed.
#[derive(Debug, Serialize)]
pub struct PointShown {
    /// Its id, when it is a recovery point of the catalogue.
    pub id: Option<String>,
    /// Its mark's name.
    pub name: Option<String>,
    /// Epoch of its position.
    pub epoch: u64,
    /// Seq of its position.
    pub seq: u64,
    /// RFC 3339, source's clock.
    pub time: String,
    /// What was asked for, when that was rounded down to this.
    pub rounded_from: Option<String>,
    /// What of it differed from the source when they were compared.
    pub differs: Vec<String>,
}

/// An exported disk, as it is printed.
#[derive(Debug, Serialize)]
pub struct DiskShown {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Where to reach it.
    pub uri: String,
}

impl DiskShown {
    /// Prepares the disks exported on `listen` for printing; with `tls`, TCP is served over TLS.
    #[must_use]
    pub fn all(disks: &[NamedDisk], listen: &Listen, tls: bool) -> Vec<Self> {
        let shown = |(name, disk): &NamedDisk| Self {
            name: name.to_string(),
            size_bytes: disk.size_bytes(),
            uri: uri(listen, tls, name.as_str()),
        };
        disks.iter().map(shown).collect()
    }

    /// One line of text.
    #[must_use]
    pub fn line(&self) -> String {
        format!("  {} ({}): {}\n", self.name, show_bytes(self.size_bytes), self.uri)
    }
}

impl PointShown {
    /// Prepares a point of a group's folder for printing.
    #[must_use]
    pub fn of(dir: &GroupDir, group: &GroupName, point: &Resolved) -> Self {
        let tag = point.point.as_ref();
        let differs = differing(dir, group, &[point.undo_end]);
        Self {
            differs: differs.into_iter().map(|(_, story)| story).collect(),
            id: tag.map(|t| PointSpec::Id(t.id).to_string()),
            name: tag.and_then(|t| t.mark.clone()),
            epoch: point.position.epoch.0,
            seq: point.position.seq.0,
            time: point.time.to_string(),
            rounded_from: point.rounded_from.as_ref().map(ToString::to_string),
        }
    }

    /// One line of text.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("position {}:{} of {}", self.epoch, self.seq, self.time);
        if let Some(id) = &self.id {
            line = format!("point {id}, {line}");
        }
        if let Some(name) = &self.name {
            line = format!("mark {name:?}, {line}");
        }
        if let Some(asked) = &self.rounded_from {
            line.push_str(&format!(" (rounded down from {asked})"));
        }
        for story in &self.differs {
            line.push_str(&format!("; BUT {story}"));
        }
        line
    }
}
