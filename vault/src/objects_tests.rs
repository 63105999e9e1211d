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
    let range = |disk, offset, len| DiskRange { disk: DiskIndex(disk), offset, len };
    let resync = |full, ranges| Request::Resync { full, ranges };
    for request in [
        resync(true, vec![]),
        resync(false, vec![]),
        resync(false, vec![range(0, 0, 1 << 20), range(1, u64::MAX - 512, 512)]),
        Request::Drain,
        Request::Digests,
    ] {
        assert_eq!(Request::decode(&key, &request.encode()).unwrap(), request);
    }
    for bad in [
        r#"{"format":1,"request":"drain","now":true}"#,
        r#"{"format":1,"request":"resync"}"#,
        r#"{"format":1,"request":"reboot"}"#,
        r#"{"format":1,"request":"resync","full":true,"ranges":[{"disk":0,"offset":0,"len":512}]}"#,
        r#"{"format":1,"request":"resync","full":false,"ranges":[{"disk":0,"offset":0,"len":0}]}"#,
        r#"{"format":1,"request":"resync","full":false,"ranges":[{"disk":0,"offset":18446744073709551615,"len":512}]}"#,
        r#"{"format":1,"request":"resync","full":false,"ranges":[{"disk":0,"offset":0,"len":512,"why":1}]}"#,
    ] {
        assert!(matches!(Request::decode(&key, bad.as_bytes()), Err(VaultError::Damaged { .. })), "{bad}");
    }
}

#[test]
fn the_largest_request_fits_into_an_object_and_a_larger_one_is_refused() {
    let largest = DiskRange { disk: DiskIndex(u16::MAX), offset: u64::MAX / 2, len: u64::MAX / 2 };
    let request = |count| Request::Resync { full: false, ranges: vec![largest; count] };
    assert!((request(RANGES_MAX).encode().len() as u64) < OBJECT_MAX_BYTES);
    assert_eq!(request(RANGES_MAX).objection(&Key::Request(group(), 1)), None);
    assert!(request(RANGES_MAX + 1).objection(&Key::Request(group(), 1)).is_some());
}

fn hash_plan() -> HashPlan {
    let disk = |name: &str, units| HashedDisk { name: DiskName::new(name).unwrap(), units };
    HashPlan {
        epoch: Epoch(2),
        seq: Seq(1),
        unit_bytes: 1 << 20,
        chunk_units: 100,
        disks: vec![disk("vda", 250), disk("vdb", 1)],
    }
}

#[test]
fn a_hash_plan_names_every_chunk() {
    let key = Key::HashPlan(group(), Epoch(2));
    assert_eq!(HashPlan::decode(&key, &hash_plan().encode()).unwrap(), hash_plan());
    let chunks: Vec<_> = hash_plan().chunks().map(|(disk, chunk, units)| (disk.0, chunk, units)).collect();
    assert_eq!(chunks, [(0, 0, 100), (0, 1, 100), (0, 2, 50), (1, 0, 1)]);
}

#[test]
fn a_hash_plan_that_cannot_be_followed_is_refused() {
    let key = Key::HashPlan(group(), Epoch(2));
    let refused = |change: &dyn Fn(&mut HashPlan)| {
        let mut plan = hash_plan();
        change(&mut plan);
        assert!(matches!(HashPlan::decode(&key, &plan.encode()), Err(VaultError::Damaged { .. })), "{plan:?}");
    };
    refused(&|p| p.epoch = Epoch(3));
    refused(&|p| p.unit_bytes = 0);
    refused(&|p| p.unit_bytes = (1 << 20) + 1);
    refused(&|p| p.chunk_units = 0);
    refused(&|p| p.chunk_units = CHUNK_UNITS_MAX + 1);
    refused(&|p| p.disks.clear());
    refused(&|p| p.disks[1].units = 0);
    refused(&|p| p.disks[1].units = u64::MAX);
}
