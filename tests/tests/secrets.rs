//! No secret is said: not by what any process prints at its most talkative, nor in a status file, a command line or an error message.

use std::path::{Path, PathBuf};
use std::process::Command;

use farshore_tests::bin;
use farshore_tests::process::{self, Stream};
use farshore_tests::site::{GROUP, Site, SiteSpec, VERB_MAX};
use farshore_tests::stores::{Kind, StoreServer};
use farshore_tests::stretches::write_random;
use farshore_tests::syscalls::of_group;

const DISK_BYTES: u64 = 8 << 20;

/// What must not be seen, by name, and everything that was looked through.
#[derive(Default)]
struct Watch {
    secrets: Vec<(String, String)>,
    looked: usize,
}

impl Watch {
    fn plant(&mut self, name: &str, secret: &str) {
        assert!(secret.len() >= 16, "{name} is too short to be found by chance alone");
        self.secrets.push((name.to_owned(), secret.to_owned()));
    }

    #[track_caller]
    fn look(&mut self, place: &str, text: &str) {
        self.looked += 1;
        for (name, secret) in &self.secrets {
            assert!(!text.contains(secret.as_str()), "{name} is to be seen in {place}: {text}");
        }
    }

    /// Files under `dir`, but for those that are there to hold a secret.
    fn look_through(&mut self, dir: &Path, but: &[&str]) {
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() && !but.contains(&name.as_str()) {
                    // Spooled segments come and go.
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    self.look(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
                }
            }
        }
    }

    /// The command lines of these processes. Their environment is where secrets are given to them, and is their owner's alone.
    fn look_at_command_lines(&mut self, pids: &[i32]) {
        for pid in pids {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            self.look(&format!("the command line of {pid}"), &String::from_utf8_lossy(&line));
        }
    }

    /// A verb that must fail, at its most talkative.
    fn look_at_failure(&mut self, mut command: Command, environment: &[(String, String)], wanted: &str) {
        command.arg("-vv").envs(environment.iter().cloned());
        let said = process::run("a failing verb", command, VERB_MAX).bad();
        assert!(said.err.contains(wanted), "another failure than {wanted:?}: {}", said.err);
        self.look("an error message", &format!("{}{}", said.out, said.err));
    }
}

/// The same environment, with one more or another value.
fn with(environment: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let mut all: Vec<_> = environment.iter().filter(|(n, _)| n != name).cloned().collect();
    all.push((name.to_owned(), value.to_owned()));
    all
}

fn secret_of(environment: &[(String, String)], name: &str) -> String {
    environment.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is set")).1.clone()
}

