//! What a target says of one group: the whole truth about what can be recovered, from its files, whether a processor runs or not.

use std::time::Duration;

use anyhow::{Result, bail};
use farshore_changelog::clock;
use farshore_changelog::units::UnixMicros;
use farshore_processor::compare::Comparison;
use farshore_processor::failover::note::{self, Stage};
use farshore_processor::group::backlog::{ALARM_BYTES, Waiting};
use farshore_processor::position::ReplayPosition;
use farshore_processor::status::{Cause, GroupState, GroupStatus, ResyncProgress};
use farshore_processor::target::GroupDir;
use farshore_processor::undo::damage;
use farshore_processor::view::window;
use serde::Serialize;

use crate::units::{show_bytes, show_duration};
use crate::verbs::points::{self, PointRow};

/// A processor writes its word at least every ten seconds; after this long none is at work, or it cannot write.
const WORD_MAX: Duration = Duration::from_secs(60);
/// A source's clock that is ahead by more than this makes ages wrong.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// What is known of a group at the target.
#[derive(Debug, Serialize)]
pub struct TargetRow {
    /// Its processor's last word, or what the position says when there is none.
    #[serde(flatten)]
    pub state: Option<GroupState>,
    pub epoch: u64,
    pub seq: u64,
    pub segment: u64,
    pub time: String,
    /// The newest state that a VM can be started from now.
    pub recoverable: Option<Recoverable>,
    /// Why it is not the newest consistent position.
    pub latest_unusable_because: Option<String>,
    /// Age of the newest recoverable state; none while there is none.
    pub lag_seconds: Option<f64>,
    /// Bytes in the vault that are not replayed yet.
    pub lag_bytes: Option<u64>,
    /// Whether that is too much, or kept beyond the retention.
    pub backlog_alarm: Option<String>,
    /// The next segment, when later ones are there and the source has not put it yet.
    pub hole: Option<u64>,
    /// The resync in progress.
    pub resync: Option<ResyncProgress>,
    pub points: usize,
    pub unusable_points: usize,
    /// Points that hold something that differed from the source.
    pub differing_points: usize,
    pub oldest_point: Option<String>,
    pub newest_point: Option<String>,
    /// What the last comparison with the source found.
    pub compared: Option<Compared>,
    /// Overlays of failed-over VMs.
    pub failovers: Vec<FailedOver>,
    /// How far the source's clock is ahead of this machine's: ages are wrong by that.
    pub source_clock_ahead_seconds: Option<f64>,
    pub processor_seen: Option<String>,
    /// No processor has said anything for a while, and for how long.
    pub silent_seconds: Option<f64>,
    pub vault_problem: Option<String>,
    /// What should be done, most urgent first.
    pub advice: Vec<String>,
}

/// A state that a VM can be started from.
#[derive(Debug, Serialize)]
pub struct Recoverable {
    /// What `--point` takes.
    pub point: String,
    pub epoch: u64,
    pub seq: u64,
    pub time: String,
    pub age_seconds: f64,
}

/// The last comparison with the source.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub request: u64,
    pub time: String,
    pub regions: u64,
    pub differing: u64,
    pub skipped: u64,
    /// Ranges that differ now.
    pub not_repaired: u64,
}

/// A failover of this group.
#[derive(Debug, Serialize)]
pub struct FailedOver {
    pub name: String,
    pub stage: Stage,
    /// The position that it serves, once it is chosen.
    pub point: Option<String>,
}

