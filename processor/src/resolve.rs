//! `--point`: what the words mean, and which published position they name. Pure over a list of positions.
//!
//! | text | meaning |
//! |---|---|
//! | `latest` | the newest consistent position |
//! | `p12` | the recovery point with the id 12, as `points` prints it (the `p` keeps it apart from a seq) |
//! | `2026-05-01T12:00:00Z` | RFC 3339: the newest consistent position at or before that time |
//! | `1234` | seq 1234 of the newest epoch, rounded down to a published position |
//! | `2:1234` | seq 1234 of epoch 2, rounded down to a published position |

use std::fmt;
use std::str::FromStr;

use farshore_changelog::ids::{Epoch, Position, Seq};
use farshore_changelog::units::UnixMicros;

/// Letter before a recovery point's id: no seq, time or word of the grammar begins with it and goes on in digits.
pub const POINT_ID_PREFIX: char = 'p';

/// What a user asked for with `--point`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointSpec {
    /// The newest consistent position.
    Latest,
    /// A recovery point of the catalogue.
    Id(u64),
    /// The newest consistent position at or before a time.
    Time {
        /// The time, as it was said.
        at: UnixMicros,
        /// The last microsecond that it covers, more than `at` only in milliseconds as `points` prints them.
        through: UnixMicros,
    },
    /// The newest consistent position at or before this seq.
    Seq {
        /// `None`: the newest epoch.
        epoch: Option<Epoch>,
        /// The last operation wanted.
        seq: Seq,
    },
}

/// A `--point` that is none of the forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no point: use latest, an id such as p12, an RFC 3339 time such as 2026-05-01T12:00:00Z, a seq such as 1234, or epoch:seq such as 2:1234"
)]
pub struct PointSpecError {
    text: String,
}

impl FromStr for PointSpec {
    type Err = PointSpecError;

    fn from_str(text: &str) -> Result<Self, PointSpecError> {
        let refused = || PointSpecError { text: text.to_owned() };
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(id) = text.strip_prefix(POINT_ID_PREFIX).and_then(number) {
            return Ok(Self::Id(id));
        }
        if let Some(seq) = number(text) {
            return Ok(Self::Seq { epoch: None, seq: Seq(seq) });
        }
        if let Some((epoch, seq)) = text.split_once(':')
            && let (Some(epoch), Some(seq)) = (number(epoch), number(seq))
        {
            return Ok(Self::Seq { epoch: Some(Epoch(epoch)), seq: Seq(seq) });
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| refused())?;
        let micros = u64::try_from(time.as_microsecond()).map_err(|_| refused())?;
        Ok(Self::Time { at: UnixMicros(micros), through: UnixMicros(end_of_what_was_said(text, micros)) })
    }
}

impl fmt::Display for PointSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Id(id) => write!(f, "{POINT_ID_PREFIX}{id}"),
            Self::Time { at, through } if at == through => write!(f, "{:.6}", at.timestamp()),
            Self::Time { at, .. } => write!(f, "{at}"),
            Self::Seq { epoch: None, seq } => write!(f, "{seq}"),
            Self::Seq { epoch: Some(epoch), seq } => write!(f, "{epoch}:{seq}"),
        }
    }
}

/// Plain decimal digits only: `u64::from_str` alone would take `+5`.
fn number(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Times are printed in milliseconds, cut off: the printed time of a point, given back, must name that point and not the
/// one before it. So a time with exactly three fractional digits covers its whole millisecond.
fn end_of_what_was_said(text: &str, micros: u64) -> u64 {
    let digits = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    if digits == 3 { micros.saturating_add(999) } else { micros }
}

/// The catalogue's entry at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointTag {
    /// Its id, printed as `p<id>`.
    pub id: u64,
    /// A mark's name; `None` for a periodic point.
    pub mark: Option<String>,
}

/// A position that replay published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Everything up to it is in the state.
    pub position: Position,
    /// Source's time.
    pub time: UnixMicros,
    /// Journal offset from which the undo journal leads back to it.
    pub undo_end: u64,
    /// Not inside a resync.
    pub consistent: bool,
    /// The recovery point cut there, if any.
    pub point: Option<PointTag>,
}

/// What one batch of the undo journal says about positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRow {
    /// Journal offset of its first byte.
    pub offset: u64,
    /// Journal offset after its last byte.
    pub end: u64,
    /// Its epoch and the first seq it undoes.
    pub first: Position,
    /// Its epoch and the last seq it undoes: the position after it.
    pub last: Position,
    /// Time of the position after it.
    pub time: UnixMicros,
    /// Whether the position after it is outside a resync.
    pub consistent: bool,
}

/// Every position that can be had, in order, oldest first; made by [`Window::new`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    rows: Vec<Published>,
}

