//! The guests: requests of all kinds on all disks, which are repeated when the agent comes back, as an NBD client that reconnects does,
//! and forgotten when their host has lost power.

use std::time::Duration;

use farshore_capture::device::{Answer, Payload, Request, RequestId};

use crate::cells::{self, CELL};
use crate::history::{History, Kind};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::source::{Agent, Ended};

/// Pause before a request is tried again for which the ring had no room.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// The longest a guest may wait for an answer while its agent lives, beside the wait for a full log: …
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// … and on a disk that hangs, which it does for seconds, and more than once for one request.
const ANSWER_OF_HANGING_MAX: Duration = Duration::from_secs(40);
/// Longest time that half a payload is held.
const HELD_MAX_MICROS: u64 = 2_000_000;

/// A request without an answer.
struct Open {
    number: u32,
    /// The id it was submitted with, `None` before, and after its agent died.
    id: Option<RequestId>,
    /// Since when the agent that lives has had the chance to answer it.
    since: Option<Duration>,
}

/// All guests.
pub struct Guests {
    rng: Rng,
    disks: Vec<usize>,
    depth: usize,
    gap_micros: u64,
    cells_max: u64,
    patience: Duration,
    pub due: Duration,
    next_new: Duration,
    open: Vec<Open>,
    attempts: u64,
    /// A client that stopped in the middle of a payload.
    held: Option<(usize, Payload, Duration)>,
    /// Requests that have ended well.
    pub done: u64,
    /// No new request.
    pub resting: bool,
}

impl Guests {
    pub fn new(seed: u64, plan: &Plan) -> Self {
        Self {
            rng: Rng::new(seed, 7),
            disks: plan.disk_bytes.iter().map(|bytes| *bytes as usize / CELL).collect(),
            depth: plan.depth,
            gap_micros: plan.gap_micros,
            cells_max: plan.request_cells_max,
            patience: if plan.disk_faults.hangs > 0 { ANSWER_OF_HANGING_MAX } else { plan.full_wait + ANSWER_MAX },
            due: Duration::ZERO,
            next_new: Duration::ZERO,
            open: Vec::new(),
            attempts: 0,
            held: None,
            done: 0,
            resting: false,
        }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Their agent has died: what it had is repeated. Gives what must be dropped with it.
    pub fn agent_gone(&mut self) -> Option<Payload> {
        self.open.iter_mut().for_each(|open| open.id = None);
        self.due = Duration::ZERO;
        self.held.take().map(|(_, payload, _)| payload)
    }

    /// Nobody waits longer than it takes to notice that the log is full, and longer than a disk hangs (G6).
    pub fn check_patience(&self, now: Duration) -> Result<(), String> {
        let late = self.open.iter().find(|open| open.since.is_some_and(|since| now > since + self.patience));
        match late {
            Some(open) => Err(format!("G6: request {} has waited for its answer since {:?}", open.number, open.since)),
            None => Ok(()),
        }
    }

    /// They ask for nothing new until then.
    pub fn rest(&mut self, until: Duration) {
        self.next_new = self.next_new.max(until);
    }

    /// An agent serves them, the first or another: it has not kept anybody waiting.
    pub fn agent_begins(&mut self) {
        self.open.iter_mut().for_each(|open| open.since = None);
        self.due = Duration::ZERO;
    }

    /// They are gone themselves: nobody waits for anything.
    pub fn lost(&mut self, history: &mut History) {
        self.open.drain(..).for_each(|open| history.give_up(open.number));
    }

    /// What they do now.
    pub fn step(&mut self, now: Duration, agent: &mut Agent, history: &mut History) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.due = self.next_new;
        if let Some((disk, payload, _)) = self.held.take_if(|(_, _, until)| *until <= now) {
            agent.give_back(disk, payload);
        }
        let mut refused = vec![false; self.disks.len()];
        for n in 0..self.open.len() {
            let (number, id) = (self.open[n].number, self.open[n].id);
            self.open[n].since.get_or_insert(now);
            let disk = history.op(number).disk;
            if id.is_none() && !refused[disk] {
                match self.submit(number, agent, history) {
                    Some((id, done)) => {
                        self.open[n].id = Some(id);
                        ended.extend(done);
                    }
                    None => refused[disk] = true,
                }
            }
        }
        if refused.contains(&true) {
            self.due = self.due.min(now + ROOM_PAUSE);
        }
        if now >= self.next_new {
            self.next_new = now + self.rng.micros(1, 2 * self.gap_micros);
            self.due = self.next_new;
            if self.open.len() < self.depth && !self.resting {
                let number = self.invent(history);
                self.open.push(Open { number, id: None, since: None });
                self.due = now;
            }
            if self.held.is_none() && !self.resting && self.rng.one_in(200) {
                let (disk, cells) = (self.rng.below(self.disks.len() as u64) as usize, 8);
                if let Some(payload) = agent.payload(disk, 0, &vec![0; cells * CELL]) {
                    self.held = Some((disk, payload, now + self.rng.micros(1, HELD_MAX_MICROS)));
                }
            }
        }
        ended
    }