/// Reads it; `None` when nothing was replayed yet. `waiting`: what the vault holds and the position has not.
///
/// # Errors
/// When the target's files cannot be read.
pub fn row(group: &str, dir: &GroupDir, waiting: Option<&Waiting>) -> Result<Option<TargetRow>> {
    let said = GroupStatus::read(dir).ok().flatten();
    let Some(at) = window::position(dir)? else {
        return match said.map(|said| said.state) {
            Some(GroupState::Stopped { reason, .. }) => {
                bail!("nothing was replayed yet, and replay has stopped: {reason}")
            }
            _ => Ok(None),
        };
    };
    let points = points::rows(dir)?;
    let damage = damage::known(&dir.undo())?;
    let spoilt = at.consistent.exists().then(|| damage::in_the_way(&damage, at.consistent.undo_end)).flatten();
    let recoverable = match spoilt {
        None => latest(&at),
        Some(_) => points.iter().rev().find(|point| point.usable).map(of_point),
    };
    let now = clock::wall();
    let ahead = at.time.since(now.plus(AHEAD_MAX));
    let silent =
        said.as_ref().map(|said| now.since(UnixMicros::from(said.updated))).filter(|silent| *silent > WORD_MAX);
    let known = Comparison::read(dir);
    let mut row = TargetRow {
        state: Some(said.as_ref().map_or_else(|| GroupState::going(Some(&at), false), |s| s.state.clone())),
        epoch: at.epoch.0,
        seq: at.seq.0,
        segment: at.number.0,
        time: at.time.to_string(),
        lag_seconds: recoverable.as_ref().map(|newest| newest.age_seconds),
        latest_unusable_because: spoilt.map(|damage| {
            format!("the undo journal is damaged at {} and leads back to it no more: {}", damage.offset, damage.what)
        }),
        recoverable,
        lag_bytes: waiting.map(|waiting| waiting.bytes),
        backlog_alarm: backlog_alarm(said.as_ref(), waiting),
        hole: said.as_ref().and_then(|said| said.hole).map(|number| number.0),
        resync: at
            .resync
            .then_some(ResyncProgress { announced_bytes: at.resync_announced, applied_bytes: at.resync_applied }),
        points: points.len(),
        unusable_points: points.iter().filter(|point| !point.usable).count(),
        differing_points: points.iter().filter(|point| !point.differs.is_empty()).count(),
        oldest_point: points.first().map(|p| p.time.clone()),
        newest_point: points.last().map(|p| p.time.clone()),
        compared: known.as_ref().ok().and_then(compared),
        failovers: failovers(dir)?,
        source_clock_ahead_seconds: (!ahead.is_zero()).then(|| at.time.since(now).as_secs_f64()),
        processor_seen: said.as_ref().map(|s| s.updated.to_string()),
        silent_seconds: silent.map(|silent| silent.as_secs_f64()),
        vault_problem: said.and_then(|s| s.vault_problem),
        advice: Vec::new(),
    };
    row.advice = advice(group, dir, &row);
    if let Err(e) = known {
        row.advice.push(format!("what was compared with the source cannot be read ({e}): verify it anew"));
    }
    Ok(Some(row))
}

fn latest(at: &ReplayPosition) -> Option<Recoverable> {
    let newest = at.consistent;
    newest.exists().then(|| Recoverable {
        point: "latest".to_owned(),
        epoch: newest.position.epoch.0,
        seq: newest.position.seq.0,
        time: newest.time.to_string(),
        age_seconds: clock::wall().since(newest.time).as_secs_f64(),
    })
}

fn of_point(row: &PointRow) -> Recoverable {
    let (point, time) = (row.id.clone(), row.time.clone());
    Recoverable { point, epoch: row.epoch, seq: row.seq, time, age_seconds: row.age_seconds }
}

fn backlog_alarm(said: Option<&GroupStatus>, waiting: Option<&Waiting>) -> Option<String> {
    let measured = said.and_then(|said| said.unapplied);
    let bytes = waiting.map(|waiting| waiting.bytes).or(measured.map(|measured| measured.bytes))?;
    if bytes == 0 {
        return None;
    }
    let too_much = measured.map_or(bytes > ALARM_BYTES, |measured| measured.alarm);
    let too_old = measured.is_some_and(|measured| measured.older_than_retention);
    let why = match (too_much, too_old) {
        (false, false) => return None,
        (true, false) => "more than the limit",
        (false, true) => "some of it older than the retention",
        (true, true) => "more than the limit, and some of it older than the retention",
    };
    Some(format!("{} wait in the vault, {why}: retention keeps what is not replayed", show_bytes(bytes)))
}

fn compared(known: &Comparison) -> Option<Compared> {
    let not_repaired = known.open().count() as u64 + known.more;
    known.last.map(|last| Compared {
        request: last.request,
        time: last.time.to_string(),
        regions: last.counts.regions,
        differing: last.counts.differing,
        skipped: last.counts.skipped,
        not_repaired,
    })
}

fn failovers(dir: &GroupDir) -> Result<Vec<FailedOver>> {
    let shown = |(name, note): (String, note::Note)| FailedOver {
        name,
        stage: note.stage,
        point: note.point.map(|point| point.position.to_string()),
    };
    Ok(note::list(dir.root())?.into_iter().map(shown).collect())
}

