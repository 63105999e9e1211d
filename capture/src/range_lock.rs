//! The lock of byte ranges that puts overlapping changes of a disk into one order (guarantee G2).
//!
//! Pure and single-threaded: the lane thread that owns the disk asks and releases. It is fair: a range waits for every earlier
//! range that it overlaps, held or waiting, and for nothing else; so a later request never overtakes an earlier one that it
//! overlaps, and none starves. The count of entries is the count of a disk's requests in flight, which front ends bound; a
//! request costs one pass over them, and no memory once the list has grown to their number.

use std::collections::VecDeque;

use farshore_changelog::units::ByteRange;
use smallvec::SmallVec;

/// Names one request for a range. Tickets rise in the order of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Those who hold their range from now on, oldest first.
pub type Granted<H> = SmallVec<[H; 4]>;

/// The lock of one disk. `H` says who asks for a range.
#[derive(Debug)]
pub struct RangeLock<H> {
    /// In the order of their tickets.
    entries: VecDeque<Entry<H>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<H> {
    ticket: Ticket,
    holder: H,
    range: ByteRange,
    /// Earlier entries that overlap it and are not released yet; it is held once there is none.
    blockers: usize,
}

impl<H> Default for RangeLock<H> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), next: 0 }
    }
}

impl<H: Copy> RangeLock<H> {
    /// Asks for `range`, for `holder`. The second value says whether it is held at once; else a later [`RangeLock::release`] names
    /// the holder.
    pub fn request(&mut self, range: ByteRange, holder: H) -> (Ticket, bool) {
        let blockers = self.entries.iter().filter(|e| e.range.overlaps(range)).count();
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.push_back(Entry { ticket, holder, range, blockers });
        (ticket, blockers == 0)
    }

    /// Gives a range back that is held, and names those who hold theirs from now on.
    ///
    /// # Panics
    /// When the ticket is not held: a programming error that would put the order of writes at risk.
    #[must_use]
    pub fn release(&mut self, ticket: Ticket) -> Granted<H> {
        let found = self.entries.binary_search_by_key(&ticket, |e| e.ticket).ok();
        let (at, entry) = found.and_then(|at| Some((at, self.entries.remove(at)?))).expect("a ticket is released once");
        assert_eq!(entry.blockers, 0, "a range that is not held yet cannot be released");
        let mut granted = Granted::new();
        for waiting in self.entries.range_mut(at..) {
            if waiting.range.overlaps(entry.range) {
                waiting.blockers -= 1;
                if waiting.blockers == 0 {
                    granted.push(waiting.holder);
                }
            }
        }
        granted
    }

    /// Ranges held or waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no range is held or waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule by itself: of all requests in order, one is held when nothing before it that is left overlaps it.
    #[derive(Default)]
    struct Model(Vec<(Ticket, ByteRange)>);

    impl Model {
        fn held(&self) -> Vec<Ticket> {
            let free = |(n, (_, range)): &(usize, &(Ticket, ByteRange))| {
                !self.0[..*n].iter().any(|(_, earlier)| earlier.overlaps(*range))
            };
            self.0.iter().enumerate().filter(free).map(|(_, (ticket, _))| *ticket).collect()
        }
    }

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn a_waiting_range_holds_up_later_ones_that_overlap_it() {
        let mut lock = RangeLock::default();
        let (a, held) = lock.request(range(0, 10), 'a');
        assert!(held);
        let (b, held) = lock.request(range(5, 10), 'b');
        assert!(!held);
        let (c, held) = lock.request(range(12, 5), 'c');
        assert!(!held, "free of a, but b came first");
        let (d, held) = lock.request(range(20, 5), 'd');
        assert!(held);
        assert_eq!(lock.release(a)[..], ['b']);
        assert_eq!(lock.release(d)[..], []);
        assert_eq!(lock.release(b)[..], ['c']);
        assert_eq!(lock.release(c)[..], []);
        assert!(lock.is_empty());
    }

    proptest! {
        #[test]
        fn it_does_what_the_model_does(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12, any::<prop::sample::Index>()), 1..200)) {
            let (mut lock, mut model) = (RangeLock::default(), Model::default());
            let (mut held, mut tickets): (Vec<Ticket>, Vec<Ticket>) = (Vec::new(), Vec::new());
            for (take, start, len, pick) in steps {
                if take || held.is_empty() {
                    let wanted = range(start, len);
                    let (ticket, now) = lock.request(wanted, tickets.len());
                    model.0.push((ticket, wanted));
                    tickets.push(ticket);
                    if now {
                        held.push(ticket);
                    }
                } else {
                    let ticket = held.remove(pick.index(held.len()));
                    let granted = lock.release(ticket);
                    prop_assert!(granted.is_sorted());
                    held.extend(granted.into_iter().map(|n| tickets[n]));
                    model.0.retain(|(t, _)| *t != ticket);
                }
                held.sort();
                prop_assert_eq!(&held, &model.held());
            }
            // Nothing is left behind: releasing all that is held, again and again, empties it.
            while let Some(ticket) = held.pop() {
                held.extend(lock.release(ticket).into_iter().map(|n| tickets[n]));
            }
            prop_assert!(lock.is_empty());
        }
    }
}
