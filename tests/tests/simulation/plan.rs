//! What a seed means: how the world is made, and what befalls it.

use std::time::Duration;

use crate::kernel::DiskFaults;
use crate::rng::Rng;
use crate::store::StoreFaults;

/// A world before it begins.
#[derive(Debug, Clone)]
pub struct Plan {
    pub disk_bytes: Vec<u64>,
    pub lanes: u32,
    pub ring_bytes: u64,
    pub segment_bytes: u64,
    pub spool_bytes: u64,
    /// How long a write waits for room in the ring before the group goes into overflow.
    pub full_wait: Duration,
    pub max_delay: Duration,
    pub heartbeat: Duration,
    /// How many points are kept; without it, and however old they are, all.
    pub keeps: Option<usize>,
    pub point_interval: Duration,
    /// How long the guests work.
    pub active: Duration,
    /// Requests of the guests in flight at most.
    pub depth: usize,
    /// Mean time between two requests, in microseconds.
    pub gap_micros: u64,
    /// Largest request, in cells.
    pub request_cells_max: u64,
    pub disk_faults: DiskFaults,
    pub store_faults: StoreFaults,
    /// The source's credentials may put what is new, and get the vault's object and what is there for it; nothing else.
    pub least_privilege: bool,
    /// Mean time between two incidents; zero: none.
    pub incident_every: Duration,
    pub incidents: Vec<Incident>,
    /// What befalls it last, just before it is healed.
    pub last: Option<Incident>,
    /// Bytes a second at most of a resync.
    pub resync_rate: Option<u64>,
    /// Uploads at once.
    pub uploads: usize,
    /// What is done once everything is healed.
    pub finale: Finale,
}

/// Something that befalls a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    KillAgent,
    KillShipper,
    KillProcessor,
    /// At one of its next operations on a file.
    KillAgentAtFile,
    KillShipperAtFile,
    KillProcessorAtFile,
    KillProcessorAtRequest,
    SourcePower,
    TargetPower,
    /// At one of the next operations on a file.
    SourcePowerAtFile,
    TargetPowerAtFile,
    StopAgent,
    SourceAway,
    TargetAway,
    LongOutage,
    ClockJump,
    SpoolBad,
    StateBad,
    TargetBad,
    DisksBad,
    /// For a while fsyncs of the disks fail.
    DiskSyncsBad,
    Mark,
    RingLost,
    /// The VMs die with their agent, and nobody asks again for what they had asked for.
    VmsLost,
    /// Nobody writes or flushes for a while.
    Rest,
    /// The same, and then the source loses power.
    RestThenPower,
}

/// The end of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finale {
    None,
    /// The target takes over while the source works on.
    Failover,
    /// A segment of the vault is spoiled.
    Damage(Spoiled),
}

/// What was done to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoiled {
    Flipped,
    Truncated,
    Gone,
    Swapped,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 6);
        // A tenth of the worlds is calm: what they find needs no fault.
        let calm = rng.one_in(10);
        let disks = rng.between(1, 3) as usize;
        let size = |rng: &mut Rng| 512 * rng.between(400, 3000);
        let disk_bytes: Vec<u64> = (0..disks).map(|_| size(&mut rng)).collect();
        let lanes = rng.between(1, disks as u64) as u32;
        let segment_bytes = rng.pick(&[64 << 10, 128 << 10, 512 << 10]);
        let faulty = |rng: &mut Rng, n: u64| if calm || rng.one_in(3) { 0 } else { n };
        let disk_faults = if calm || rng.one_in(2) {
            DiskFaults::default()
        } else {
            DiskFaults {
                write_fails_before: faulty(&mut rng, 150),
                write_fails_after: faulty(&mut rng, 150),
                write_short: faulty(&mut rng, 60),
                read_fails: faulty(&mut rng, 100),
                sync_fails: faulty(&mut rng, 400),
                hangs: faulty(&mut rng, 300),
            }
        };
        let store_faults = StoreFaults {
            fails_before: faulty(&mut rng, 12),
            answer_lost: faulty(&mut rng, 12),
            undecided: faulty(&mut rng, 15),
            body_breaks: faulty(&mut rng, 20),
            slow_micros: if calm { 0 } else { rng.pick(&[0, 20_000, 400_000, 3_000_000]) },
        };
        let all = [
            Incident::KillAgent,
            Incident::KillShipper,
            Incident::KillProcessor,
            Incident::KillAgentAtFile,
            Incident::KillShipperAtFile,
            Incident::KillProcessorAtFile,
            Incident::KillProcessorAtRequest,
            Incident::SourcePower,
            Incident::TargetPower,
            Incident::SourcePowerAtFile,
            Incident::TargetPowerAtFile,
            Incident::StopAgent,
            Incident::SourceAway,
            Incident::TargetAway,
            Incident::LongOutage,
            Incident::ClockJump,
            Incident::SpoolBad,
            Incident::StateBad,
            Incident::TargetBad,
            Incident::DisksBad,
            Incident::DiskSyncsBad,
            Incident::RingLost,
            Incident::VmsLost,
            Incident::Rest,
            Incident::RestThenPower,
        ];
        // Each world has a few kinds of incidents, and so enough of each to have them meet.
        let mut incidents = vec![Incident::Mark];
        if !calm {
            for _ in 0..rng.between(1, 6) {
                incidents.push(rng.pick(&all));
            }
        }
        let last = match rng.below(4) {
            _ if calm => None,
            0 => Some(Incident::RestThenPower),
            1 => Some(rng.pick(&[Incident::VmsLost, Incident::SourcePower])),
            _ => None,
        };
        let finale = match rng.below(8) {
            0 | 1 => Finale::Failover,
            2 => {
                let how = [Spoiled::Flipped, Spoiled::Truncated, Spoiled::Gone, Spoiled::Swapped];
                Finale::Damage(rng.pick(&how))
            }
            _ => Finale::None,
        };
        Self {
            disk_bytes,
            lanes,
            ring_bytes: 4 << 20,
            segment_bytes,
            spool_bytes: 4 * segment_bytes,
            full_wait: Duration::from_millis(rng.pick(&[5, 50, 2000])),
            max_delay: Duration::from_millis(rng.pick(&[10, 50, 300, 1000])),
            heartbeat: Duration::from_millis(rng.pick(&[300, 2000, 10_000])),
            keeps: rng.one_in(4).then(|| rng.between(2, 6) as usize),
            point_interval: Duration::from_millis(rng.pick(&[200, 1000, 5000])),
            active: Duration::from_millis(rng.pick(&[5_000, 10_000, 20_000])),
            depth: rng.between(1, 12) as usize,
            gap_micros: rng.pick(&[2_000, 8_000, 20_000]),
            request_cells_max: rng.pick(&[16, 200, 1500]),
            disk_faults,
            store_faults,
            least_privilege: rng.one_in(3),
            incident_every: Duration::from_millis(rng.pick(&[300, 1000, 2500])),
            incidents,
            last,
            resync_rate: rng.pick(&[None, None, Some(64 << 10), Some(512 << 10)]),
            uploads: rng.pick(&[1, 4, 4, 16]),
            finale,
        }
    }
}
