//! The end of a server.

use std::time::Duration;

use farshore_capture::nbd::client::ClientError;
use farshore_capture::nbd::consts::*;
use farshore_changelog::clock;

use crate::support::{Fixture, MIB, Raw, both, eventually};

#[test]
fn requests_in_flight_are_answered_before_the_end() {
    both(|kind| {
        let Fixture { server, memory, path, .. } = &mut Fixture::of_size(kind, MIB);
        let path = path.clone();
        let mut raw = Raw::new(&path);
        raw.choose("vda");
        let mut idle = Raw::new(&path);
        idle.choose("vda");
        let negotiating = Raw::new(&path);
        memory.hold_writes(true);
        for handle in 1..=3 {
            raw.request(CMD_WRITE, 0, handle, handle * 4096, 4);
            raw.send(&[b"done"]);
        }
        // Until the lane has them: a stop ends what has not been received.
        let lane = server.lane(0);
        eventually("three writes in flight", || {
            lane.run(|access| farshore_capture::device::Device::busy(&access.devices[0])).unwrap() == 3
        });
        let server = std::mem::replace(server, Fixture::of_size(kind, MIB).server);
        let stopping = std::thread::spawn(move || server.stop());
        idle.assert_closed(0);
        { negotiating }.assert_closed(18);
        assert!(!path.exists());
        clock::sleep(Duration::from_millis(50));
        assert!(!stopping.is_finished());
        memory.hold_writes(false);
        let mut handles: Vec<u64> =
            (0..3).map(|_| raw.reply()).map(|(error, handle)| handle + u64::from(error)).collect();
        handles.sort_unstable();
        assert_eq!(handles, [1, 2, 3]);
        raw.assert_closed(0);
        stopping.join().unwrap().unwrap();
        assert_eq!(memory.content(3 * 4096..3 * 4096 + 4), b"done");
        assert!(lane.run(|_| ()).is_err());
    });
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_end() {
    std::thread::scope(|scope| {
        for kind in [farshore_capture::engine::EngineKind::Uring, farshore_capture::engine::EngineKind::Pool] {
            scope.spawn(move || {
                let fixture = Fixture::of_size(kind, 8 * MIB);
                let mut greedy = fixture.raw_chosen();
                for handle in 0..60 {
                    greedy.request(CMD_READ, 0, handle, 0, MIB as u32);
                }
                fixture.still_serves();
                let started = clock::mono();
                fixture.stop();
                assert!((9..13).contains(&started.elapsed().as_secs()), "after {:?}", started.elapsed());
            });
        }
    });
}

#[test]
fn a_dropped_server_ends_its_clients() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut client = fixture.client();
        let path = fixture.path.clone();
        drop(fixture);
        assert!(matches!(client.flush(), Err(ClientError::Io { .. })));
        assert!(!path.exists());
    });
}
