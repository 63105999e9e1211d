//! NBD over TLS: who is let in, what comes before it, and what a client may hold.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farshore_capture::engine::EngineKind;
use farshore_capture::lane::CONNECTIONS_PER_LISTENER_MAX;
use farshore_capture::nbd::consts::*;
use farshore_capture::tls::files::{TlsError, TlsServer};
use farshore_changelog::clock;
use rcgen::{SerialNumber, date_time_ymd};

use crate::support::{MIB, both, eventually};
use crate::tls_support::{Authority, Certified, TlsFixture, params};

const PLAIN_FLAGS: u32 = FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES;

/// Whether a client with this certificate gets an answer.
fn let_in(fixture: &TlsFixture, client: Option<&Certified>) -> bool {
    let mut raw = fixture.secured(client);
    let asked = raw.0.write_all(&[&b"IHAVEOPT"[..], &OPT_LIST.to_be_bytes(), &[0; 4]].concat());
    asked.and_then(|()| raw.0.flush()).and_then(|()| raw.0.read_exact(&mut [0; 20])).is_ok()
}

#[test]
fn much_goes_both_ways_as_it_was_sent() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, 64 * MIB);
        let mut client = fixture.secured(Some(&fixture.authority.of("bob")));
        assert_eq!(client.go("vda"), REP_ACK);
        let data: Vec<u8> = (0..8 * MIB).map(|n| (n / 7) as u8).collect();
        for round in 0..4_u64 {
            client.request(CMD_WRITE, 0, round, round * data.len() as u64, data.len() as u32);
            client.send(&[&data]);
        }
        (0..4).for_each(|_| assert_eq!(client.reply().0, 0));
        assert_eq!(fixture.memory.content(3 * data.len()..4 * data.len()), data);
        // Answers that the client does not take while it asks for more.
        (0..4).for_each(|n| client.request(CMD_READ, 0, n, n * MIB as u64, 8 * MIB as u32));
        for _ in 0..4 {
            let (error, n) = client.reply();
            let from = n as usize * MIB;
            assert_eq!(error, 0);
            let expected: Vec<u8> = data.iter().cycle().skip(from % data.len()).take(8 * MIB).copied().collect();
            assert!(client.get(8 * MIB) == expected, "read {n}");
        }
        client.request(CMD_DISC, 0, 9, 0, 0);
        // An end that says it is one; else `read` gives an error.
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        fixture.stop();
    });
}

#[test]
fn who_is_not_of_the_authority_is_refused() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, MIB);
        let (mut expired, mut early) = (params("bob"), params("bob"));
        expired.not_after = date_time_ymd(2020, 1, 1);
        early.not_before = date_time_ymd(4000, 1, 1);
        let authority = &fixture.authority;
        for (who, client) in [
            ("of another authority", Some(Authority::new().of("bob"))),
            ("expired", Some(authority.certify(expired))),
            ("not valid yet", Some(authority.certify(early))),
            ("without a certificate", None),
        ] {
            assert!(!let_in(&fixture, client.as_ref()), "{who} was let in");
        }
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn an_export_is_for_the_clients_on_its_list() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, MIB);
        for (name, shown, vdb) in [("alice", 2, REP_ACK), ("bob", 1, REP_ERR_POLICY)] {
            let client = fixture.authority.of(name);
            let mut raw = fixture.secured(Some(&client));
            raw.option(OPT_LIST, &[]);
            let listed = (0..).take_while(|_| raw.option_reply(OPT_LIST).0 == REP_SERVER).count();
            assert_eq!(listed, shown, "what {name} is shown");
            assert_eq!(raw.go("vdb"), vdb, "{name}");
        }
        let mut raw = fixture.secured(Some(&fixture.authority.of("bob")));
        raw.option(OPT_EXPORT_NAME, b"vdb");
        raw.assert_closed(0);
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn before_tls_nothing_is_served() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, MIB);
        let mut raw = fixture.raw();
        raw.greeting(PLAIN_FLAGS);
        for option in [OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT, 77] {
            raw.option(option, &[0; 6]);
            assert_eq!(raw.option_reply(option).0, REP_ERR_TLS_REQD, "option {option}");
        }
        raw.option(OPT_STARTTLS, &[0]);
        assert_eq!(raw.option_reply(OPT_STARTTLS).0, REP_ERR_INVALID);
        raw.option(OPT_EXPORT_NAME, b"vda");
        raw.assert_closed(0);
        let mut raw = fixture.raw();
        raw.greeting(PLAIN_FLAGS);
        raw.option(OPT_ABORT, &[]);
        assert_eq!(raw.option_reply(OPT_ABORT).0, REP_ACK);
        raw.assert_closed(0);
        // The oldest client cannot begin TLS, so it gets nothing.
        let mut raw = fixture.raw();
        raw.greeting(0);
        raw.option(OPT_STARTTLS, &[]);
        raw.assert_closed(0);
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn plain_text_behind_the_request_for_tls_ends_the_connection() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, MIB);
        let starttls = [&b"IHAVEOPT"[..], &OPT_STARTTLS.to_be_bytes(), &[0; 4]].concat();
        let list = [&b"IHAVEOPT"[..], &OPT_LIST.to_be_bytes(), &[0; 4]].concat();
        let mut raw = fixture.raw();
        raw.greeting(PLAIN_FLAGS);
        raw.send(&[&starttls, &list]);
        raw.assert_closed(0);
        // Once it was answered, what is not TLS ends it too; TLS may say so with an alert.
        let mut raw = fixture.asked();
        raw.send(&[&list]);
        raw.assert_closed(64);
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn what_was_agreed_in_plain_text_is_forgotten_and_tls_begins_once() {
    both(|kind| {
        let fixture = TlsFixture::new(kind, MIB);
        let mut raw = fixture.secured(Some(&fixture.authority.of("bob")));
        // Structured replies are not negotiated, so contexts cannot be.
        raw.option(OPT_SET_META_CONTEXT, b"\0\0\0\x03vda\0\0\0\0");
        assert_eq!(raw.option_reply(OPT_SET_META_CONTEXT).0, REP_ERR_INVALID);
        raw.option(OPT_STARTTLS, &[]);
        assert_eq!(raw.option_reply(OPT_STARTTLS).0, REP_ERR_INVALID);
        assert_eq!(raw.go("vda"), REP_ACK);
        fixture.stop();
    });
}

