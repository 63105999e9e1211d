use proptest::prelude::*;

use super::*;
use crate::device::DeviceInfo;

fn export(name: &str, read_only: bool) -> Export {
    let info = DeviceInfo {
        name: name.into(),
        size_bytes: 10 << 20,
        preferred_block_bytes: 4096,
        max_request_bytes: 32 << 20,
        read_only,
        fast_zero: false,
    };
    Export { info, description: format!("disk {name}"), clients: None }
}

fn exports() -> Arc<[Export]> {
    vec![export("vda", false), export("vdb", true)].into()
}

/// A machine that has greeted and read `flags`.
fn machine(flags: u32) -> Handshake {
    let mut machine = Handshake::new(exports(), &mut Vec::new());
    machine.feed(&flags.to_be_bytes(), &mut Vec::new());
    machine
}

fn fixed() -> Handshake {
    machine(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES)
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.u64(OPTION_MAGIC);
    bytes.u32(option);
    bytes.u32(data.len() as u32);
    bytes.bytes(data);
    bytes
}

fn info(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.u32(name.len() as u32);
    data.bytes(name.as_bytes());
    data.u16(requests.len() as u16);
    requests.iter().for_each(|r| data.u16(*r));
    data
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.u32(name.len() as u32);
    data.bytes(name.as_bytes());
    data.u32(queries.len() as u32);
    for query in queries {
        data.u32(query.len() as u32);
        data.bytes(query.as_bytes());
    }
    data
}

/// Feeds one option and gives its replies (type, data) and the progress.
fn ask(machine: &mut Handshake, number: u32, data: &[u8]) -> (Vec<(u32, Vec<u8>)>, Progress) {
    let mut out = Vec::new();
    let (_, progress) = machine.feed(&option(number, data), &mut out);
    let mut fields = Reader::new(&out);
    let mut replies = Vec::new();
    while fields.left() > 0 {
        assert_eq!(fields.u64(), Some(OPTION_REPLY_MAGIC));
        assert_eq!(fields.u32(), Some(number));
        let (kind, len) = (fields.u32().unwrap(), fields.u32().unwrap());
        replies.push((kind, fields.take(len as usize).unwrap().to_vec()));
    }
    (replies, progress)
}

/// The single reply's type.
fn verdict(machine: &mut Handshake, number: u32, data: &[u8]) -> u32 {
    let (replies, progress) = ask(machine, number, data);
    assert_eq!((replies.len(), progress), (1, Progress::More));
    replies[0].0
}

#[test]
fn the_greeting_offers_fixed_newstyle() {
    let mut out = Vec::new();
    let machine = Handshake::new(exports(), &mut out);
    assert_eq!(&out[..16], b"NBDMAGICIHAVEOPT");
    assert_eq!(&out[16..], [0, 3]);
    assert_eq!(machine.wants(), 4);
}

