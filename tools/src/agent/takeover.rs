//! What an agent makes of what it finds at its start: a pure decision, the table of ARCHITECTURE.md "Start of an agent".

use farshore_vault::Reason;

/// What was noted durably about the group's current epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// The vault has confirmed that the epoch is ours.
    pub opened: bool,
    /// The last agent ended in order, with everything it had logged in the vault.
    pub clean: bool,
    /// Why the epoch was begun.
    pub reason: Reason,
}

/// What lies where the ring should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundRing {
    /// A ring of this boot, of this group, its noted epoch, and of just these disks.
    Fits,
    /// No ring, or one of another boot.
    Absent,
    /// A ring that cannot be used: damaged, of other disks, or of another epoch or layout.
    Useless,
}

/// Which epoch the agent works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochChoice {
    /// The ring's: its slots are settled and the log goes on.
    Continue,
    /// The noted one from its beginning: nothing of it has reached the vault.
    Begin,
    /// The one after the noted.
    Next,
}

/// Which regions are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Those that the dirty maps say.
    AsNoted,
    /// All of them.
    All,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The epoch.
    pub epoch: EpochChoice,
    /// The lost regions.
    pub lost: Lost,
    /// Holes need not be copied: the image is created empty for this epoch.
    pub skip_holes: bool,
}

/// Decides.
#[must_use]
pub fn decide(noted: Noted, ring: FoundRing) -> Start {
    let epoch = match (ring, noted.opened) {
        (FoundRing::Fits, _) => EpochChoice::Continue,
        (FoundRing::Absent | FoundRing::Useless, false) => EpochChoice::Begin,
        (FoundRing::Absent | FoundRing::Useless, true) => EpochChoice::Next,
    };
    let lost = match (ring, noted.clean) {
        // Nothing of the log is missing: it is in the ring, or was all in the vault when the agent ended.
        (FoundRing::Fits, _) | (FoundRing::Absent, true) => Lost::AsNoted,
        (FoundRing::Absent, false) | (FoundRing::Useless, _) => Lost::All,
    };
    // The images are empty only while nothing of the first epoch has been shipped.
    let skip_holes = noted.reason == Reason::FirstStart && epoch == EpochChoice::Begin;
    Start { epoch, lost, skip_holes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_answer() {
        use EpochChoice::{Begin, Continue, Next};
        use FoundRing::{Absent, Fits, Useless};
        use Lost::{All, AsNoted};
        let table = [
            // opened, clean, ring     -> epoch, lost
            (false, false, Fits, Continue, AsNoted),
            (false, false, Absent, Begin, All),
            (false, false, Useless, Begin, All),
            (false, true, Fits, Continue, AsNoted),
            (false, true, Absent, Begin, AsNoted),
            (false, true, Useless, Begin, All),
            (true, false, Fits, Continue, AsNoted),
            (true, false, Absent, Next, All),
            (true, false, Useless, Next, All),
            (true, true, Fits, Continue, AsNoted),
            (true, true, Absent, Next, AsNoted),
            (true, true, Useless, Next, All),
        ];
        for (opened, clean, ring, epoch, lost) in table {
            for reason in [Reason::FirstStart, Reason::RingLost] {
                let start = decide(Noted { opened, clean, reason }, ring);
                let skip_holes = reason == Reason::FirstStart && epoch == Begin;
                assert_eq!(start, Start { epoch, lost, skip_holes }, "{opened} {clean} {ring:?} {reason:?}");
            }
        }
    }
}
