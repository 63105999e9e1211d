//! A line between two ends of TCP, in this process: so many bytes a second each way, shared by all connections, and a delay.
//!
//! What it does not have is what TCP makes of a delay: each connection's own window ends at the line. It is for who waits for answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_changelog::clock;

/// Bytes that go as one.
const PIECE: usize = 16 << 10;
/// Pieces that are under way in a connection, at most.
const PIECES_MAX: usize = 1024;

/// One direction.
struct Way {
    bytes_per_second: f64,
    delay: Duration,
    /// When the line is free again.
    free: Mutex<Instant>,
    carried: AtomicU64,
}

impl Way {
    fn new(bytes_per_second: f64, delay: Duration) -> Arc<Self> {
        Arc::new(Self { bytes_per_second, delay, free: Mutex::new(clock::mono()), carried: AtomicU64::new(0) })
    }

    /// When so many bytes have left, if they queue now.
    fn queue(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(clock::mono()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free
    }

    /// Carries what comes from one end to the other, until that ends.
    fn carry(self: Arc<Self>, mut from: TcpStream, to: TcpStream) {
        let (pieces, arriving) = sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
        std::thread::spawn(move || {
            let mut to = to;
            for (at, piece) in arriving {
                sleep_until(at);
                if to.write_all(&piece).is_err() {
                    break;
                }
            }
            let _closed = to.shutdown(Shutdown::Write);
        });
        let _ended = self.read(&mut from, &pieces);
    }

    fn read(&self, from: &mut TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = from.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            let left = self.queue(read);
            self.carried.fetch_add(read as u64, Ordering::Relaxed);
            if pieces.send((left + self.delay, piece[..read].to_vec())).is_err() {
                return Ok(());
            }
            sleep_until(left);
        }
    }
}

fn sleep_until(at: Instant) {
    clock::sleep(at.saturating_duration_since(clock::mono()));
}

/// A line that runs until the test program ends.
pub struct Line {
    port: u16,
    up: Arc<Way>,
}

impl Line {
    /// To the local `port`: so many bits a second each way, and a round trip.
    ///
    /// # Panics
    /// When there is no port to listen on.
    #[must_use]
    pub fn to(port: u16, bits_per_second: f64, round_trip: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let way = || Way::new(bits_per_second / 8.0, round_trip / 2);
        let (up, down) = (way(), way());
        let line = Self { port: listener.local_addr().expect("it is bound").port(), up: Arc::clone(&up) };
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { continue };
                let _unbuffered = near.set_nodelay(true).and(far.set_nodelay(true));
                let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                std::thread::spawn(move || up.carry(near, far));
                std::thread::spawn(move || down.carry(far_again, near_again));
            }
        });
        line
    }

    /// Where it begins.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that went up it.
    #[must_use]
    pub fn carried_up(&self) -> u64 {
        self.up.carried.load(Ordering::Relaxed)
    }
}
