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
    /// Those that the dirty maps say are lost.
    AsNoted,
    /// Those, and those that they say are open.
    Open,
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
    // What such an epoch promises is that all is copied in it. Whoever noted it may have died before the maps said so.
    let copies_all = match noted.reason {
        Reason::FirstStart | Reason::AskedFor | Reason::Reprotect => epoch == EpochChoice::Begin,
        Reason::RingLost | Reason::Failover => false,
    };
    let lost = match (ring, noted.clean) {
        // Nothing of the log is missing: it is in the ring.
        (FoundRing::Fits, _) => Lost::AsNoted,
        _ if copies_all => Lost::All,
        // Or it was all in the vault when the agent ended.
        (FoundRing::Absent, true) => Lost::AsNoted,
        // What the ring had and the vault has not lies in regions that are open.
        (FoundRing::Absent, false) | (FoundRing::Useless, _) => Lost::Open,
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
        use Lost::{All, AsNoted, Open};
        let table = [
            // opened, clean, ring     -> epoch, lost, lost where the epoch promises to copy all
            (false, false, Fits, Continue, AsNoted, AsNoted),
            (false, false, Absent, Begin, Open, All),
            (false, false, Useless, Begin, Open, All),
            (false, true, Fits, Continue, AsNoted, AsNoted),
            (false, true, Absent, Begin, AsNoted, All),
            (false, true, Useless, Begin, Open, All),
            (true, false, Fits, Continue, AsNoted, AsNoted),
            (true, false, Absent, Next, Open, Open),
            (true, false, Useless, Next, Open, Open),
            (true, true, Fits, Continue, AsNoted, AsNoted),
            (true, true, Absent, Next, AsNoted, AsNoted),
            (true, true, Useless, Next, Open, Open),
        ];
        for (opened, clean, ring, epoch, lost, promised) in table {
            for reason in [Reason::FirstStart, Reason::AskedFor, Reason::RingLost] {
                let start = decide(Noted { opened, clean, reason }, ring);
                let skip_holes = reason == Reason::FirstStart && epoch == Begin;
                let lost = if reason == Reason::RingLost { lost } else { promised };
                assert_eq!(start, Start { epoch, lost, skip_holes }, "{opened} {clean} {ring:?} {reason:?}");
            }
        }
    }
}
