//! Writes that tell their own story: each sector bears its place and a version that rises, so that what a disk holds after a power cut
//! says which writes it kept.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;

use crate::client::Client;
use crate::pattern::Rng;

/// What is written in one request.
pub const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// What is known of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The newest version that a FLUSH has covered: never lost.
    pub flushed: u64,
    /// The newest version that was acknowledged.
    pub acknowledged: u64,
    /// The newest version that was sent.
    pub sent: u64,
}

/// What a writer knows of the disk; it is the only one who writes its blocks.
#[derive(Debug, Clone, Default)]
pub struct Story {
    blocks: BTreeMap<u64, Known>,
    version: u64,
}

fn sector(place: u64, version: u64) -> Vec<u8> {
    let mut bytes = place.to_le_bytes().to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(Rng::new(place << 32 ^ version).bytes(SECTOR - bytes.len()));
    bytes
}

/// The version of the sector at `place`, 0 when it was never written.
fn version_in(content: &[u8], place: u64) -> u64 {
    let bytes = &content[place as usize * SECTOR..][..SECTOR];
    let version = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    let expected = if version == 0 { vec![0; SECTOR] } else { sector(place, version) };
    assert!(bytes == expected, "sector {place} holds what nobody has written");
    version
}

impl Story {
    /// Writes a block in its next version.
    ///
    /// # Errors
    /// Of the connection: the write may or may not have reached the disk.
    pub fn write(&mut self, client: &mut Client<TcpStream>, block: u64) -> io::Result<()> {
        self.version += 1;
        let known = self.blocks.entry(block).or_default();
        known.sent = self.version;
        let first = block * (BLOCK / SECTOR) as u64;
        let data: Vec<u8> = (first..first + (BLOCK / SECTOR) as u64).flat_map(|s| sector(s, self.version)).collect();
        client.write(block * BLOCK as u64, &data)?;
        known.acknowledged = self.version;
        Ok(())
    }

    /// Flushes.
    ///
    /// # Errors
    /// Of the connection: what was written before may or may not be durable.
    pub fn flush(&mut self, client: &mut Client<TcpStream>) -> io::Result<()> {
        client.flush()?;
        self.blocks.values_mut().for_each(|known| known.flushed = known.acknowledged);
        Ok(())
    }

    /// Looks at what a power cut has left: nothing that was flushed is gone, and nothing is there that was not written. From then on
    /// what is there counts as flushed. Gives how many acknowledged blocks were lost, in whole or in part.
    ///
    /// # Panics
    /// When the disk is not one that such a cut can leave.
    pub fn after_cut(&mut self, content: &[u8]) -> usize {
        let mut lost = 0;
        for (block, known) in &mut self.blocks {
            let first = block * (BLOCK / SECTOR) as u64;
            let mut versions = (first..first + (BLOCK / SECTOR) as u64).map(|place| version_in(content, place));
            let oldest = versions.clone().min().expect("a block has sectors");
            assert!(
                versions.all(|version| (known.flushed..=known.sent).contains(&version)),
                "block {block} was flushed at version {}, and has version {oldest} after the cut",
                known.flushed
            );
            lost += usize::from(oldest < known.acknowledged);
            // A block that was torn stays so; whoever writes it again makes it whole.
            (known.flushed, known.acknowledged) = (oldest, oldest);
        }
        lost
    }
}
