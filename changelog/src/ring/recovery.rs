//! What becomes of a slot that a dead capture process left: the table of `docs/format.md` "Recovery", as data.

use crate::op::Op;

use super::descriptor::State;

/// What an operation means for its recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// It changes bytes of a disk.
    Change,
    /// A flush.
    Flush,
    /// A word that nobody was told of: mark, resync begin and end, overflow, digest.
    Word,
}

impl Class {
    pub fn of(op: Op) -> Self {
        match op {
            Op::Write | Op::WriteZeroes | Op::Trim | Op::ResyncWrite | Op::ResyncZeroes => Class::Change,
            Op::Flush => Class::Flush,
            Op::Mark | Op::ResyncBegin | Op::ResyncEnd | Op::Overflow | Op::Digest => Class::Word,
        }
    }
}

/// What a slot's descriptor is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Proof {
    /// The checksum is right and the fields are an operation of this class.
    Good(Class),
    /// It is not to be believed.
    Bad,
}

/// A slot between tail and head, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Found {
    /// `None`: a code that no version wrote.
    pub state: Option<State>,
    /// Whether its seq was taken.
    pub sequenced: bool,
    pub proof: Proof,
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// Nothing: it is settled.
    Keep,
    /// It becomes void.
    Void,
    /// Its range is read again; committed, or aborted where it cannot be read.
    Reread,
    /// It becomes aborted.
    Abort,
    /// The ring is lost.
    LoseRing,
}

/// One row of the table: which slots it is for, and what is done with them.
struct Row {
    states: &'static [Option<State>],
    /// `None`: whether or not a seq was taken.
    sequenced: Option<bool>,
    proofs: &'static [Proof],
    action: Action,
}

const ANY: &[Proof] = &[Proof::Good(Class::Change), Proof::Good(Class::Flush), Proof::Good(Class::Word), Proof::Bad];
const GOOD: &[Proof] = &[Proof::Good(Class::Change), Proof::Good(Class::Flush), Proof::Good(Class::Word)];
const RESERVED: &[Option<State>] = &[Some(State::Reserved)];
const SETTLED: &[Option<State>] = &[Some(State::Committed), Some(State::Aborted), Some(State::Consumed)];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { states: RESERVED,                   sequenced: Some(false), proofs: ANY,                          action: Action::Void },
    Row { states: RESERVED,                   sequenced: Some(true),  proofs: &[Proof::Good(Class::Change)], action: Action::Reread },
    Row { states: RESERVED,                   sequenced: Some(true),  proofs: &[Proof::Good(Class::Flush)],  action: Action::Abort },
    Row { states: RESERVED,                   sequenced: Some(true),  proofs: &[Proof::Good(Class::Word)],   action: Action::Void },
    Row { states: RESERVED,                   sequenced: Some(true),  proofs: &[Proof::Bad],                 action: Action::LoseRing },
    Row { states: SETTLED,                    sequenced: Some(true),  proofs: GOOD,                         action: Action::Keep },
    Row { states: SETTLED,                    sequenced: Some(true),  proofs: &[Proof::Bad],                 action: Action::LoseRing },
    Row { states: SETTLED,                    sequenced: Some(false), proofs: ANY,                          action: Action::LoseRing },
    Row { states: &[Some(State::Void)],       sequenced: None,        proofs: ANY,                          action: Action::Keep },
    Row { states: &[Some(State::Free), None], sequenced: None,        proofs: ANY,                          action: Action::LoseRing },
];

impl Row {
    fn meets(&self, found: Found) -> bool {
        self.states.contains(&found.state)
            && self.sequenced.is_none_or(|sequenced| sequenced == found.sequenced)
            && self.proofs.contains(&found.proof)
    }
}

/// What is done with a slot that was found so.
pub(super) fn decide(found: Found) -> Action {
    // The test below proves that the table is total; were it not, nothing would be guessed.
    TABLE.iter().find(|row| row.meets(found)).map_or(Action::LoseRing, |row| row.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_input() -> Vec<Found> {
        let states = State::ALL.into_iter().map(Some).chain([None]);
        states
            .flat_map(|state| [false, true].map(|sequenced| (state, sequenced)))
            .flat_map(|(state, sequenced)| ANY.iter().map(move |proof| Found { state, sequenced, proof: *proof }))
            .collect()
    }

    #[test]
    fn every_input_meets_exactly_one_row_and_every_row_is_met() {
        let mut met = vec![0; TABLE.len()];
        let inputs = every_input();
        assert_eq!(inputs.len(), 7 * 2 * 4);
        for found in inputs {
            let rows: Vec<usize> = (0..TABLE.len()).filter(|row| TABLE[*row].meets(found)).collect();
            assert_eq!(rows.len(), 1, "{found:?} meets rows {rows:?}");
            met[rows[0]] += 1;
        }
        assert!(met.iter().all(|count| *count > 0), "{met:?}");
    }

    #[test]
    fn what_was_acknowledged_is_kept_and_what_contradicts_itself_loses_the_ring() {
        for found in every_input() {
            let action = decide(found);
            let believed = found.sequenced && found.proof != Proof::Bad;
            match found.state {
                Some(State::Committed | State::Aborted | State::Consumed) if believed => {
                    assert_eq!(action, Action::Keep)
                }
                Some(State::Committed | State::Aborted | State::Consumed) => assert_eq!(action, Action::LoseRing),
                Some(State::Reserved) if !found.sequenced => assert_eq!(action, Action::Void),
                Some(State::Reserved) => assert_ne!(action, Action::Keep),
                Some(State::Void) => assert_eq!(action, Action::Keep),
                Some(State::Free) | None => assert_eq!(action, Action::LoseRing),
            }
        }
    }

    #[test]
    fn every_operation_has_its_class() {
        for op in Op::ALL {
            assert_eq!(Class::of(op) == Class::Change, op.changes_disk());
            assert_eq!(Class::of(op) == Class::Flush, op == Op::Flush);
        }
    }
}
