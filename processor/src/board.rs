//! What the workers of a processor share: jobs, and when each is due. Of the workers that have nothing to do one watches the time, and
//! the others sleep until there is more than it can do: so what a job costs does not grow with the workers, nor much with the jobs.

use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_changelog::clock;

use crate::stop::Stop;

/// Longest sleep of the one that watches: it looks at the stop flag then.
const LOOK: Duration = Duration::from_millis(200);

/// Jobs and their times.
pub struct Board<J> {
    state: Mutex<State<J>>,
    /// For the one that watches: something is due before what it waits for.
    sooner: Condvar,
    /// For the others: nobody watches, or all is over.
    watch: Condvar,
}

struct State<J> {
    due: BinaryHeap<Due<J>>,
    /// Jobs that were added so far.
    added: u64,
    running: usize,
    /// Until when the one that watches sleeps; `None` while nobody does.
    watched_until: Option<Instant>,
}

struct Due<J> {
    at: Instant,
    /// Of several that are due at one time the first one added comes first.
    nth: u64,
    job: J,
}

impl<J> Due<J> {
    fn order(&self) -> (Instant, u64) {
        (self.at, self.nth)
    }
}

impl<J> PartialEq for Due<J> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<J> Eq for Due<J> {}

impl<J> PartialOrd for Due<J> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<J> Ord for Due<J> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the greatest first.
        other.order().cmp(&self.order())
    }
}

/// A job that a worker has taken. It counts as running until this is dropped, also by a panic: the others would wait for it for ever.
pub struct Taken<'a, J> {
    board: &'a Board<J>,
    job: Option<J>,
}

impl<J> Taken<'_, J> {
    /// The job itself.
    pub fn job(&mut self) -> Option<J> {
        self.job.take()
    }
}

impl<J> Drop for Taken<'_, J> {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        state.running -= 1;
        if state.running == 0 && state.due.is_empty() {
            // Perhaps that was all.
            self.board.sooner.notify_one();
        }
    }
}

impl<J> Board<J> {
    /// With nothing to do yet.
    pub fn new() -> Self {
        let state = State { due: BinaryHeap::new(), added: 0, running: 0, watched_until: None };
        Self { state: Mutex::new(state), sooner: Condvar::new(), watch: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job that is due at `at`.
    pub fn add(&self, at: Instant, job: J) {
        let mut state = self.lock();
        let nth = state.added;
        state.added += 1;
        state.due.push(Due { at, nth, job });
        if state.watched_until.is_some_and(|until| at < until) {
            self.sooner.notify_one();
        }
    }

    /// The job that is due longest, once one is; `None` when the worker is to go: `stop` is set, or, with `once`, nothing is left.
    pub fn take(&self, stop: &Stop, once: bool) -> Option<Taken<'_, J>> {
        let mut state = self.lock();
        loop {
            if stop.requested() || (once && state.due.is_empty() && state.running == 0) {
                self.watch.notify_all();
                self.sooner.notify_all();
                return None;
            }
            let now = clock::mono();
            let first = state.due.peek().map(|due| due.at);
            if first.is_some_and(|at| at <= now) {
                let job = state.due.pop().map(|due| due.job);
                state.running += 1;
                if state.watched_until.is_none() {
                    self.watch.notify_one();
                }
                return Some(Taken { board: self, job });
            }
            if state.watched_until.is_some() {
                state = self.watch.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let wait = first.map_or(LOOK, |at| LOOK.min(at - now));
            state.watched_until = Some(now + wait);
            state = self.sooner.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.watched_until = None;
        }
    }

    /// What was not taken, in no order.
    pub fn left(self) -> Vec<J> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.due.into_iter().map(|due| due.job).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const WORKERS: usize = 8;

    fn work(board: &Board<usize>, stop: &Stop, once: bool, done: impl Fn(usize) + Sync) {
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(mut taken) = board.take(stop, once) {
                        done(taken.job().unwrap());
                    }
                });
            }
        });
    }

    #[test]
    fn jobs_come_when_they_are_due_and_the_first_added_first() {
        let (board, stop, now) = (Board::new(), Stop::new(), clock::mono());
        for (after_ms, job) in [(30, 3), (0, 0), (0, 1), (10, 2)] {
            board.add(now + Duration::from_millis(after_ms), job);
        }
        let order: Vec<usize> = std::iter::from_fn(|| board.take(&stop, true)?.job()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(clock::mono() >= now + Duration::from_millis(30));
        assert!(board.left().is_empty());
    }

    #[test]
    fn a_job_that_is_due_sooner_than_what_is_waited_for_is_not_late() {
        let (board, stop, late) = (Board::new(), Stop::new(), Mutex::new(Duration::ZERO));
        board.add(clock::mono() + Duration::from_secs(60), usize::MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20 {
                    clock::sleep(Duration::from_millis(5));
                    board.add(clock::mono(), n);
                }
                board.add(clock::mono(), 99);
            });
            let begun = clock::mono();
            work(&board, &stop, false, |job| {
                if job == 99 {
                    *late.lock().unwrap() = begun.elapsed();
                    stop.request();
                }
            });
        });
        // Twenty of them would be twenty looks late.
        assert!(*late.lock().unwrap() < 10 * LOOK);
        assert_eq!(board.left(), [usize::MAX]);
    }

    #[test]
    fn jobs_that_are_due_together_are_done_together_and_all_go_when_nothing_is_left() {
        let (board, stop) = (Board::new(), Stop::new());
        let (running, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let due = clock::mono() + Duration::from_millis(50);
        (0..WORKERS).for_each(|n| board.add(due, n));
        work(&board, &stop, true, |_| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            clock::sleep(Duration::from_millis(200));
            running.fetch_sub(1, Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.load(Ordering::SeqCst), WORKERS);
        assert!(most.load(Ordering::SeqCst) > WORKERS / 2, "{most:?} of {WORKERS} worked at once");
    }

    #[test]
    fn a_worker_that_panics_keeps_nobody() {
        let (board, stop) = (Board::new(), Stop::new());
        board.add(clock::mono(), 0);
        let panicked = std::thread::scope(|scope| {
            let (took, taken) = std::sync::mpsc::channel();
            let (board, stop) = (&board, &stop);
            let first = scope.spawn(move || {
                let _taken = board.take(stop, true);
                took.send(()).unwrap();
                clock::sleep(Duration::from_millis(50));
                panic!("as a job may");
            });
            taken.recv().unwrap();
            let second = scope.spawn(move || board.take(stop, true).is_none());
            assert!(second.join().unwrap());
            first.join().is_err()
        });
        assert!(panicked);
    }
}
