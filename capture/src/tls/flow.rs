//! What a relay waits for next, decided without I/O. It never holds more than one buffer each way: it takes nothing from
//! one side while the other has not taken what came before, so a client or lane that stops holds up its own connection alone.

/// Where a relay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// The TLS handshake is under way.
    pub handshaking: bool,
    /// Decrypted bytes wait for the lane.
    pub inward: bool,
    /// Encrypted bytes wait for the client.
    pub sealed: bool,
    /// The client will send nothing more.
    pub client_ended: bool,
    /// The lane takes nothing more, or was told that nothing more comes.
    pub lane_deaf: bool,
    /// The lane has hung up; what it sent before may still be there.
    pub lane_hung: bool,
    /// All that the lane has sent was taken.
    pub lane_ended: bool,
    /// The client was told that nothing more comes.
    pub notified: bool,
}

/// What poll is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wants {
    pub client_in: bool,
    pub client_out: bool,
    pub lane_in: bool,
    pub lane_out: bool,
    /// Whether the lane's hanging up is waited for as well.
    pub lane_watch: bool,
}

/// What a relay does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Tells the lane that the client sends nothing more.
    EndInward,
    /// Tells the client, within TLS, that nothing more comes.
    Notify,
    Wait(Wants),
    Over,
}

impl Flow {
    pub(super) fn step(self) -> Step {
        if self.handshaking && (self.client_ended || self.lane_hung || self.lane_ended) {
            return Step::Over;
        }
        if self.client_ended && !self.inward && !self.lane_deaf {
            return Step::EndInward;
        }
        if self.lane_ended && !self.notified {
            return Step::Notify;
        }
        if self.lane_ended && !self.sealed {
            return Step::Over;
        }
        Step::Wait(Wants {
            client_in: !self.client_ended && !self.inward && !self.lane_deaf && !self.lane_ended,
            client_out: self.sealed,
            lane_in: !self.lane_ended && !self.sealed,
            lane_out: self.inward && !self.lane_deaf,
            lane_watch: !self.lane_hung && !self.lane_ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> impl Iterator<Item = Flow> {
        (0_u32..256).map(|bits| {
            let bit = |n: u32| bits & (1 << n) != 0;
            Flow {
                handshaking: bit(0),
                inward: bit(1),
                sealed: bit(2),
                client_ended: bit(3),
                lane_deaf: bit(4),
                lane_hung: bit(5),
                lane_ended: bit(6),
                notified: bit(7),
            }
        })
    }

    #[test]
    fn it_always_waits_for_something_that_can_come() {
        for flow in every() {
            if let Step::Wait(wants) = flow.step() {
                let some = wants.client_in || wants.client_out || wants.lane_in || wants.lane_out;
                assert!(some, "nothing would ever wake {flow:?}");
            }
        }
    }

    #[test]
    fn nothing_is_taken_that_there_is_no_room_for() {
        for flow in every() {
            if let Step::Wait(wants) = flow.step() {
                assert!(!(wants.client_in && flow.inward), "{flow:?}");
                assert!(!(wants.lane_in && flow.sealed), "{flow:?}");
                assert!(!(wants.lane_out && flow.lane_deaf), "{flow:?}");
            }
        }
    }

    #[test]
    fn answers_are_sent_before_the_end_and_the_client_is_told_of_it() {
        for flow in every().filter(|flow| !flow.handshaking) {
            if flow.step() == Step::Over {
                assert!(flow.lane_ended && !flow.sealed && flow.notified, "{flow:?}");
            }
            if flow.sealed && flow.notified {
                assert_ne!(flow.step(), Step::Over, "{flow:?}");
            }
        }
    }

    #[test]
    fn a_handshake_ends_when_either_side_is_gone() {
        for flow in every().filter(|flow| flow.handshaking && (flow.client_ended || flow.lane_hung)) {
            assert_eq!(flow.step(), Step::Over, "{flow:?}");
        }
    }
}
