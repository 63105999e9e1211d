//! Nothing is acknowledged before it is durable at the source: an engine that knows when a write has reached the disk's cache, and
//! what each fdatasync made durable.

use std::collections::HashMap;

use crate::engine::{Completion, Engine, Token, Wake};

use super::*;

const BLOCK: u64 = 4096;
/// Blocks of the disk; each is written once, so that its content names its request.
const BLOCKS: u64 = 2048;

/// The disk as it would be after a power cut, and as it is without one: the first byte of each block.
#[derive(Default)]
struct Medium {
    cached: HashMap<u64, u8>,
    durable: HashMap<u64, u8>,
}

/// An engine whose completions come late and in any order, and which keeps a [`Medium`].
struct Volatile {
    inner: Box<dyn Engine>,
    medium: Rc<RefCell<Medium>>,
    rng: Rng,
    writes: HashMap<Token, Vec<(u64, u8)>>,
    /// What had completed when each fdatasync began.
    syncs: HashMap<Token, HashMap<u64, u8>>,
    held: Vec<Completion>,
}

impl Volatile {
    fn complete(&mut self, completion: &Completion) {
        let mut medium = self.medium.borrow_mut();
        if let Some(blocks) = self.writes.remove(&completion.token) {
            assert!(completion.result.is_ok());
            medium.cached.extend(blocks);
        }
        if let Some(covered) = self.syncs.remove(&completion.token) {
            assert!(completion.result.is_ok());
            medium.durable.extend(covered);
        }
    }
}

impl Engine for Volatile {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn push(&mut self, token: Token, io: Io) {
        match &io {
            Io::Write { offset, piece, .. } => {
                let blocks = piece.as_slice().chunks(BLOCK as usize).zip(offset / BLOCK..);
                self.writes.insert(token, blocks.map(|(bytes, block)| (block, bytes[0])).collect());
            }
            Io::Fdatasync { .. } => {
                self.syncs.insert(token, self.medium.borrow().cached.clone());
            }
            Io::Accept { .. } | Io::Recv { .. } | Io::Send { .. } | Io::Read { .. } | Io::Call(_) => {}
        }
        self.inner.push(token, io);
    }

    fn wait(&mut self, _: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.inner.wait(Some(Duration::from_micros(200)), &mut self.held)?;
        for _ in 0..self.held.len() {
            if self.rng.below(3) == 0 {
                let at = self.rng.below(self.held.len() as u64) as usize;
                let completion = self.held.swap_remove(at);
                self.complete(&completion);
                done.push(completion);
                // One at a time: what the tap does about it comes before the next.
                break;
            }
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }
}

/// A request that has not been answered.
enum Asked {
    Write {
        blocks: std::ops::Range<u64>,
        tag: u8,
        fua: bool,
    },
    /// With the blocks that were acknowledged before it came.
    Flush {
        before: Vec<(u64, u8)>,
    },
}

fn world(kind: EngineKind, seed: u64) -> (World, Rc<RefCell<Medium>>) {
    let mut world = Setup { sizes: vec![BLOCKS * BLOCK], lane_bytes: 16 * MIB, ..Setup::new(kind) }.open();
    let medium = Rc::new(RefCell::new(Medium::default()));
    world.engine = Faulty::new(Box::new(Volatile {
        inner: open(kind).unwrap().0,
        medium: Rc::clone(&medium),
        rng: Rng(seed * 31 + 7),
        writes: HashMap::new(),
        syncs: HashMap::new(),
        held: Vec::new(),
    }));
    (world, medium)
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    with_both(|kind| {
        for seed in 1..6 {
            let (mut world, medium) = world(kind, seed);
            let (mut rng, mut next, mut asked) = (Rng(seed), 0, HashMap::new());
            let mut acknowledged: Vec<(u64, u8)> = Vec::new();
            let (mut flushes_among_writes, mut fuas) = (0, 0);
            while next < BLOCKS || !asked.is_empty() {
                if next < BLOCKS && asked.len() < 24 {
                    // Some are larger than a record.
                    let most = if rng.below(40) == 0 { 300 } else { 4 };
                    let len = (1 + rng.below(most)).min(BLOCKS - next);
                    let (tag, kind) = (rng.below(255) as u8 + 1, rng.below(10));
                    if kind < 2 {
                        let id = world.submit(0, Request::Flush, None);
                        asked.insert(id, Asked::Flush { before: acknowledged.clone() });
                    } else if let Some(id) = world.write(0, next * BLOCK, &vec![tag; (len * BLOCK) as usize], kind < 4)
                    {
                        asked.insert(id, Asked::Write { blocks: next..next + len, tag, fua: kind < 4 });
                        next += len;
                    }
                }
                world.turn();
                world.consume();
                let answered: Vec<RequestId> = world.answers.keys().copied().collect();
                for id in answered {
                    assert_eq!(world.errno(id), 0);
                    let durable = |block: &u64, tag: u8| medium.borrow().durable.get(block) == Some(&tag);
                    match asked.remove(&id).unwrap() {
                        Asked::Write { blocks, tag, fua } => {
                            assert!(!fua || blocks.clone().all(|block| durable(&block, tag)), "{blocks:?} with FUA");
                            let cached = |block: &u64| medium.borrow().cached.get(block) == Some(&tag);
                            assert!(blocks.clone().all(|block| cached(&block)), "{blocks:?} were not written");
                            fuas += u32::from(fua);
                            acknowledged.extend(blocks.map(|block| (block, tag)));
                        }
                        Asked::Flush { before } => {
                            let missing: Vec<_> = before.iter().filter(|(block, tag)| !durable(block, *tag)).collect();
                            assert!(missing.is_empty(), "{missing:?} were acknowledged and flushed");
                            let in_flight = asked.values().any(|a| matches!(a, Asked::Write { .. }));
                            flushes_among_writes += u32::from(in_flight);
                        }
                    }
                }
            }
            assert!(flushes_among_writes > 10 && fuas > 10, "{flushes_among_writes} and {fuas}");
            world.assert_log_is_disk();
        }
    });
}

#[test]
fn trims_and_zeroes_with_fua_wait_for_an_fdatasync_that_began_after_them() {
    with_both(|kind| {
        let (mut world, medium) = world(kind, 9);
        for n in 0..20 {
            world.put(0, n * BLOCK, &[n as u8 + 1; BLOCK as usize]);
            let before = medium.borrow().durable.len();
            let (offset, len) = ((n + 100) * BLOCK, BLOCK);
            let request = if n % 2 == 0 {
                Request::Trim { offset, len, fua: true }
            } else {
                Request::WriteZeroes { offset, len, fua: true, no_hole: false, fast: false }
            };
            let id = world.submit(0, request, None);
            assert_eq!(world.errno(id), 0);
            // The write before it had completed, so an fdatasync that began after the zeroing covers it.
            assert_eq!(medium.borrow().durable.len(), before + 1, "no fdatasync has ended since");
        }
    });
}
