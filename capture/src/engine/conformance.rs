//! One suite that every engine must pass.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::{DiskName, Epoch, GroupName};
use farshore_changelog::ring::{DiskEntry, DiskIdentity, DiskKind, Ring, RingSpec, boot_id};
use smallvec::smallvec;

use super::*;
use crate::lane::accepted;

/// Longest wait of a test before it counts as hung.
const HANG: Duration = Duration::from_secs(20);

fn buf(bytes: &[u8]) -> Piece {
    Piece::whole(IoBuf::Heap(HeapBuf::from(bytes)))
}

/// Waits until `count` operations have ended.
fn run(engine: &mut dyn Engine, count: usize) -> Vec<Completion> {
    let (mut done, start) = (Vec::new(), clock::mono());
    while done.len() < count {
        assert!(start.elapsed() < HANG, "{} of {count} operations ended", done.len());
        engine.wait(Some(Duration::from_millis(500)), &mut done).unwrap();
    }
    assert_eq!(done.len(), count);
    done.sort_by_key(|c| c.token.0);
    done
}

fn errno(c: &Completion) -> Option<i32> {
    c.result.as_ref().err().and_then(io::Error::raw_os_error)
}

fn disk_bytes_go_out_and_come_back(engine: &mut dyn Engine) {
    let file = tempfile::tempfile().unwrap();
    let fd = file.as_raw_fd();
    // More than any queue holds, so that what does not fit must wait its turn.
    const WRITES: u64 = 3000;
    for n in 0..WRITES {
        let mut piece = buf(&[0; 64]);
        piece.as_mut_slice().fill((n % 251) as u8);
        piece.range = 16..48;
        engine.push(Token(n), Io::Write { fd, offset: n * 32, piece });
    }
    assert_eq!(engine.in_flight(), WRITES as usize);
    for (n, c) in run(engine, WRITES as usize).iter().enumerate() {
        assert_eq!((c.token.0, *c.result.as_ref().unwrap()), (n as u64, 32));
        assert_eq!(c.pieces[0].range, 16..48);
    }
    engine.push(Token(1), Io::Fdatasync { fd });
    assert_eq!(*run(engine, 1)[0].result.as_ref().unwrap(), 0);
    for n in 0..WRITES {
        engine.push(Token(n), Io::Read { fd, offset: n * 32, piece: Piece::heap(32) });
    }
    for (n, c) in run(engine, WRITES as usize).iter().enumerate() {
        assert!(c.pieces[0].as_slice().iter().all(|b| usize::from(*b) == n % 251), "read {n}");
    }
    engine.push(Token(1), Io::Read { fd, offset: WRITES * 32 - 8, piece: Piece::heap(32) });
    engine.push(Token(2), Io::Read { fd, offset: 1 << 40, piece: Piece::heap(32) });
    let done = run(engine, 2);
    assert_eq!((done[0].result.as_ref().ok(), done[1].result.as_ref().ok()), (Some(&8), Some(&0)));
    assert_eq!(engine.in_flight(), 0);
}

fn writes_from_a_ring_reach_the_disk(engine: &mut dyn Engine) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = tempfile::tempfile().unwrap();
    let disk = DiskEntry {
        name: DiskName::new("vda").unwrap(),
        size_bytes: 1 << 20,
        identity: DiskIdentity { kind: DiskKind::File, device: 1, inode: 1 },
        block_bytes: 512,
    };
    let spec = RingSpec {
        group: GroupName::new("g").unwrap(),
        epoch: Epoch(1),
        boot_id: boot_id().unwrap(),
        lanes: 1,
        slots_per_lane: 128,
        payload_bytes_per_lane: 4 << 20,
        created: clock::wall(),
        disks: vec![disk],
    };
    let ring = Ring::create(&dir.path().join("ring"), &spec).unwrap();
    let mut producer = ring.producer(0);
    // A system that refuses it (little lockable memory) does the same writes.
    println!("registered: {:?}", engine.register(ring.payload_area(0)));
    let area = ring.payload_area(0);
    assert!(!area.holds(HeapBuf::new(512).as_slice()));
    drop(ring);
    for n in 0..100_u8 {
        let mut slot = producer.reserve(8192).unwrap();
        slot.payload_mut().fill(n);
        assert!(area.holds(slot.payload()));
        let piece = Piece { buf: IoBuf::Slot(slot), range: 4096..8192 };
        engine.push(Token(n.into()), Io::Write { fd: file.as_raw_fd(), offset: u64::from(n) * 4096, piece });
    }
    assert!(run(engine, 100).iter().all(|c| *c.result.as_ref().unwrap() == 4096));
    let mut all = vec![0; 100 * 4096];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all.chunks(4096).enumerate().all(|(n, page)| page.iter().all(|b| usize::from(*b) == n)));
}

