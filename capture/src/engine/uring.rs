//! The engine on io_uring.
//!
//! What the kernel may touch (buffers, message headers) lies in the in-flight table, at addresses that do not move, until the
//! completion has been seen. Work without a completion interface runs on a few helper threads, whose results come through
//! the same eventfd that wakes the ring.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::ring::PayloadArea;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use slab::Slab;

use super::pool::by_thread;
use super::workers::Workers;
use super::{Completion, Engine, Io, Piece, Token, Wake};

/// Entries of the submission queue; more operations wait in a list until there is room.
const SUBMISSION_ENTRIES: u32 = 256;
/// Entries of the completion queue. What overflows it the kernel keeps (`IORING_FEAT_NODROP`).
const COMPLETION_ENTRIES: u32 = 2048;
/// Helper threads for [`Io::Call`].
pub const HELPER_THREADS: usize = 4;
/// Message headers kept for the next sends: a lane's connections send one at a time each.
const SPARE_MESSAGES_MAX: usize = 64;
/// For each so many small reads in flight one more completion is waited for: their answers then share a send, and the client is woken
/// once for them. Of an eighth of them that is a small part of what each waits for the disk.
const READS_A_COMPLETION: usize = 8;
/// Most completions that are waited for at once.
const WAITED_FOR_MAX: usize = 4;
/// Longest wait for more than one: a disk that does not answer must not keep anything else of the lane waiting.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// The largest read that counts as small: of larger ones each is worth a send.
const SMALL_READ_BYTES: usize = 16 << 10;
/// Most bytes of one read or write, as for read(2); the rest is a short count.
const TRANSFER_MAX_BYTES: usize = 0x7fff_f000;
/// The registered memory among the ring's: the only one.
const REGISTERED: u16 = 0;
/// The completion of the bell's poll, which no key of the in-flight table equals.
const BELL: u64 = u64::MAX;

/// io_uring.
pub struct Uring {
    ring: IoUring,
    in_flight: Slab<InFlight>,
    /// How many of them are small reads.
    small_reads: usize,
    /// Whether more than one completion may be waited for.
    gathers: bool,
    /// Built entries that have not found room in the submission queue yet.
    waiting: VecDeque<squeue::Entry>,
    /// What sends that are over have left for the next ones.
    #[expect(clippy::vec_box, reason = "the kernel reads them in an operation, so they do not move")]
    spare_messages: Vec<Box<Message>>,
    workers: Workers,
    /// Memory that the kernel has pinned for `ring`; declared after it, so that it is unmapped later.
    registered: Option<PayloadArea>,
}

struct InFlight {
    token: Token,
    io: Io,
    /// Of a send, what sendmsg reads; boxed, so that it does not move.
    message: Option<Box<Message>>,
}