    /// A new request.
    fn invent(&mut self, history: &mut History) -> u32 {
        let rng = &mut self.rng;
        let disk = rng.below(self.disks.len() as u64) as usize;
        let cells = self.disks[disk] as u64;
        let kind = match rng.below(20) {
            0..=9 => Kind::Write,
            10 => Kind::Zeroes { no_hole: rng.one_in(2) },
            11 => Kind::Trim,
            12..=14 => Kind::Flush,
            _ => Kind::Read,
        };
        // Small requests mostly, and a few large ones; half of them meet in a narrow place, a third are not of whole sectors.
        let longest = if rng.one_in(4) { self.cells_max } else { self.cells_max.min(24) };
        let mut count = rng.between(1, longest.min(cells));
        let unit = rng.pick(&[1, 4, 32]);
        let reach = if rng.one_in(2) { (cells - count).min(96) } else { cells - count };
        let mut first = rng.below(reach + 1);
        if first >= unit {
            first -= first % unit;
        }
        if unit > 1 && count > unit {
            count -= count % unit;
        }
        if kind == Kind::Flush {
            (first, count) = (0, 0);
        }
        let fua = !matches!(kind, Kind::Flush | Kind::Read) && rng.one_in(10);
        history.submit(disk, first as usize, count as usize, kind, fua)
    }

    /// Hands a request to the agent; `None` when the ring has no room for it.
    fn submit(&mut self, number: u32, agent: &mut Agent, history: &History) -> Option<(RequestId, Vec<Ended>)> {
        let op = history.op(number);
        let (offset, len) = ((op.first * CELL) as u64, (op.count * CELL) as u64);
        let (request, payload) = match op.kind {
            Kind::Write => {
                let mut bytes = vec![0; op.count * CELL];
                cells::fill(number, op.disk, op.first, &mut bytes);
                let payload = agent.payload(op.disk, offset, &bytes)?;
                (Request::Write { offset, len: len as u32, fua: op.fua }, Some(payload))
            }
            Kind::Zeroes { no_hole } => (Request::WriteZeroes { offset, len, fua: op.fua, no_hole, fast: false }, None),
            Kind::Trim => (Request::Trim { offset, len, fua: op.fua }, None),
            Kind::Flush => (Request::Flush, None),
            Kind::Read => (Request::Read { offset, len: len as u32 }, None),
        };
        self.attempts += 1;
        let id = RequestId(self.attempts << 32 | u64::from(number));
        let ended = agent.submit(op.disk, id, request, payload);
        Some((id, ended))
    }

    /// Requests have ended: what was read must have been there.
    pub fn ended(&mut self, all: Vec<Ended>, history: &mut History) -> Result<(), String> {
        if !all.is_empty() {
            self.due = Duration::ZERO;
        }
        for Ended { id, result } in all {
            let Some(at) = self.open.iter().position(|open| open.id == Some(id)) else {
                return Err(format!("request {id:?} was answered, and nobody waits for it"));
            };
            let number = self.open.remove(at).number;
            if let Ok(Answer::Data(pieces)) = &result {
                let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.as_slice().iter().copied()).collect();
                history.check_read(number, &bytes)?;
            }
            self.done += u64::from(result.is_ok());
            history.end(number, result.is_ok());
        }
        Ok(())
    }
}
