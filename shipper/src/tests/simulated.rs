//! A whole shipper on one thread and on simulated time: its halves are driven as `Shipper::run` drives them, hours pass in
//! moments, and it can be killed at any of its awaits.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskIndex, Seq};
use farshore_changelog::op::{Op, RecordFlags};
use farshore_changelog::ring::{Draft, Producer, Ring};
use farshore_changelog::units::UnixMicros;

use tokio::runtime::Runtime;

use super::world::World;
use crate::patience::DRAIN_MAX;
use crate::{Pause, ShipError, Shipper};

/// 2026-01-01T00:00:00Z.
const START: UnixMicros = UnixMicros(1_767_225_600_000_000);

/// Tokio's paused clock as the clock of everything else.
struct Paused {
    handle: tokio::runtime::Handle,
    begin: Instant,
    nonces: Cell<u64>,
}

impl clock::Time for Paused {
    fn wall(&self) -> UnixMicros {
        START.plus(self.mono() - self.begin)
    }

    fn mono(&self) -> Instant {
        let _here = self.handle.enter();
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, time: Duration) {
        panic!("on one thread nobody can sleep for {time:?}");
    }

    fn nonce(&self) -> [u8; 16] {
        self.nonces.set(self.nonces.get() + 1);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&farshore_changelog::ids::Hash::of(&self.nonces.get().to_le_bytes()).0[..16]);
        nonce
    }
}

/// A world whose time is simulated, on this thread, as long as the second part lives.
pub fn simulated(world: &World) -> clock::Simulation {
    let handle = world.runtime.handle().clone();
    let begin = {
        let _here = handle.enter();
        tokio::time::Instant::now().into_std()
    };
    clock::simulate(Rc::new(Paused { handle, begin, nonces: Cell::new(0) }))
}

/// Drives both halves until all is done. Dropped, it is a shipper that was killed.
pub async fn drive(shipper: Shipper, stop: &Cell<bool>) -> Result<(), ShipError> {
    let (mut filler, uploader) = shipper.split();
    let uploaded = Cell::new(false);
    let filling = async {
        loop {
            if uploaded.get() && !filler.fenced() {
                return Ok(());
            }
            match filler.step(stop.get())? {
                Pause::None => tokio::task::yield_now().await,
                Pause::Ring(time) | Pause::Stored(time) | Pause::Time(time) => tokio::time::sleep(time).await,
                Pause::Done => return Ok(()),
            }
        }
    };
    let filled = Cell::new(false);
    let filling = async {
        let ended = filling.await;
        filled.set(true);
        ended
    };
    let uploading = async {
        let Some(uploader) = uploader else { return Ok(()) };
        let patience = async {
            until("the end", Duration::MAX, || filled.get()).await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        let ended = tokio::select! {
            ended = uploader.work() => ended.map(drop),
            () = patience => Ok(()),
        };
        uploaded.set(true);
        ended
    };
    let (filled, ended): (Result<(), ShipError>, Result<(), ShipError>) = tokio::join!(filling, uploading);
    filled.and(ended)
}

/// Drives a shipper beside `act`, then stops it in order.
pub fn while_shipping<T>(runtime: &Runtime, shipper: Shipper, act: impl Future<Output = T>) -> T {
    let stop = Cell::new(false);
    runtime.block_on(async {
        let acting = async {
            let acted = act.await;
            stop.set(true);
            acted
        };
        let (ended, acted) = tokio::join!(drive(shipper, &stop), acting);
        ended.unwrap();
        acted
    })
}

/// Drives a shipper until it was polled `polls` times, and kills it then. Gives whether it came to that.
pub fn kill_after(world: &World, shipper: Shipper, polls: u64) -> bool {
    world.block_on(async {
        let stop = Cell::new(false);
        let mut shipping = pin!(drive(shipper, &stop));
        let mut left = polls;
        std::future::poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(true);
            }
            left -= 1;
            shipping.as_mut().poll(context).map(|ended| {
                ended.unwrap();
                false
            })
        })
        .await
    })
}

/// Waits, in simulated time, for something that must happen within `longest`.
pub async fn until(what: &str, longest: Duration, mut done: impl FnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !done() {
        assert!(begin.elapsed() < longest, "waited {longest:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until everything that is in the ring now is confirmed.
pub async fn until_confirmed(ring: &Ring, longest: Duration) {
    let last = Seq(ring.next_seq().0 - 1);
    until("everything is confirmed", longest, || ring.confirmed_seq() >= last && ring.spool_bytes() == 0).await;
}

/// One write of noise, which does not compress; `false` when the ring has no room for it: what capture calls an overflow.
pub fn write_noise(lane: &mut Producer, salt: u64, bytes: usize) -> bool {
    let Some(mut slot) = lane.reserve(bytes as u32) else { return false };
    let noise = (0..bytes as u64 / 32)
        .flat_map(|n| farshore_changelog::ids::Hash::of(&[salt.to_le_bytes(), n.to_le_bytes()].concat()).0);
    slot.payload_mut().copy_from_slice(&noise.collect::<Vec<u8>>());
    let offset = salt % 8 * bytes as u64;
    let draft = Draft {
        time: clock::wall(),
        disk: DiskIndex(0),
        op: Op::Write,
        flags: RecordFlags::FUA,
        offset,
        len: bytes as u64,
    };
    lane.sequence(&mut [(&mut slot, draft)]);
    slot.commit();
    true
}
