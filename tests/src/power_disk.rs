//! Disks with a write cache that a power cut empties: an NBD server for QEMU that holds writes in memory until FLUSH. A cut keeps a
//! random subset of what was not flushed, in pieces as small as a sector, of all disks at the same instant.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::{
    MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, command, error, option, option_reply,
};
use crate::pattern::Rng;

/// What a disk writes in one go; larger writes may survive in part.
const PIECE: usize = 4096;
/// The smallest unit that is written as a whole.
const SECTOR: usize = 512;
/// In one of so many pieces that survive only some of the sectors do.
const TORN_IN: u64 = 8;
/// `HAS_FLAGS | SEND_FLUSH | SEND_FUA`.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3;
/// `FUA` of a request.
const FUA: u16 = 1;
/// The longest request and option that is believed.
const REQUEST_MAX: u32 = 32 << 20;
const OPTION_MAX: u32 = 4096;

struct Medium {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// What came since the last flush, in its order.
    pending: Vec<(usize, Vec<u8>)>,
}

impl Medium {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = (PIECE - at % PIECE).min(rest.len());
            self.pending.push((at, rest[..piece].to_vec()));
            (at, rest) = (at + piece, &rest[piece..]);
        }
    }

    fn flush(&mut self) {
        for (at, bytes) in self.pending.drain(..) {
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn cut(&mut self, keep_of_100: u64, rng: &mut Rng) {
        for (at, bytes) in std::mem::take(&mut self.pending) {
            if rng.below(100) >= keep_of_100 {
                continue;
            }
            let torn = rng.below(TORN_IN) == 0;
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if !torn || rng.below(2) == 0 {
                    let at = at + n * SECTOR;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

#[derive(Default)]
struct Disks {
    media: Vec<Medium>,
    /// Counts the cuts: a connection of an earlier life is deaf.
    life: u64,
}

/// Disks that lose their power together.
pub struct PowerDisks {
    disks: Arc<Mutex<Disks>>,
    sockets: Vec<PathBuf>,
}

impl PowerDisks {
    /// Disks full of zeroes, each served on a socket of its own in `dir`. The server lives as long as the test program.
    ///
    /// # Panics
    /// When a socket cannot be made.
    #[must_use]
    pub fn serve(dir: &Path, sizes: &[usize]) -> Self {
        let medium = |size: &usize| Medium { durable: vec![0; *size], seen: vec![0; *size], pending: Vec::new() };
        let disks = Arc::new(Mutex::new(Disks { media: sizes.iter().map(medium).collect(), life: 0 }));
        let serve = |(n, _): (usize, &usize)| {
            let socket = dir.join(format!("power-{n}.sock"));
            let listener = UnixListener::bind(&socket).expect("a socket for a disk");
            let disks = Arc::clone(&disks);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let disks = Arc::clone(&disks);
                    // A client that is gone ends its connection with an error, which is as it should be.
                    std::thread::spawn(move || Connection { stream, disks, disk: n }.serve());
                }
            });
            socket
        };
        let sockets = sizes.iter().enumerate().map(serve).collect();
        Self { disks, sockets }
    }

    fn lock(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket of a disk.
    #[must_use]
    pub fn socket(&self, disk: usize) -> PathBuf {
        self.sockets[disk].clone()
    }

    /// The power fails. Of what the disks in `lossy` were not asked to flush, a random share is kept; the others have written
    /// everything. Requests that come later, over connections that exist now, are not heard.
    pub fn cut(&self, lossy: &[usize], rng: &mut Rng) {
        let mut disks = self.lock();
        disks.life += 1;
        for (n, medium) in disks.media.iter_mut().enumerate() {
            if lossy.contains(&n) {
                let keep = rng.below(101);
                medium.cut(keep, rng);
            } else {
                medium.flush();
            }
        }
    }

    /// What a disk holds, as a reader sees it.
    #[must_use]
    pub fn content(&self, disk: usize) -> Vec<u8> {
        self.lock().media[disk].seen.clone()
    }
}

struct Connection {
    stream: UnixStream,
    disks: Arc<Mutex<Disks>>,
    disk: usize,
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn bytes(&mut self, len: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn serve(mut self) -> io::Result<()> {
        let life = self.lock().life;
        self.stream.write_all(&MAGIC.to_be_bytes())?;
        self.stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
        self.stream.write_all(&3_u16.to_be_bytes())?;
        let _client_flags = self.u32()?;
        while !self.option()? {}
        loop {
            self.request(life)?;
        }
    }

    fn reply_to_option(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes)
    }

    /// Answers one option; whether transmission begins.
    fn option(&mut self) -> io::Result<bool> {
        known(self.u64()? == OPTION_MAGIC)?;
        let (wanted, len) = (self.u32()?, self.u32()?);
        known(len <= OPTION_MAX)?;
        let _data = self.bytes(len)?;
        if wanted != option::GO {
            known(wanted != option::ABORT && wanted != option::EXPORT_NAME)?;
            self.reply_to_option(wanted, option_reply::ERR_UNSUP, &[])?;
            return Ok(false);
        }
        let size = self.lock().media[self.disk].seen.len() as u64;
        let mut info = 0_u16.to_be_bytes().to_vec();
        info.extend(size.to_be_bytes());
        info.extend(EXPORT_FLAGS.to_be_bytes());
        self.reply_to_option(wanted, option_reply::INFO, &info)?;
        self.reply_to_option(wanted, option_reply::ACK, &[])?;
        Ok(true)
    }

    fn request(&mut self, life: u64) -> io::Result<()> {
        known(self.u32()? == REQUEST_MAGIC)?;
        let kind = self.u32()?;
        let (flags, kind) = ((kind >> 16) as u16, kind as u16);
        let cookie = self.u64()?;
        let (offset, len) = (self.u64()?, self.u32()?);
        known(len <= REQUEST_MAX)?;
        let payload = if kind == command::WRITE { self.bytes(len)? } else { Vec::new() };
        let mut answer = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        let mut data = Vec::new();
        let mut failed = 0;
        {
            let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
            known(disks.life == life)?;
            let medium = &mut disks.media[self.disk];
            let (at, end) = (offset as usize, offset as usize + len as usize);
            match kind {
                command::READ | command::WRITE if end > medium.seen.len() => failed = error::EINVAL,
                command::READ => data.extend_from_slice(&medium.seen[at..end]),
                command::WRITE => {
                    medium.write(at, &payload);
                    if flags & FUA != 0 {
                        medium.flush();
                    }
                }
                command::FLUSH => medium.flush(),
                command::DISC => return known(false),
                _ => failed = error::EINVAL,
            }
        }
        answer.extend(failed.to_be_bytes());
        answer.extend(cookie.to_be_bytes());
        answer.extend(data);
        self.stream.write_all(&answer)
    }
}

/// Ends a connection that goes on in a way that is not understood, or that is over.
fn known(good: bool) -> io::Result<()> {
    if good { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    fn served() -> (tempfile::TempDir, PowerDisks) {
        let dir = tempfile::tempdir().unwrap();
        let disks = PowerDisks::serve(dir.path(), &[1 << 20, 1 << 20]);
        (dir, disks)
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_a_part_of_the_rest() {
        let (_dir, disks) = served();
        let mut clients = [0, 1].map(|n| Client::open(&disks.socket(n), "").unwrap());
        for client in &mut clients {
            client.write(0, &[1; 65536]).unwrap();
            client.flush().unwrap();
            client.write(32768, &[2; 65536]).unwrap();
        }
        assert_eq!(clients[0].read(32768, 1).unwrap(), [2]);
        disks.cut(&[0], &mut Rng::new(5));
        assert!(clients[0].write(0, &[3; 512]).is_err(), "a disk without power answers");
        let lossy = disks.content(0);
        assert!(lossy[..32768].iter().all(|b| *b == 1) && !lossy.contains(&3));
        let kept = lossy.chunks(SECTOR).filter(|sector| sector[0] == 2).count();
        assert!(kept > 0 && kept < 65536 / SECTOR, "{kept} sectors were kept");
        assert!(disks.content(1)[32768..32768 + 65536].iter().all(|b| *b == 2));
        // The next life sees what was left.
        let mut client = Client::open(&disks.socket(0), "").unwrap();
        assert_eq!(client.read(0, 1 << 20).unwrap(), lossy);
    }
}
