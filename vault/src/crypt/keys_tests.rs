use super::*;

const ID: Nonce = Nonce([3; 16]);

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

#[test]
fn a_data_key_is_opened_by_the_vault_key_alone_and_for_its_epoch_alone() {
    let (ours, other) = (VaultKey::generate(), VaultKey::generate());
    let key = DataKey::generate();
    let sealed = key.sealed(&ours.public(), ID, &group("web01"), Epoch(4)).unwrap();
    assert_eq!(sealed.len(), SEALED_KEY_BYTES);
    assert_eq!(ours.open_data_key(&sealed, ID, &group("web01"), Epoch(4)), Some(key.clone()));
    assert_eq!(other.open_data_key(&sealed, ID, &group("web01"), Epoch(4)), None);
    assert_eq!(ours.open_data_key(&sealed, Nonce([4; 16]), &group("web01"), Epoch(4)), None);
    assert_eq!(ours.open_data_key(&sealed, ID, &group("web02"), Epoch(4)), None);
    assert_eq!(ours.open_data_key(&sealed, ID, &group("web01"), Epoch(5)), None);
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        // The top bit of an X25519 public value is ignored by its definition, so no flip of the lowest is lost.
        assert_eq!(ours.open_data_key(&bad, ID, &group("web01"), Epoch(4)), None, "byte {at}");
    }
    assert_eq!(ours.open_data_key(&sealed[..79], ID, &group("web01"), Epoch(4)), None);
    assert_ne!(key.sealed(&ours.public(), ID, &group("web01"), Epoch(4)).unwrap(), sealed);
}

#[test]
fn keys_are_not_shown() {
    let vault = VaultKey(Secret::new([0xab; 32]));
    let source = vault.source_key(ID, &group("web01"), &vault);
    let data = DataKey(Secret::new([0xab; 32]));
    let shown = format!("{vault:?} {source:?} {data:?}");
    assert!(shown.contains(&vault.fingerprint().to_string()) && shown.contains("web01"), "{shown}");
    assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    assert_eq!(DataKey::from_hex(&data.to_hex()), Some(data));
    assert_eq!(DataKey::from_hex("abab"), None);
}

#[test]
fn each_group_and_each_vault_has_keys_of_its_own() {
    let key = VaultKey::generate();
    assert_ne!(key.group_key(ID, &group("a")), key.group_key(ID, &group("b")));
    assert_ne!(key.group_key(ID, &group("a")), key.group_key(Nonce([4; 16]), &group("a")));
    assert_ne!(&key.group_key(ID, &group("a")), &key.0);
    let print = key.fingerprint();
    assert_eq!(Fingerprint::parse(&print.to_string()), Some(print));
    assert_eq!(Fingerprint::parse("+00000000000000a"), None);
}
