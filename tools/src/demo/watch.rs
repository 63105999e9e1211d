//! The demo's live view: what was written, what lies in the vault, how old the newest recoverable state is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use farshore_changelog::{clock, ids::Position};
use farshore_processor::points;
use farshore_processor::position::ReplayPosition;
use farshore_processor::target::GroupDir;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::demo::load::Shared;
use crate::demo::site::{Site, bytes_under};
use crate::units::{show_bytes, show_duration};

/// What the target has, at one look.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Where replay stands.
    pub position: Position,
    /// A resync is in progress.
    pub resync: bool,
    /// Age of the newest recoverable state.
    pub age: Duration,
    /// Recovery points so far.
    pub points: usize,
    /// Bytes of the vault.
    pub shipped: u64,
}

/// Looks at vault and target. `None` before replay has begun.
///
/// # Errors
/// When the target cannot be read.
pub fn look(site: &Site) -> Result<Option<Seen>> {
    let dir = GroupDir::new(&site.target(), &site.group());
    let Some(at) = ReplayPosition::read(&dir.position())? else { return Ok(None) };
    Ok(Some(Seen {
        position: at.position(),
        resync: at.resync || !at.consistent.exists(),
        age: clock::wall().since(at.consistent.time),
        points: points::counting(&dir.points(), &at)?.len(),
        shipped: bytes_under(&site.dir().join("vault")),
    }))
}

/// The bars, or nothing when machines read the output.
pub struct View {
    time: ProgressBar,
    target: ProgressBar,
    /// Worst age of the newest recoverable state so far.
    pub worst_rpo: Duration,
}

impl View {
    /// A view of a load of `seconds`.
    #[must_use]
    pub fn new(seconds: u64, hidden: bool) -> Self {
        let bars = MultiProgress::new();
        if hidden {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸ ")
        };
        let time = bars.add(ProgressBar::new(seconds * 1000));
        time.set_style(style("  load     {bar:40.cyan} {msg}"));
        let target = bars.add(ProgressBar::new_spinner());
        target.set_style(style("  target   {spinner} {msg}"));
        Self { time, target, worst_rpo: Duration::ZERO }
    }

    /// Draws what is so now; counts its age as a recovery point objective when `under_load`.
    pub fn draw(&mut self, elapsed: Duration, shared: &Shared, seen: Option<&Seen>, under_load: bool) {
        let written = shared.written.load(Ordering::Relaxed);
        let rate = written as f64 / elapsed.as_secs_f64().max(0.001);
        self.time.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(0));
        self.time.set_message(format!("{} written, {}/s", show_bytes(written), show_bytes(rate as u64)));
        self.target.tick();
        let Some(seen) = seen else {
            self.target.set_message("waiting for the first segment");
            return;
        };
        if seen.resync {
            self.target.set_message(format!("initial replication, {} in the vault", show_bytes(seen.shipped)));
            return;
        }
        if under_load {
            self.worst_rpo = self.worst_rpo.max(seen.age);
        }
        self.target.set_message(format!(
            "{} in the vault, newest recoverable state {} old, {} points",
            show_bytes(seen.shipped),
            show_duration(seen.age),
            seen.points
        ));
    }

    /// Leaves the last state on the screen.
    pub fn finish(&self) {
        self.time.abandon();
        self.target.abandon();
    }
}
