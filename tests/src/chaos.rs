//! A load that no benchmark makes: several connections write, zero, trim, read and flush ranges of any length and alignment,
//! over each other, and reconnect when the server dies as a VM's client does.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use farshore_changelog::clock;

use crate::client::{Client, command};
use crate::pattern::Rng;

/// How long a connection tries to come back.
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// Force unit access.
const FLAG_FUA: u16 = 1;
/// Zeroes that stay allocated.
const FLAG_NO_HOLE: u16 = 2;

/// What to do to which export.
#[derive(Debug, Clone)]
pub struct ChaosSpec {
    /// The export's socket.
    pub socket: PathBuf,
    /// The export's name.
    pub export: String,
    /// The bytes of the disk that may be touched.
    pub range: Range<u64>,
    /// Connections at the same time.
    pub connections: u64,
    /// Longest request in bytes.
    pub len_max: u64,
    /// Offsets and lengths are multiples of this.
    pub align: u64,
    /// Where the random numbers start.
    pub seed: u64,
}

/// How much was done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Writes.
    pub writes: u64,
    /// Write zeroes.
    pub zeroes: u64,
    /// Trims.
    pub trims: u64,
    /// Reads.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
    /// Times that a connection was lost and made again.
    pub reconnects: u64,
}

impl std::ops::Add for Done {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            zeroes: self.zeroes + other.zeroes,
            trims: self.trims + other.trims,
            reads: self.reads + other.reads,
            flushes: self.flushes + other.flushes,
            reconnects: self.reconnects + other.reconnects,
        }
    }
}

/// A running load.
pub struct Chaos {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Done>>,
}

impl Chaos {
    /// Starts it.
    #[must_use]
    pub fn start(spec: &ChaosSpec) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..spec.connections).map(|n| {
            let (spec, stop) = (spec.clone(), Arc::clone(&stop));
            std::thread::spawn(move || one_connection(&spec, n, &stop))
        });
        Self { threads: threads.collect(), stop }
    }

    /// Stops it after the requests in flight, and says what was done.
    ///
    /// # Panics
    /// When a request failed, or a connection could not be made again.
    #[must_use]
    pub fn finish(self) -> Done {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().map(|t| t.join().expect("the load failed")).fold(Done::default(), |a, b| a + b)
    }
}

#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    command: u16,
    offset: u64,
    len: u32,
    /// Where the payload's random numbers start.
    seed: u64,
}

impl Request {
    fn random(spec: &ChaosSpec, rng: &mut Rng) -> Self {
        let units = (spec.range.end - spec.range.start) / spec.align;
        let len = 1 + rng.below((spec.len_max / spec.align).min(units));
        let at = rng.below(units - len + 1);
        let (command, flags) = match rng.below(100) {
            0..55 => (command::WRITE, 0),
            55..60 => (command::WRITE, FLAG_FUA),
            60..68 => (command::WRITE_ZEROES, 0),
            68..72 => (command::WRITE_ZEROES, FLAG_NO_HOLE),
            72..84 => (command::TRIM, 0),
            84..96 => (command::READ, 0),
            _ => (command::FLUSH, 0),
        };
        let (offset, len) = match command {
            command::FLUSH => (0, 0),
            _ => (spec.range.start + at * spec.align, (len * spec.align) as u32),
        };
        Self { flags, command, offset, len, seed: rng.number() }
    }

    fn send(&self, client: &mut Client) -> io::Result<()> {
        if self.command == command::READ {
            return client.read(self.offset, self.len).map(drop);
        }
        let payload = match self.command {
            command::WRITE => Rng::new(self.seed).bytes(self.len as usize),
            _ => Vec::new(),
        };
        match client.ask(self.flags, self.command, self.offset, self.len, &payload)? {
            0 => Ok(()),
            error => panic!("the server answered error {error} to {self:?}"),
        }
    }

    fn count(&self, done: &mut Done) {
        match self.command {
            command::WRITE => done.writes += 1,
            command::WRITE_ZEROES => done.zeroes += 1,
            command::TRIM => done.trims += 1,
            command::READ => done.reads += 1,
            _ => done.flushes += 1,
        }
    }
}

fn one_connection(spec: &ChaosSpec, number: u64, stop: &AtomicBool) -> Done {
    let mut rng = Rng::new(spec.seed.wrapping_mul(1000) + number);
    let mut done = Done::default();
    let mut client = connect(spec);
    while !stop.load(Ordering::Acquire) {
        let request = Request::random(spec, &mut rng);
        // A VM's client sends again what was not answered: the request may be done twice, and in between another may have
        // been done to the same range.
        while let Err(error) = request.send(&mut client) {
            assert!(is_loss(&error), "{request:?}: {error}");
            client = connect(spec);
            done.reconnects += 1;
        }
        request.count(&mut done);
    }
    done
}

fn is_loss(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn connect(spec: &ChaosSpec) -> Client {
    let deadline = clock::mono() + RECONNECT_MAX;
    loop {
        match Client::open(&spec.socket, &spec.export) {
            Ok(client) => return client,
            Err(error) => assert!(clock::mono() < deadline, "cannot connect for {RECONNECT_MAX:?}: {error}"),
        }
        clock::sleep(Duration::from_millis(20));
    }
}
