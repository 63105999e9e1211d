//! A real process writes into the ring and is killed with SIGKILL, over and over, while this one reads: whatever it said
//! it had committed is there, whole and in order.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::clock;

/// Names the ring to the child; the test runs itself again as its own child.
const CHILD: &str = "FARSHORE_TEST_RING";
const NAME: &str = "ring::tests::kill::what_a_killed_process_committed_is_there";
/// Processes that are killed, unless the variable says more.
const KILLS: u64 = 15;
const KILLS_VARIABLE: &str = "FARSHORE_KILL_ROUNDS";
const LANES: u32 = 3;
/// A child whose parent has died ends by itself after this.
const CHILD_LIFE_MAX: Duration = Duration::from_secs(30);

/// Writes until it is killed; says each committed seq on standard error, 8 bytes each.
fn be_killed(path: &Path) {
    let ring = Ring::open(path).unwrap();
    let end = clock::mono() + CHILD_LIFE_MAX;
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let mut producer = ring.producer(lane);
            scope.spawn(move || {
                let mut dice = Dice::new(u64::from(std::process::id()) + u64::from(lane));
                let mut flying = Vec::new();
                while clock::mono() < end {
                    let len = 512 * (1 + dice.roll(64) as u32);
                    let offset = dice.roll(1 << 30) * 512;
                    if flying.len() < 8
                        && let Some(mut slot) = producer.reserve(len)
                    {
                        slot.payload_mut().copy_from_slice(&pattern(offset, len as usize));
                        producer.sequence(&mut [(&mut slot, draft(Op::Write, offset, len.into()))]);
                        flying.push(slot);
                    } else if !flying.is_empty() {
                        let slot = flying.swap_remove(dice.roll(flying.len() as u64) as usize);
                        let seq = slot.seq().unwrap();
                        slot.commit();
                        std::io::stderr().write_all(&seq.0.to_le_bytes()).unwrap();
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
}

fn spawn(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a child write for `time`, kills it, and gives the seqs it said it had committed.
fn run_and_kill(path: &Path, time: Duration) -> BTreeSet<u64> {
    let mut child = spawn(path);
    let mut said = child.stderr.take().unwrap();
    let listener = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        said.read_to_end(&mut bytes).unwrap();
        bytes
    });
    clock::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    let bytes = listener.join().unwrap();
    assert!(bytes.len().is_multiple_of(8), "the child said something else: {}", String::from_utf8_lossy(&bytes));
    bytes.chunks_exact(8).map(|seq| u64::from_le_bytes(seq.try_into().unwrap())).collect()
}

/// Takes and checks everything until `stop` and nothing is left; notes the seqs.
fn drain(ring: &Ring, stop: &AtomicBool, got: &Mutex<BTreeSet<u64>>) {
    let mut consumer = ring.consumer();
    loop {
        let stopped = stop.load(Acquire);
        match consumer.take().unwrap() {
            Some(taken) => {
                let record = *taken.record();
                let draft = draft(Op::Write, record.offset, record.len);
                // In flight when its process was killed: the range was read again.
                let flags = if record.flags == RecordFlags::REREAD { record.flags } else { draft.flags };
                assert_eq!(record, draft.with(record.seq, flags));
                assert_eq!(record.seq, consumer.position());
                assert!(taken.payload() == pattern(record.offset, record.len as usize), "payload of {record:?}");
                assert!(got.lock().unwrap().insert(record.seq.0));
                consumer.release(record.seq, vec![taken]);
            }
            None if stopped => {
                assert_eq!(consumer.position().next(), ring.next_seq(), "something blocks the order");
                return;
            }
            None => consumer.wait(Duration::from_millis(50)),
        }
    }
}

#[test]
fn what_a_killed_process_committed_is_there() {
    if let Some(path) = std::env::var_os(CHILD) {
        return be_killed(Path::new(&path));
    }
    let bench = bench(LANES);
    let shipper = Ring::open(&bench.path).unwrap();
    let (stop, got) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let mut said = BTreeSet::new();
    let mut settled = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| drain(&shipper, &stop, &got));
        let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |n| n.parse().unwrap());
        for kill in 0..kills {
            said.extend(run_and_kill(&bench.path, Duration::from_millis(20 + 7 * (kill % 10))));
            let report = Ring::open(&bench.path).unwrap().recover(&mut |record, payload| {
                // The test's disk: it holds what was written to it, or by now will be.
                payload.copy_from_slice(&pattern(record.offset, payload.len()));
                Settled::Reread
            });
            settled += report.unwrap().reread;
        }
        stop.store(true, Release);
        reader.join().unwrap();
    });
    let got = got.into_inner().unwrap();
    assert!(said.is_subset(&got), "lost: {:?}", said.difference(&got).collect::<Vec<_>>());
    assert!(!said.is_empty() && settled > 0, "{} committed, {settled} settled: nothing was tried", said.len());
}