impl Window {
    /// Orders what is known: the journal's batches (`oldest` is the first offset that was not pruned), the catalogue with the
    /// newest consistent position (`named`), and `at`, the position replay stands at.
    ///
    /// Left out are rows beyond `at` (their batch is replayed again), rows whose undo was pruned, and rows that a roll-back
    /// made untrue: after a crash a complete batch is written back, stays in the journal, and its run is replayed as a new
    /// batch; the journal from the old batch's end on then leads to the state *before* it.
    #[must_use]
    pub fn new(batches: &[BatchRow], named: &[Published], oldest: u64, at: Position) -> Self {
        let from_batches = batches.iter().map(|b| Published {
            position: b.last,
            time: b.time,
            undo_end: b.end,
            consistent: b.consistent,
            point: None,
        });
        let mut rows: Vec<Published> = from_batches.chain(named.iter().cloned()).collect();
        rows.retain(|row| row.position <= at && row.undo_end >= oldest);
        // Stable: of equal positions the named row stays behind the batch's and wins below.
        rows.sort_by_key(|row| (row.position, row.undo_end));
        drop_replayed_again(&mut rows, batches);
        rows.dedup_by(|later, kept| {
            // Several points may be cut at one position of an idle disk; each keeps its row.
            let one_point = later.point.is_none() || kept.point.is_none();
            let same = later.position == kept.position && later.undo_end == kept.undo_end && one_point;
            if same {
                kept.consistent |= later.consistent;
                kept.time = kept.time.max(later.time);
                if later.point.is_some() {
                    kept.point = later.point.take();
                }
            }
            same
        });
        let mut newest = UnixMicros(0);
        for row in &mut rows {
            // The source's clock may have been set back; positions only go forward.
            newest = newest.max(row.time);
            row.time = newest;
        }
        Self { rows }
    }

    /// The positions, oldest first.
    #[must_use]
    pub fn rows(&self) -> &[Published] {
        &self.rows
    }

    /// The oldest and the newest consistent position.
    #[must_use]
    pub fn consistent_ends(&self) -> Option<(&Published, &Published)> {
        let mut consistent = self.rows.iter().filter(|row| row.consistent);
        let first = consistent.next()?;
        Some((first, consistent.next_back().unwrap_or(first)))
    }
}

/// Drops rows that a later batch undoes once more: one at or after the row's offset that starts at or before its position.
fn drop_replayed_again(rows: &mut Vec<Published>, batches: &[BatchRow]) {
    // lowest_after[i]: the lowest first position of batches[i..].
    let mut lowest_after: Vec<Position> = batches.iter().map(|b| b.first).collect();
    for i in (1..lowest_after.len()).rev() {
        lowest_after[i - 1] = lowest_after[i - 1].min(lowest_after[i]);
    }
    rows.retain(|row| {
        let next = batches.partition_point(|b| b.offset < row.undo_end);
        lowest_after.get(next).is_none_or(|first| *first > row.position)
    });
}

/// The position that a `--point` named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Everything up to it is in the state.
    pub position: Position,
    /// Source's time.
    pub time: UnixMicros,
    /// Journal offset from which the undo journal leads back to it.
    pub undo_end: u64,
    /// The recovery point there, if one was cut.
    pub point: Option<PointTag>,
    /// What was asked for, when it was not this very position.
    pub rounded_from: Option<PointSpec>,
}

/// Why a `--point` names no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing consistent was replayed yet.
    #[error("no consistent position yet: the first replication is still under way (see farshore status)")]
    NothingYet,
    /// The id is not in the catalogue (or was pruned).
    #[error(
        "no recovery point {POINT_ID_PREFIX}{id}: farshore points lists them; positions from {oldest} to {newest} can be had"
    )]
    NoSuchPoint {
        /// The id asked for.
        id: u64,
        /// Oldest consistent position, with its time.
        oldest: String,
        /// Newest consistent position, with its time.
        newest: String,
    },
    /// Older than everything that is kept.
    #[error("{asked} is too old: the oldest position kept is {oldest}")]
    TooOld {
        /// What was asked for.
        asked: PointSpec,
        /// Oldest consistent position, with its time.
        oldest: String,
    },
    /// Newer than everything replayed.
    #[error("{asked} is not replayed yet: the newest consistent position is {newest} (latest names it)")]
    NotYet {
        /// What was asked for.
        asked: PointSpec,
        /// Newest consistent position, with its time.
        newest: String,
    },
}

/// Finds the position that `asked` names.
///
/// # Errors
/// [`ResolveError`], naming the oldest or the newest position that can be had.
pub fn resolve(asked: &PointSpec, window: &Window) -> Result<Resolved, ResolveError> {
    let (oldest, newest) = window.consistent_ends().ok_or(ResolveError::NothingYet)?;
    let too_old = || ResolveError::TooOld { asked: asked.clone(), oldest: said(oldest) };
    let not_yet = || ResolveError::NotYet { asked: asked.clone(), newest: said(newest) };
    let last = |keep: &dyn Fn(&Published) -> bool| window.rows.iter().rev().find(|row| row.consistent && keep(row));
    match asked {
        PointSpec::Latest => Ok(answer(newest, None)),
        PointSpec::Id(id) => last(&|row| row.point.as_ref().is_some_and(|p| p.id == *id))
            .map(|row| answer(row, None))
            .ok_or_else(|| ResolveError::NoSuchPoint { id: *id, oldest: said(oldest), newest: said(newest) }),
        PointSpec::Time { at, through } => {
            if *at > newest.time {
                return Err(not_yet());
            }
            let row = last(&|row| row.time <= *through).ok_or_else(too_old)?;
            Ok(answer(row, (row.time < *at).then(|| asked.clone())))
        }
        PointSpec::Seq { epoch, seq } => {
            let wanted = Position { epoch: epoch.unwrap_or(newest.position.epoch), seq: *seq };
            if wanted > newest.position {
                return Err(not_yet());
            }
            let row = last(&|row| row.position <= wanted).ok_or_else(too_old)?;
            Ok(answer(row, (row.position != wanted).then(|| asked.clone())))
        }
    }
}

fn answer(row: &Published, rounded_from: Option<PointSpec>) -> Resolved {
    Resolved { position: row.position, time: row.time, undo_end: row.undo_end, point: row.point.clone(), rounded_from }
}

fn said(row: &Published) -> String {
    format!("{} ({})", row.position, row.time)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