/// The vault's key, and a site that has it by the environment of each process alone.
fn site_with_planted_key(store: (String, Vec<(String, String)>), watch: &mut Watch) -> (Site, Vec<(String, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let mut made = bin::farshore(["init", "--json", "--vault"]);
    made.arg(format!("file://{}", dir.path().join("other").display())).arg("--key-file").arg(dir.path().join("key"));
    let _ = process::run("farshore init", made, VERB_MAX).good();
    let text = std::fs::read_to_string(dir.path().join("key")).unwrap();
    let key = text.lines().find(|line| !line.starts_with('#')).unwrap().to_owned();
    watch.plant("the vault's key", key.rsplit([' ', ':', '-']).next().unwrap());
    watch.plant("the vault's key line", &key);
    let (url, environment) = store;
    let environment = with(&environment, "FARSHORE_VAULT_KEY", &key);
    let spec = SiteSpec { disks: vec![DISK_BYTES], store: Some((url, environment.clone())), ..SiteSpec::default() };
    (Site::new(spec), environment)
}

fn protects_and_says_nothing(kind: Kind, secret: &str) {
    let server = StoreServer::start(kind);
    let mut watch = Watch::default();
    watch.plant(secret, &secret_of(&server.environment(), secret));
    let (mut site, environment) = site_with_planted_key((server.url("dr"), server.environment()), &mut watch);
    let mut agent = site.agent_command();
    agent.arg("-vv").env("FARSHORE_LOG", "trace");
    site.start_agent_as(agent);
    site.start_processor_as(&[("FARSHORE_LOG".to_owned(), "trace".to_owned())]);
    site.wait_protected();
    write_random(&site, 1, 20, 50_000);
    site.assert_catches_up();

    let noted = std::fs::read_to_string(site.path("state/data-keys.json")).unwrap();
    let noted: serde_json::Value = serde_json::from_str(&noted).unwrap();
    let keys: Vec<_> = noted.as_object().unwrap().values().map(|key| key.as_str().unwrap().to_owned()).collect();
    assert!(!keys.is_empty(), "no data key is noted: {noted}");
    keys.iter().for_each(|key| watch.plant("a data key", key));

    let pids = [site.agent().pid(), site.processor().pid()];
    let all: Vec<i32> = pids.into_iter().flat_map(of_group).collect();
    assert!(all.len() >= 3, "agent, shipper and processor are expected: {all:?}");
    watch.look_at_command_lines(&all);
    let (url, target) = (site.vault_url(), site.target.display().to_string());
    let config = site.config.display().to_string();
    let verbs: [&[&str]; 5] = [
        &["status", &config, "--json", "-vv"],
        &["status", "--vault", &url, "--target", &target, "--json", "-vv"],
        &["points", GROUP, "--target", &target, "--json", "-vv"],
        &["inspect", "--vault", &url, "-vv"],
        &["resync", &config, "--json", "-vv"],
    ];
    for verb in verbs {
        let said = site.verb(verb);
        watch.look(&format!("{verb:?}"), &format!("{}{}", said.out, said.err));
    }
    for stream in [Stream::Out, Stream::Err] {
        let said = [site.agent().output(stream), site.processor().output(stream)].map(|lines| lines.join("\n"));
        said.iter().for_each(|said| watch.look("the output of agent, shipper and processor", said));
        let lines: usize = said.iter().map(|said| said.lines().count()).sum();
        assert!(stream == Stream::Out || lines > 50, "at their most talkative they say {lines} lines");
    }
    site.stop_agent();
    assert!(site.stop_processor().success());
    // Its own note holds the data keys; nothing else of the site holds any.
    let root: PathBuf = site.config.parent().unwrap().to_owned();
    watch.look_through(&root, &["data-keys.json"]);

    // What fails is said without what it failed with.
    let verify = || bin::farshore(["verify", "--vault", &url, "--target", &target]);
    let wrong = "farshorevaultkey1planted0planted0planted0planted0";
    watch.plant("a wrong key", "planted0planted0planted0planted0");
    watch.look_at_failure(verify(), &with(&environment, "FARSHORE_VAULT_KEY", wrong), "FARSHORE_VAULT_KEY");
    let endpoint = if kind == Kind::Azurite { "AZURE_STORAGE_ENDPOINT" } else { "AWS_ENDPOINT_URL" };
    let away = with(&environment, endpoint, "http://127.0.0.1:9/none");
    let init = || bin::farshore(["init", "--vault", &url]);
    watch.look_at_failure(init(), &away, "does not answer");
    if kind == Kind::Azurite {
        let mut signed = environment.clone();
        signed.retain(|(name, _)| name != "AZURE_STORAGE_ACCOUNT_KEY");
        let token =
            "sv=2023-11-03&sr=c&sp=rcwdl&se=2099-01-01T00%3A00%3A00Z&sig=PlantedSignatureOfAToken0000000000000000000";
        watch.plant("the signature of a SAS token", "PlantedSignatureOfAToken");
        let signed = with(&signed, "AZURE_STORAGE_SAS_TOKEN", token);
        watch.look_at_failure(init(), &signed, "refuses");
        watch.look_at_failure(init(), &with(&signed, endpoint, "http://127.0.0.1:9/none"), "does not answer");
    } else {
        watch.plant("a wrong secret", "planted-wrong-secret-of-the-store");
        let wrong = with(&environment, secret, "planted-wrong-secret-of-the-store");
        watch.look_at_failure(init(), &wrong, "refuses");
    }
    assert!(watch.looked > 20, "only {} places were looked at", watch.looked);
}

#[test]
fn no_secret_is_said_with_s3() {
    protects_and_says_nothing(Kind::Seaweed, "AWS_SECRET_ACCESS_KEY");
}

#[test]
fn no_secret_is_said_with_azure() {
    protects_and_says_nothing(Kind::Azurite, "AZURE_STORAGE_ACCOUNT_KEY");
}
