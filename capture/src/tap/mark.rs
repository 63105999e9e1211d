//! A mark, through any of the lane's taps: they share the log.

use farshore_changelog::ids::Seq;

use super::Tap;
use super::log::MarkError;

impl Tap {
    /// Puts a mark into the group's log: everything acknowledged before this call, on any disk of the group, is before it.
    ///
    /// # Errors
    /// [`MarkError`]; nothing was put. [`MarkError::Fenced`] also for a tap without a log.
    pub fn mark(&self, name: &str) -> Result<Seq, MarkError> {
        self.log.as_ref().map_or(Err(MarkError::Fenced), |log| log.borrow_mut().mark(name))
    }
}