fn advice(group: &str, dir: &GroupDir, row: &TargetRow) -> Vec<String> {
    let mut advice = Vec::new();
    let target = dir.root().parent().map_or_else(String::new, |target| target.display().to_string());
    match &row.state {
        Some(GroupState::Stopped { cause: Cause::Log, .. }) => advice.push(format!(
            "the log cannot be followed: put the object back, or `farshore resync {group} --vault URL --target {target}` copies everything again and keeps the points"
        )),
        Some(GroupState::Stopped { cause: Cause::NoWayBack, .. }) => advice.push(format!(
            "restore the undo journal, or `farshore resync {group} --vault URL --target {target}` copies everything again: the points before are lost then"
        )),
        Some(GroupState::Stopped { cause: Cause::Full, .. }) => {
            advice.push(format!("make room under {target}: replay goes on by itself"));
        }
        Some(GroupState::Stopped { cause: Cause::Target, .. }) => {
            advice.push("mend what is named: replay goes on by itself".to_owned());
        }
        Some(GroupState::Stopped { cause: Cause::Locked | Cause::Vault, .. })
        | Some(
            GroupState::InitialReplication
            | GroupState::Resync
            | GroupState::Overflow
            | GroupState::Following
            | GroupState::Idle,
        )
        | None => {}
    }
    if row.recoverable.is_none() {
        advice.push("nothing can be recovered yet: the first copy has not ended".to_owned());
    }
    if let Some(silent) = row.silent_seconds {
        let silent = show_duration(Duration::from_secs_f64(silent));
        let mounted = if read_only(dir) { ": the folder cannot be written (mounted read-only?)" } else { "" };
        advice.push(format!(
            "no processor has said anything for {silent}{mounted}; what it said then may not hold any more: farshore process --vault URL --target {target}"
        ));
    }
    if row.unusable_points > 0 {
        advice.push(format!(
            "{} points are unusable: farshore points {group} --target {target} says why",
            row.unusable_points
        ));
    }
    if let Some(compared) = row.compared.as_ref().filter(|compared| compared.not_repaired > 0) {
        advice.push(format!(
            "{} ranges differ from the source: farshore verify --against-source {group} --repair --vault URL --target {target}",
            compared.not_repaired
        ));
    }
    if row.differing_points > 0 {
        advice.push(format!(
            "{} points hold something that differed from the source: farshore points {group} --target {target}",
            row.differing_points
        ));
    }
    advice
}

fn read_only(dir: &GroupDir) -> bool {
    use nix::unistd::{AccessFlags, access};
    access(dir.root(), AccessFlags::W_OK).is_err()
}

impl TargetRow {
    /// The state in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match &self.state {
            Some(GroupState::InitialReplication) => "initial replication",
            Some(GroupState::Resync) => "resync",
            Some(GroupState::Overflow) => "overflow",
            Some(GroupState::Following) => "following",
            Some(GroupState::Idle) => "idle",
            Some(GroupState::Stopped { .. }) => "STOPPED",
            None => "-",
        }
    }

    /// What a person should know beside the table, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(GroupState::Stopped { reason, since, tries, .. }) = &self.state {
            lines.push(format!("stopped since {since:.0}, tried {tries} times: {reason}"));
        }
        if let Some(problem) = &self.vault_problem {
            lines.push(format!("the vault cannot be read: {problem}"));
        }
        if let Some(why) = &self.latest_unusable_because {
            let instead = self.recoverable.as_ref().map_or("nothing", |newest| &newest.point);
            lines.push(format!("the newest consistent position is UNUSABLE, {why}; to be had is: {instead}"));
        }
        if let Some(resync) = &self.resync {
            let (applied, announced) = (show_bytes(resync.applied_bytes), show_bytes(resync.announced_bytes));
            lines
                .push(format!("a resync is in progress, {applied} of {announced}; no point is cut until it has ended"));
        }
        if let Some(number) = self.hole {
            lines.push(format!(
                "segment {number} is not there yet and later ones are: the source puts it when it can; a failover ends the log before it"
            ));
        }
        if let Some(alarm) = &self.backlog_alarm {
            lines.push(format!("ALARM: {alarm}"));
        }
        if let Some(compared) = &self.compared {
            let found = match (compared.differing, compared.not_repaired) {
                (0, 0) => "equal".to_owned(),
                (differing, 0) => format!("{differing} regions differed, all repaired since"),
                (_, left) => format!("{left} ranges DIFFER"),
            };
            let skipped =
                if compared.skipped > 0 { format!(", {} not compared", compared.skipped) } else { String::new() };
            lines.push(format!("compared with the source at {}: {found}{skipped}", compared.time));
        }
        for failover in &self.failovers {
            let point = failover.point.as_deref().unwrap_or("a point not chosen yet");
            lines.push(format!("failed over as {:?} ({:?}) from {point}", failover.name, failover.stage));
        }
        if let Some(ahead) = self.source_clock_ahead_seconds {
            let ahead = show_duration(Duration::from_secs_f64(ahead));
            lines.push(format!(
                "the source's clock is, or was, {ahead} ahead of this machine's: ages are wrong by that"
            ));
        }
        lines.extend(self.advice.iter().cloned());
        lines
    }
}
