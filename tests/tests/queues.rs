//! Many queues on a disk and many disks on several lanes: one order, whoever is slow, and memory that comes back from whoever
//! leaves.

use std::io::Write;
use std::time::Duration;

use farshore_changelog::clock;
use farshore_changelog::ids::Position;
use farshore_tests::chaos::{Chaos, ChaosSpec};
use farshore_tests::client::{Client, command, error, request};
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::site::{Site, SiteSpec};

const MIB: u64 = 1 << 20;
/// Transmission flag: what one connection was told holds for all of them (NBD protocol, `NBD_FLAG_CAN_MULTI_CONN`).
const CAN_MULTI_CONN: u16 = 1 << 8;
/// How long a well-behaved connection may wait for its memory while others hold it with payloads that never come.
const ROOM_MAX: Duration = Duration::from_secs(10);
const QUEUES: u64 = 16;
const LOAD: Duration = Duration::from_secs(4);

/// Two disks, each on a lane of its own.
fn two_lanes() -> Site {
    let config = "lanes = 2".to_owned();
    let mut site = Site::new(SiteSpec { disks: vec![32 * MIB, 32 * MIB], config, ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    assert_eq!(durable::ring_lanes(&site.ring), 2);
    site
}

fn open(site: &Site, disk: usize) -> Client {
    Client::open(&site.disks[disk].socket, &site.disks[disk].name).unwrap()
}

fn assert_everything_arrives(mut site: Site, newest: Position) {
    site.wait_shipped(newest);
    let _ = site.process_once().good();
    site.assert_equal();
    site.stop_agent();
}

#[test]
fn a_payload_that_never_completes_takes_no_seq_and_the_log_of_both_lanes_goes_on() {
    let mut site = two_lanes();
    let (mut a, mut b) = (open(&site, 0), open(&site, 1));
    let before = site.newest();
    let mut half = open(&site, 0);
    half.stream.write_all(&request(0, command::WRITE, 1, 0, MIB as u32)).unwrap();
    half.stream.write_all(&vec![0xee; (MIB / 2) as usize]).unwrap();
    // Long enough for the half payload to have been received.
    clock::sleep(Duration::from_millis(200));
    assert_eq!(site.newest(), before, "half a request has a place in the order");

    // On the other lane and on its own, over its own range too: operations are logged and shipped as if it were not there.
    let mut logged = 0;
    for n in 0..100 {
        b.write(n * 65_536, &Rng::new(n).bytes(5000)).unwrap();
        a.write(n % 16 * 65_536, &Rng::new(1000 + n).bytes(5000)).unwrap();
        logged += 2;
    }
    a.flush().unwrap();
    b.flush().unwrap();
    let newest = site.newest();
    assert_eq!(newest.seq.0, before.seq.0 + logged + 2);
    site.wait_shipped(newest);

    // When it does complete, it takes its place then: after everything that was acknowledged before.
    half.stream.write_all(&vec![0xee; (MIB / 2) as usize]).unwrap();
    assert_eq!(half.simple_reply().unwrap().1, 0);
    assert_eq!(a.read(0, MIB as u32).unwrap(), vec![0xee; MIB as usize]);
    let newest = site.newest();
    assert_everything_arrives(site, newest);
}

#[test]
fn overlapping_writes_from_sixteen_queues_have_one_order() {
    let mut site = Site::new(SiteSpec { disks: vec![8 * MIB], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    let told = open(&site, 0);
    assert_eq!(told.flags & CAN_MULTI_CONN, CAN_MULTI_CONN, "{:#x}", told.flags);
    // Any length, any alignment, all in one MiB: nearly every request overlaps several others in flight.
    let chaos = Chaos::start(&ChaosSpec {
        socket: site.disks[0].socket.clone(),
        export: site.disks[0].name.clone(),
        range: 0..MIB,
        connections: QUEUES,
        len_max: 150_000,
        align: 1,
        seed: 16,
    });
    clock::sleep(LOAD);
    let done = chaos.finish();
    println!("{done:?}");
    assert!(done.writes > 100 && done.zeroes > 0 && done.trims > 0 && done.reconnects == 0, "{done:?}");
    let newest = site.newest();
    assert_everything_arrives(site, newest);
}

#[test]
fn overlapping_writes_in_flight_end_as_the_last_in_the_log_says() {
    let mut site = Site::new(SiteSpec { disks: vec![8 * MIB], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    let mut queues: Vec<Client> = (0..QUEUES).map(|_| open(&site, 0)).collect();
    for round in 0..50_u64 {
        // All sixteen are sent before one is answered; each covers the middle of the range.
        for (n, client) in queues.iter_mut().enumerate() {
            let offset = round * 65_536 + n as u64 * 512;
            client.stream.write_all(&request(0, command::WRITE, round, offset, 32_768)).unwrap();
            client.stream.write_all(&[n as u8 + 1; 32_768]).unwrap();
        }
        for client in &mut queues {
            assert_eq!(client.simple_reply().unwrap(), (round, 0));
        }
        let middle = queues[0].read(round * 65_536 + 16 * 512, 32_768 - 16 * 512).unwrap();
        assert!(middle.iter().all(|b| *b == middle[0]), "round {round}: writes were mixed");
    }
    let newest = site.newest();
    assert_everything_arrives(site, newest);
}

#[test]
fn clients_that_vanish_in_the_middle_of_a_request_give_their_memory_back() {
    // Twenty times the ring is announced and half sent, and nobody says goodbye.
    let mut site = Site::new(SiteSpec { disks: vec![32 * MIB], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    let mut good = open(&site, 0);
    for n in 0..640_u64 {
        let mut client = open(&site, 0);
        client.stream.write_all(&request(0, command::WRITE, n, n % 32 * MIB, MIB as u32)).unwrap();
        let _ = client.stream.write_all(&vec![0xdd; (n % 7 * 70_000) as usize]);
        drop(client);
        if n.is_multiple_of(32) {
            let began = clock::mono();
            good.write(n * 512, &Rng::new(n).bytes(512)).unwrap();
            assert!(began.elapsed() < ROOM_MAX, "waited {:?}", began.elapsed());
        }
    }
    good.flush().unwrap();
    let newest = site.newest();
    site.wait_shipped(newest);
    // Nothing is held any more: one further request takes the lane's tail past everything that was given back.
    let ring = site.ring.clone();
    site.agent().wait_until("free slots in the ring", ROOM_MAX, || {
        good.write(0, &[1; 512]).unwrap();
        (durable::ring_slots_in_use(&ring, 0) <= 2).then_some(())
    });
    let newest = site.newest();
    assert_everything_arrives(site, newest);
}

#[test]
fn a_flood_of_requests_is_answered_in_full_and_holds_up_nobody() {
    const REQUESTS: u64 = 20_000;
    let mut site = Site::new(SiteSpec { disks: vec![32 * MIB], ..SiteSpec::default() });
    site.start_agent();
    site.wait_protected();
    let mut good = open(&site, 0);
    let mut flood = open(&site, 0);
    let mut sender = flood.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for n in 0..REQUESTS {
            // A write of a sector, a read, and what nobody knows.
            match n % 3 {
                0 => {
                    let bytes = [&request(0, command::WRITE, n, n * 512 % MIB, 512)[..], &[n as u8; 512]].concat();
                    sender.write_all(&bytes).unwrap();
                }
                1 => sender.write_all(&request(0, command::READ, n, 0, 0)).unwrap(),
                _ => sender.write_all(&request(0, 99, n, 0, 0)).unwrap(),
            }
        }
    });
    let mut seen = vec![false; REQUESTS as usize];
    for n in 0..REQUESTS {
        let (cookie, answered) = flood.simple_reply().unwrap();
        let expected = if cookie % 3 == 2 { error::EINVAL } else { 0 };
        assert_eq!(answered, expected, "request {cookie}");
        assert!(!std::mem::replace(&mut seen[cookie as usize], true), "request {cookie} was answered twice");
        if n.is_multiple_of(2000) {
            let began = clock::mono();
            good.write(16 * MIB, &[7; 512]).unwrap();
            assert!(began.elapsed() < ROOM_MAX, "waited {:?}", began.elapsed());
        }
    }
    sending.join().unwrap();
    // And one that floods and leaves without a word.
    let rude = open(&site, 0);
    rude.stream.set_nonblocking(true).unwrap();
    let bytes = [&request(0, command::WRITE, 1, MIB, 65_536)[..], &[9; 65_536]].concat();
    while (&rude.stream).write(&bytes).is_ok_and(|n| n == bytes.len()) {}
    drop(rude);
    good.write(0, &[8; 512]).unwrap();
    good.flush().unwrap();
    let newest = site.newest();
    assert_everything_arrives(site, newest);
}
