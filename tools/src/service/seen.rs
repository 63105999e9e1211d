//! What the agent knows of whoever ships for it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Its process, as it was seen last.
#[derive(Debug, Default)]
pub struct ShipperSeen {
    pid: AtomicU32,
    missing: AtomicBool,
}

impl ShipperSeen {
    /// The process with this id ships, or has it done; 0: none does now, and one is about to.
    pub fn by(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        if pid != 0 {
            self.missing.store(false, Ordering::Relaxed);
        }
    }

    /// None does, until somebody starts the service.
    pub fn missing(&self) {
        self.missing.store(true, Ordering::Relaxed);
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Whether somebody must start the service.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Relaxed)
    }
}
