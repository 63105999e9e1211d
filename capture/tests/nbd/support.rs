//! Servers and raw clients for the tests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_capture::engine::{EngineKind, open};
use farshore_capture::listen::Listen;
use farshore_capture::nbd::client::{Client, ClientError, ClientOptions};
use farshore_capture::nbd::consts::*;
use farshore_capture::server::{ExportPlan, LaneParts, Server, ServerBuilder};
use farshore_capture::sync_device::SyncDevice;
use farshore_changelog::clock;
use tempfile::TempDir;

use crate::memory::Memory;

pub const MIB: usize = 1 << 20;

/// Runs `test` on both engines.
pub fn both(test: impl Fn(EngineKind)) {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        eprintln!("engine: {kind:?}");
        test(kind);
    }
}

/// A server of one disk named `vda` on a unix socket.
pub struct Fixture {
    pub server: Server<SyncDevice<Memory>>,
    pub memory: Arc<Memory>,
    pub path: PathBuf,
    _dir: TempDir,
}

impl Fixture {
    pub fn new(kind: EngineKind, memory: Memory) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vda.sock");
        let memory = Arc::new(memory);
        let server = lane(ServerBuilder::new(), kind, vec![("vda", Arc::clone(&memory), plan(&path, 0))]);
        Self { server: server.start().unwrap(), memory, path, _dir: dir }
    }

    pub fn of_size(kind: EngineKind, size: usize) -> Self {
        Self::new(kind, Memory::new(size))
    }

    pub fn client(&self) -> Client {
        Client::connect_unix(&self.path, "vda").unwrap()
    }

    /// A client without structured replies.
    pub fn plain_client(&self) -> Client {
        let options = ClientOptions { structured: false, allocation: false };
        Client::connect(&Listen::Unix(self.path.clone()), "", options).unwrap()
    }

    /// A connection on which nothing has been said.
    pub fn raw(&self) -> Raw {
        Raw::new(&self.path)
    }

    /// A raw connection in the transmission phase, without structured replies.
    pub fn raw_chosen(&self) -> Raw {
        let mut raw = self.raw();
        raw.choose("vda");
        raw
    }

    /// The server does what it should for somebody else.
    pub fn still_serves(&self) {
        let mut client = self.client();
        let data = vec![0x5a; 4096];
        client.write(0, &data, true).unwrap();
        let mut back = vec![0; 4096];
        client.read(0, &mut back).unwrap();
        assert_eq!(back, data);
        client.disconnect().unwrap();
    }

    pub fn stop(self) {
        self.server.stop().unwrap();
        assert!(!self.path.exists(), "the socket file is removed");
    }
}

pub fn plan(path: &Path, place: usize) -> ExportPlan {
    ExportPlan { listen: Listen::Unix(path.to_owned()), place, description: String::new(), clients: None }
}

/// Adds a lane with these disks.
pub fn lane(
    builder: ServerBuilder<SyncDevice<Memory>>,
    kind: EngineKind,
    disks: Vec<(&'static str, Arc<Memory>, ExportPlan)>,
) -> ServerBuilder<SyncDevice<Memory>> {
    let plans = disks.iter().map(|(_, _, plan)| plan.clone()).collect();
    builder.lane(plans, move || {
        let (engine, _) = open(kind)?;
        let device = |(n, (name, memory, _)): (usize, (&str, Arc<Memory>, ExportPlan))| {
            SyncDevice::new(name.to_owned(), n as u32, memory)
        };
        Ok(LaneParts { engine, devices: disks.into_iter().enumerate().map(device).collect() })
    })
}

/// The server's error value.
pub fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u32 {
    match result {
        Err(ClientError::Server(refusal)) => refusal.error,
        other => panic!("not refused: {other:?}"),
    }
}

/// Waits until `done`, for ten seconds at most.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = clock::mono() + Duration::from_secs(10);
    while !done() {
        assert!(clock::mono() < deadline, "never: {what}");
        clock::sleep(Duration::from_millis(5));
    }
}

/// A client that says what it likes.
pub struct Raw<S = UnixStream>(pub S);

impl Raw {
    pub fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(stream)
    }
}

impl<S: Read + Write> Raw<S> {
    pub fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).unwrap();
    }

    pub fn get(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The server has closed the connection, after at most `more` further bytes.
    pub fn assert_closed(&mut self, more: usize) {
        let mut bytes = Vec::new();
        match (&mut self.0).take(more as u64 + 1).read_to_end(&mut bytes) {
            Ok(n) => assert!(n <= more, "{n} bytes instead of the end"),
            Err(e) => assert!(matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof), "{e}"),
        }
    }

    pub fn greeting(&mut self, flags: u32) {
        assert_eq!(self.get(18), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&[&flags.to_be_bytes()]);
    }

    pub fn choose(&mut self, name: &str) {
        self.greeting(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES);
        let len = name.len() as u32;
        self.send(&[b"IHAVEOPT", &OPT_EXPORT_NAME.to_be_bytes(), &len.to_be_bytes(), name.as_bytes()]);
        self.get(10);
    }

    /// A request's header.
    pub fn request(&mut self, command: u16, flags: u16, handle: u64, offset: u64, len: u32) {
        self.send(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &handle.to_be_bytes(),
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
        ]);
    }

    /// A simple reply: error and handle.
    pub fn reply(&mut self) -> (u32, u64) {
        let bytes = self.get(16);
        assert_eq!(bytes[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        let number = |range: std::ops::Range<usize>| bytes[range].iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        (number(4..8) as u32, number(8..16))
    }
}
