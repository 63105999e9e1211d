//! How a disk is written, out of a trace that fio wrote (`write_iolog`). Pure but for the reader it is given.
//!
//! Version 2 of that text has no times but where it says `wait`; version 3, which fio writes from 3.31 on, has one on each line, in µs (so
//! fio 3.33 does).

use std::io::{self, BufRead, Read};
use std::time::Duration;

use thiserror::Error;

/// Most requests of a trace: they are held in memory, 24 bytes each.
const REQUESTS_MAX: usize = 10_000_000;
/// Longest line; a path has at most 4,096 bytes.
const LINE_BYTES_MAX: u64 = 8192;

/// A request that the log takes a record for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When, from the beginning of the trace.
    pub at: Duration,
    /// Its payload; 0 of a flush or a trim.
    pub bytes: u64,
}

/// A trace.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// In the order of time. None that only reads.
    pub requests: Vec<Request>,
    /// How long it took, above 0.
    pub span: Duration,
}

/// Why a text is no trace.
#[derive(Debug, Error)]
pub enum TraceError {
    /// Reading failed.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// Not fio's, or of a version that is not known.
    #[error("its first line is {0:?}, not `fio version 2 iolog` or `fio version 3 iolog`")]
    Header(String),
    /// A line is not right.
    #[error("line {line}, {text:?}: {why}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What it says.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Too long.
    #[error("it has more than {REQUESTS_MAX} requests that write")]
    Long,
    /// Nothing is written in it.
    #[error("nothing is written in it")]
    Empty,
    /// No times.
    #[error("it does not say how long it took: there is no `wait` in it, and no line has a time")]
    Untimed,
    /// Times of two origins.
    #[error("it has times of its own, {0:?} in all")]
    Timed(Duration),
}

impl Trace {
    /// Reads one. `took`: how long one without times took; its requests are spread over that evenly.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn read(mut text: impl BufRead, took: Option<Duration>) -> Result<Self, TraceError> {
        let header = next_line(&mut text, 1)?.unwrap_or_default();
        let stamped = match header.trim_end() {
            "fio version 2 iolog" => false,
            "fio version 3 iolog" => true,
            other => return Err(TraceError::Header(other.to_owned())),
        };
        let (mut requests, mut now, mut number) = (Vec::new(), Duration::ZERO, 1);
        while let Some(line) = next_line(&mut text, number + 1)? {
            number += 1;
            let bad = |why| TraceError::Line { line: number, text: line.trim_end().to_owned(), why };
            let mut words = line.split_ascii_whitespace();
            if stamped {
                let Some(word) = words.next() else { continue };
                let at = Duration::from_micros(word.parse().map_err(|_| bad("it does not begin with a time in µs"))?);
                if at < now {
                    return Err(bad("its time is before that of an earlier line"));
                }
                now = at;
            }
            let words: Vec<&str> = words.collect();
            let bytes = match words[..] {
                [] | [_, "add" | "open" | "close"] => continue,
                [_, "wait", time] | [_, "wait", time, _] if !stamped => {
                    let time = Duration::from_micros(time.parse().map_err(|_| bad("it does not wait for a number"))?);
                    now = now.checked_add(time).ok_or_else(|| bad("it waits for too long"))?;
                    continue;
                }
                [_, "read", _, _] => continue,
                [_, "write", _, len] => len.parse().map_err(|_| bad("its length is not a number"))?,
                [_, "trim" | "sync" | "datasync" | "sync_file_range", _, _] => 0,
                _ => return Err(bad("it is not `FILE ACTION OFFSET LENGTH` with an action that is known")),
            };
            if requests.len() == REQUESTS_MAX {
                return Err(TraceError::Long);
            }
            requests.push(Request { at: now, bytes });
        }
        if requests.is_empty() {
            return Err(TraceError::Empty);
        }
        let span = match (now, took) {
            (Duration::ZERO, None | Some(Duration::ZERO)) => return Err(TraceError::Untimed),
            (Duration::ZERO, Some(took)) => {
                let count = requests.len() as f64;
                for (i, request) in requests.iter_mut().enumerate() {
                    request.at = took.mul_f64(i as f64 / count);
                }
                took
            }
            (_, Some(_)) => return Err(TraceError::Timed(now)),
            (span, None) => span,
        };
        Ok(Self { requests, span })
    }

    /// Bytes written a second, on average.
    #[must_use]
    pub fn churn(&self) -> f64 {
        self.requests.iter().map(|r| r.bytes as f64).sum::<f64>() / self.span.as_secs_f64()
    }
}