#[test]
fn go_describes_the_export_and_ends_the_negotiation() {
    let mut machine = fixed();
    assert_eq!(verdict(&mut machine, OPT_STRUCTURED_REPLY, &[]), REP_ACK);
    let asked = [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 77];
    let (replies, progress) = ask(&mut machine, OPT_GO, &info("", &asked));
    let kinds: Vec<_> = replies.iter().map(|(kind, data)| (*kind, data.get(1).copied())).collect();
    let all = [(REP_INFO, Some(0)), (REP_INFO, Some(1)), (REP_INFO, Some(2)), (REP_INFO, Some(3)), (REP_ACK, None)];
    assert_eq!(kinds, all);
    let mut size_and_flags = Reader::new(&replies[0].1[2..]);
    assert_eq!(size_and_flags.u64(), Some(10 << 20));
    let flags = size_and_flags.u16().unwrap();
    assert_eq!(flags, 0b1101_1110_1101, "all but read-only, rotational and resize");
    assert_eq!(&replies[1].1[2..], b"vda");
    assert_eq!(replies[3].1[2..], [0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(progress, Progress::Chosen(Negotiated { export: 0, structured: true, allocation: false }));
    assert_eq!(machine.wants(), 0);
}

#[test]
fn info_tells_the_same_and_goes_on() {
    let mut machine = fixed();
    let (asked, progress) = ask(&mut machine, OPT_INFO, &info("vdb", &[]));
    assert_eq!(progress, Progress::More);
    let (gone, progress) = ask(&mut machine, OPT_GO, &info("vdb", &[]));
    assert_eq!(asked, gone);
    assert_eq!(progress, Progress::Chosen(Negotiated { export: 1, structured: false, allocation: false }));
    let flags = u16::from_be_bytes(asked[0].1[10..].try_into().unwrap());
    assert_eq!(flags & FLAG_READ_ONLY, FLAG_READ_ONLY);
    assert_eq!(flags & (FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO | FLAG_SEND_TRIM | FLAG_SEND_DF), 0);
}

#[test]
fn list_names_every_export() {
    let (replies, _) = ask(&mut fixed(), OPT_LIST, &[]);
    assert_eq!(replies[0], (REP_SERVER, b"\0\0\0\x03vdadisk vda".to_vec()));
    assert_eq!(replies[1], (REP_SERVER, b"\0\0\0\x03vdbdisk vdb".to_vec()));
    assert_eq!(replies[2], (REP_ACK, vec![]));
}

#[test]
fn export_name_has_zeroes_unless_they_are_declined() {
    for (flags, len) in [(0, 134), (FLAG_C_FIXED_NEWSTYLE, 134), (FLAG_C_NO_ZEROES, 10)] {
        let mut out = Vec::new();
        let (_, progress) = machine(flags).feed(&option(OPT_EXPORT_NAME, b"vda"), &mut out);
        assert_eq!(out.len(), len);
        assert!(matches!(progress, Progress::Chosen(Negotiated { export: 0, .. })));
    }
}

#[test]
fn what_export_name_cannot_refuse_ends_the_connection() {
    let mut out = Vec::new();
    let (_, progress) = fixed().feed(&option(OPT_EXPORT_NAME, b"vdz"), &mut out);
    assert_eq!((progress, out.len()), (Progress::Ended(Ended::UnknownExport), 0));
    let (_, progress) = fixed().feed(&option(OPT_EXPORT_NAME, &[b'a'; 4097]), &mut out);
    assert_eq!((progress, out.len()), (Progress::Ended(Ended::TooLong { option: 1, len: 4097 }), 0));
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    for data in [&b""[..], b"why"] {
        let (replies, progress) = ask(&mut fixed(), OPT_ABORT, data);
        assert_eq!(replies, [(REP_ACK, vec![])]);
        assert_eq!(progress, Progress::Ended(Ended::Aborted));
    }
}

#[test]
fn each_mistake_gets_the_error_the_text_names() {
    let mut machine = fixed();
    let long_name = "n".repeat(4097);
    for (number, data, expected) in [
        (4, vec![], REP_ERR_UNSUP),
        (OPT_STARTTLS, vec![], REP_ERR_UNSUP),
        (12, vec![1; 100], REP_ERR_UNSUP),
        (u32::MAX, vec![0; 1 << 20], REP_ERR_UNSUP),
        (OPT_LIST, vec![0], REP_ERR_INVALID),
        (OPT_STRUCTURED_REPLY, vec![0], REP_ERR_INVALID),
        (OPT_GO, vec![], REP_ERR_INVALID),
        (OPT_GO, vec![0xff; 10], REP_ERR_INVALID),
        (OPT_GO, [info("vda", &[]), vec![0]].concat(), REP_ERR_INVALID),
        (OPT_GO, info("vda", &[0; 65]), REP_ERR_TOO_BIG),
        (OPT_GO, info(&long_name, &[]), REP_ERR_TOO_BIG),
        (OPT_GO, vec![0; (64 << 10) + 1], REP_ERR_TOO_BIG),
        (OPT_GO, info("vdz", &[]), REP_ERR_UNKNOWN),
        (OPT_INFO, info("VDA", &[]), REP_ERR_UNKNOWN),
        (OPT_LIST_META_CONTEXT, contexts("vda", &[]), REP_ERR_INVALID), // before structured replies
        (OPT_SET_META_CONTEXT, contexts("vda", &["base:allocation"]), REP_ERR_INVALID),
        (OPT_STRUCTURED_REPLY, vec![], REP_ACK),
        (OPT_STRUCTURED_REPLY, vec![], REP_ACK),
        (OPT_LIST_META_CONTEXT, contexts("vdz", &[]), REP_ERR_UNKNOWN),
        (OPT_LIST_META_CONTEXT, contexts("vda", &["allocation"]), REP_ERR_INVALID),
        (OPT_SET_META_CONTEXT, contexts("vda", &["a:b"; 65]), REP_ERR_TOO_BIG),
        (OPT_SET_META_CONTEXT, contexts("vda", &[])[..10].to_vec(), REP_ERR_INVALID),
        (OPT_SET_META_CONTEXT, vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], REP_ERR_INVALID),
        (OPT_SET_META_CONTEXT, [contexts("vda", &["base:x"]), vec![0]].concat(), REP_ERR_INVALID),
    ] {
        let got = verdict(&mut machine, number, &data);
        assert_eq!(got, expected, "option {number} with {} bytes: {got:#x}", data.len());
    }
}

#[test]
fn contexts_are_listed_by_wildcard_and_set_by_name() {
    let mut machine = fixed();
    verdict(&mut machine, OPT_STRUCTURED_REPLY, &[]);
    let listed =
        |machine: &mut Handshake, queries: &[&str]| ask(machine, OPT_LIST_META_CONTEXT, &contexts("", queries)).0.len();
    for (queries, replies) in
        [(&[][..], 2), (&["base:"], 2), (&["base:allocation"], 2), (&["base:x"], 1), (&["qemu:dirty-bitmap:a"], 1)]
    {
        assert_eq!(listed(&mut machine, queries), replies, "{queries:?}");
    }
    for (queries, selected) in
        [(&[][..], false), (&["base:"], false), (&["x-y:z", "base:allocation"], true), (&["base:other"], false)]
    {
        let (replies, _) = ask(&mut machine, OPT_SET_META_CONTEXT, &contexts("vda", queries));
        let got =
            replies.iter().any(|(kind, data)| *kind == REP_META_CONTEXT && data[..] == *b"\0\0\0\x01base:allocation");
        assert_eq!(got, selected, "{queries:?}");
        assert_eq!(replies.last().unwrap().0, REP_ACK);
    }
}

#[test]
fn a_context_belongs_to_the_export_it_was_set_for() {
    for (set_for, then, go, expected) in [
        ("vda", None, "vda", true),
        ("", None, "vda", true),
        ("vdb", None, "vda", false),
        ("vda", Some("vdz"), "vda", false),
    ] {
        let mut machine = fixed();
        verdict(&mut machine, OPT_STRUCTURED_REPLY, &[]);
        ask(&mut machine, OPT_SET_META_CONTEXT, &contexts(set_for, &["base:allocation"]));
        if let Some(failing) = then {
            ask(&mut machine, OPT_SET_META_CONTEXT, &contexts(failing, &["base:allocation"]));
        }
        let (_, progress) = ask(&mut machine, OPT_GO, &info(go, &[]));
        assert!(matches!(progress, Progress::Chosen(Negotiated { allocation, .. }) if allocation == expected));
    }
}

#[test]
fn clients_that_break_the_rules_are_cut_off() {
    let mut out = Vec::new();
    let ended = |mut machine: Handshake, bytes: &[u8]| machine.feed(bytes, &mut Vec::new()).1;
    let fresh = Handshake::new(exports(), &mut out);
    assert_eq!(ended(fresh, &[0, 0, 0, 4]), Progress::Ended(Ended::Flags(4)));
    assert_eq!(ended(fixed(), &[b'x'; 16]), Progress::Ended(Ended::Magic));
    assert_eq!(ended(machine(0), &option(OPT_LIST, &[])), Progress::Ended(Ended::NotFixed(OPT_LIST)));
    let mut endless = option(99, &[]);
    endless[12..].copy_from_slice(&((1_u32 << 20) + 1).to_be_bytes());
    assert_eq!(ended(fixed(), &endless), Progress::Ended(Ended::TooLong { option: 99, len: (1 << 20) + 1 }));
    assert_eq!(ended(fixed(), &option(OPT_LIST, &[]).repeat(257)), Progress::Ended(Ended::TooMany));
}

#[test]
fn nothing_beyond_the_end_is_taken() {
    let mut machine = fixed();
    let go = option(OPT_GO, &info("vda", &[]));
    let (taken, progress) = machine.feed(&[go.clone(), vec![7; 30]].concat(), &mut Vec::new());
    assert_eq!(taken, go.len());
    assert!(matches!(progress, Progress::Chosen(_)));
    assert_eq!(machine.feed(&[7; 30], &mut Vec::new()), (0, progress));
}

#[test]
fn tls_begins_with_an_acknowledgement_and_nothing_more_is_taken() {
    let mut machine = Handshake::over_tls(exports(), &mut Vec::new());
    machine.feed(&(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES).to_be_bytes(), &mut Vec::new());
    assert_eq!(verdict(&mut machine, OPT_STRUCTURED_REPLY, &[]), REP_ERR_TLS_REQD);
    assert_eq!(verdict(&mut machine, OPT_STARTTLS, b"x"), REP_ERR_INVALID);
    let mut out = Vec::new();
    let starttls = option(OPT_STARTTLS, &[]);
    let (taken, progress) = machine.feed(&[starttls.clone(), vec![7; 30]].concat(), &mut out);
    assert_eq!((taken, progress, machine.wants()), (starttls.len(), Progress::StartTls, 0));
    assert_eq!(machine.feed(&[7; 30], &mut out), (0, Progress::StartTls));
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![Just("vda"), Just(""), Just("vdz")];
    let queries =
        prop::collection::vec(prop_oneof![Just("base:"), Just("base:allocation"), Just("x:y"), Just("bad")], 0..4);
    prop_oneof![
        (0_u32..14, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, data)| option(n, &data)),
        (prop_oneof![Just(OPT_INFO), Just(OPT_LIST)], names.clone())
            .prop_map(|(n, name)| option(n, &info(name, &[3, 1]))),
        (9_u32..11, names, queries).prop_map(|(n, name, q)| option(n, &contexts(name, &q))),
        Just(option(OPT_STRUCTURED_REPLY, &[])),
        Just(option(OPT_GO, &vec![0; 65 << 10])),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    /// However the bytes are split, the same answers come; nothing panics, and no more than one option is held.
    #[test]
    fn splits_do_not_matter(
        flags in prop_oneof![Just(3_u32), Just(1), Just(0), any::<u32>()],
        options in prop::collection::vec(any_option(), 0..12),
        cuts in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let bytes: Vec<u8> = [flags.to_be_bytes().to_vec(), options.concat()].concat();
        let (mut at_once, mut in_parts) = (Vec::new(), Vec::new());
        let mut whole = Handshake::new(exports(), &mut at_once);
        let (taken, end) = whole.feed(&bytes, &mut at_once);

        let mut parts = Handshake::new(exports(), &mut in_parts);
        let (mut at, mut progress, mut cuts) = (0, Progress::More, cuts.into_iter().cycle());
        while at < bytes.len() && progress == Progress::More {
            // A connection never receives more than is wanted.
            let n = cuts.next().unwrap().min(parts.wants()).min(bytes.len() - at);
            prop_assert!(n > 0);
            let (used, now) = parts.feed(&bytes[at..at + n], &mut in_parts);
            prop_assert!(parts.partial.len() <= OPTION_MAX_BYTES as usize);
            at += used;
            progress = now;
        }
        prop_assert_eq!((at, progress), (taken, end));
        prop_assert_eq!(in_parts, at_once);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut out = Vec::new();
        let mut machine = Handshake::new(exports(), &mut out);
        let (taken, progress) = machine.feed(&bytes, &mut out);
        prop_assert!(taken <= bytes.len());
        prop_assert_eq!(progress == Progress::More, machine.wants() > 0);
    }

    /// Where TLS is required, whatever comes before it brings no export and no word about one.
    #[test]
    fn before_tls_nothing_is_told(
        flags in prop_oneof![Just(3_u32), Just(1), Just(0)],
        options in prop::collection::vec(any_option(), 0..12),
    ) {
        let mut out = Vec::new();
        let mut machine = Handshake::over_tls(exports(), &mut out);
        out.clear();
        let (_, progress) = machine.feed(&[flags.to_be_bytes().to_vec(), options.concat()].concat(), &mut out);
        prop_assert!(!matches!(progress, Progress::Chosen(_)));
        let mut fields = Reader::new(&out);
        while fields.left() > 0 {
            let (_, of, kind, len) = (fields.u64(), fields.u32(), fields.u32().unwrap(), fields.u32().unwrap());
            fields.take(len as usize);
            let allowed = matches!(of, Some(OPT_STARTTLS | OPT_ABORT)) || kind == REP_ERR_TLS_REQD;
            prop_assert!(allowed, "option {of:?} was answered {kind:#x}");
        }
    }
}
