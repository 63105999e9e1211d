//! What the target asks of this source (`to-source/` of the vault, fetched by the shipper into the state folder): carried out
//! by the agent, one request after the other, and noted as done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use farshore_capture::lane::LaneHandle;
use farshore_capture::tap::{DiskState, Tap};
use farshore_changelog::clock;
use farshore_changelog::ring::{Ring, ShipperState};
use farshore_changelog::units::ByteRange;
use farshore_processor::compare::digests::MARK_PREFIX;
use farshore_shipper::{SourceState, requests};
use farshore_vault::{EpochObject, Request};

use super::answer::Answers;
use super::look::{Question, look};
use super::serve::Serving;
use crate::config::Config;

/// How often the folder of requests is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon a request that could not be carried out is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How soon after a next epoch could not be begun, for which the exports paused.
pub const FAILED_RETRY_AFTER: Duration = Duration::from_secs(600);
/// How long the vault may take to answer before a new epoch is begun.
const VAULT_MAX: Duration = Duration::from_secs(10);

/// The next epoch is wanted: whoever serves the group ends, and begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextEpoch {
    /// The request that wants it.
    pub request: u64,
    /// Every disk is copied again; else what is open or lost.
    pub full: bool,
}

/// A disk and its way to be asked.
struct Disk {
    lane: LaneHandle<Tap>,
    /// Its place among the lane's devices.
    device: usize,
    size_bytes: u64,
    state: Arc<DiskState>,
}

/// Carries requests out.
pub struct Asked {
    config: Config,
    ring: Ring,
    answers: Answers,
    /// In index order.
    disks: Vec<Disk>,
    /// The request whose digests are being logged.
    digests: Option<u64>,
    /// The resync whose ranges are lost, with the commits of each disk's dirty map that say so.
    ranges: Option<(u64, Vec<u64>)>,
    /// When the folder is looked at next.
    look_at: Instant,
}

impl Asked {
    /// For a group that is served; `first_look`: how long requests wait at first.
    #[must_use]
    pub fn new(config: &Config, ring: &Ring, serving: &Serving, answers: &Answers, first_look: Duration) -> Self {
        let lanes = ring.spec().lanes as usize;
        let disk = |(place, (state, entry)): (usize, (&Arc<DiskState>, &farshore_changelog::ring::DiskEntry))| Disk {
            lane: serving.server.lane(place % lanes),
            device: place / lanes,
            size_bytes: entry.size_bytes,
            state: Arc::clone(state),
        };
        Self {
            config: config.clone(),
            ring: ring.clone(),
            answers: answers.clone(),
            disks: serving.states.iter().zip(&ring.spec().disks).enumerate().map(disk).collect(),
            digests: None,
            ranges: None,
            look_at: clock::mono() + first_look,
        }
    }

    /// Looks for requests, about once a second, and goes on with the one that is under way.
    ///
    /// # Errors
    /// When the folder of requests cannot be read, or a lane has stopped.
    pub fn look(&mut self) -> Result<Option<NextEpoch>> {
        let now = clock::mono();
        if now < self.look_at {
            return Ok(None);
        }
        // An error waits longer.
        self.look_at = now + RETRY_AFTER;
        let next = self.carry_out()?;
        self.look_at = now + LOOK_EVERY;
        Ok(next)
    }