fn next_line(text: &mut impl BufRead, number: usize) -> Result<Option<String>, TraceError> {
    let mut line = Vec::new();
    text.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    let whole = line.len() < LINE_BYTES_MAX as usize || line.ends_with(b"\n");
    let line = String::from_utf8_lossy(&line).into_owned();
    match (line.is_empty(), whole) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(line)),
        (false, false) => {
            let text = line.chars().take(40).collect();
            Err(TraceError::Line { line: number, text, why: "it is longer than a line of fio can be" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, TraceError> {
        Trace::read(text.as_bytes(), None)
    }

    fn request(micros: u64, bytes: u64) -> Request {
        Request { at: Duration::from_micros(micros), bytes }
    }

    #[test]
    fn what_is_written_is_taken_at_the_times_of_the_waits() {
        let text = "fio version 2 iolog\n/dev/vda add\n/dev/vda open\n/dev/vda write 0 4096\n/dev/vda wait 1500 0\n/dev/vda read 0 512\n\
                    /dev/vda wait 500\n/dev/vda trim 0 8192\n/dev/vda sync 0 0\n/dev/vda wait 1000000 0\n/dev/vda close\n";
        let trace = read(text).unwrap();
        assert_eq!(trace.requests, [request(0, 4096), request(2000, 0), request(2000, 0)]);
        assert_eq!(trace.span, Duration::from_micros(1_002_000));
    }

    /// As fio 3.33 wrote it, four writes a second wanted.
    #[test]
    fn lines_with_times_are_read() {
        let text = "fio version 3 iolog\n21 d add\n153 d open\n157 d read 0 65536\n472 d write 131072 65536\n250151 d read 196608 65536\n\
                    250540 d write 65536 65536\n250586 d close\n";
        let trace = read(text).unwrap();
        assert_eq!(trace.requests, [request(472, 65536), request(250_540, 65536)]);
        assert_eq!(trace.span, Duration::from_micros(250_586));
        assert!((trace.churn() - 131_072.0 / 0.250_586).abs() < 1e-3);
    }

    #[test]
    fn one_without_times_is_spread_over_the_time_that_is_given() {
        let text = "fio version 2 iolog\nd write 0 1000\nd write 0 3000\n";
        assert!(matches!(read(text), Err(TraceError::Untimed)));
        let trace = Trace::read(text.as_bytes(), Some(Duration::from_secs(4))).unwrap();
        assert_eq!(trace.requests, [request(0, 1000), request(2_000_000, 3000)]);
        assert!((trace.churn() - 1000.0).abs() < 1e-9);
        let timed = format!("{text}d wait 7 0\n");
        assert!(matches!(Trace::read(timed.as_bytes(), Some(Duration::from_secs(4))), Err(TraceError::Timed(_))));
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        let refused = |text: &str, word: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word), "{word:?} is not in: {error}");
        };
        refused("", "first line");
        refused("fio version 1 iolog\n", "version 1");
        refused("fio version 2 iolog\n", "nothing is written");
        refused("fio version 2 iolog\nd write 0 4096\nd erase 0 4096\n", "line 3");
        refused("fio version 2 iolog\nd write 0\n", "FILE ACTION");
        refused("fio version 2 iolog\nd write 0 much\n", "length");
        refused("fio version 2 iolog\nd wait -5 0\n", "wait for a number");
        refused("fio version 3 iolog\nd write 0 4096\n", "a time in µs");
        refused("fio version 3 iolog\n9 d write 0 1\n8 d write 0 1\n", "earlier");
        refused("fio version 3 iolog\n9 d wait 5 0\n", "FILE ACTION");
        refused(&format!("fio version 2 iolog\n{}", "x".repeat(9000)), "longer");
    }
}
