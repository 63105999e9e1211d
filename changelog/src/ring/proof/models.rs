//! The models. Each begins with what may have happened before, then has threads that do to
//! one small ring what the processes do; at the end nothing may be missing.

use std::time::Duration;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;

macro_rules! models {
    ($($model:ident: $preemptions:literal,)*) => {
        /// Every model: its name, its bound, itself.
        pub const ALL: &[(&str, usize, fn())] = &[$((stringify!($model), $preemptions, $model)),*];

        mod holds {
            $(#[test] fn $model() { super::super::explore($preemptions, super::$model); })*
        }
    };
}

// With the times that each takes the processor from a thread which could go on; what blocks or ends is not counted.
models!(
    payloads_change_hands_in_a_slot_that_is_used_again: 2,
    a_slot_used_again_is_not_taken_for_its_earlier_life: 2,
    a_slot_given_back_is_not_taken_for_its_next_life: 2,
    head_and_tail_are_seen_in_order: 2,
    what_is_read_again_after_its_seq_is_seen_whole: 2,
    an_abort_is_passed_over_and_its_memory_used_again: 2,
    a_restarted_reader_frees_what_was_read: 2,
    a_restarted_reader_meets_a_slot_that_is_used_again: 1,
    recovery_reads_again_beside_a_reader: 2,
    a_reader_that_sleeps_is_woken: 2,
    a_void_slot_used_again_wakes_the_reader: 2,
    the_header_never_contradicts_itself: 2,
    recovery_beside_a_reader_loses_nothing: 2,
    lanes_keep_one_order: 2,
);

/// The reader may still read the one slot's payload when the writer looks whether it may have it.
fn payloads_change_hands_in_a_slot_that_is_used_again() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    write(&mut producer, 1).unwrap().commit();
    let writer = thread::spawn(move || write(&mut producer, 2).map(Slot::commit).is_some());
    let mut got = drain(&mut consumer);
    let wrote = writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, if wrote { vec![1, 2] } else { vec![1] });
}

/// The reader remembers the slots' earlier lives when the writer uses them again. A record of another lane makes it look.
fn a_slot_used_again_is_not_taken_for_its_earlier_life() {
    let ring = ring(2, 2);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    write(&mut producer, 1).unwrap().commit();
    write(&mut producer, 2).unwrap().commit();
    assert_eq!(drain(&mut consumer), [1, 2]);
    write(&mut ring.producer(1), 9).unwrap().commit();
    let writer = thread::spawn(move || write(&mut producer, 3).unwrap().commit());
    let mut got = drain(&mut consumer);
    writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, [9, 3]);
}

/// The reader waits for the seq of a slot that is given back, and then bears one under its next number. A record of another
/// lane makes it look.
fn a_slot_given_back_is_not_taken_for_its_next_life() {
    let ring = ring(2, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    let slot = producer.reserve(RECORD_BYTES).unwrap();
    write(&mut ring.producer(1), 9).unwrap().commit();
    let writer = thread::spawn(move || {
        slot.give_back();
        write(&mut producer, 1).unwrap().commit();
    });
    let mut got = drain(&mut consumer);
    writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, [9, 1]);
}

/// Clients come and give up, so head and tail both move under a reader that knows neither yet.
fn head_and_tail_are_seen_in_order() {
    let ring = ring(2, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    write(&mut ring.producer(1), 9).unwrap().commit();
    let writer = thread::spawn(move || (0..2).for_each(|_| producer.reserve(0).unwrap().give_back()));
    assert_eq!(drain(&mut consumer), [9]);
    writer.join().unwrap();
}

fn what_is_read_again_after_its_seq_is_seen_whole() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    let mut slot = write(&mut producer, 1).unwrap();
    let writer = thread::spawn(move || {
        slot.payload_mut().fill(1);
        slot.commit_reread();
    });
    let early = consumer.take().expect("a sound ring");
    writer.join().unwrap();
    let taken = early.or_else(|| consumer.take().expect("a sound ring")).expect("a committed record");
    assert_eq!(fill_of(&taken), 1);
    assert!(taken.record().flags == RecordFlags::REREAD);
}

fn an_abort_is_passed_over_and_its_memory_used_again() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    let slot = write(&mut producer, 1).unwrap();
    let writer = thread::spawn(move || {
        slot.abort();
        write(&mut producer, 2).map(Slot::commit).is_some()
    });
    let mut got = drain(&mut consumer);
    consumer.release(consumer.position(), Vec::new());
    let wrote = writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, if wrote { vec![2] } else { vec![] });
}

/// What was acknowledged before another began has the smaller seq, whatever the lanes.
fn lanes_keep_one_order() {
    let ring = ring(2, 1);
    let (mut first, mut second, mut consumer) = (ring.producer(0), ring.producer(1), ring.consumer());
    let acknowledged = Arc::new(AtomicBool::new(false));
    let one = thread::spawn({
        let acknowledged = Arc::clone(&acknowledged);
        move || {
            write(&mut first, 1).unwrap().commit();
            acknowledged.store(true, Release);
        }
    });
    let two = thread::spawn(move || {
        let after = acknowledged.load(Acquire);
        write(&mut second, 2).unwrap().commit();
        after
    });
    let mut got = drain(&mut consumer);
    one.join().unwrap();
    let after = two.join().unwrap();
    got.extend(drain(&mut consumer));
    assert!(got == [1, 2] || (got == [2, 1] && !after), "{got:?}, the second began after the first: {after}");
}

