//! Clients that break the protocol disturb nobody.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};

use farshore_capture::engine::EngineKind;
use farshore_capture::nbd::consts::*;
use farshore_changelog::clock;

use crate::support::{Fixture, MIB, both};

#[test]
fn malformed_negotiations_are_ended() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let cases: [(&str, u32, &[&[u8]]); 6] = [
            ("unknown client flags", 1 << 7, &[]),
            ("no option magic", 1, &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]),
            ("option of a client without fixed newstyle", 0, &[b"IHAVEOPT", &[0, 0, 0, 3, 0, 0, 0, 0]]),
            ("unknown export by name", 1, &[b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0, 3], b"vdz"]),
            ("name too long", 1, &[b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0x40, 0]]),
            ("option of 4 GiB", 1, &[b"IHAVEOPT", &[0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]]),
        ];
        for (what, flags, then) in cases {
            eprintln!("{what}");
            let mut raw = fixture.raw();
            raw.greeting(flags);
            // The server may have closed already.
            let _ = raw.0.write_all(&then.concat());
            raw.assert_closed(0);
        }
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn bad_options_get_their_error_and_the_negotiation_goes_on() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut raw = fixture.raw();
        raw.greeting(FLAG_C_FIXED_NEWSTYLE);
        let big = vec![0; 70_000];
        for (option, data, expected) in [
            (99_u32, &b"unknown"[..], REP_ERR_UNSUP),
            (OPT_STARTTLS, b"", REP_ERR_UNSUP),
            (OPT_LIST, b"x", REP_ERR_INVALID),
            (OPT_GO, b"\xff\xff\xff\xff\0\0", REP_ERR_INVALID),
            (OPT_INFO, b"\0\0\0\x03vdz\0\0", REP_ERR_UNKNOWN),
            (OPT_GO, &big, REP_ERR_TOO_BIG),
        ] {
            raw.send(&[b"IHAVEOPT", &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]);
            let head = raw.get(20);
            assert_eq!(head[8..12], option.to_be_bytes());
            assert_eq!(head[12..16], expected.to_be_bytes(), "option {option}");
            raw.get(u32::from_be_bytes(head[16..20].try_into().unwrap()) as usize);
        }
        raw.send(&[b"IHAVEOPT", &OPT_ABORT.to_be_bytes(), &0_u32.to_be_bytes()]);
        assert_eq!(raw.get(20)[12..16], REP_ACK.to_be_bytes());
        raw.assert_closed(0);
        fixture.stop();
    });
}

#[test]
fn a_wrong_request_magic_ends_that_connection_alone() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut other = fixture.client();
        let mut raw = fixture.raw_chosen();
        raw.send(&[&[0x42; 28]]);
        raw.assert_closed(0);
        other.write(0, &[1; 512], false).unwrap();
        fixture.stop();
    });
}

#[test]
fn half_a_request_then_silence_or_the_end() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 8 * MIB);
        let mut silent = Vec::new();
        for _ in 0..3 {
            // Half a header.
            let mut raw = fixture.raw_chosen();
            raw.send(&[&REQUEST_MAGIC.to_be_bytes(), &[0; 10]]);
            silent.push(raw);
            // A header, and half of its payload.
            let mut raw = fixture.raw_chosen();
            raw.request(CMD_WRITE, 0, 1, 0, MIB as u32);
            raw.send(&[&[0xee; MIB / 2]]);
            silent.push(raw);
            // Half of a payload that is refused.
            let mut raw = fixture.raw_chosen();
            raw.request(CMD_WRITE, 0, 1, 8 * MIB as u64, MIB as u32);
            raw.send(&[&[0xee; MIB / 2]]);
            silent.push(raw);
            // Half a negotiation.
            let mut raw = fixture.raw();
            raw.send(&[&[0, 0]]);
            silent.push(raw);
            fixture.still_serves();
        }
        for raw in silent.drain(..6) {
            drop(raw);
            fixture.still_serves();
        }
        for raw in &silent {
            raw.0.shutdown(Shutdown::Write).unwrap();
        }
        for mut raw in silent {
            raw.assert_closed(18);
        }
        assert_eq!(fixture.memory.content(4096..MIB), vec![0; MIB - 4096], "half a write changes nothing");
        fixture.stop();
    });
}

#[test]
fn a_client_that_only_stops_sending_gets_its_answers() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut raw = fixture.raw_chosen();
        for handle in 0..10 {
            raw.request(CMD_READ, 0, handle, 0, 65536);
        }
        raw.0.shutdown(Shutdown::Write).unwrap();
        for _ in 0..10 {
            assert_eq!(raw.reply().0, 0);
            raw.get(65536);
        }
        raw.assert_closed(0);
        fixture.stop();
    });
}

/// Random bytes from many connections at once, in every phase, while another connection's every write is checked.
#[test]
fn noise_disturbs_nobody() {
    for kind in [EngineKind::Uring, EngineKind::Pool] {
        let fixture = Fixture::of_size(kind, 4 * MIB);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..3_u64 {
                let (fixture, over) = (&fixture, &over);
                scope.spawn(move || {
                    let mut state = seed * 2 + 1;
                    while !over.load(Ordering::SeqCst) {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let mut raw = if state & (1 << 40) == 0 { fixture.raw_chosen() } else { fixture.raw() };
                        let noise: Vec<u8> = (0..200_u64).map(|n| (state >> (n % 50)) as u8).collect();
                        // A request that is understood, with wild fields, and then noise.
                        let command = (state >> 20) as u16 % 9;
                        let magic = REQUEST_MAGIC.to_be_bytes();
                        let head = [&magic[..], &[0, 0], &command.to_be_bytes(), &noise[..8], &[0, 0], &noise[8..18]];
                        let _ = raw.0.write_all(&[&head.concat()[..], &noise].concat());
                    }
                });
            }
            let mut client = fixture.client();
            let started = clock::mono();
            let mut n = 0_u64;
            while started.elapsed().as_millis() < 1500 {
                // The noise may write anywhere: only what is answered counts.
                client.write(n % 1000 * 4096, &[n as u8; 4096], false).unwrap();
                client.flush().unwrap();
                n += 1;
            }
            over.store(true, Ordering::SeqCst);
            assert!(n > 20, "only {n} writes");
        });
        fixture.stop();
    }
}
