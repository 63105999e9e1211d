//! The only place in which clocks, randomness and sleeps are read; `clippy.toml` bans them elsewhere, so that a whole
//! pipeline can be driven from one seed: a simulation puts its own [`Time`] under a thread.
#![allow(clippy::disallowed_methods)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::units::UnixMicros;

/// Time and randomness of a simulation.
pub trait Time {
    /// As [`wall`].
    fn wall(&self) -> UnixMicros;
    /// As [`mono`]; any starting point will do.
    fn mono(&self) -> Instant;
    /// As [`sleep`]: [`Time::mono`] has gone on by `time` afterwards.
    fn sleep(&self, time: Duration);
    /// As [`nonce`].
    fn nonce(&self) -> [u8; 16];
    /// As [`boot`].
    fn boot(&self) -> Option<[u8; 16]> {
        None
    }
}

thread_local! {
    static SIMULATED: RefCell<Option<Rc<dyn Time>>> = const { RefCell::new(None) };
}

/// While this lives, time is a simulation's on this thread.
#[must_use]
pub struct Simulation {
    /// It must be dropped where it was made.
    _thread: PhantomData<Rc<()>>,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        SIMULATED.with_borrow_mut(|time| *time = None);
    }
}

/// Puts `time` under this thread, and under no other. Only tests do this, and `house_rule.rs` of the tests holds them to it.
///
/// # Panics
/// When this thread has a simulated time already.
pub fn simulate(time: Rc<dyn Time>) -> Simulation {
    SIMULATED.with_borrow_mut(|here| {
        assert!(here.is_none(), "this thread has a simulated time already");
        *here = Some(time);
    });
    Simulation { _thread: PhantomData }
}

fn simulated() -> Option<Rc<dyn Time>> {
    SIMULATED.with_borrow(Clone::clone)
}

/// The wall clock now.
#[must_use]
pub fn wall() -> UnixMicros {
    if let Some(time) = simulated() {
        return time.wall();
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The monotonic clock now; for durations and deadlines.
#[must_use]
pub fn mono() -> Instant {
    simulated().map_or_else(Instant::now, |time| time.mono())
}

/// The boot that a simulated host is in; `None` where the kernel knows it.
#[must_use]
pub fn boot() -> Option<[u8; 16]> {
    simulated().and_then(|time| time.boot())
}

/// Blocks this thread for `time`.
pub fn sleep(time: Duration) {
    match simulated() {
        Some(simulated) => simulated.sleep(time),
        None => std::thread::sleep(time),
    }
}

/// Sixteen random bytes, for nonces and identities.
///
/// # Panics
/// When the kernel has no randomness to give, which Linux does not do once it has booted.
#[must_use]
pub fn nonce() -> [u8; 16] {
    use std::io::Read;
    if let Some(time) = simulated() {
        return time.nonce();
    }
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .expect("/dev/urandom gives sixteen bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Still {
        begin: Instant,
        past: Cell<Duration>,
    }

    impl Time for Still {
        fn wall(&self) -> UnixMicros {
            UnixMicros(7)
        }

        fn mono(&self) -> Instant {
            self.begin + self.past.get()
        }

        fn sleep(&self, time: Duration) {
            self.past.set(self.past.get() + time);
        }

        fn nonce(&self) -> [u8; 16] {
            [3; 16]
        }
    }

    #[test]
    fn a_simulated_time_is_this_threads_alone_and_ends_with_its_guard() {
        let begin = mono();
        {
            let _simulation = simulate(Rc::new(Still { begin, past: Cell::new(Duration::ZERO) }));
            sleep(Duration::from_secs(86_400));
            assert_eq!((wall(), mono() - begin, nonce()), (UnixMicros(7), Duration::from_secs(86_400), [3; 16]));
            std::thread::scope(|s| {
                s.spawn(|| assert!(wall() > UnixMicros(7) && mono() - begin < Duration::from_secs(3600)));
            });
        }
        assert!(wall() > UnixMicros(7));
        assert_ne!(nonce(), nonce());
    }
}