/// A wake-up that is lost is a deadlock here, because nothing else ends the sleep.
fn a_reader_that_sleeps_is_woken() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    let writer = thread::spawn(move || write(&mut producer, 1).unwrap().commit());
    loop {
        match take(&mut consumer) {
            Some(fill) => break assert_eq!(fill, 1),
            None => consumer.wait(Duration::MAX),
        }
    }
    writer.join().unwrap();
}

/// The slot of which a reader read the record before it was restarted is used again while the next reader looks at it.
fn a_restarted_reader_meets_a_slot_that_is_used_again() {
    let ring = ring(2, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    write(&mut producer, 1).unwrap().commit();
    assert_eq!(drain(&mut consumer), [1]);
    write(&mut ring.producer(1), 9).unwrap().commit();
    let writer = thread::spawn(move || write(&mut producer, 2).unwrap().commit());
    let mut consumer = reopened(&ring).consumer();
    let mut got = drain(&mut consumer);
    writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, [9, 2]);
}

/// The reader died after it had noted what it read, and before it gave the slot back.
fn a_restarted_reader_frees_what_was_read() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    write(&mut producer, 1).unwrap().commit();
    let writer = thread::spawn(move || write(&mut producer, 2).map(Slot::commit).is_some());
    assert_eq!(fill_of(&consumer.take().unwrap().unwrap()), 1);
    ring.header().read_seq.store(2, Release);
    drop(consumer);
    let mut consumer = reopened(&ring).consumer();
    let mut got = drain(&mut consumer);
    let wrote = writer.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, if wrote { vec![2] } else { vec![] });
}

/// A process commits one record, takes a seq for another and dies; its successor recovers the ring and goes on. All of it in one
/// thread: a successor knows that its predecessor is dead.
fn recovery_beside_a_reader_loses_nothing() {
    let ring = ring(1, 2);
    let mut consumer = reopened(&ring).consumer();
    let capture = thread::spawn(move || {
        let mut dying = ring.producer(0);
        write(&mut dying, 1).unwrap().commit();
        ring.header().next_seq.fetch_add(1, AcqRel);
        let successor = reopened(&ring);
        successor.recover(&mut |_, _| panic!("nothing is in flight")).unwrap();
        write(&mut successor.producer(0), 3).unwrap().commit();
    });
    let mut got = drain(&mut consumer);
    capture.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, [1, 3]);
    assert_eq!(consumer.position(), Seq(3));
}

/// A process dies with a write in flight, and its range is read again into its slot: the reader may have seen nothing of it yet.
fn recovery_reads_again_beside_a_reader() {
    let ring = ring(1, 1);
    let mut consumer = reopened(&ring).consumer();
    let capture = thread::spawn(move || {
        write(&mut ring.producer(0), 1).unwrap().leave();
        let report = reopened(&ring).recover(&mut |_, payload| {
            payload.fill(1);
            Settled::Reread
        });
        assert_eq!(report.unwrap().reread, 1);
    });
    let mut got = drain(&mut consumer);
    capture.join().unwrap();
    got.extend(drain(&mut consumer));
    assert_eq!(got, [1]);
}

/// A word in flight becomes void under a reader that waits for it, and its slot is used again at once, by a client that then
/// stops. The reader may not sleep over it, nor take the slot for damaged.
fn a_void_slot_used_again_wakes_the_reader() {
    let ring = ring(1, 1);
    let mut consumer = reopened(&ring).consumer();
    let mut dying = ring.producer(0);
    let mut slot = dying.reserve(0).unwrap();
    dying.sequence(&mut [(&mut slot, draft(Op::ResyncEnd, 0))]);
    slot.leave();
    let capture = thread::spawn(move || {
        let successor = reopened(&ring);
        successor.recover(&mut |_, _| panic!("a word is not read again")).unwrap();
        let slot = successor.producer(0).reserve(RECORD_BYTES).unwrap();
        slot.leave();
    });
    while consumer.position() < Seq(1) {
        assert!(consumer.take().expect("a sound ring").is_none());
        if consumer.position() < Seq(1) {
            consumer.wait(Duration::MAX);
        }
    }
    capture.join().unwrap();
}

/// Whoever opens the ring while it is used finds its words in order.
fn the_header_never_contradicts_itself() {
    let ring = ring(1, 1);
    let (mut producer, mut consumer) = (ring.producer(0), ring.consumer());
    let writer = thread::spawn(move || write(&mut producer, 1).unwrap().commit());
    let opener = thread::spawn({
        let ring = ring.clone();
        move || check_words(ring.header()).expect("words in order")
    });
    if take(&mut consumer).is_some() {
        ring.set_confirmed_seq(consumer.position());
    }
    writer.join().unwrap();
    opener.join().unwrap();
}
