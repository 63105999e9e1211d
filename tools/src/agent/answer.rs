//! What a running agent answers on its control socket.

use std::sync::Arc;
use std::time::Duration;

use farshore_capture::lane::LaneHandle;
use farshore_capture::resync::{Phase, ResyncProgress};
use farshore_capture::tap::{DiskState, MarkError, Tap};
use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, Seq};
use farshore_changelog::ring::{Ring, ShipperState};
use farshore_processor::compare::digests::{MARK_PREFIX, ended_request};
use farshore_shipper::SourceState;
use farshore_vault::Reason;

use super::control::{AgentStatus, Ask, DiskStatus, Marked, MonthStatus, Reply};
use super::pace::Pace;
use super::serve::Serving;
use crate::config::Config;
use crate::costs::{Prices, Requests, Use};
use crate::service::seen::ShipperSeen;
use crate::service::words::start_it;
use crate::view_export::uri;

/// How often a mark that found the ring full is tried.
const MARK_TRIES: u32 = 100;
/// Pause between two tries.
const MARK_PAUSE: Duration = Duration::from_millis(20);

/// What is needed to answer. Cheap to clone.
#[derive(Clone)]
pub struct Answers(Arc<Inner>);

struct Inner {
    config: Config,
    ring: Ring,
    epoch: Epoch,
    engine: &'static str,
    lane: LaneHandle<Tap>,
    states: Vec<Arc<DiskState>>,
    progress: Arc<ResyncProgress>,
    seen: Arc<ShipperSeen>,
    first: bool,
    pace: Pace,
}

impl Answers {
    /// For a group that is served.
    #[must_use]
    pub fn new(config: &Config, ring: &Ring, epoch: Epoch, serving: &Serving, seen: &Arc<ShipperSeen>) -> Self {
        let state = SourceState::new(&config.state_dir);
        let noted = state.epoch().ok().flatten();
        Self(Arc::new(Inner {
            config: config.clone(),
            ring: ring.clone(),
            epoch,
            engine: serving.server.engine(0),
            lane: serving.server.lane(0),
            states: serving.states.clone(),
            progress: Arc::clone(&serving.progress),
            seen: Arc::clone(seen),
            first: noted.is_some_and(|n| n.reason == Reason::FirstStart),
            pace: Pace::begin(state, epoch),
        }))
    }

    /// Answers one question.
    #[must_use]
    pub fn answer(&self, ask: Ask) -> Reply {
        match ask {
            Ask::Status => Reply::Status(self.status()),
            Ask::Mark { name } if ended_request(&name).is_some() => Reply::Refused {
                why: format!(
                    "{name} would end a comparison with the target; choose a name that is not {MARK_PREFIX} and a number"
                ),
            },
            Ask::Mark { name } => match self.mark(&name) {
                Ok(seq) => Reply::Marked(Marked { name, epoch: self.0.epoch.0, seq: seq.0 }),
                Err(why) => Reply::Refused { why },
            },
        }
    }

    /// Puts a mark.
    ///
    /// # Errors
    /// Why it cannot be put now, in words.
    pub fn mark(&self, name: &str) -> Result<Seq, String> {
        if self.0.progress.status().in_progress {
            return Err("a resync is in progress, so no position is consistent yet; try again when `farshore status` says protected".into());
        }
        for _ in 0..MARK_TRIES {
            let wanted = name.to_owned();
            let put = self.0.lane.run(move |access| access.devices[0].mark(&wanted)).map_err(|e| e.to_string())?;
            match put {
                // Another lane may have put an `overflow` or a `resync begin` before it.
                Ok(_) if self.0.progress.status().in_progress => {
                    return Err("a resync began meanwhile, so the mark names no consistent position; try again when it has ended".into());
                }
                Ok(seq) => return Ok(seq),
                Err(MarkError::Full) => clock::sleep(MARK_PAUSE),
                Err(e @ (MarkError::Name | MarkError::Fenced)) => return Err(e.to_string()),
            }
        }
        Err(MarkError::Full.to_string())
    }