struct Message {
    slices: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Message {
    fn new() -> Box<Self> {
        // SAFETY: a zeroed msghdr is a message without address, data and control part.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        Box::new(Self { slices: Vec::new(), header })
    }

    /// Makes it the message of these pieces.
    fn fill(&mut self, pieces: &[Piece]) -> *const libc::msghdr {
        let slice = |p: &Piece| libc::iovec { iov_base: p.as_slice().as_ptr().cast_mut().cast(), iov_len: p.len() };
        self.slices.clear();
        self.slices.extend(pieces.iter().map(slice));
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = self.slices.len() as _;
        &raw const self.header
    }
}

impl Uring {
    /// Sets up a ring for the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses io_uring (too old, switched off, seccomp) or lacks an operation that is needed.
    pub fn open() -> io::Result<Self> {
        let ring = build(true).or_else(|_| build(false))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            ("accept", opcode::Accept::CODE),
            ("recv", opcode::Recv::CODE),
            ("sendmsg", opcode::SendMsg::CODE),
            ("read", opcode::Read::CODE),
            ("write", opcode::Write::CODE),
            ("fsync", opcode::Fsync::CODE),
            ("poll", opcode::PollAdd::CODE),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("this kernel's io_uring has no {name}")));
        }
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring is too old (5.11 is needed)",
            ));
        }
        let mut uring = Self {
            ring,
            in_flight: Slab::new(),
            small_reads: 0,
            gathers: true,
            waiting: VecDeque::new(),
            spare_messages: Vec::new(),
            workers: Workers::start(HELPER_THREADS)?,
            registered: None,
        };
        uring.arm_bell();
        Ok(uring)
    }

    fn arm_bell(&mut self) {
        let bell = types::Fd(self.workers.bell().raw());
        self.waiting.push_back(opcode::PollAdd::new(bell, libc::POLLIN as u32).build().user_data(BELL));
    }

    /// Moves built entries into the submission queue, submitting whenever it is full.
    fn feed(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            {
                let mut queue = self.ring.submission();
                while let Some(entry) = self.waiting.pop_front() {
                    // SAFETY: the entry's buffers and message lie in the in-flight table until its completion.
                    if unsafe { queue.push(&entry) }.is_err() {
                        self.waiting.push_front(entry);
                        break;
                    }
                }
            }
            if !self.waiting.is_empty() && !tolerable(self.ring.submit())? {
                return Ok(()); // the kernel wants completions taken first
            }
        }
        Ok(())
    }

    /// Takes what has completed. Gives whether the bell rang.
    fn reap(&mut self, done: &mut Vec<Completion>) -> bool {
        let mut rang = false;
        let mut again = Vec::new();
        for end in self.ring.completion() {
            if end.user_data() == BELL {
                rang = true;
                continue;
            }
            let key = usize::try_from(end.user_data()).expect("a key of the in-flight table");
            if end.result() == -libc::EINTR && !matches!(self.in_flight[key].io, Io::Fdatasync { .. }) {
                again.push(key);
                continue;
            }
            let op = self.in_flight.remove(key);
            self.small_reads -= usize::from(is_small_read(&op.io));
            // What cannot be done at once a thread of the kernel does; when there is none to be had, the operation is
            // cancelled before it has begun. The helper threads have been there from the start.
            let op = match (end.result() == -libc::ECANCELED, op) {
                (true, InFlight { token, io, message }) => match by_thread(io) {
                    Ok(call) => {
                        self.workers.push(token, call);
                        continue;
                    }
                    Err(io) => InFlight { token, io, message },
                },
                (false, op) => op,
            };
            if let Some(message) = op.message
                && self.spare_messages.len() < SPARE_MESSAGES_MAX
            {
                self.spare_messages.push(message);
            }
            let result = u64::try_from(end.result()).map_err(|_| io::Error::from_raw_os_error(-end.result()));
            done.push(Completion { token: op.token, result, pieces: op.io.into_pieces() });
        }
        for key in again {
            let entry = entry(&mut self.in_flight[key], key, self.registered.as_ref());
            self.waiting.push_back(entry);
        }
        if rang {
            self.workers.bell().hush();
            self.arm_bell();
        }
        self.workers.take(done);
        rang
    }
}

/// A ring; with `quiet`, the kernel does not interrupt this thread to finish an operation (5.19 and later).
fn build(quiet: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(COMPLETION_ENTRIES);
    if quiet {
        builder.setup_coop_taskrun();
    }
    builder.build(SUBMISSION_ENTRIES)
}

/// Whether entering the kernel did its work; `false` when completions must be taken first or time or a signal ended it.
fn tolerable(entered: io::Result<usize>) -> io::Result<bool> {
    match entered {
        Ok(_) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ETIME) => Ok(false),
            _ => Err(e),
        },
    }
}

fn is_small_read(io: &Io) -> bool {
    matches!(io, Io::Read { piece, .. } if piece.len() <= SMALL_READ_BYTES)
}

fn length(piece: &Piece) -> u32 {
    u32::try_from(piece.len().min(TRANSFER_MAX_BYTES)).expect("bounded just before")
}