#[test]
fn half_open_handshakes_are_bounded_in_number_and_time() {
    let fixture = TlsFixture::new(EngineKind::Auto, MIB);
    let mut serving = fixture.secured(Some(&fixture.authority.of("bob")));
    serving.open("vda");
    let started = clock::mono();
    let mut half_open: Vec<_> = (1..CONNECTIONS_PER_LISTENER_MAX).map(|_| fixture.asked()).collect();
    // Half of a record: whose rest never comes.
    half_open.iter_mut().step_by(2).for_each(|raw| raw.send(&[&[22, 3, 1, 2, 0, 1]]));
    fixture.raw().assert_closed(0);
    serving.request(CMD_READ, 0, 1, 0, 4);
    assert_eq!(serving.reply(), (0, 1));
    serving.get(4);
    for raw in &mut half_open {
        raw.assert_closed(64);
        assert!(started.elapsed() < Duration::from_secs(16), "after {:?}", started.elapsed());
    }
    assert!(started.elapsed() > Duration::from_secs(8), "after {:?}", started.elapsed());
    eventually("their places are free", || let_in(&fixture, Some(&fixture.authority.of("bob"))));
    fixture.still_serves();
    fixture.stop();
}

#[test]
fn a_client_that_stops_holds_up_itself_alone_and_a_stop_only_for_a_while() {
    let fixture = TlsFixture::new(EngineKind::Auto, 64 * MIB);
    let mut greedy = fixture.secured(Some(&fixture.authority.of("bob")));
    greedy.open("vda");
    for handle in 0..200 {
        greedy.request(CMD_READ, 0, handle, 0, MIB as u32);
    }
    greedy.0.flush().unwrap();
    let reads = || fixture.memory.reads.load(Ordering::SeqCst);
    eventually("the limit is reached", || reads() >= 64);
    for _ in 0..20 {
        fixture.still_serves();
    }
    assert!(reads() < 150, "{} reads", reads());
    let started = clock::mono();
    fixture.stop();
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}

#[test]
fn a_stop_gives_the_last_answers_and_says_the_end() {
    let fixture = TlsFixture::new(EngineKind::Auto, 16 * MIB);
    let mut client = fixture.secured(Some(&fixture.authority.of("bob")));
    client.open("vda");
    client.request(CMD_READ, 0, 1, 0, 8 * MIB as u32);
    client.0.flush().unwrap();
    eventually("it is read", || fixture.memory.reads.load(Ordering::SeqCst) > 0);
    let TlsFixture { server, .. } = fixture;
    let stopped = std::thread::spawn(move || server.stop());
    assert_eq!(client.reply(), (0, 1));
    client.get(8 * MIB);
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "the end, and not a broken connection");
    stopped.join().unwrap().unwrap();
}

#[test]
fn certificates_are_renewed_and_revoked_while_disks_are_served() {
    let fixture = TlsFixture::new(EngineKind::Auto, MIB);
    let mut stolen = params("bob");
    stolen.serial_number = Some(SerialNumber::from(7_u64));
    let stolen = fixture.authority.certify(stolen);
    assert!(let_in(&fixture, Some(&stolen)));
    fs::write(fixture.dir.path().join("ca-crl.pem"), fixture.authority.revoking(7)).unwrap();
    assert!(!let_in(&fixture, Some(&stolen)), "revoked");
    fixture.still_serves();
    fixture.authority.write_server(fixture.dir.path());
    fixture.still_serves();
    // What cannot be used does not end what can.
    fs::write(fixture.dir.path().join("server-cert.pem"), b"half of a f").unwrap();
    fixture.still_serves();
    fixture.stop();
}

#[test]
fn a_folder_that_cannot_be_used_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |what: &str| {
        let error = TlsServer::open(dir.path()).unwrap_err();
        assert!(format!("{error}").contains(what), "{what} is not in: {error}");
        error
    };
    assert!(matches!(refused("ca-cert.pem"), TlsError::Read { .. }));
    Authority::new().write_server(dir.path());
    let key = dir.path().join("server-key.pem");
    let good = fs::read(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(refused("server-key.pem"), TlsError::KeyForAll { mode: 0o644, .. }));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(&key, Authority::new().of("another").key_pem).unwrap();
    assert!(matches!(refused("certificate and key"), TlsError::Pair { .. }));
    fs::write(&key, b"no key").unwrap();
    assert!(matches!(refused("private key"), TlsError::Content { .. }));
    fs::write(&key, good).unwrap();
    TlsServer::open(dir.path()).unwrap();
    fs::write(dir.path().join("ca-crl.pem"), b"no list").unwrap();
    assert!(matches!(refused("ca-crl.pem"), TlsError::Content { .. }), "a list that cannot be read revokes nobody");
}