fn reads_that_hang_keep_nothing_else_waiting(engine: &mut dyn Engine) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for n in 0..64 {
        // Nothing comes. (A pool reads files only, and refuses.)
        engine.push(Token(n), Io::Read { fd: ours.as_raw_fd(), offset: 0, piece: Piece::heap(512) });
    }
    let (begun, mut done) = (clock::mono(), Vec::new());
    for n in 100..120 {
        engine.push(Token(n), Io::Call(Box::new(|| (Ok(0), Pieces::new()))));
        while !done.iter().any(|c: &Completion| c.token == Token(n)) {
            engine.wait(Some(Duration::from_secs(10)), &mut done).unwrap();
        }
    }
    assert!(clock::mono() - begun < Duration::from_secs(5), "{:?}", clock::mono() - begun);
    drop(theirs);
    while engine.in_flight() > 0 {
        engine.wait(Some(Duration::from_secs(10)), &mut done).unwrap();
    }
    assert_eq!(done.len(), 64 + 20);
}

fn errors_come_with_the_completion(engine: &mut dyn Engine) {
    let read_only = std::fs::File::open("/proc/self/exe").unwrap();
    engine.push(Token(1), Io::Write { fd: read_only.as_raw_fd(), offset: 0, piece: buf(b"x") });
    engine.push(Token(2), Io::Read { fd: -1, offset: 0, piece: Piece::heap(8) });
    engine.push(Token(3), Io::Recv { fd: -1, piece: Piece::heap(8) });
    engine.push(Token(4), Io::Recv { fd: read_only.as_raw_fd(), piece: Piece::heap(8) });
    let done = run(engine, 4);
    let found: Vec<_> = done.iter().map(errno).collect();
    let (bad, not_socket) = (Some(libc::EBADF), Some(libc::ENOTSOCK));
    assert_eq!(found, [bad, bad, bad, not_socket]);
    assert!(done.iter().all(|c| c.pieces.len() == 1), "buffers come back from failed operations");
}

fn a_stream_is_accepted_received_and_sent(engine: &mut dyn Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    engine.push(Token(1), Io::Accept { fd: listener.as_raw_fd() });
    let mut none = Vec::new();
    engine.wait(Some(Duration::from_millis(20)), &mut none).unwrap();
    assert!(none.is_empty(), "nobody has connected yet");
    let mut client = UnixStream::connect(&path).unwrap();
    let server = accepted::own(*run(engine, 1)[0].result.as_ref().unwrap()).unwrap();
    let fd = server.as_raw_fd();
    let flags = nix::fcntl::fcntl(&server, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);

    // A pending receive does not keep a send on the same socket waiting.
    engine.push(Token(2), Io::Recv { fd, piece: Piece { buf: IoBuf::Heap(HeapBuf::new(64)), range: 8..64 } });
    engine.push(Token(3), Io::Send { fd, pieces: smallvec![buf(b"far"), buf(b"sh"), buf(b"ore")] });
    let sent = run(engine, 1);
    assert_eq!((sent[0].token, *sent[0].result.as_ref().unwrap(), sent[0].pieces.len()), (Token(3), 8, 3));
    let mut got = [0; 8];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"farshore");
    client.write_all(b"hello").unwrap();
    let heard = run(engine, 1);
    assert_eq!((heard[0].token, *heard[0].result.as_ref().unwrap()), (Token(2), 5));
    assert_eq!(&heard[0].pieces[0].buf.as_slice()[8..13], b"hello");

    drop(client);
    engine.push(Token(4), Io::Recv { fd, piece: Piece::heap(8) });
    assert_eq!(*run(engine, 1)[0].result.as_ref().unwrap(), 0, "the end of the stream");
    engine.push(Token(5), Io::Send { fd, pieces: smallvec![buf(b"x")] });
    assert_eq!(errno(&run(engine, 1)[0]), Some(libc::EPIPE), "and no SIGPIPE");
}

