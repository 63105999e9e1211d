//! The simulated clocks. Monotonic time moves when the world says so, or when a stage sleeps; the wall clock is apart from it and
//! can be set.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::units::UnixMicros;

use crate::rng::Rng;

/// The wall clock when a world begins: 2026-01-01.
const WALL_MICROS: i64 = 1_767_225_600_000_000;

/// What goes on while a stage sleeps.
type Meanwhile = Box<dyn Fn()>;

/// The time of one world.
pub struct Clock {
    begin: Instant,
    now: Cell<Duration>,
    /// Added to the wall clock, in microseconds.
    set_by: Cell<i64>,
    nonces: RefCell<Rng>,
    boots: Cell<u8>,
    meanwhile: RefCell<Option<Meanwhile>>,
}

impl Clock {
    pub fn new(seed: u64) -> Self {
        Self {
            begin: clock::mono(),
            now: Cell::new(Duration::ZERO),
            set_by: Cell::new(0),
            nonces: RefCell::new(Rng::new(seed, 1)),
            boots: Cell::new(0),
            meanwhile: RefCell::new(None),
        }
    }

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    /// Goes on to `to`; a time that is past changes nothing.
    pub fn go_to(&self, to: Duration) {
        self.now.set(self.now.get().max(to));
    }

    /// Sets the wall clock by so many seconds, forwards or back.
    pub fn set_wall_by(&self, seconds: i64) {
        self.set_by.set(self.set_by.get() + seconds * 1_000_000);
    }

    /// The source's host boots.
    pub fn boots(&self) {
        self.boots.set(self.boots.get().wrapping_add(1));
    }

    /// What is done whenever a stage sleeps: the kernel goes on.
    pub fn while_sleeping(&self, meanwhile: impl Fn() + 'static) {
        *self.meanwhile.borrow_mut() = Some(Box::new(meanwhile));
    }

    /// Breaks the circle of references.
    pub fn forget_meanwhile(&self) {
        *self.meanwhile.borrow_mut() = None;
    }
}

impl clock::Time for Clock {
    fn wall(&self) -> UnixMicros {
        let micros = WALL_MICROS + self.now.get().as_micros() as i64 + self.set_by.get();
        UnixMicros(micros.max(1) as u64)
    }

    fn mono(&self) -> Instant {
        self.begin + self.now.get()
    }

    fn sleep(&self, time: Duration) {
        self.go_to(self.now.get() + time);
        if let Some(meanwhile) = &*self.meanwhile.borrow() {
            meanwhile();
        }
    }

    fn nonce(&self) -> [u8; 16] {
        let mut rng = self.nonces.borrow_mut();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&rng.next().to_le_bytes());
        bytes[8..].copy_from_slice(&rng.next().to_le_bytes());
        bytes
    }

    fn boot(&self) -> Option<[u8; 16]> {
        Some([self.boots.get(); 16])
    }
}
