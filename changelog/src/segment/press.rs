//! Blocks on their way into a segment: encoded and hashed where they are handed over, or by whoever is given them.

use std::io;
use std::sync::mpsc::Receiver;

use super::Codec;
use super::codec::Encoder;
use crate::ids::Hash;

/// A block as it is stored.
#[derive(Debug)]
pub struct Pressed {
    /// The stored bytes.
    pub stored: Vec<u8>,
    /// Count of the raw bytes.
    pub raw_len: usize,
    /// The hash of the stored bytes.
    pub hash: Hash,
}

/// Encodes and hashes one block after the other, and keeps the compressor's memory between them.
pub struct BlockPress(Encoder);

impl BlockPress {
    /// `level` is zstd's; `None` stores the bytes as they are.
    #[must_use]
    pub fn new(level: Option<i32>) -> Self {
        Self(Encoder::new(level))
    }

    /// The level of the blocks that come.
    ///
    /// # Errors
    /// Of the compressor.
    pub fn set_level(&mut self, level: i32) -> io::Result<()> {
        self.0.set_level(level)
    }

    /// Encodes and hashes `raw`.
    ///
    /// # Errors
    /// Of the compressor.
    pub fn press(&mut self, raw: &[u8]) -> io::Result<Pressed> {
        let mut stored = Vec::new();
        self.0.encode(raw, &mut stored)?;
        let hash = Hash::of(&stored);
        Ok(Pressed { stored, raw_len: raw.len(), hash })
    }

    pub(super) fn codec(&self) -> Codec {
        self.0.codec()
    }

    /// Appends `raw`, encoded, to `out` and gives the count of bytes appended.
    pub(super) fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        self.0.encode(raw, out)
    }
}

/// A block that was handed over.
pub enum Pressing {
    /// It is done.
    Done(io::Result<Pressed>),
    /// Its result comes.
    Coming(Receiver<io::Result<Pressed>>),
}

impl Pressing {
    /// Its result, waited for.
    ///
    /// # Errors
    /// Of the compressor; also when whoever was given the block has ended without doing it.
    pub fn wait(self) -> io::Result<Pressed> {
        match self {
            Self::Done(pressed) => pressed,
            Self::Coming(pressed) => {
                pressed.recv().unwrap_or_else(|_| Err(io::Error::other("a thread that compresses has ended")))
            }
        }
    }
}

/// Who presses the blocks of a writer.
pub trait Press: Send {
    /// Takes a raw block, and leaves an empty buffer for the next one. It may wait, so that what is under way stays bounded.
    fn press(&mut self, raw: &mut Vec<u8>, level: i32) -> Pressing;
}
