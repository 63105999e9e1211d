//! Threads that compress and hash the blocks of a segment while the next ones are being filled.

use std::io;
use std::sync::mpsc;

use super::{BlockPress, Press, Pressed, Pressing};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Blocks that wait for a thread, as a multiple of the threads. A block has at most 1.25 MiB.
const WAITING_MAX: usize = 2;

/// A block to be pressed.
struct Job {
    raw: Vec<u8>,
    level: i32,
    done: mpsc::Sender<io::Result<Pressed>>,
}

/// The threads. They touch nothing but blocks, and end once this and every [`PressPool::press`] of it are dropped.
#[derive(Debug)]
pub struct PressPool {
    jobs: Sender<Job>,
    /// Buffers that were pressed, to be filled again.
    empty: Receiver<Vec<u8>>,
}

impl PressPool {
    /// Starts `threads` threads, at least one.
    ///
    /// # Errors
    /// Of the system.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let waiting = threads * WAITING_MAX;
        let (jobs, todo) = bounded(waiting);
        let (empties, empty) = bounded(waiting + threads);
        for _ in 0..threads {
            let (todo, empties) = (todo.clone(), empties.clone());
            let thread = std::thread::Builder::new().name("press".into());
            thread.spawn(move || press_all(&todo, &empties))?;
        }
        Ok(Self { jobs, empty })
    }

    /// The pool for one writer.
    #[must_use]
    pub fn press(&self) -> Box<dyn Press> {
        Box::new(Handle { jobs: self.jobs.clone(), empty: self.empty.clone() })
    }
}

struct Handle {
    jobs: Sender<Job>,
    empty: Receiver<Vec<u8>>,
}

impl Press for Handle {
    fn press(&mut self, raw: &mut Vec<u8>, level: i32) -> Pressing {
        let (done, pressed) = mpsc::channel();
        let raw = std::mem::replace(raw, self.empty.try_recv().unwrap_or_default());
        // Without threads the job is dropped, and whoever waits for it learns that.
        let _ = self.jobs.send(Job { raw, level, done });
        Pressing::Coming(pressed)
    }
}

fn press_all(todo: &Receiver<Job>, empties: &Sender<Vec<u8>>) {
    let mut press = None;
    while let Ok(Job { mut raw, level, done }) = todo.recv() {
        let press = press.get_or_insert_with(|| BlockPress::new(Some(level)));
        let pressed = press.set_level(level).and_then(|()| press.press(&raw));
        // Nobody waits for it when its segment was given up.
        let _ = done.send(pressed);
        raw.clear();
        // With as many as are needed, it is given back to the system.
        let _ = empties.try_send(raw);
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::Hash;

    use super::*;

    #[test]
    fn blocks_come_back_as_they_would_from_one_thread() {
        let pool = PressPool::start(3).unwrap();
        let mut press = pool.press();
        let block = |n: usize| vec![n as u8; 100_000 + n];
        let given: Vec<Pressing> = (0..40).map(|n| press.press(&mut block(n), 1 - (n as i32 % 3))).collect();
        for (n, pressing) in given.into_iter().enumerate() {
            let pressed = pressing.wait().unwrap();
            let mut alone = BlockPress::new(Some(1 - (n as i32 % 3)));
            assert_eq!(pressed.stored, alone.press(&block(n)).unwrap().stored, "block {n}");
            assert_eq!((pressed.raw_len, pressed.hash), (100_000 + n, Hash::of(&pressed.stored)));
        }
    }

    #[test]
    fn a_pool_that_has_ended_is_an_error_and_no_hang() {
        let pool = PressPool::start(1).unwrap();
        let mut press = pool.press();
        let begun = press.press(&mut vec![1; 10], 1);
        assert!(begun.wait().is_ok());
        let (jobs, _) = bounded(1);
        let mut gone = Handle { jobs, empty: pool.empty.clone() };
        assert!(gone.press(&mut vec![1; 10], 1).wait().is_err());
    }
}
