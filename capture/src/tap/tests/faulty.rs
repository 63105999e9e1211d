//! An engine that spoils operations as a test wants.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use farshore_changelog::ring::PayloadArea;

use crate::engine::{Completion, Engine, Io, Token, Wake};
use crate::tap::os_error;

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It fails and was not done.
    Before(i32),
    /// It was done and fails all the same.
    After(i32),
    /// Half of it is done.
    Short,
    /// It never completes.
    Swallow,
}

/// An engine that lets a test spoil operations.
pub(super) struct Faulty {
    inner: Box<dyn Engine>,
    pub faults: Box<dyn FnMut(&Io) -> Fault>,
    ended: Vec<Completion>,
    spoiled: HashMap<Token, i32>,
    swallowed: Vec<Io>,
}

impl Faulty {
    pub fn new(inner: Box<dyn Engine>) -> Self {
        let (ended, spoiled, swallowed) = (Vec::new(), HashMap::new(), Vec::new());
        Self { inner, faults: Box::new(|_| Fault::None), ended, spoiled, swallowed }
    }
}

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn register(&mut self, memory: PayloadArea) -> io::Result<()> {
        self.inner.register(memory)
    }

    fn push(&mut self, token: Token, mut io: Io) {
        match (self.faults)(&io) {
            Fault::None => {}
            Fault::Before(errno) => {
                let result = Err(os_error(errno));
                return self.ended.push(Completion { token, result, pieces: io.into_pieces() });
            }
            Fault::After(errno) => {
                self.spoiled.insert(token, errno);
            }
            Fault::Short => {
                if let Io::Write { piece, .. } | Io::Read { piece, .. } = &mut io {
                    piece.range.end = piece.range.start + align_half(piece.len());
                }
            }
            Fault::Swallow => return self.swallowed.push(io),
        }
        self.inner.push(token, io);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let timeout = if self.ended.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.inner.wait(timeout, done)?;
        done.append(&mut self.ended);
        for completion in done {
            if let Some(errno) = self.spoiled.remove(&completion.token) {
                completion.result = Err(os_error(errno));
            }
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.ended.len()
    }
}

fn align_half(len: usize) -> usize {
    (len / 2).next_multiple_of(512).min(len)
}
