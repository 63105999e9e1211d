//! `farshore attach`: serves a point of a group, with a private copy-on-write overlay, while replay goes on.

use std::path::PathBuf;

use anyhow::Result;
use farshore_capture::server::Listen;
use farshore_changelog::clock;
use farshore_changelog::ids::GroupName;
use farshore_processor::resolve::{PointSpec, Resolved};
use farshore_processor::view::{PointView, ReadDisk};
use serde::Serialize;

use crate::failure::Next;
use crate::output::Output;
use crate::stop;
use crate::units::{show_bytes, show_duration};
use crate::view_export::{serve, serve_until, uri};

/// Arguments of `attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group.
    group: GroupName,
    /// The target folder.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// latest, an id (p7), an RFC 3339 time, a seq (1234), or epoch:seq (2:1234).
    #[arg(long, default_value = "latest")]
    point: PointSpec,
    /// Where to serve: unix:PATH or tcp:HOST:PORT. One export a disk, named after it; the first is the default one.
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
}

/// What is served, as it is printed.
#[derive(Debug, Serialize)]
pub struct Served {
    /// The group.
    pub group: String,
    /// Which point.
    pub point: PointShown,
    /// Its disks.
    pub disks: Vec<DiskShown>,
    /// Seconds from the command to the export.
    pub seconds: f64,
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

impl PointShown {
    /// Prepares a point for printing.
    #[must_use]
    pub fn of(point: &Resolved) -> Self {
        let tag = point.point.as_ref();
        Self {
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
        line
    }
}

/// Serves the point until told to stop.
///
/// # Errors
/// When there is no such point, or it cannot be served.
pub fn run(args: &Args, out: Output) -> Result<()> {
    let started = clock::mono();
    let stop = stop::on_signals()?;
    let listen = Listen::parse(&args.listen, &std::env::current_dir()?)
        .next("write --listen unix:/path/to.sock or tcp:127.0.0.1:10809")?;
    let view = PointView::open(&args.target, &args.group, &args.point).next(format!(
        "`farshore points {} --target {}` lists what there is",
        args.group,
        args.target.display()
    ))?;
    let names: Vec<_> = view.disks().iter().map(|d| d.name().clone()).collect();
    let disks: Vec<_> = names.into_iter().zip(view.private_disks()?).collect();
    let shown = disks
        .iter()
        .map(|(name, disk)| DiskShown {
            name: name.to_string(),
            size_bytes: disk.size_bytes(),
            uri: uri(&listen, name.as_str()),
        })
        .collect();
    let point = PointShown::of(view.point());
    let server = serve(disks, &listen, &point.line())?;
    let served =
        Served { group: args.group.to_string(), point, disks: shown, seconds: started.elapsed().as_secs_f64() };
    out.print(&served, |s| {
        let mut text =
            format!("{} in {}\n", s.point.line(), show_duration(std::time::Duration::from_secs_f64(s.seconds)));
        for disk in &s.disks {
            text.push_str(&format!("  {} ({}): {}\n", disk.name, show_bytes(disk.size_bytes), disk.uri));
        }
        text.push_str("what is written to it is forgotten when this command ends (Ctrl-C)");
        text
    })?;
    serve_until(server, &stop)
}
