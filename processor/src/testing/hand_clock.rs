//! A clock that goes on only when a test says so, under the thread that it is put under.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use farshore_changelog::clock::{self, Time};
use farshore_changelog::units::UnixMicros;

pub struct HandClock {
    wall: UnixMicros,
    begun: Instant,
    past: Cell<Duration>,
    nonces: Cell<u8>,
}

impl HandClock {
    /// At what the real clock says.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { wall: clock::wall(), begun: clock::mono(), past: Cell::default(), nonces: Cell::default() })
    }
}

impl Time for HandClock {
    fn wall(&self) -> UnixMicros {
        self.wall.plus(self.past.get())
    }

    fn mono(&self) -> Instant {
        self.begun + self.past.get()
    }

    fn sleep(&self, time: Duration) {
        self.past.set(self.past.get() + time);
    }

    fn nonce(&self) -> [u8; 16] {
        self.nonces.set(self.nonces.get().wrapping_add(1));
        [self.nonces.get(); 16]
    }
}
