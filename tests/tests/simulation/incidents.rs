//! What befalls a world while its guests work.

use std::time::Duration;

use nix::errno::Errno;

use crate::kernel::DiskFaults;
use crate::medium::{Bad, Death, Process};
use crate::plan::Incident;
use crate::store::Side;
use crate::world::{Later, World, Wrong};

impl World {
    /// The next incident, when it is due.
    pub fn incident(&mut self) -> Result<(), Wrong> {
        if self.now() < self.next_incident {
            return Ok(());
        }
        let mean = self.plan.incident_every.as_micros() as u64;
        self.next_incident = self.now() + self.rng.micros(mean / 4, mean * 2);
        // Somebody looks at the status now and then, and starts an agent anew that believes its disk no more.
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.distrusted() && !agent.is_stopping())
            && self.rng.one_in(3)
        {
            agent.stop();
        }
        let kinds = self.plan.incidents.clone();
        let incident = self.rng.pick(&kinds);
        self.befall(incident)
    }

    /// What befalls the world last.
    pub fn last_incident(&mut self) -> Result<(), Wrong> {
        let Some(incident) = self.plan.last else { return Ok(()) };
        self.befall(incident)?;
        // Only then is anything put right.
        while self.later.iter().any(|(_, later)| *later == Later::PowerFails) {
            self.step()?;
        }
        Ok(())
    }

    fn befall(&mut self, incident: Incident) -> Result<(), Wrong> {
        self.note(format_args!("incident: {incident:?}"));
        let operations = self.rng.between(1, 40);
        match incident {
            Incident::KillAgent if self.agent.is_some() => self.kill_agent(),
            Incident::KillAgent => {}
            Incident::KillShipper => self.kill_shipper(),
            Incident::KillProcessor => self.kill_processor(),
            Incident::KillAgentAtFile => self.medium.arm(Process::Agent, operations, Death::Kill),
            Incident::KillShipperAtFile => self.medium.arm(Process::Shipper, operations, Death::Kill),
            Incident::KillProcessorAtFile => self.medium.arm(Process::Processor, operations, Death::Kill),
            Incident::KillProcessorAtRequest => self.store.kill_processor_after(Some(operations)),
            Incident::SourcePower => return self.cut_source(),
            Incident::TargetPower => self.cut_target(),
            Incident::SourcePowerAtFile => {
                let process = self.rng.pick(&[Process::Agent, Process::Shipper]);
                self.medium.arm(process, operations, Death::PowerCut);
            }
            Incident::TargetPowerAtFile => self.medium.arm(Process::Processor, operations, Death::PowerCut),
            Incident::StopAgent => {
                if let Some(agent) = &mut self.agent {
                    agent.stop();
                }
            }
            Incident::SourceAway => self.away(Side::Source, 100_000, 4_000_000),
            Incident::TargetAway => self.away(Side::Target, 100_000, 4_000_000),
            Incident::LongOutage => self.away(Side::Source, 5_000_000, 120_000_000),
            Incident::ClockJump => {
                let seconds = self.rng.pick(&[-86_400, -3_600, -1, 1, 3_600, 31_536_000]);
                self.clock.set_wall_by(seconds);
            }
            Incident::SpoolBad => self.bad("source/state/spool", 4),
            Incident::StateBad => self.bad("source/state", 6),
            Incident::TargetBad => self.bad("target", 6),
            Incident::DisksBad => {
                let faults = DiskFaults { write_fails_after: 4, read_fails: 4, ..self.plan.disk_faults };
                self.kernel.set_faults(faults);
                let until = self.now() + self.rng.micros(50_000, 800_000);
                self.later.push((until, Later::Disks));
            }
            Incident::DiskSyncsBad => {
                self.kernel.set_faults(DiskFaults { sync_fails: 2, ..self.plan.disk_faults });
                let until = self.now() + self.rng.micros(50_000, 800_000);
                self.later.push((until, Later::Disks));
            }
            Incident::Mark => self.mark(),
            Incident::VmsLost => {
                if self.agent.is_some() {
                    self.kill_agent();
                }
                self.guests.lost(&mut self.history);
            }
            Incident::Rest => {
                let _until = self.rest();
            }
            Incident::RestThenPower => {
                let until = self.rest();
                self.later.push((until, Later::PowerFails));
            }
            Incident::RingLost => {
                // Somebody removes it, or it is damaged; a running agent has it open.
                let path = farshore_changelog::ring::path_in(&self.config.ring_dir, &self.group);
                let _absent_is_fine = std::fs::remove_file(path);
                if self.agent.is_some() {
                    self.kill_agent();
                }
            }
        }
        Ok(())
    }

    /// The guests rest, as long as it takes to ship what they wrote and to close its regions, or not quite.
    fn rest(&mut self) -> Duration {
        let until = self.now() + self.rng.micros(100_000, 8_000_000);
        self.guests.rest(until);
        self.next_incident = self.next_incident.max(until);
        until
    }

    fn away(&mut self, side: Side, low_micros: u64, high_micros: u64) {
        self.store.set_away(side, true);
        let until = self.now() + self.rng.micros(low_micros, high_micros);
        self.later.push((until, Later::Network(side)));
    }

    /// Storage below a folder fails now and then, or wholly, for a while.
    fn bad(&mut self, below: &str, one_in: u64) {
        let below = self.source().parent().expect("a world has a folder").join(below);
        let bad = Bad {
            below,
            one_in: if self.rng.one_in(3) { 1 } else { one_in },
            errno: self.rng.pick(&[Errno::EIO, Errno::ENOSPC, Errno::EROFS]),
            syncs: self.rng.one_in(3),
        };
        self.note(format_args!("  {bad:?}", bad = (bad.one_in, bad.errno, bad.syncs)));
        self.medium.set_bad(vec![bad]);
        let until = self.now() + self.rng.micros(100_000, 3_000_000);
        self.later.push((until, Later::Storage));
    }

    fn mark(&mut self) {
        let Some(agent) = self.agent.as_mut().filter(|agent| !agent.is_stopping()) else { return };
        self.marks += 1;
        let (name, at) = (format!("mark-{}", self.marks), self.history.now());
        let put = agent.mark(&name);
        self.note(format_args!("  {name} is put: {put}"));
        if put {
            self.oracle.marked(&name, at + 1);
        }
        let soon = Duration::from_micros(1);
        self.guests.due = self.guests.due.min(self.now() + soon);
    }
}
