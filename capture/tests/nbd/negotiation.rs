//! Negotiations over real sockets, several exports and lanes on one listener, TCP.

use std::sync::Arc;

use farshore_capture::engine::EngineKind;
use farshore_capture::listen::Listen;
use farshore_capture::nbd::client::{Client, ClientError, ClientOptions};
use farshore_capture::nbd::consts::*;
use farshore_capture::server::{ExportPlan, LaneParts, ServerBuilder, ServerError};
use farshore_capture::sync_device::SyncDevice;

use crate::memory::Memory;
use crate::support::{Fixture, MIB, Raw, both, lane, plan};

#[test]
fn the_export_is_described_as_it_is() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 3 * MIB);
        let at = Listen::Unix(fixture.path.clone());
        assert_eq!(Client::list(&at).unwrap(), ["vda"]);
        let client = fixture.client();
        assert_eq!((client.size_bytes(), client.granted()), (3 * MIB as u64, (true, true)));
        assert_eq!(client.block_bytes(), (Some(4096), Some(32 * MIB as u32)));
        let always = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN | FLAG_SEND_CACHE;
        let writes = FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO;
        assert_eq!(client.flags(), always | writes | FLAG_SEND_DF);
        assert_eq!(fixture.plain_client().flags(), always | writes);
        let unknown = Client::connect(&at, "vdz", ClientOptions::default());
        assert!(matches!(unknown, Err(ClientError::Refused { .. })));
        fixture.stop();
    });
}

#[test]
fn the_oldest_client_is_served() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut raw = fixture.raw();
        raw.greeting(0);
        raw.send(&[b"IHAVEOPT", &OPT_EXPORT_NAME.to_be_bytes(), &0_u32.to_be_bytes()]);
        let answer = raw.get(134);
        assert_eq!(answer[..8], (MIB as u64).to_be_bytes());
        assert_eq!(answer[10..], [0; 124]);
        raw.request(CMD_WRITE, 0, 1, 0, 4);
        raw.send(&[b"abcd"]);
        assert_eq!(raw.reply(), (0, 1));
        raw.request(CMD_READ, 0, 2, 0, 4);
        assert_eq!(raw.reply(), (0, 2));
        assert_eq!(raw.get(4), b"abcd");
        raw.request(CMD_DISC, 0, 3, 0, 0);
        raw.assert_closed(0);
        fixture.stop();
    });
}

#[test]
fn bytes_may_arrive_one_by_one() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut raw = fixture.raw();
        assert_eq!(raw.get(18).len(), 18);
        let name = b"\0\0\0\x03vda\0\0";
        let go = [&FLAG_C_FIXED_NEWSTYLE.to_be_bytes()[..], b"IHAVEOPT\0\0\0\x07\0\0\0\x09", name].concat();
        let write = b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\x02hi";
        for byte in &go {
            raw.send(&[&[*byte]]);
        }
        raw.get(20 + 12 + 20);
        for byte in write {
            raw.send(&[&[*byte]]);
        }
        assert_eq!(raw.reply(), (0, 7));
        assert_eq!(fixture.memory.content(0..3), b"hi\0");
        fixture.stop();
    });
}

#[test]
fn one_listener_serves_disks_of_several_lanes() {
    both(|kind| {
        let dir = tempfile::tempdir().unwrap();
        let (shared, alone) = (dir.path().join("all.sock"), dir.path().join("d.sock"));
        let disk = |n: usize| Arc::new(Memory::new(n * MIB));
        let builder = ServerBuilder::new();
        let builder = lane(builder, kind, vec![("b", disk(2), plan(&shared, 1)), ("d", disk(4), plan(&alone, 3))]);
        let builder = lane(builder, kind, vec![("a", disk(1), plan(&shared, 0)), ("c", disk(3), plan(&shared, 2))]);
        let server = builder.start().unwrap();
        assert_eq!(server.listening(), [Listen::Unix(shared.clone()), Listen::Unix(alone.clone())]);
        assert_eq!(Client::list(&server.listening()[0]).unwrap(), ["a", "b", "c"]);
        for (path, name, size) in [(&shared, "", 1), (&shared, "b", 2), (&shared, "c", 3), (&alone, "", 4)] {
            let mut client = Client::connect_unix(path, name).unwrap();
            assert_eq!(client.size_bytes(), size * MIB as u64);
            client.write(100, name.as_bytes(), true).unwrap();
            let mut back = vec![0; name.len()];
            client.read(100, &mut back).unwrap();
            assert_eq!(back, name.as_bytes());
        }
        // Something can be asked of a lane's devices.
        let count = server.lane(1).run(|access| access.devices.len()).unwrap();
        assert_eq!((count, server.lane_count(), server.is_running()), (2, 2, true));
        server.stop().unwrap();
        assert!(!shared.exists() && !alone.exists());
    });
}

#[test]
fn tcp_serves_when_it_is_asked_for() {
    both(|kind| {
        let listen = Listen::parse("tcp:127.0.0.1:0", std::path::Path::new("/")).unwrap();
        let plan = ExportPlan { listen, place: 0, description: "over TCP".into(), clients: None };
        let server = lane(ServerBuilder::new(), kind, vec![("vda", Arc::new(Memory::new(MIB)), plan)]).start().unwrap();
        let [Listen::Tcp(address)] = server.listening() else { panic!("{:?}", server.listening()) };
        let mut client = Client::connect_tcp(address, "vda").unwrap();
        client.write(0, &[3; 100_000], true).unwrap();
        let mut back = [0; 100_000];
        client.read(0, &mut back).unwrap();
        assert_eq!(back, [3; 100_000]);
        server.stop().unwrap();
    });
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let disk = || Arc::new(Memory::new(MIB));
    let twice = vec![("vda", disk(), plan(&path, 0)), ("vda", disk(), plan(&path, 1))];
    let started = lane(ServerBuilder::new(), EngineKind::Auto, twice).start();
    assert!(matches!(started.err(), Some(ServerError::Duplicate { .. })));

    let started = lane(ServerBuilder::new(), EngineKind::Auto, vec![("vda", disk(), plan(&path, 0))])
        .lane(vec![plan(&path, 1)], || -> Result<LaneParts<SyncDevice<Memory>>, _> { Err("no disk".into()) })
        .start();
    assert!(matches!(started.err(), Some(ServerError::Start { lane: 1, .. })));
    assert!(!path.exists());

    let first = lane(ServerBuilder::new(), EngineKind::Auto, vec![("vda", disk(), plan(&path, 0))]).start().unwrap();
    let second = lane(ServerBuilder::new(), EngineKind::Auto, vec![("vda", disk(), plan(&path, 0))]).start();
    assert!(matches!(second.err(), Some(ServerError::Listen(_))));
    Raw::new(&path).choose("vda");
    first.stop().unwrap();
}