    fn carry_out(&mut self) -> Result<Option<NextEpoch>> {
        if let Some((n, commits)) = self.ranges.take() {
            return self.finish_ranges(n, commits);
        }
        let mut pending = requests::pending(&self.config.state_dir)?;
        if let Some(n) = self.digests {
            // Whoever asks for a resync needs no comparison any more, and it may be what the comparison waits for.
            pending.retain(|(m, request)| *m > n && matches!(request, Request::Resync { .. }));
            if pending.is_empty() {
                return self.finish_digests(n).map(|()| None);
            }
            self.digests = None;
        }
        let Some((n, request)) = pending.into_iter().next() else { return Ok(None) };
        if self.ring.shipper_state() == ShipperState::Fenced {
            tracing::warn!(group = %self.config.group, request = n, "another site has the group: what was asked of this one is passed over");
            requests::set_done(&self.config.state_dir, n)?;
            return Ok(None);
        }
        tracing::info!(group = %self.config.group, request = n, ?request, "the target asks");
        match request {
            Request::Resync { full: true, .. } => {
                // The epoch is chosen by what the vault holds: nobody's disk is to pause for nothing.
                let question = Question { epoch: true, requests_from: None };
                let newest = look(&self.config, question, VAULT_MAX)?.epoch;
                let ours = SourceState::new(&self.config.state_dir).epoch()?.map(|noted| (noted.epoch, noted.nonce));
                let anothers = |there: EpochObject| {
                    ours.is_none_or(|(epoch, nonce)| {
                        there.epoch > epoch || (there.epoch == epoch && there.nonce != nonce)
                    })
                };
                if newest.is_some_and(anothers) {
                    // A failover that this source has not learned of yet: it must not take the group back.
                    tracing::warn!(group = %self.config.group, request = n, "the vault's newest epoch is not this source's: a resync that was asked for is passed over");
                    requests::set_done(&self.config.state_dir, n)?;
                    return Ok(None);
                }
                return Ok(Some(NextEpoch { request: n, full: true }));
            }
            Request::Resync { full: false, ranges } => {
                let mut commits = Vec::with_capacity(self.disks.len());
                for (index, disk) in self.disks.iter().enumerate() {
                    let wanted = ranges.iter().filter(|range| usize::from(range.disk.0) == index);
                    let mut wanted: Vec<ByteRange> = wanted.filter_map(|range| range.bytes()).collect();
                    if ranges.is_empty() {
                        wanted = vec![ByteRange { start: 0, end: disk.size_bytes }];
                    }
                    let (device, only_open) = (disk.device, ranges.is_empty());
                    commits.push(disk.lane.run(move |access| {
                        access.devices[device].copy_again(access.engine, access.finished, &wanted, only_open)
                    })?);
                }
                return self.finish_ranges(n, commits);
            }
            Request::Digests => {
                for disk in &self.disks {
                    let device = disk.device;
                    disk.lane.run(move |access| access.devices[device].begin_digests())?;
                }
                self.digests = Some(n);
                return Ok(None);
            }
            Request::Drain => {
                tracing::warn!(group = %self.config.group, "a planned failover is asked for, which this farshore does not know: the request is passed over");
            }
        }
        requests::set_done(&self.config.state_dir, n)?;
        Ok(None)
    }

    /// Ends a resync of ranges once the dirty maps say durably that they are lost: a request that counts as done is not asked again.
    fn finish_ranges(&mut self, n: u64, commits: Vec<u64>) -> Result<Option<NextEpoch>> {
        for (disk, commit) in self.disks.iter().zip(&commits) {
            let (device, commit) = (disk.device, *commit);
            if !disk.lane.run(move |access| access.devices[device].has_committed(commit))? {
                self.ranges = Some((n, commits));
                return Ok(None);
            }
        }
        if self.ring.shipper_state() == ShipperState::Stopped {
            // Nobody reads the ring any more: what it holds is lost with it, and its regions are open.
            return Ok(Some(NextEpoch { request: n, full: false }));
        }
        requests::set_done(&self.config.state_dir, n)?;
        Ok(None)
    }

    /// Puts the mark that ends a run of digests, once all are in the log. Until it is there the request counts as not done, so
    /// a process that starts anew runs it again.
    fn finish_digests(&mut self, n: u64) -> Result<()> {
        if self.disks.iter().any(|disk| disk.state.read().digests_left > 0) {
            return Ok(());
        }
        match self.answers.mark(&format!("{MARK_PREFIX}{n}")) {
            Ok(_) => {
                requests::set_done(&self.config.state_dir, n)?;
                self.digests = None;
            }
            Err(why) => tracing::debug!("the mark {MARK_PREFIX}{n} waits: {why}"),
        }
        Ok(())
    }
}
