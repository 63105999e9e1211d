//! How long is waited after which error of the vault. The vault's own words decide: one that does not answer may be back at any moment, one
//! that asks for less is to be left alone for longer, and what it refuses is mended by a person.

use std::time::Duration;

use farshore_vault::VaultError;
use farshore_vault::retry::Backoff;

/// First and longest wait after the vault did not answer: how late, at most, the end of an outage is noticed.
const UNREACHABLE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// After it asked for fewer requests.
const THROTTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After it refused, or its bucket was not there: whoever gives a right back waits so long at most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The waits between the attempts of one operation. They double, and are cut at random (see [`Backoff`]); another kind of error begins anew.
#[derive(Debug)]
pub(crate) struct Waits {
    of: (Duration, Duration),
    backoff: Backoff,
}

impl Waits {
    pub(crate) fn new() -> Self {
        Self { of: UNREACHABLE, backoff: Backoff::new(UNREACHABLE.0, UNREACHABLE.1) }
    }

    /// The wait after `error`.
    pub(crate) fn after(&mut self, error: &VaultError) -> Duration {
        let of = match error {
            VaultError::Throttled { .. } => THROTTLED,
            VaultError::Refused { .. } | VaultError::Gone { .. } => REFUSED,
            _ => UNREACHABLE,
        };
        if of != self.of {
            *self = Self { of, backoff: Backoff::new(of.0, of.1) };
        }
        self.backoff.next_wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_waits_of_its_own_which_grow_up_to_a_limit() {
        type Make = fn() -> VaultError;
        let kinds: [(Make, (Duration, Duration)); 4] = [
            (|| VaultError::Unreachable { what: String::new(), source: "".into() }, UNREACHABLE),
            (|| VaultError::Throttled { what: String::new(), source: "".into() }, THROTTLED),
            (|| VaultError::Refused { what: String::new(), source: "".into() }, REFUSED),
            (|| VaultError::Gone { what: String::new(), source: "".into() }, REFUSED),
        ];
        let mut waits = Waits::new();
        for (make, (first, longest)) in kinds {
            let first_wait = waits.after(&make());
            assert!(first_wait >= first / 2 && first_wait <= longest, "{first_wait:?}");
            let grown = (0..10).map(|_| waits.after(&make())).last().unwrap();
            assert!(grown >= longest / 2 && grown <= longest, "{grown:?}");
        }
        assert!(waits.after(&kinds[0].0()) <= UNREACHABLE.0, "another kind of error begins anew");
    }
}
