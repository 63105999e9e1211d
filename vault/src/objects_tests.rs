use super::*;

fn group() -> GroupName {
    GroupName::new("web01").unwrap()
}

fn epoch_object() -> EpochObject {
    EpochObject {
        group: group(),
        epoch: Epoch(2),
        parent: Some(Epoch(1)),
        reason: Reason::RingLost,
        nonce: Nonce([0xab; 16]),
        created: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
        disks: vec![EpochDisk { name: DiskName::new("vda").unwrap(), size_bytes: 1 << 30 }],
    }
}

fn with(object: &EpochObject, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&object.encoded()).unwrap();
    change(value.as_object_mut().unwrap());
    serde_json::to_vec(&value).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    EpochObject::decode(&Key::Epoch(group(), Epoch(2)), bytes).unwrap_err().to_string()
}

#[test]
fn an_epoch_object_is_written_as_the_format_says() {
    let text = String::from_utf8(epoch_object().encoded()).unwrap();
    assert_eq!(
        text,
        r#"{"created":"2026-01-02T03:04:05.000006Z","disks":[{"name":"vda","size_bytes":1073741824}],"epoch":2,"format":1,"group":"web01","nonce":"abababababababababababababababab","parent":1,"reason":"ring-lost"}"#
    );
    assert_eq!(EpochObject::decode(&epoch_object().key(), text.as_bytes()).unwrap(), epoch_object());
}

#[test]
fn the_first_epoch_has_no_parent_key() {
    let first = EpochObject { epoch: Epoch(1), parent: None, reason: Reason::FirstStart, ..epoch_object() };
    assert!(!String::from_utf8(first.encoded()).unwrap().contains("parent"));
    assert_eq!(EpochObject::decode(&first.key(), &first.encoded()).unwrap(), first);
}

#[test]
fn another_version_is_refused_by_version_whatever_else_it_holds() {
    let newer = with(&epoch_object(), |map| {
        map.insert("format".into(), 2.into());
        map.insert("region".into(), "eu".into());
        map.remove("nonce");
    });
    let refused = EpochObject::decode(&epoch_object().key(), &newer).unwrap_err();
    assert!(matches!(refused, VaultError::Version { found: 2, supported: 1, .. }), "{refused}");
}

#[test]
fn what_does_not_belong_is_refused() {
    let good = epoch_object();
    assert!(refusal(b"{").contains("not JSON"));
    assert!(refusal(b"[]").contains("no format version"));
    assert!(refusal(&with(&good, |m| drop(m.insert("colour".into(), 1.into())))).contains("colour"));
    assert!(refusal(&with(&good, |m| drop(m.remove("nonce")))).contains("nonce"));
    assert!(refusal(&with(&good, |m| drop(m.insert("nonce".into(), "AB".repeat(16).into())))).contains("hex"));
    assert!(refusal(&with(&good, |m| drop(m.insert("group".into(), "../x".into())))).contains("refused"));
    assert!(refusal(&with(&good, |m| drop(m.insert("group".into(), "db01".into())))).contains("group db01"));
    assert!(refusal(&with(&good, |m| drop(m.insert("parent".into(), 2.into())))).contains("parent"));
    assert!(refusal(&with(&good, |m| drop(m.insert("parent".into(), Value::Null)))).contains("does not have"));
    assert!(refusal(&with(&good, |m| drop(m.insert("disks".into(), Value::Array(vec![]))))).contains("0 disks"));
}

#[test]
fn requests_survive_and_their_unknown_keys_do_not() {
    let key = Key::Request(group(), 1);
    for request in [Request::Resync { full: true }, Request::Resync { full: false }, Request::Drain, Request::Digests] {
        assert_eq!(Request::decode(&key, &request.encode()).unwrap(), request);
    }
    for bad in [
        r#"{"format":1,"request":"drain","now":true}"#,
        r#"{"format":1,"request":"resync"}"#,
        r#"{"format":1,"request":"reboot"}"#,
    ] {
        assert!(matches!(Request::decode(&key, bad.as_bytes()), Err(VaultError::Damaged { .. })), "{bad}");
    }
}