    /// How the agent is.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let Inner { config, ring, epoch, engine, states, progress, seen, first, pace, .. } = &*self.0;
        let disks: Vec<_> = states.iter().map(|s| s.read()).collect();
        let resync = progress.status();
        let left_seconds = resync.left_bytes.checked_div(resync.bytes_per_second);
        let shipper = match ring.shipper_state() {
            ShipperState::Starting => "starting",
            ShipperState::Shipping => "shipping",
            ShipperState::VaultUnreachable => "vault unreachable",
            ShipperState::Fenced => "fenced",
            ShipperState::Stopped => "stopped by an error",
            ShipperState::SpoolFull => "spool full",
            ShipperState::SpoolFailed => "spool failed",
            ShipperState::SegmentLost => "a spooled segment is lost: `farshore resync --full` is needed",
        };
        // What the ring says is of the last one that ran.
        let missing = seen.is_missing() && shipper != "fenced";
        let shipper_stopped =
            missing || matches!(ring.shipper_state(), ShipperState::Stopped | ShipperState::SegmentLost);
        let state = if disks.iter().any(|d| d.sync_failed) {
            "disk failed"
        } else if shipper == "fenced" {
            "fenced"
        } else if shipper_stopped {
            "shipper stopped"
        } else if resync.phase == Phase::Overflow {
            "overflow"
        } else if resync.in_progress {
            if *first && !resync.ended_before { "initial replication" } else { "resync" }
        } else if disks.iter().any(|d| d.short_of_room) {
            "throttled"
        } else {
            "protected"
        };
        AgentStatus {
            group: config.group.to_string(),
            epoch: epoch.0,
            state: state.to_owned(),
            engine: (*engine).to_owned(),
            last_seq: ring.next_seq().0.saturating_sub(1),
            read_seq: ring.read_seq().0,
            confirmed_seq: ring.confirmed_seq().0,
            shipper: if missing { format!("not there: {}", start_it(&config.group)) } else { shipper.to_owned() },
            shipper_pid: seen.pid(),
            shipper_seen_seconds: clock::wall().since(ring.shipper_seen()).as_secs_f64(),
            spool_bytes: ring.spool_bytes(),
            resync_left_bytes: resync.left_bytes,
            resync_bytes_per_second: resync.bytes_per_second,
            resync_seconds_left: left_seconds.filter(|_| resync.in_progress),
            overflows: resync.overflows,
            month: month(config, pace).map(Box::new),
            disks: config
                .disks
                .iter()
                .zip(ring.spec().disks.iter().zip(&disks))
                .map(|(disk, (entry, state))| DiskStatus {
                    name: disk.name.to_string(),
                    source: disk.source.display().to_string(),
                    size_bytes: entry.size_bytes,
                    uri: uri(&disk.listen, config.listen_access.tls.is_some(), disk.name.as_str()),
                    lost_bytes: state.lost_bytes,
                    open_regions: state.open_regions,
                    unreadable_regions: state.unreadable_regions,
                    unlogged_changes: state.unlogged_changes,
                })
                .collect(),
        }
    }
}

/// A month of the group at its pace, with a target as it is by default.
fn month(config: &Config, pace: &Pace) -> Option<MonthStatus> {
    let kept = pace.now()?;
    let how = Use {
        segment_bytes: config.segment_bytes,
        max_delay: config.max_delay,
        heartbeat: config.heartbeat,
        ..Use::usual(0.0)
    };
    let (source, target) = how.at_pace(kept.segments);
    let (source, target) = (source.a_month(), target.a_month());
    let Requests { puts, gets, lists, deletes } = source.and(target);
    let prices = Prices::of_store(&config.vault);
    let dollars = |asked| prices.map_or(0.0, |prices| prices.of(asked));
    Some(MonthStatus {
        over_seconds: kept.over.as_secs_f64(),
        puts,
        gets,
        lists,
        deletes,
        prices: prices.map(|prices| prices.name.to_owned()),
        source_dollars: dollars(source),
        target_dollars: dollars(target),
    })
}
