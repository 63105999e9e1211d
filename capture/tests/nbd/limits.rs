//! What a client may hold, and how long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use farshore_capture::lane::{CONNECTIONS_PER_LISTENER_MAX, PAYLOAD_STALL_MAX};
use farshore_capture::nbd::client::Client;
use farshore_capture::nbd::consts::*;
use farshore_changelog::clock;

use crate::support::{Fixture, MIB, Raw, both, eventually};

#[test]
fn a_client_that_never_reads_stalls_itself_alone() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 8 * MIB);
        let mut greedy = fixture.raw_chosen();
        for handle in 0..200 {
            greedy.request(CMD_READ, 0, handle, 0, MIB as u32);
        }
        let reads = || fixture.memory.reads.load(Ordering::SeqCst);
        eventually("the limit is reached", || reads() >= 64);
        for _ in 0..20 {
            fixture.still_serves();
        }
        // 64 MiB in flight, the socket's own buffer, and what `still_serves` has read.
        assert!(reads() <= 64 + 2 + 20, "{} reads", reads());
        let mut handles: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let (error, handle) = greedy.reply();
            assert_eq!(error, 0);
            handles.push(handle);
            greedy.get(MIB);
        }
        handles.sort_unstable();
        assert_eq!(handles, (0..200).collect::<Vec<u64>>());
        fixture.stop();
    });
}

#[test]
fn small_requests_without_end_are_bounded_too() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut greedy = fixture.raw_chosen();
        greedy.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        // Errors are answers as well: send them until the server takes no more.
        let request = [&REQUEST_MAGIC.to_be_bytes()[..], &[0, 0, 0, 77], &[0; 20]].concat();
        let many = request.repeat(1000);
        let mut rounds = 0;
        while std::io::Write::write_all(&mut greedy.0, &many).is_ok() {
            rounds += 1;
            assert!(rounds < 1000, "a million answers were kept for a client that reads none");
        }
        fixture.still_serves();
        drop(greedy);
        fixture.stop();
    });
}

#[test]
fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut clients: Vec<Client> = (0..CONNECTIONS_PER_LISTENER_MAX - 1).map(|_| fixture.client()).collect();
        let half_open = fixture.raw();
        let mut beyond = fixture.raw();
        beyond.assert_closed(0);
        drop(half_open);
        eventually("the half-open connection's place is free", || Client::connect_unix(&fixture.path, "").is_ok());
        for client in &mut clients {
            client.flush().unwrap();
        }
        fixture.stop();
    });
}

#[test]
fn a_negotiation_ends_after_ten_seconds() {
    let fixtures = [
        Fixture::of_size(farshore_capture::engine::EngineKind::Uring, MIB),
        Fixture::of_size(farshore_capture::engine::EngineKind::Pool, MIB),
    ];
    let started = clock::mono();
    let mut silent: Vec<Raw> = fixtures.iter().map(Fixture::raw).collect();
    let mut slow: Vec<Raw> = fixtures.iter().map(Fixture::raw).collect();
    slow.iter_mut().for_each(|raw| raw.greeting(FLAG_C_FIXED_NEWSTYLE));
    let mut serving: Vec<Client> = fixtures.iter().map(Fixture::client).collect();
    for raw in silent.iter_mut().chain(&mut slow) {
        raw.assert_closed(18);
        assert!((10..14).contains(&started.elapsed().as_secs()), "after {:?}", started.elapsed());
    }
    serving.iter_mut().for_each(|client| client.flush().unwrap());
    fixtures.into_iter().for_each(Fixture::stop);
}

/// Two clients hold all of the device's memory with payloads that never come whole.
#[test]
fn memory_held_by_silent_clients_goes_to_those_who_wait() {
    std::thread::scope(|scope| {
        for kind in [farshore_capture::engine::EngineKind::Uring, farshore_capture::engine::EngineKind::Pool] {
            scope.spawn(move || {
                let fixture = Fixture::of_size(kind, 64 * MIB);
                let mut silent: Vec<Raw> = (0..2).map(|_| fixture.raw_chosen()).collect();
                for raw in &mut silent {
                    raw.request(CMD_WRITE, 0, 1, 0, 32 * MIB as u32);
                    raw.send(&[&[1; 4096]]);
                }
                let mut reader = fixture.client();
                let mut waiting: Vec<Client> = (0..3).map(|_| fixture.client()).collect();
                let started = clock::mono();
                let writes: Vec<u64> =
                    waiting.iter_mut().map(|c| c.submit(CMD_WRITE, 0, 0, 4096, &[7; 4096]).unwrap()).collect();
                // Those who need no memory are served meanwhile.
                reader.read(0, &mut [0; 4096]).unwrap();
                for (client, write) in waiting.iter_mut().zip(writes) {
                    client.wait(write).unwrap();
                }
                let took = started.elapsed();
                let slack = Duration::from_secs(3);
                assert!(
                    took + Duration::from_millis(500) > PAYLOAD_STALL_MAX && took < PAYLOAD_STALL_MAX + slack,
                    "{took:?}"
                );
                silent.iter_mut().for_each(|raw| raw.assert_closed(0));
                assert_eq!(fixture.memory.content(0..4096), [7; 4096]);
                fixture.stop();
            });
        }
    });
}
