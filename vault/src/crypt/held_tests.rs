use super::*;
use crate::crypt::keys::VaultKey;

fn access(variables: &[(&str, &str)]) -> Access {
    Access::of(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
}

fn ring(access: &Access) -> Result<Result<(KeyRing, String), String>, KeyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(access.ring("0123"))
}

fn written(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn keys_are_found_where_they_may_be_in_that_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let keys: Vec<VaultKey> = std::iter::repeat_with(VaultKey::generate).take(5).collect();
    let (config, home, credentials) = (at("config"), at("home"), at("credentials"));
    let base = [("XDG_CONFIG_HOME", config.as_str()), ("HOME", home.as_str())];
    assert!(ring(&access(&base)).unwrap().unwrap_err().contains("config/farshore/keys/0123.key"));

    written(&dir.path().join("home/.config/farshore/keys/0123.key"), &keys[0].to_line(), 0o600);
    assert_eq!(ring(&access(&base[1..])).unwrap().unwrap().0, KeyRing::of(keys[0].clone()));
    written(&dir.path().join("config/farshore/keys/0123.key"), &keys[1].to_line(), 0o400);
    assert_eq!(ring(&access(&base)).unwrap().unwrap().0, KeyRing::of(keys[1].clone()));
    written(&dir.path().join("credentials/vault-key"), &keys[2].to_line(), 0o600);
    let with =
        |name, value| access(&[base[0], base[1], ("CREDENTIALS_DIRECTORY", credentials.as_str()), (name, value)]);
    assert_eq!(ring(&with("X", "")).unwrap().unwrap().0, KeyRing::of(keys[2].clone()));
    let line = keys[3].to_line();
    assert_eq!(ring(&with(KEY, &line)).unwrap().unwrap(), (KeyRing::of(keys[3].clone()), KEY.to_owned()));
    let file = at("config/farshore/keys/0123.key");
    assert_eq!(ring(&with(KEY_FILE, &file)).unwrap().unwrap(), (KeyRing::of(keys[1].clone()), file.clone()));
    let command = format!("cat {file}");
    assert_eq!(ring(&with(KEY_COMMAND, &command)).unwrap().unwrap().0, KeyRing::of(keys[1].clone()));
    let both = access(&[(KEY, &line), (KEY_FILE, &file)]);
    assert!(ring(&both).unwrap_err().to_string().contains("not several"));
    let said = both.with_keys(KeySource::File(PathBuf::from(file)));
    assert_eq!(
        ring(&said).unwrap().unwrap().0,
        KeyRing::of(keys[1].clone()),
        "what is said goes before the environment"
    );
}

#[test]
fn what_cannot_be_read_is_said_without_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let key = VaultKey::generate();
    written(&path, &key.to_line(), 0o640);
    let refused = |source: KeySource| {
        let error = ring(&access(&[]).with_keys(source)).unwrap_err().to_string();
        assert!(!error.contains(&key.to_line()[25..]), "{error}");
        error
    };
    assert!(refused(KeySource::File(path.clone())).contains("chmod 600"));
    assert!(refused(KeySource::File(dir.path().join("none"))).contains("No such file"));
    written(&path, &key.to_line().replace('1', "1q"), 0o600);
    assert!(refused(KeySource::File(path.clone())).contains("mistyped"));
    written(&path, &"#".repeat(70_000), 0o600);
    assert!(refused(KeySource::File(path)).contains("larger"));
    assert!(refused(KeySource::Command(format!("echo {}; exit 3", *key.to_line()))).contains("exit status: 3"));
    assert!(refused(KeySource::Command("true".to_owned())).contains("no key"));
}