fn a_full_socket_makes_the_send_wait_or_short(engine: &mut dyn Engine) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let total = 8 << 20;
    let reader = std::thread::spawn(move || {
        clock::sleep(Duration::from_millis(50));
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        all
    });
    let mut sent = 0;
    let mut piece = buf(&(0..total).map(|n| (n % 253) as u8).collect::<Vec<_>>());
    while sent < total {
        engine.push(Token(7), Io::Send { fd: ours.as_raw_fd(), pieces: smallvec![piece] });
        let mut end = run(engine, 1).remove(0);
        sent += usize::try_from(end.result.unwrap()).unwrap();
        piece = end.pieces.remove(0);
        piece.range = sent..total;
    }
    drop(ours);
    assert!(reader.join().unwrap().iter().enumerate().all(|(n, b)| usize::from(*b) == n % 253));
}

fn a_shut_down_socket_ends_what_was_pending(engine: &mut dyn Engine) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    engine.push(Token(1), Io::Recv { fd: ours.as_raw_fd(), piece: Piece::heap(8) });
    engine.push(Token(2), Io::Accept { fd: listener.as_raw_fd() });
    engine.wait(Some(Duration::from_millis(20)), &mut Vec::new()).unwrap();
    assert_eq!(engine.in_flight(), 2);
    ours.shutdown(std::net::Shutdown::Both).unwrap();
    nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    let done = run(engine, 2);
    assert_eq!(*done[0].result.as_ref().unwrap(), 0);
    assert_eq!(errno(&done[1]), Some(libc::EINVAL));
}

fn calls_run_elsewhere_and_a_panic_in_one_is_an_error(engine: &mut dyn Engine) {
    let here = std::thread::current().id();
    for n in 0..100 {
        let call: Call = Box::new(move || {
            assert_ne!(std::thread::current().id(), here);
            assert!(n != 50, "as the test wants");
            (Ok(n * 2), smallvec![Piece::heap(1)])
        });
        engine.push(Token(n), Io::Call(call));
    }
    for (n, c) in run(engine, 100).iter().enumerate() {
        match (n, &c.result) {
            (50, result) => assert!(result.is_err()),
            (n, result) => assert_eq!((*result.as_ref().unwrap(), c.pieces.len()), (n as u64 * 2, 1)),
        }
    }
}

fn waiting_ends_by_time_or_by_a_wake(engine: &mut dyn Engine) {
    let (mut done, start) = (Vec::new(), clock::mono());
    engine.wait(Some(Duration::ZERO), &mut done).unwrap();
    engine.wait(Some(Duration::from_millis(60)), &mut done).unwrap();
    let passed = start.elapsed();
    assert!((Duration::from_millis(50)..HANG).contains(&passed), "{passed:?}");

    let waker = engine.waker();
    let thread = std::thread::spawn(move || {
        clock::sleep(Duration::from_millis(50));
        waker.wake();
    });
    let start = clock::mono();
    engine.wait(Some(HANG), &mut done).unwrap();
    assert!(start.elapsed() < HANG);
    thread.join().unwrap();

    // A wake before the wait counts too, and each wait after a wake may end early only once.
    engine.waker().wake();
    engine.wait(None, &mut done).unwrap();
    engine.waker().wake();
    engine.wait(None, &mut done).unwrap();
    assert!(done.is_empty());
}

macro_rules! suite {
    ($engine:ident, $kind:expr, $($test:ident),+ $(,)?) => {
        mod $engine {
            use super::*;
            $(#[test]
            fn $test() {
                let (mut engine, _) = open($kind).unwrap();
                super::$test(&mut *engine);
            })+
        }
    };
}

macro_rules! suites {
    ($($test:ident),+ $(,)?) => {
        suite!(uring_engine, EngineKind::Uring, $($test),+);
        suite!(pool_engine, EngineKind::Pool, $($test),+);
    };
}

suites!(
    disk_bytes_go_out_and_come_back,
    writes_from_a_ring_reach_the_disk,
    reads_that_hang_keep_nothing_else_waiting,
    errors_come_with_the_completion,
    a_stream_is_accepted_received_and_sent,
    a_full_socket_makes_the_send_wait_or_short,
    a_shut_down_socket_ends_what_was_pending,
    calls_run_elsewhere_and_a_panic_in_one_is_an_error,
    waiting_ends_by_time_or_by_a_wake,
);
