//! What happened, in order: the last lines for whoever reads a failure, and a digest of all of it, which is the same whenever
//! the same seed is run.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Lines kept for the report of a failure.
const KEPT_MAX: usize = 400;
/// Prints each line as it comes when this is set in the environment.
const LOUD: &str = "FARSHORE_SIM_TRACE";

/// The trace of one world. Clones are one trace.
#[derive(Clone)]
pub struct Trace(Rc<RefCell<Inner>>);

struct Inner {
    hash: blake3::Hasher,
    last: VecDeque<String>,
    lines: u64,
    loud: bool,
}

impl Trace {
    pub fn new() -> Self {
        let loud = std::env::var_os(LOUD).is_some();
        Self(Rc::new(RefCell::new(Inner { hash: blake3::Hasher::new(), last: VecDeque::new(), lines: 0, loud })))
    }

    /// Notes that `what` happened at the simulated time `at`.
    pub fn note(&self, at: Duration, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>12.6} {what}", at.as_secs_f64());
        let mut inner = self.0.borrow_mut();
        inner.hash.update(line.as_bytes());
        inner.hash.update(b"\n");
        inner.lines += 1;
        if inner.loud {
            eprintln!("{line}");
        }
        if inner.last.len() == KEPT_MAX {
            inner.last.pop_front();
        }
        inner.last.push_back(line);
    }

    /// Bytes that belong to the digest but to no line.
    pub fn digest_bytes(&self, bytes: &[u8]) {
        self.0.borrow_mut().hash.update(bytes);
    }

    /// The digest so far, and how many lines it covers.
    pub fn digest(&self) -> (String, u64) {
        let inner = self.0.borrow();
        (inner.hash.finalize().to_hex()[..16].to_owned(), inner.lines)
    }

    /// The last lines.
    pub fn tail(&self, lines: usize) -> String {
        let inner = self.0.borrow();
        let from = inner.last.len().saturating_sub(lines);
        inner.last.iter().skip(from).map(|l| format!("{l}\n")).collect()
    }
}
