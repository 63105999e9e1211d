//! The NBD server's view of a hostile client: the negotiation, then request headers.
//!
//! Input: one byte that says how the stream is cut into pieces, then what the client sends.
#![no_main]

use std::sync::Arc;

use farshore_capture::device::{DeviceInfo, Request};
use farshore_capture::nbd::consts::REQUEST_BYTES;
use farshore_capture::nbd::export::Export;
use farshore_capture::nbd::handshake::{Handshake, Negotiated, Progress};
use farshore_capture::nbd::request::{Agreed, Checked, Header, check};
use libfuzzer_sys::fuzz_target;

/// An answer is never much larger than what was asked: a list of two exports, or the echo of a name.
const ANSWER_MAX_BYTES_PER_BYTE: usize = 64;

fn exports() -> Arc<[Export]> {
    let export = |name: &str, read_only| Export {
        info: DeviceInfo {
            name: name.to_owned(),
            size_bytes: 1 << 30,
            preferred_block_bytes: 4096,
            max_request_bytes: 32 << 20,
            read_only,
            fast_zero: !read_only,
        },
        description: "fuzzed".to_owned(),
        clients: None,
    };
    Arc::new([export("vda", false), export("vdb", true)])
}

/// Negotiates with `stream` in pieces of at most `piece` bytes: what was answered, how it ended, what is left.
fn negotiate<'a>(exports: &Arc<[Export]>, stream: &'a [u8], piece: usize) -> (Vec<u8>, Progress, &'a [u8]) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(Arc::clone(exports), &mut out);
    let greeting = out.len();
    let mut rest = stream;
    let mut progress = Progress::More;
    while progress == Progress::More && !rest.is_empty() {
        assert!(handshake.wants() > 0);
        let (taken, now) = handshake.feed(&rest[..rest.len().min(piece)], &mut out);
        assert!(taken > 0 && taken <= rest.len().min(piece));
        rest = &rest[taken..];
        progress = now;
    }
    assert!(out.len() - greeting <= (stream.len() - rest.len()) * ANSWER_MAX_BYTES_PER_BYTE);
    (out, progress, rest)
}

fn requests(export: &Export, negotiated: Negotiated, mut rest: &[u8]) {
    let agreed = Agreed { structured: negotiated.structured, allocation: negotiated.allocation };
    while let Some((bytes, after)) = rest.split_first_chunk::<REQUEST_BYTES>() {
        let Some(header) = Header::parse(bytes) else { return };
        rest = after.get(header.payload_bytes() as usize..).unwrap_or_default();
        let range = match check(&header, &export.info, agreed) {
            Checked::Run(Request::Read { offset, len } | Request::Write { offset, len, .. }) => {
                assert!(len <= export.info.max_request_bytes);
                Some((offset, u64::from(len)))
            }
            Checked::Run(
                Request::WriteZeroes { offset, len, .. }
                | Request::Trim { offset, len, .. }
                | Request::Cache { offset, len }
                | Request::BlockStatus { offset, len, .. },
            ) => Some((offset, len)),
            Checked::Run(Request::Flush) | Checked::Nothing | Checked::Refuse(_) => None,
            Checked::Disconnect => return,
        };
        if let Some((offset, len)) = range {
            assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= export.info.size_bytes));
        }
    }
}

/// Where TLS is required, no stream gets to an export in plain text.
fn before_tls(exports: &Arc<[Export]>, stream: &[u8]) {
    let mut handshake = Handshake::over_tls(Arc::clone(exports), &mut Vec::new());
    let (_, progress) = handshake.feed(stream, &mut Vec::new());
    assert!(!matches!(progress, Progress::Chosen(_)));
}

fuzz_target!(|data: &[u8]| {
    let Some((pieces, stream)) = data.split_first() else { return };
    let exports = exports();
    let whole = negotiate(&exports, stream, usize::MAX);
    let cut = negotiate(&exports, stream, usize::from(*pieces) + 1);
    assert!(whole == cut, "how a stream is cut changes what is answered");
    before_tls(&exports, stream);
    if let (_, Progress::Chosen(negotiated), rest) = whole {
        requests(&exports[negotiated.export], negotiated, rest);
    }
});