/// The submission of an operation that lies in the in-flight table at `key`.
fn entry(op: &mut InFlight, key: usize, registered: Option<&PayloadArea>) -> squeue::Entry {
    let built = match &mut op.io {
        Io::Accept { fd } => {
            let none = std::ptr::null_mut();
            opcode::Accept::new(types::Fd(*fd), none, none.cast()).flags(libc::SOCK_CLOEXEC).build()
        }
        Io::Recv { fd, piece } => {
            let len = length(piece);
            opcode::Recv::new(types::Fd(*fd), piece.as_mut_slice().as_mut_ptr(), len).build()
        }
        Io::Send { fd, pieces } => {
            let message = op.message.get_or_insert_with(Message::new).fill(pieces);
            opcode::SendMsg::new(types::Fd(*fd), message).flags(libc::MSG_NOSIGNAL as u32).build()
        }
        Io::Read { fd, offset, piece } => {
            let len = length(piece);
            opcode::Read::new(types::Fd(*fd), piece.as_mut_slice().as_mut_ptr(), len).offset(*offset).build()
        }
        Io::Write { fd, offset, piece } => {
            let (fd, bytes, len) = (types::Fd(*fd), piece.as_slice(), length(piece));
            if registered.is_some_and(|area| area.holds(bytes)) {
                opcode::WriteFixed::new(fd, bytes.as_ptr(), len, REGISTERED).offset(*offset).build()
            } else {
                opcode::Write::new(fd, bytes.as_ptr(), len).offset(*offset).build()
            }
        }
        Io::Fdatasync { fd } => opcode::Fsync::new(types::Fd(*fd)).flags(types::FsyncFlags::DATASYNC).build(),
        Io::Call(_) => unreachable!("calls go to the helper threads"),
    };
    built.user_data(key as u64)
}

impl Engine for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn register(&mut self, memory: PayloadArea) -> io::Result<()> {
        let whole = libc::iovec { iov_base: memory.start().cast(), iov_len: memory.bytes() };
        // SAFETY: `memory` keeps the mapping, and is kept until after the ring is gone.
        unsafe { self.ring.submitter().register_buffers(&[whole])? };
        self.registered = Some(memory);
        Ok(())
    }

    fn push(&mut self, token: Token, io: Io) {
        if let Io::Call(call) = io {
            self.workers.push(token, call);
            return;
        }
        self.small_reads += usize::from(is_small_read(&io));
        let slot = self.in_flight.vacant_entry();
        let key = slot.key();
        let message = if matches!(io, Io::Send { .. }) { self.spare_messages.pop() } else { None };
        let op = slot.insert(InFlight { token, io, message });
        self.waiting.push_back(entry(op, key, self.registered.as_ref()));
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        self.feed()?;
        let rang = self.reap(done);
        self.feed()?;
        let wanted = match self.gathers {
            true => (self.small_reads / READS_A_COMPLETION).clamp(1, WAITED_FOR_MAX),
            false => 1,
        };
        let timeout = if wanted > 1 { Some(timeout.unwrap_or(GATHER_MAX).min(GATHER_MAX)) } else { timeout };
        if rang || done.len() > before || timeout == Some(Duration::ZERO) {
            if !self.ring.submission().is_empty() || done.len() == before {
                tolerable(self.ring.submit())?;
            }
        } else if let Some(timeout) = timeout {
            let timeout = types::Timespec::from(timeout);
            tolerable(self.ring.submitter().submit_with_args(wanted, &types::SubmitArgs::new().timespec(&timeout)))?;
        } else {
            tolerable(self.ring.submit_and_wait(wanted))?;
        }
        self.reap(done);
        // After a wait in vain the next one is for whatever comes first.
        self.gathers = done.len() > before;
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(self.workers.bell()) as Arc<dyn Wake>
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len() + self.workers.outstanding()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.in_flight.is_empty() {
            // The kernel may still write into these buffers; memory that is never freed is the lesser evil.
            tracing::warn!(operations = self.in_flight.len(), "an io_uring was dropped with operations in flight");
            std::mem::forget(std::mem::take(&mut self.in_flight));
        }
    }
}
