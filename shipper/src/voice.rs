//! What the shipper says of itself in the ring's header: one word made of what its halves know, and lines in its log when that
//! changes.

use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_changelog::ring::{Ring, ShipperState};
use farshore_vault::VaultError;

use crate::error::{ShipError, chain};

/// What keeps the spool, or the notes beside it, from being used. It is waited out: nobody need restart anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// There is no room.
    Full,
    /// The disk does not do what it is told.
    Failed,
    /// A sealed segment is missing or damaged.
    SegmentLost,
}

impl Trouble {
    /// What an error of the spool or the notes means; `None` for one that waiting does not mend.
    #[must_use]
    pub fn of(error: &ShipError) -> Option<Self> {
        match error {
            ShipError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Self::Full),
                _ => Some(Self::Failed),
            },
            ShipError::Spool { .. } | ShipError::SpoolLost { .. } => Some(Self::SegmentLost),
            ShipError::Config { .. }
            | ShipError::Locked { .. }
            | ShipError::Ring(_)
            | ShipError::Vault(_)
            | ShipError::State { .. }
            | ShipError::OtherRing { .. }
            | ShipError::Seal { .. }
            | ShipError::Conflict { .. } => None,
        }
    }
}

/// Who asks the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// The uploads.
    Uploads,
    /// The looks at what the target has put.
    Looks,
}

/// Who uses the spool and the notes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The one that fills the spool.
    Filler,
    /// The one that empties it.
    Uploader,
}

/// What is known.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    fenced: bool,
    /// The vault has answered once.
    reached: bool,
    /// Whether it leaves each [`Asking`] without an answer.
    unanswered: [bool; 2],
    /// Whether that is a refusal, which somebody has to do something about.
    refused: bool,
    /// What troubles each [`Half`].
    trouble: [Option<Trouble>; 2],
}

impl Known {
    /// The one word, the worst first.
    fn word(&self) -> ShipperState {
        if self.fenced {
            return ShipperState::Fenced;
        }
        match self.trouble.iter().flatten().max() {
            Some(Trouble::SegmentLost) => ShipperState::SegmentLost,
            Some(Trouble::Failed) => ShipperState::SpoolFailed,
            Some(Trouble::Full) => ShipperState::SpoolFull,
            None if self.unanswered.contains(&true) => ShipperState::VaultUnreachable,
            None if self.reached => ShipperState::Shipping,
            None => ShipperState::Starting,
        }
    }
}

/// Whether the store said that it will not, rather than nothing.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if matches!(error.downcast_ref(), Some(VaultError::Refused { .. } | VaultError::Gone { .. })) {
            return true;
        }
        at = error.source();
    }
    false
}

/// Speaks for a shipper.
#[derive(Debug)]
pub struct Voice {
    ring: Ring,
    known: Mutex<Known>,
}

impl Voice {
    /// Of the shipper of this ring.
    #[must_use]
    pub fn new(ring: Ring, fenced: bool) -> Self {
        let known = Known { fenced, ..Known::default() };
        ring.set_shipper_state(known.word());
        Self { ring, known: Mutex::new(known) }
    }

    /// Another writer has the group.
    pub fn fenced(&self) {
        self.say(|known| known.fenced = true);
    }

    /// The vault has answered `asking`.
    pub fn reached(&self, asking: Asking) {
        let was = self.say(|known| {
            known.reached = true;
            match asking {
                // The looks come back once a heartbeat only.
                Asking::Uploads => known.unanswered = [false; 2],
                // A vault may answer gets and take no puts.
                Asking::Looks => known.unanswered[Asking::Looks as usize] = false,
            }
        });
        if !was.reached || was.unanswered[asking as usize] {
            tracing::info!("the vault answers");
        }
    }

    /// The vault has not answered `asking`.
    pub fn unreachable(&self, asking: Asking, error: &(dyn Error + 'static)) {
        let refused = is_refusal(error);
        let was = self.say(|known| {
            known.unanswered[asking as usize] = true;
            known.refused = refused;
        });
        // What began as an outage may go on as a refusal, such as of keys that were replaced meanwhile.
        if was.unanswered.contains(&true) && (was.refused || !refused) {
            tracing::debug!("{}", chain(error));
        } else {
            tracing::warn!("{}; segments stay in the spool until it answers", chain(error));
        }
    }

    /// Whether the vault did not answer when it was asked last.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.known().unanswered.contains(&true)
    }

    /// The spool or the notes cannot be used by `half`; nothing is lost by that, as the ring, or the spool, keeps what they were for.
    pub fn trouble(&self, half: Half, trouble: Trouble, error: &dyn Error) {
        let was = self.say(|known| known.trouble[half as usize] = Some(trouble));
        if was.trouble[half as usize] == Some(trouble) {
            tracing::debug!("{}", chain(error));
        } else {
            tracing::error!("{}; it is tried again", chain(error));
        }
    }

    /// `half` can use spool and notes.
    pub fn well(&self, half: Half) {
        let was = self.say(|known| known.trouble[half as usize] = None);
        if was.trouble[half as usize].is_some() {
            tracing::info!("the spool can be used");
        }
    }

    /// The shipper ends. A fence is for good: were another state said, capture would log again, into a ring that nobody empties.
    pub fn leave(&self, failed: bool) {
        if !self.known().fenced {
            self.ring.set_shipper_state(if failed { ShipperState::Stopped } else { ShipperState::Starting });
        }
    }

    /// Changes what is known, says it, and gives what was known before.
    fn say(&self, change: impl FnOnce(&mut Known)) -> Known {
        let mut known = self.known();
        let was = *known;
        change(&mut known);
        if known.word() != was.word() {
            self.ring.set_shipper_state(known.word());
        }
        was
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_said() {
        use ShipperState as S;
        use Trouble as T;
        let known = |fenced, reached, unanswered, trouble| Known { fenced, reached, unanswered, trouble }.word();
        let no = [None; 2];
        assert_eq!(known(false, false, [false; 2], no), S::Starting);
        assert_eq!(known(false, true, [false; 2], no), S::Shipping);
        assert_eq!(known(false, true, [true, false], no), S::VaultUnreachable);
        assert_eq!(known(false, true, [false, true], no), S::VaultUnreachable);
        assert_eq!(known(false, true, [true; 2], [Some(T::Full), None]), S::SpoolFull);
        assert_eq!(known(false, true, [true; 2], [Some(T::Full), Some(T::Failed)]), S::SpoolFailed);
        assert_eq!(known(false, true, [false; 2], [Some(T::SegmentLost), Some(T::Full)]), S::SegmentLost);
        assert_eq!(known(true, true, [true; 2], [Some(T::SegmentLost), None]), S::Fenced);
    }
}
