//! How processes and hosts end in a world.

use crate::kernel::drop_as_dead;
use crate::medium::{Death, Died, Host, Process};
use crate::source::Agent;
use crate::source::ShipperProcess;
use crate::target::ProcessorProcess;
use crate::world::{World, Wrong};

impl World {
    /// A process ended at something that it did. What it consists of comes along where the world does not have it just now.
    pub fn died(
        &mut self,
        died: Died,
        shipper: Option<ShipperProcess>,
        processor: Option<ProcessorProcess>,
        agent: Option<Agent>,
    ) -> Result<(), Wrong> {
        self.shipper = shipper.or(self.shipper.take());
        self.processor = processor.or(self.processor.take());
        self.agent = agent.or(self.agent.take());
        match (died.death, died.process) {
            (Death::Kill, Process::Agent) => self.kill_agent(),
            (Death::Kill, Process::Shipper) => self.kill_shipper(),
            (Death::Kill, Process::Processor) => self.kill_processor(),
            (Death::PowerCut, Process::Agent | Process::Shipper) => return self.cut_source(),
            (Death::PowerCut, Process::Processor) => self.cut_target(),
            (_, Process::Observer) => return Err("the simulation itself ended".to_owned()),
        }
        Ok(())
    }

    pub fn kill_agent(&mut self) {
        self.note(format_args!("the agent dies"));
        drop_as_dead((self.agent.take(), self.guests.agent_gone()));
        self.kernel.killed();
        self.agent_starts = Some(self.now() + self.rng.micros(1_000, 1_500_000));
        // Its shipper learns of it, and drains; or it was killed with it.
        if self.rng.one_in(2) {
            self.kill_shipper();
        } else if let Some(shipper) = &mut self.shipper {
            shipper.stopping = true;
        }
    }

    pub fn kill_shipper(&mut self) {
        if let Some(shipper) = self.shipper.take() {
            self.note(format_args!("the shipper dies"));
            drop_as_dead(shipper);
            self.shipper_starts = Some(self.now() + self.rng.micros(1_000, 800_000));
        }
    }

    pub fn kill_processor(&mut self) {
        if let Some(processor) = self.processor.take() {
            self.note(format_args!("the processor dies"));
            drop_as_dead(processor);
        }
        self.processor_starts = Some(self.now() + self.rng.micros(1_000, 1_500_000));
        self.caught_up = false;
    }

    pub fn cut_source(&mut self) -> Result<(), Wrong> {
        drop_as_dead((self.agent.take(), self.shipper.take(), self.guests.agent_gone()));
        self.medium.disarm();
        self.kernel.power_lost();
        self.clock.boots();
        for entry in std::fs::read_dir(&self.config.ring_dir).expect("the ring's folder is there") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("a ring can be removed");
        }
        self.medium.cut(Host::Source).map_err(|e| format!("the simulated power cut failed: {e}"))?;
        self.guests.lost(&mut self.history);
        self.history.power_cut(&self.disks())?;
        self.agent_starts = Some(self.now() + self.rng.micros(100_000, 5_000_000));
        self.shipper_starts = None;
        Ok(())
    }

    pub fn cut_target(&mut self) {
        drop_as_dead(self.processor.take());
        self.medium.disarm();
        self.medium.cut(Host::Target).expect("the simulated power cut works");
        self.processor_starts = Some(self.now() + self.rng.micros(100_000, 5_000_000));
        self.caught_up = false;
    }
}
