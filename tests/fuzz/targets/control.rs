//! Frames of the agent's control socket, at both ends: refused, or a message that is sent and received as the same bytes.
#![no_main]

use farshore::agent::control::{Ask, Reply, receive, send};
use libfuzzer_sys::fuzz_target;

const LENGTH: usize = 4;
const HEAD_BYTES: usize = 8;

fn read(frame: &[u8]) {
    let mut rest = frame;
    if let Ok(ask) = receive::<Ask>(&mut rest) {
        let mut sent = Vec::new();
        send(&mut sent, &ask).expect("what was received can be sent");
        assert_eq!(sent, frame[..frame.len() - rest.len()]);
    }
    let mut rest = frame;
    if let Ok(reply) = receive::<Reply>(&mut rest) {
        let mut sent = Vec::new();
        send(&mut sent, &reply).expect("what was received can be sent");
        assert_eq!(sent, frame[..frame.len() - rest.len()]);
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if data.len() >= HEAD_BYTES {
        let mut whole = data.to_vec();
        let len = (data.len() - HEAD_BYTES) as u32;
        whole[LENGTH..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
        read(&whole);
    }
});
