//! The segment in the making: takes records from the ring, folds them run by run, and seals them as the next link of the chain.

use std::sync::Arc;
use std::time::Instant;

use farshore_changelog::clock;
use farshore_changelog::ids::{Epoch, GroupName, SegmentNo, Seq};
use farshore_changelog::op::{Record, RecordFlags};
use farshore_changelog::ring::{Consumer, Ring, Taken};
use farshore_changelog::segment::{Kind, PressPool, Sealed, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::units::align_up;

use crate::batch::{AtHand, Limits, Standing};
use crate::error::ShipError;
use crate::fold::{fold, is_boundary};
use crate::level::Compression;
use crate::restart::ChainHead;
use crate::spool::{Spool, Spooled};
use crate::storing::Storing;

/// The ring hands payloads out in pages of this many bytes.
const RING_PAGE_BYTES: u64 = 4096;

/// How a sealer works.
pub struct Tools {
    /// Where segments go.
    pub(crate) spool: Arc<Spool>,
    /// When they are sealed.
    pub(crate) limits: Limits,
    /// How they are compressed.
    pub(crate) compression: Compression,
    /// Who compresses; `None`: the sealer itself.
    pub(crate) pool: Option<PressPool>,
    /// Who writes the spool.
    pub(crate) storing: Storing,
}

/// A segment that is sealed and not in the spool yet.
struct Closed {
    sealed: Arc<Sealed>,
    /// Its records.
    taken: Vec<Taken>,
}

/// Takes and seals. The payloads stay in the ring, compressed from there, until the segment that holds them is durable. One segment
/// is on its way into the spool while the next one is filled.
pub struct Sealer {
    group: GroupName,
    epoch: Epoch,
    tools: Tools,
    consumer: Consumer,
    /// The newest sealed segment.
    head: ChainHead,
    /// The last seq in the spool.
    stored: Seq,
    /// The last seq that was sealed before this sealer began.
    begun: Seq,
    writer: SegmentWriter,
    closed: Option<Closed>,
    /// Records whose pieces are in the writer.
    written: Vec<Taken>,
    /// Records since the last boundary.
    run: Vec<Taken>,
    /// Records that a segment in the spool or the vault holds already, left in the ring by a crash.
    sealed_before: Vec<Taken>,
    /// Payload of `run`, and ring memory of `run` and `written`, in bytes.
    run_bytes: u64,
    ring_bytes: u64,
    first_taken: Option<Instant>,
    last_seal: Option<Instant>,
}

impl Tools {
    fn writer(&self) -> SegmentWriter {
        let level = self.compression.level(0, 0);
        match &self.pool {
            None => SegmentWriter::new(Kind::Log, Some(level)),
            Some(pool) => SegmentWriter::with_press(Kind::Log, level, pool.press()),
        }
    }
}

impl Sealer {
    /// Whether a ring can be continued beyond `head`.
    ///
    /// # Errors
    /// [`ShipError::SpoolLost`] or [`ShipError::OtherRing`] when the ring and the chain do not fit together.
    pub fn check(ring: &Ring, head: &ChainHead) -> Result<(), ShipError> {
        let released = Seq(ring.read_seq().0 - 1);
        if released > head.last_seq {
            return Err(ShipError::SpoolLost { released, known: head.last_seq });
        }
        if ring.next_seq() <= head.last_seq {
            return Err(ShipError::OtherRing { epoch: ring.spec().epoch, known: head.last_seq });
        }
        Ok(())
    }

    /// Continues `head`, which was [`Sealer::check`]ed, with what the ring holds beyond it.
    #[must_use]
    pub fn new(ring: &Ring, head: ChainHead, tools: Tools) -> Self {
        let spec = ring.spec();
        Self {
            group: spec.group.clone(),
            epoch: spec.epoch,
            writer: tools.writer(),
            tools,
            consumer: ring.consumer(),
            head,
            stored: head.last_seq,
            begun: head.last_seq,
            closed: None,
            written: Vec::new(),
            run: Vec::new(),
            sealed_before: Vec::new(),
            run_bytes: 0,
            ring_bytes: 0,
            first_taken: None,
            last_seal: (head.number > SegmentNo(0)).then(clock::mono),
        }
    }

    /// Takes what the ring has until the segment is full or holds `room` payload bytes; the spool is full to `spool_percent`. Gives whether it stopped because the ring
    /// has nothing more now.
    ///
    /// # Errors
    /// [`ShipError::Ring`], [`ShipError::Seal`].
    pub fn take(&mut self, room: u64, spool_percent: u32) -> Result<bool, ShipError> {
        self.writer.set_level(self.tools.compression.level(self.consumer.fill_percent(), spool_percent));
        loop {
            let at_hand = self.at_hand();
            if self.tools.limits.full(&at_hand) || (at_hand.payload_bytes >= room && self.may_pause()) {
                return Ok(false);
            }
            let Some(taken) = self.consumer.take()? else {
                self.release_sealed_before();
                return Ok(true);
            };
            self.admit(taken)?;
        }
    }

    /// Whether nothing is at hand that needs more of the ring: the rest of a request, or of what is sealed already.
    fn may_pause(&self) -> bool {
        self.sealable() == self.run.len() && self.consumer.position() >= self.head.last_seq
    }

    fn admit(&mut self, taken: Taken) -> Result<(), ShipError> {
        let record = *taken.record();
        if record.seq <= self.head.last_seq {
            self.sealed_before.push(taken);
            return Ok(());
        }
        self.release_sealed_before();
        self.first_taken.get_or_insert_with(clock::mono);
        self.run_bytes += record.payload_len();
        self.ring_bytes += align_up(record.payload_len(), RING_PAGE_BYTES);
        self.run.push(taken);
        if is_boundary(&record) { self.write_run(self.run.len(), true) } else { Ok(()) }
    }

    /// Releases what a crash left in the ring although it is sealed.
    fn release_sealed_before(&mut self) {
        if !self.sealed_before.is_empty() && self.consumer.position() >= self.begun {
            self.consumer.release(self.begun, std::mem::take(&mut self.sealed_before));
        }
    }

    /// Folds the first `count` records of the run into the writer. `ended`: the last of them ends a request, or
    /// ends as one because its other parts were passed over.
    fn write_run(&mut self, count: usize, ended: bool) -> Result<(), ShipError> {
        let run: Vec<Taken> = self.run.drain(..count).collect();
        for piece in fold(run.iter().map(Taken::record)) {
            let mut record: Record = piece.record;
            if ended && piece.source + 1 == count {
                record.flags = record.flags.without(RecordFlags::MORE);
                if is_boundary(&record) {
                    record.flags = record.flags.with(RecordFlags::BOUNDARY);
                }
            }
            let pushed = self.writer.push(&record, &run[piece.source].payload()[piece.payload]);
            pushed.map_err(|e| self.cannot_seal(e))?;
        }
        self.run_bytes = self.run.iter().map(|t| t.record().payload_len()).sum();
        self.written.extend(run);
        Ok(())
    }

    /// How many records of the run belong to whole requests. A request whose rest was passed over (aborted, void) ends where
    /// it is.
    fn sealable(&self) -> usize {
        let ends = |t: &Taken| !t.record().flags.has(RecordFlags::MORE);
        match self.run.last() {
            Some(last) if !ends(last) && self.consumer.position() == last.record().seq => {
                self.run.iter().rposition(ends).map_or(0, |at| at + 1)
            }
            _ => self.run.len(),
        }
    }

    /// The last seq that a segment sealed now would cover. What stays in the run then is the beginning of a request that is not
    /// whole: the segment ends before it.
    fn reach(&self) -> Seq {
        match self.run.get(self.sealable()) {
            Some(kept) => Seq(kept.record().seq.0 - 1),
            None => self.consumer.position().max(self.head.last_seq),
        }
    }

    pub(crate) fn at_hand(&self) -> AtHand {
        AtHand {
            payload_bytes: self.writer.payload_bytes() + self.run_bytes,
            ring_bytes: self.ring_bytes,
            records: self.written.len() + self.run.len(),
            sealable: self.written.len() + self.sealable(),
        }
    }

    /// What the decision to seal depends on.
    #[must_use]
    pub fn standing(&self, stopping: bool) -> Standing {
        let now = clock::mono();
        Standing {
            at_hand: self.at_hand(),
            age: self.first_taken.map_or_else(Default::default, |at| now.duration_since(at)),
            since_seal: self.last_seal.map(|at| now.duration_since(at)),
            uncovered: self.reach() > self.head.last_seq,
            spool_empty: self.closed.is_none() && self.tools.spool.is_empty(),
            stopping,
        }
    }

    /// Seals what is sealable; with nothing at hand it becomes a heartbeat. [`Sealer::store`] puts it into the spool; until it is
    /// there, no other one is sealed. `watermark`: the newest segment of this epoch whose confirmation is noted durably.
    ///
    /// # Errors
    /// [`ShipError::Seal`].
    pub fn seal(&mut self, watermark: SegmentNo) -> Result<(), ShipError> {
        assert!(self.closed.is_none(), "the segment before is not in the spool yet");
        let last_seq = self.reach();
        self.write_run(self.sealable(), true)?;
        let stamp = Stamp {
            group: self.group.clone(),
            epoch: self.epoch,
            number: self.head.number.next(),
            first_seq: self.head.last_seq.next(),
            last_seq,
            created: clock::wall(),
            watermark,
            prev: self.head.hash,
        };
        let writer = std::mem::replace(&mut self.writer, self.tools.writer());
        let sealed = writer.seal(stamp).map_err(|e| self.cannot_seal(e))?;
        self.head = ChainHead { number: sealed.head.number, hash: sealed.hash, last_seq };
        self.closed = Some(Closed { sealed: Arc::new(sealed), taken: std::mem::take(&mut self.written) });
        self.ring_bytes = self.run.iter().map(|t| align_up(t.record().payload_len(), RING_PAGE_BYTES)).sum();
        self.last_seal = Some(clock::mono());
        self.first_taken = if self.run.is_empty() { None } else { self.last_seal };
        Ok(())
    }

    /// Goes on with putting the sealed segment into the spool, and once it is there releases its records from the ring. Gives it
    /// then; `None` while it is on its way, or there is none.
    ///
    /// # Errors
    /// [`ShipError::Io`] of the spool: the ring still has everything then, and the next call puts the same segment.
    pub fn store(&mut self) -> Result<Option<Spooled>, ShipError> {
        let Some(closed) = &self.closed else { return Ok(None) };
        if !self.tools.storing.is_under_way() {
            self.tools.storing.begin(&closed.sealed);
        }
        let Some(stored) = self.tools.storing.take() else { return Ok(None) };
        let spooled = stored?;
        self.release_sealed_before();
        if let Some(closed) = self.closed.take().filter(|_| spooled.last_seq > self.stored) {
            self.consumer.release(spooled.last_seq, closed.taken);
        }
        self.stored = spooled.last_seq;
        Ok(Some(spooled))
    }

    /// Whether a segment is sealed that is not in the spool.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Bytes of that segment.
    #[must_use]
    pub fn closed_bytes(&self) -> u64 {
        self.closed.as_ref().map_or(0, |closed| closed.sealed.bytes.len() as u64)
    }

    /// The reading end, for waiting; and for what is taken without being kept, once the group is fenced.
    pub fn into_consumer(self) -> Consumer {
        let Self { mut consumer, closed, written, run, mut sealed_before, .. } = self;
        sealed_before.extend(closed.into_iter().flat_map(|closed| closed.taken));
        sealed_before.extend(written);
        sealed_before.extend(run);
        consumer.release(consumer.position(), sealed_before);
        consumer
    }

    /// Sleeps until the ring may have something, at most `timeout`.
    pub fn wait(&self, timeout: std::time::Duration) {
        self.consumer.wait(timeout);
    }

    /// Sleeps until the segment that is on its way is in the spool, at most `timeout`.
    pub fn wait_stored(&mut self, timeout: std::time::Duration) {
        self.tools.storing.look(timeout);
    }

    /// The last seq in the spool.
    #[must_use]
    pub fn stored(&self) -> Seq {
        self.stored
    }

    fn cannot_seal(&self, source: SegmentError) -> ShipError {
        ShipError::Seal { epoch: self.epoch, number: self.head.number.next(), source }
    }
}
