//! How often a group is looked after while nothing comes. Pure. A look is a request to the vault, which is paid for, and a turn of a
//! worker; of a thousand groups most are idle most of the time.

use std::time::Duration;

/// Longest time between two looks at a group that is quiet: how late, at most, its next write is noticed. Nothing is lost by that:
/// the vault has it, and a failover catches up first.
pub const QUIET_POLL: Duration = Duration::from_secs(5);
/// A group that was quiet for so long may stay so for a while: it is looked at after this part of it.
const PART: u32 = 4;

/// Time until the next look at a group that has written nothing for `quiet`, where one that writes is looked at every `poll`.
#[must_use]
pub fn pause(quiet: Duration, poll: Duration) -> Duration {
    (quiet / PART).clamp(poll, poll.max(QUIET_POLL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_is_looked_at_often_and_who_does_not_is_not_forgotten() {
        let poll = Duration::from_millis(500);
        let seconds = |s: u64| pause(Duration::from_secs(s), poll);
        assert_eq!([seconds(0), seconds(2)], [poll; 2]);
        assert_eq!(seconds(8), Duration::from_secs(2));
        assert_eq!([seconds(20), seconds(1 << 40)], [QUIET_POLL; 2]);
        let rarely = Duration::from_secs(60);
        assert_eq!([pause(Duration::ZERO, rarely), pause(Duration::MAX, rarely)], [rarely; 2]);
    }
}
