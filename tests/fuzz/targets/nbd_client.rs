//! The NBD client against a server of foreign bytes: an error, or answers of the length that was asked for. Never a wait without
//! end and never memory that the server chose.
//!
//! Input: a byte whose bits say what the client asks for, then everything that the server ever says.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use farshore_capture::nbd::client::{Client, ClientOptions, Reply};
use farshore_capture::nbd::consts::{CMD_BLOCK_STATUS, CMD_FLUSH, CMD_READ, CMD_WRITE};
use libfuzzer_sys::fuzz_target;

/// What both directions of a socket pair hold without anybody reading.
const SAID_MAX: usize = 64 << 10;

/// A client of a server that has said `bytes` and says no more.
fn stream(bytes: &[u8]) -> (UnixStream, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    theirs.write_all(bytes).expect("a socket pair takes this much");
    theirs.shutdown(Shutdown::Write).expect("its end can be said");
    (ours, theirs)
}

fn talk(client: &mut Client) {
    let mut asked = Vec::new();
    for (n, (command, len)) in
        [(CMD_READ, 4096), (CMD_BLOCK_STATUS, 65_536), (CMD_READ, 1), (CMD_WRITE, 512), (CMD_FLUSH, 0)]
            .into_iter()
            .enumerate()
    {
        let payload = vec![0x5a; if command == CMD_WRITE { len as usize } else { 0 }];
        match client.submit(command, 0, n as u64 * 512, len, &payload) {
            Ok(handle) => asked.push((handle, command, len)),
            Err(_) => return,
        }
    }
    while let Ok((handle, outcome)) = client.receive() {
        let at = asked.iter().position(|(asked, ..)| *asked == handle).expect("an answer to what was asked, once");
        let (_, command, len) = asked.remove(at);
        match outcome {
            Ok(Reply::Data(data)) => assert_eq!((command, data.len()), (CMD_READ, len as usize)),
            Ok(Reply::Extents(extents)) => {
                assert_eq!(command, CMD_BLOCK_STATUS);
                assert!(!extents.is_empty() && extents.iter().all(|e| e.len > 0));
            }
            Ok(Reply::Done) => assert!(command == CMD_WRITE || command == CMD_FLUSH),
            Err(refusal) => assert_ne!(refusal.error, 0),
        }
    }
    assert!(client.in_flight() <= asked.len());
}

fuzz_target!(|data: &[u8]| {
    let Some((wishes, said)) = data.split_first() else { return };
    let said = &said[..said.len().min(SAID_MAX)];
    let (ours, _theirs) = stream(said);
    if wishes & 4 != 0 {
        let _ = Client::list_over(ours);
        return;
    }
    let options = ClientOptions { structured: wishes & 1 != 0, allocation: wishes & 2 != 0 };
    if let Ok(mut client) = Client::over(ours, "vda", options) {
        talk(&mut client);
    }
});
