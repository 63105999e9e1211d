//! A disk in memory whose operations can be held up, counted, and made to fail.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use farshore_capture::device::Extent;
use farshore_capture::sync_device::Blocking;

const BLOCK: usize = 4096;

/// The disk.
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    pub read_only: bool,
    pub fast_zero: bool,
    /// Reads and writes that touch it fail with EIO.
    pub bad: Range<u64>,
    pub flushes: AtomicUsize,
    pub reads: AtomicUsize,
    no_hole: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

impl Memory {
    pub fn new(size: usize) -> Self {
        Self {
            bytes: Mutex::new(vec![0; size]),
            read_only: false,
            fast_zero: false,
            bad: 0..0,
            flushes: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            no_hole: AtomicBool::new(false),
            held: Mutex::new(false),
            released: Condvar::new(),
        }
    }

    /// Holds up writes from now on, until they are released.
    pub fn hold_writes(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }

    pub fn content(&self, range: Range<usize>) -> Vec<u8> {
        self.bytes.lock().unwrap()[range].to_vec()
    }

    /// Whether the last zeroing was to keep the range allocated.
    pub fn kept_allocated(&self) -> bool {
        self.no_hole.load(Ordering::SeqCst)
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<Range<usize>> {
        let end = offset + len as u64;
        if offset < self.bad.end && self.bad.start < end {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(offset as usize..end as usize)
    }
}

impl Blocking for Memory {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn fast_zero(&self) -> bool {
        self.fast_zero
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let range = self.check(offset, buf.len())?;
        buf.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        let range = self.check(offset, data.len())?;
        // Block by block, so that overlapping writes would mix if they ran at once.
        for (n, block) in data.chunks(BLOCK).enumerate() {
            let start = range.start + n * BLOCK;
            self.bytes.lock().unwrap()[start..start + block.len()].copy_from_slice(block);
            std::thread::yield_now();
        }
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.no_hole.store(no_hole, Ordering::SeqCst);
        let range = self.check(offset, len as usize)?;
        self.bytes.lock().unwrap()[range].fill(0);
        Ok(())
    }

    fn trim_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero_at(offset, len, false)
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Blocks of zeroes are holes.
    fn extents(&self, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
        let range = self.check(offset, len as usize)?;
        let bytes = self.bytes.lock().unwrap();
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / BLOCK + 1) * BLOCK).min(range.end);
            let zero = bytes[at..end].iter().all(|b| *b == 0);
            found.push(Extent { len: (end - at) as u64, hole: zero, zero });
            at = end;
        }
        Ok(found)
    }
}
